"""Run a command under strace so that its Nth system call of a kind kills it or fails, as a power cut or a full disk would."""
from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

WRITING = ("write", "pwrite64", "fsync", "fdatasync", "rename", "renameat", "renameat2", "openat", "mkdir", "mkdirat", "copy_file_range", "sendfile")
FAULTS = {"kill": "signal=KILL", "full disk": "error=ENOSPC", "broken disk": "error=EIO"}
TIMEOUT_SECONDS = 60
_CALL = re.compile(r"^(\d+) +(\w+)\((.*)$")


@dataclass(frozen=True)
class Call:
    """The `index`th (from 1) system call `name` of a thread (strace counts each thread alone); `text` is how strace shows it."""

    name: str
    index: int
    text: str


def unavailable() -> Optional[str]:
    """Why faults cannot be injected here, or None."""
    if shutil.which("strace") is None:
        return "strace is not installed (apt install strace)"
    tried = subprocess.run(["strace", "-o", "/dev/null", "-e", "trace=none", "true"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"strace may not trace here: {tried.stderr.strip()}"


def record(command: Sequence[str], *, inside: Path, environment: Dict[str, str]) -> List[Call]:
    """The writing system calls that `command` makes on paths inside a folder, in order, from an undisturbed run.

    Raises:
        AssertionError: the command failed on its own.
    """
    with tempfile.NamedTemporaryFile("r", suffix=".strace") as log:
        done = subprocess.run(["strace", "-f", "-y", "-s", "0", "-e", f"trace={','.join(WRITING)}", "-o", log.name, *command],
                              capture_output=True, text=True, env=environment, timeout=TIMEOUT_SECONDS)
        assert done.returncode == 0, done.stderr
        counts: Dict[Tuple[str, str], int] = {}
        calls = []
        for line in log:
            match = _CALL.match(line)
            if match is None or "resumed>" in line:
                continue
            thread, name, text = match.groups()
            counts[thread, name] = counts.get((thread, name), 0) + 1
            if str(inside) in text and " = -1 " not in text and not (name == "openat" and "O_RDONLY" in text):
                calls.append(Call(name, counts[thread, name], text.strip()))
        return calls


def inject(command: Sequence[str], call: Call, fault: str, *, environment: Dict[str, str]) -> subprocess.CompletedProcess:
    """Run `command` with one of FAULTS at one of its recorded calls."""
    options = ["-e", f"trace={call.name}", "-e", f"inject={call.name}:{FAULTS[fault]}:when={call.index}", "-o", "/dev/null"]
    return subprocess.run(["strace", "-f", *options, *command], capture_output=True, text=True, env=environment, timeout=TIMEOUT_SECONDS)


def sample(calls: Sequence[Call], count: int) -> List[Call]:
    """At most `count` calls: the first and last of each kind, the rest spread evenly."""
    edges = {id(call): call for name in {c.name for c in calls} for call in ([c for c in calls if c.name == name][0], [c for c in calls if c.name == name][-1])}
    step = max(1, -(-len(calls) // max(1, count - len(edges))))
    chosen = {**edges, **{id(call): call for call in calls[::step]}}
    return sorted(chosen.values(), key=calls.index)

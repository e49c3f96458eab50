"""Hash-locked requirements per runtime, Python and machine, and the wheels they name. The files are made by benchmarks/make_locks.py."""
from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, FrozenSet, List, Mapping, Optional, Tuple

from edgepress.artifact import write_atomic
from edgepress.errors import ArtifactError, JobError, MissingDependencyError, UnsupportedError

DATA = Path(__file__).resolve().parent / "data"
LOCKS = DATA / "locks"
WHEELS = DATA / "wheels.json"  # {runtime: {version: {machine: {Python tag: oldest glibc}}}}
DISTRIBUTIONS: Mapping[str, str] = {"litert": "ai-edge-litert", "onnxruntime": "onnxruntime", "tflite_runtime": "tflite-runtime"}
PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13")
MACHINES = ("aarch64", "armv7l", "x86_64")
REQUIREMENTS = "requirements.txt"  # the lock beside its wheels
LEGACY = {(2, 5): "manylinux1", (2, 12): "manylinux2010", (2, 17): "manylinux2014"}


@dataclass(frozen=True)
class Pin:
    """One locked requirement: exactly these wheels and no others."""

    name: str
    version: str
    sha256: FrozenSet[str]


@dataclass(frozen=True)
class Lock:
    """The requirements of one runtime for one Python on one machine.

    `glibc` is the oldest that the wheels run with; `system` are Debian packages that must be there because the index has no wheels of them.
    """

    runtime: str
    python: str
    machine: str
    glibc: Tuple[int, int]
    system: Tuple[str, ...]
    pins: Tuple[Pin, ...]
    text: str

    @property
    def version(self) -> str:
        """Version of the runtime."""
        return next(pin.version for pin in self.pins if pin.name == DISTRIBUTIONS[self.runtime])


def locked() -> List[Tuple[str, str, str]]:
    """(runtime, Python, machine) of every lock there is."""
    names = (path.stem for path in LOCKS.glob("*.txt"))
    found = [(runtime, rest.partition("-")[0], rest.partition("-")[2]) for runtime, _, rest in (name.partition("-py") for name in names)]
    return sorted(found, key=lambda lock: (lock[0], PYTHONS.index(lock[1]), lock[2]))


def lock_text(runtime: str, python: str, machine: str) -> str:
    """Requirements with hashes, as pip reads them with --require-hashes.

    Args:
        python: "3.11"; a third number is ignored.
        machine: aarch64, armv7l or x86_64: that of the Python, not that of the kernel.

    Raises:
        UnsupportedError: no wheels exist for this combination; says for which they do.
    """
    python = ".".join(python.split(".")[:2])
    path = LOCKS / f"{runtime}-py{python}-{machine}.txt"
    if (runtime, python, machine) not in locked():
        pythons, machines = ([lock[place] for lock in locked() if lock[0] == runtime] for place in (1, 2))
        if not pythons:
            raise UnsupportedError(f"there are no locked wheels of runtime {runtime!r}; accepted: {', '.join(DISTRIBUTIONS)}")
        raise UnsupportedError(f"{runtime} has no wheels for Python {python} on {machine}; accepted: Python {pythons[0]} to {pythons[-1]} on {', '.join(sorted(set(machines)))}",
                               _instead(python, machine))
    return path.read_text(encoding="utf-8")


def _instead(python: str, machine: str) -> str:
    fitting = [r for r, p, m in locked() if (p, m) == (python, machine)]
    return f"use another runtime: {', '.join(fitting)}" if fitting else "install another Python, or a 64-bit system"


def read_lock(runtime: str, python: str, machine: str) -> Lock:
    """A lock, parsed.

    Raises:
        UnsupportedError: see lock_text.
    """
    text = lock_text(runtime, python, machine)
    found = re.findall(r"^([a-z0-9-]+)==([^\s\\]+)((?:\s*\\\n\s+--hash=sha256:[0-9a-f]{64})+)$", text, re.MULTILINE)
    pins = tuple(Pin(name, version, frozenset(re.findall(r"sha256:([0-9a-f]{64})", hashes))) for name, version, hashes in found)
    major, minor = re.search(r"^# glibc: (\d+)\.(\d+)$", text, re.MULTILINE).groups()  # type: ignore[union-attr]
    system = re.search(r"^# system: (.+)$", text, re.MULTILINE)
    return Lock(runtime, ".".join(python.split(".")[:2]), machine, (int(major), int(minor)), tuple(system[1].split()) if system else (), pins, text)


def wheel_matrix() -> Dict[str, Dict[str, Dict[str, Dict[str, str]]]]:
    """{runtime: {version: {machine: {Python tag ("cp311"): oldest glibc ("2.28")}}}} of every release, oldest version first."""
    return json.loads(WHEELS.read_text(encoding="utf-8"))


def manylinux_tags(machine: str, glibc: Tuple[int, int]) -> List[str]:
    """Platform tags that a system with this glibc can install, the most widely usable first: pip takes the first that fits (PEP 600)."""
    tags = []
    for minor in range(5, glibc[1] + 1):
        tags += [f"manylinux_2_{minor}_{machine}", *([f"{LEGACY[2, minor]}_{machine}"] if (2, minor) in LEGACY else [])]
    return tags + [f"linux_{machine}"]


def download_wheels(runtime: str, python: str, machine: str, to: Path) -> List[Path]:
    """Download the wheels of a lock into folder `to` through pip, each checked against its hash; those that lie there already are kept. Their paths.

    Raises:
        UnsupportedError: no such lock.
        MissingDependencyError: this Python has no pip.
        JobError: pip failed; says how. Nothing is left half-written.
        ArtifactError: `to` holds other files of these names, or cannot be written.
    """
    lock = read_lock(runtime, python, machine)
    try:
        to.mkdir(parents=True, exist_ok=True)
        present = {path: _digest(path) for path in to.glob("*.whl")}
        found = {pin: next((path for path, digest in present.items() if digest in pin.sha256), None) for pin in lock.pins}
        if None in found.values():
            with tempfile.TemporaryDirectory(prefix=".wheels-", dir=to) as work:
                _pip_download(lock, Path(work))
                found = {pin: path or _accept(pin, Path(work), to) for pin, path in found.items()}
    except OSError as error:
        raise ArtifactError(f"{to} cannot hold the wheels ({error.strerror or error})", "give a folder that can be written and has room, or one that does not exist yet") from error
    return [path for path in found.values() if path is not None]


def write_wheelhouse(runtime: str, python: str, machine: str, to: Path) -> List[Path]:
    """`download_wheels` with the lock beside them as requirements.txt: all that an offline installation needs."""
    wheels = download_wheels(runtime, python, machine, to)
    write_atomic(to / REQUIREMENTS, lock_text(runtime, python, machine).encode())
    return wheels


def _accept(pin: Pin, work: Path, to: Path) -> Path:
    """Move the one file of `work` that the pin allows into place. pip has compared the hashes; this does not take its word."""
    for path in work.glob("*.whl"):
        if _digest(path) in pin.sha256:
            if (to / path.name).exists():
                raise ArtifactError(f"{to / path.name} is not the wheel that is locked (its sha256 differs)", "remove it, or give an empty folder")
            os.replace(path, to / path.name)
            return to / path.name
    raise ArtifactError(f"pip brought no wheel of {pin.name} {pin.version} with a locked sha256", "run it again; if it stays, the package index serves something else")


def _pip_download(lock: Lock, to: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise MissingDependencyError("pip", extra="all", why="downloading wheels")
    requirements = to / "requirements.txt"
    requirements.write_text(lock.text, encoding="utf-8")
    tag = "cp" + lock.python.replace(".", "")
    platforms = [option for platform in manylinux_tags(lock.machine, lock.glibc) for option in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-input", "--require-hashes", "--no-deps", "--only-binary=:all:", *platforms,
               "--python-version", lock.python, "--implementation", "cp", "--abi", tag, "--abi", "abi3", "--abi", "none", "--dest", str(to), "--requirement", str(requirements)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise JobError(f"pip could not download the wheels of {lock.runtime} {lock.version} for Python {lock.python} on {lock.machine}", command=_short(command),
                       exit_code=done.returncode, stdout=done.stdout, stderr=done.stderr, hint="is the package index reachable? nothing was kept")


def _short(command: List[str]) -> List[str]:
    """The command without its long list of platform tags."""
    return [part for previous, part in zip([""] + command, command) if "--platform" not in (previous, part)]


def _digest(path: Path) -> Optional[str]:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None

"""A connection to a device over any transport, with the rules that make a success a success: see docs/devices.md.

The client's own exit code proves nothing (`adb shell` ends with 0 when the device dies, ssh says 255 for a lost connection and for a killed command): only our end line
does, and the bytes that it vouches for. Everything that comes back is untrusted: limited in size, cleaned of control characters, checked by its digest.
"""
from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import tempfile
from pathlib import Path
from typing import IO, Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple, Union

from edgepress import remote_scripts as scripts
from edgepress.artifact import digest_file
from edgepress.channel import HELD, TEXT_BYTES, Answer, Exchange, Frame, clean, find_frame, new_nonce, no_answer, split_digests
from edgepress.errors import DeviceError, JobError, UnsupportedError
from edgepress.host import TELLING_FLAGS
from edgepress.keeper import Keeper
from edgepress.runtimes import RUNTIMES, load_runtime
from edgepress.targets.base import RESULT_BYTES, Completed, NotThereError, Transport

GRACE_SECONDS = 12.0  # after the limit that the device itself keeps: `timeout -k` and the way back
KILL_SECONDS = 5
MIN_BYTES_PER_SECOND = 50_000  # a transfer slower than this has ended
_ANSWERS = {65: "it arrived damaged", 66: "there is no such file", 69: "it is larger than accepted", 73: "it cannot be written there"}


class RemoteConnection:
    """A device that is ours until we close it. Made by `open_remote`."""

    def __init__(self, transport: Transport, *, keeper: Keeper) -> None:
        self._transport, self._keeper = transport, keeper
        self.address, self.home = transport.address, keeper.facts["home"]
        self.emulated = keeper.facts.get("emulated") or None
        self.measured_on = "emulated" if self.emulated else "real"
        self._pushed: Dict[str, str] = {}
        self._folders: List[str] = []
        self._vouched: Dict[str, str] = {}
        self._vouched_folders: Set[str] = set()
        self._pythons: Optional[Dict[str, List[str]]] = None

    def probe(self) -> Dict[str, Any]:
        """Facts about the device, without Python there; None where it does not say."""
        lines = self.shell(scripts.facts()).stdout.splitlines()
        said = {name: value.strip() or None for name, _, value in (line.partition("=") for line in lines)}
        memory = re.match(r"\d+", said.get("memory") or "")
        return {"machine": said.get("machine"), "system": said.get("system"), "release": said.get("release"), "python": (said.get("python") or "").replace("Python ", "") or None,
                "bits": _number(said.get("bits")), "cpu": said.get("cpu") or "unknown", "cpu_flags": sorted(TELLING_FLAGS.intersection((said.get("flags") or "").split())), "cpus": _number(said.get("cpus")) or 1,
                "memory_bytes": int(memory[0]) * 1024 if memory else None, "governor": said.get("governor"), "board": said.get("board")}

    def interpreter(self, runtime: str) -> str:
        """Path of the Python there that has a runtime: its own environment below our folder, else the first python3 on PATH with it.

        Raises:
            UnsupportedError: no Python there has it.
        """
        module = load_runtime(runtime)
        if not module.PORTABLE:
            raise UnsupportedError(f"runtime {runtime} runs on this machine only, not on {self.address}", "take another runtime")
        own = f"{self.home}/runtimes/{runtime}/bin/python"
        fitting = [path for path, has in self._list_pythons().items() if module.MODULE in has and "numpy" in has and (path == own or not path.startswith(self.home))]
        if not fitting:
            raise UnsupportedError(f"no Python on {self.address} has {module.DISTRIBUTION} and numpy", f"`edgepress device check {self.address}` tells how to install them there")
        return own if own in fitting else fitting[0]

    def _list_pythons(self) -> Dict[str, List[str]]:
        """Path → the modules it has, of every Python there; looked up once a connection."""
        if self._pythons is None:
            modules = ["numpy", "PIL", *sorted({load_runtime(name).MODULE for name in RUNTIMES if load_runtime(name).PORTABLE})]
            lines = self.shell(scripts.pythons(modules), timeout_seconds=120).stdout.splitlines()
            self._pythons = {self._absolute(path): has for path, *has in (line.split() for line in lines if line.strip())}
        return self._pythons

    def _absolute(self, path: str) -> str:
        return path if path.startswith("/") else f"{self.home}/{path}"

    def shell(self, script: str, *, timeout_seconds: float = 30) -> Completed:
        """Run a short POSIX-sh script in our folder there.

        Raises:
            DeviceError: the connection ended, or it took longer.
        """
        nonce = new_nonce()
        answer, frame = self._ask(scripts.quick(script, home=self.home, nonce=nonce), nonce, timeout_seconds=timeout_seconds)
        return _completed(answer, frame, nonce)

    def push(self, path: Path) -> str:
        """Store a file there under its sha256, unless these very bytes are there; returns its path there."""
        digest = digest_file(path)
        if digest not in self._pushed:
            there = f"{self.home}/store/{digest}/{_safe_name(path)}"
            if self.shell(scripts.has(there, digest=digest), timeout_seconds=300).exit_code != 0:
                with open(path, "rb") as file:
                    self._put(file, there, digest=digest, size=path.stat().st_size)
            self._pushed[digest] = there
        return self._pushed[digest]

    def make_folder(self, folder: Path) -> str:
        """A fresh folder there for one job; made with the first thing that is written or run there."""
        there = f"{self.home}/jobs/{new_nonce()}"
        self._folders.append(there)
        return there

    def write(self, data: bytes, path: str) -> None:
        """Write a small file there."""
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.seek(0)
            self._put(file, path, digest=hashlib.sha256(data).hexdigest(), size=len(data))

    def _put(self, file: IO[bytes], path: str, *, digest: str, size: int) -> None:
        nonce = new_nonce()
        script = scripts.putting(path, digest=digest, part=f"{path}.{nonce}.part", home=self.home, nonce=nonce)
        answer, frame = self._ask(script, nonce, timeout_seconds=60 + size / MIN_BYTES_PER_SECOND, stdin=file)
        done = _completed(answer, frame, nonce)
        self._expect(done, f"{path} cannot be stored there: {_ANSWERS.get(done.exit_code, 'it could not be moved into place')}")

    def run(self, command: Sequence[str], *, environment: Mapping[str, str], timeout_seconds: float) -> Completed:
        """Run a command to its end while this process sleeps. What it leaves in the folders of `make_folder` that it names is vouched for by its digest.

        Raises:
            JobError: it did not end in time.
            DeviceError: the connection ended before the command did.
        """
        nonce = new_nonce()
        folders = [folder for folder in self._folders if any(folder in part for part in command)]
        prefix = [word for word in (self._keeper.facts.get("session"),) if word]
        if self._keeper.facts.get("limit"):
            prefix += ["timeout", "-k", str(KILL_SECONDS), f"{max(timeout_seconds, 1):.0f}"]
        script = scripts.running(command, environment, home=self.home, nonce=nonce, prefix=prefix, folders=folders)
        answer, frame = self._ask(script, nonce, timeout_seconds=timeout_seconds + GRACE_SECONDS, stdin=HELD, command=command)
        done = _completed(answer, frame, nonce)
        text, _, listing = done.stdout.rpartition(f"\nEDGEPRESS-FILES {nonce}\n")
        listing = listing.rstrip()
        if frame.digest != (hashlib.sha256(f"{listing}\n".encode()).hexdigest() if listing else "-"):
            raise DeviceError(f"{self.address}: the list of results does not match the end line", "run it again; if it happens again, the device or its connection is faulty")
        self._vouched.update({path: digest for digest, path in split_digests(listing)})
        self._vouched_folders.update(folders)
        if answer.seconds >= timeout_seconds and done.exit_code in (124, -9, 137):
            raise _timed_out(command, timeout_seconds, text, done.stderr)
        return Completed(done.exit_code, text, done.stderr)

    def pull(self, path: str, to: Path, *, max_bytes: int = RESULT_BYTES) -> None:
        """Bring a file; nothing appears under its name here unless all its bytes are right."""
        nonce = new_nonce()
        answer, frame = self._ask(scripts.getting(path, most=max_bytes, nonce=nonce), nonce, timeout_seconds=60 + max_bytes / MIN_BYTES_PER_SECOND, max_bytes=max_bytes)
        if frame.exit_code != 0 or self._is_unlisted(path):
            raise (NotThereError if frame.exit_code in (0, 66) else DeviceError)(f"{self.address}: {path} cannot be brought: {_ANSWERS.get(frame.exit_code, 'it cannot be read')}" + (f" ({max_bytes} bytes)" if frame.exit_code == 69 else ""))
        answer.stdout.seek(frame.start)
        data = answer.stdout.read(frame.stop - frame.start)
        digest = hashlib.sha256(data).hexdigest()
        if not digest == frame.digest == self._vouched.get(path, digest):
            raise DeviceError(f"{self.address}: {path} is not what the device vouched for (sha256 {digest}, not {self._vouched.get(path, frame.digest)})",
                              "run it again; if it happens again, the device or its connection is faulty")
        part = Path(f"{to}.{nonce}.part")
        part.write_bytes(data)
        os.replace(part, to)

    def _is_unlisted(self, path: str) -> bool:
        """Whether a run has vouched for what is in a file's folder, and not for this file."""
        return path not in self._vouched and path.rpartition("/")[0] in self._vouched_folders

    def remove(self, path: str) -> None:
        """Remove a folder that `make_folder` made; quiet where the connection has ended: the next one sweeps."""
        if path in self._folders:
            self._folders.remove(path)
            with contextlib.suppress(DeviceError):
                self.shell(f"rm -rf {shlex.quote(path)}")

    def close(self) -> None:
        """Let go of the device."""
        self._keeper.close()
        self._transport.close()

    def _ask(self, script: str, nonce: str, *, timeout_seconds: float, stdin: Union[None, str, IO[bytes]] = None, max_bytes: int = TEXT_BYTES,
             command: Sequence[str] = ()) -> Tuple[Answer, Frame]:
        """Run a framed script; an answer without its end line is an error, and so is one while the device was not ours any more."""
        self._keeper.check()
        exchange = Exchange(self._transport.argv(script), stdin=stdin, max_bytes=max_bytes)
        with self._keeper.watching(exchange):
            answer = exchange.wait(timeout_seconds)
        frame = find_frame(answer.stdout, nonce)
        if answer.stopped == "timeout" and command:
            raise _timed_out(command, timeout_seconds - GRACE_SECONDS, "", "")
        if frame is None or answer.stopped:
            raise no_answer(self._transport, answer, timeout_seconds)
        self._keeper.check()
        return answer, frame

    def _expect(self, done: Completed, what: str) -> None:
        if done.exit_code != 0:
            raise DeviceError(f"{self.address}: {what}" + (f" ({done.stderr.strip().splitlines()[-1][:300]})" if done.stderr.strip() else ""),
                              "make room there, or look whether our folder there may be written" if done.exit_code in (1, 73) else None)


def open_remote(transport: Transport) -> RemoteConnection:
    """Take a device and connect to it.

    Raises:
        DeviceError: unreachable, refused, or in use by somebody else.
    """
    try:
        return RemoteConnection(transport, keeper=Keeper(transport))
    except BaseException:
        transport.close()
        raise


def _completed(answer: Answer, frame: Frame, nonce: str) -> Completed:
    """What the script said between its lines; a code above 128 is a signal, as a shell reports it."""
    answer.stdout.seek(frame.start)
    stdout = answer.stdout.read(frame.stop - frame.start)
    stderr = answer.stderr.rpartition(f"EDGEPRESS-BEGIN {nonce}".encode())[2]
    return Completed(128 - frame.exit_code if 128 < frame.exit_code < 193 else frame.exit_code, _text(stdout), _text(stderr).lstrip("\n"))


def _text(data: bytes) -> str:
    return clean(data.decode(errors="replace"))


def _timed_out(command: Sequence[str], seconds: float, stdout: str, stderr: str) -> JobError:
    return JobError(f"the command did not end within {seconds:g} s and was stopped", command=command, stdout=stdout, stderr=stderr, hint="raise the timeout, or give it a smaller file")


def _safe_name(path: Path) -> str:
    """A name that every file system and shell there takes."""
    return re.sub(r"[^A-Za-z0-9._+-]", "_", path.name)[-100:].lstrip(".-") or "file"


def _number(text: Optional[str]) -> Optional[int]:
    return int(text) if text and text.isdecimal() and len(text) < 9 else None

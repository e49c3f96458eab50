"""One measurement on a device, and what can be done to it meanwhile: for tests that count false successes."""
from __future__ import annotations

import hashlib
import os
import random
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, List, Optional

from edgepress.emulator import Emulated
from edgepress.errors import EdgepressError
from edgepress.remote import RemoteConnection, open_remote
from edgepress.targets.base import Transport

MODEL_BYTES = 40_000  # the same for every model: a device that looked at sizes would run the old one
WORK_SECONDS = 0.2
DEATH_SECONDS = 5.0


@dataclass
class Trial:
    """One measurement: the answer to a model is its sha256, worked out on the device."""

    transport: Callable[[], Transport]
    folder: Path
    model: bytes
    last_words: str = ""  # what the worker does at its very end
    while_open: Optional[Callable[[RemoteConnection], None]] = None
    limit_seconds: float = 20.0
    error: Optional[BaseException] = None
    answer: Optional[bytes] = None
    ended: float = 0.0

    def run(self) -> None:
        """Do it; the answer, or the error."""
        try:
            self.answer = self._measure()
        except EdgepressError as error:
            self.error = error
        self.ended = time.monotonic()

    def _measure(self) -> bytes:
        connection = open_remote(self.transport())
        try:
            if self.while_open:
                self.while_open(connection)
            file = self.folder / "model.tflite"
            file.write_bytes(self.model)
            model = connection.push(file)
            there = connection.make_folder(self.folder)
            work = f"sleep {WORK_SECONDS}; set -- $(sha256sum < {model}); printf '%s' \"$1\" > {there}/answer; {self.last_words}"
            done = connection.run(["sh", "-c", work], environment={}, timeout_seconds=self.limit_seconds)
            connection.pull(f"{there}/answer", self.folder / "answer")
            if done.exit_code != 0:
                raise EdgepressError(f"the worker ended with {done.exit_code}")
            return (self.folder / "answer").read_bytes()
        finally:
            connection.close()

    @property
    def is_right(self) -> bool:
        """Whether the answer is about this very model."""
        return self.answer == hashlib.sha256(self.model).hexdigest().encode()


class Lane:
    """Trials over one transport, one after the other, and what became of them."""

    def __init__(self, device: Emulated, transport: Callable[[], Transport], folder: Path, seed: int) -> None:
        self.device, self.transport, self.folder, self.random = device, transport, folder, random.Random(seed)
        self.wrong: List[str] = []
        self.slow: List[str] = []
        self.deaths: List[float] = []
        self.count = self.survived = 0

    def trial(self, **changes: object) -> Trial:
        """A measurement of a model that was never seen before."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        return Trial(**{"transport": self.transport, "folder": folder, "model": self.random.randbytes(MODEL_BYTES), **changes})  # type: ignore[arg-type]

    def interrupt(self, name: str, injure: Callable[[], None], *, heal: Callable[[], None] = lambda: None, latest: float = 1.0, closes: bool = True) -> None:
        """Start a measurement, do something to it at a random moment, and see what it says."""
        trial = self.trial()
        thread = threading.Thread(target=trial.run, daemon=True)
        thread.start()
        time.sleep(self.random.uniform(0.05, latest))
        injure()
        injured = time.monotonic()
        thread.join(30)
        heal()
        self.judge(name, trial, ended=not thread.is_alive(), injured=injured if closes else None)

    def judge(self, name: str, trial: Trial, *, ended: bool = True, injured: Optional[float] = None, must_fail: bool = False, must_succeed: bool = False) -> None:
        """Count a trial: a wrong answer, an answer where none can be, none where one must be, a hang, a death noticed late."""
        self.count += 1
        said = f"{name} {self.count}: {trial.error or (trial.answer or b'')[:20]}"
        if not ended or (trial.error is None and not trial.is_right) or (must_fail and trial.error is None) or (must_succeed and trial.error is not None):
            self.wrong.append(said if ended else f"{name} {self.count}: it hangs")
        if trial.error is None:
            self.survived += 1
        elif injured is not None:
            self.deaths.append(trial.ended - injured)
            if self.deaths[-1] > DEATH_SECONDS:
                self.slow.append(f"{said} after {self.deaths[-1]:.1f} s")


def ours(device: Emulated, marker: str) -> List[int]:
    """Processes of this machine whose command line names something of a device: clients that we started, servers that they started."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal() and int(entry.name) != os.getpid()]
    lines = {pid: command_line(pid) for pid in pids}
    return [pid for pid, line in lines.items() if f"/proc/{device.pid}/".encode() in line and marker.encode() in line.replace(b"\0", b" ")]


def command_line(pid: int) -> bytes:
    """What a process was called with; nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""

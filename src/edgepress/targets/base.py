"""What a target is: a module that connects to a place, the connection it hands out, and the transport below it."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Protocol, Sequence

from edgepress.errors import DeviceError

RESULT_BYTES = 4 << 20  # what a worker may say; files of raw answers have a larger limit of their own


class NotThereError(DeviceError):
    """A file that was to be brought does not exist there."""


@dataclass(frozen=True)
class Completed:
    """A command that ended. `exit_code` is negative where a signal ended it."""

    exit_code: int
    stdout: str
    stderr: str


class Connection(Protocol):
    """A place where commands run and files lie."""

    address: str  # as the user wrote it
    measured_on: str  # real | emulated

    def probe(self) -> Dict[str, Any]:
        """Facts about the place: machine, system, cpu, memory."""

    def interpreter(self, runtime: str) -> str:
        """Path of the Python that has a runtime.

        Raises:
            MissingDependencyError, UnsupportedError: the runtime is not there.
        """

    def push(self, path: Path) -> str:
        """Make a file available there under its content's hash, unless these very bytes are there; returns its path there."""

    def make_folder(self, folder: Path) -> str:
        """A fresh folder there for one job; `folder` is the job's own folder here, and `local` uses that."""

    def write(self, data: bytes, path: str) -> None:
        """Write a small file there."""

    def run(self, command: Sequence[str], *, environment: Mapping[str, str], timeout_seconds: float) -> Completed:
        """Run a command to its end while this process sleeps.

        Raises:
            JobError: it did not end in time, or could not be started.
            DeviceError: the connection ended first.
        """

    def pull(self, path: str, to: Path, *, max_bytes: int = RESULT_BYTES) -> None:
        """Bring a file from there. What comes back from a device is not trusted: its size is limited.

        Raises:
            NotThereError: there is no such file.
            DeviceError: larger than the limit, or damaged on its way.
        """

    def remove(self, path: str) -> None:
        """Remove a folder that `make_folder` made; quiet where the connection has ended (the next one removes it)."""

    def close(self) -> None:
        """End the connection."""


class Transport(Protocol):
    """How a program here talks to a shell there. `remote.open_remote` makes a Connection of it."""

    address: str  # as the user wrote it
    home: str  # our folder there: "~/…" or absolute

    def argv(self, script: str) -> Sequence[str]:
        """The command line that runs a POSIX-sh script there: its three streams connected, no terminal; it ends when the script does."""

    def explain(self, exit_code: int, stderr: str) -> Optional[DeviceError]:
        """What it means that the client ended without our end line; None where its message says nothing that we know."""

    def close(self) -> None:
        """Remove what the transport made on this machine."""


class Target(Protocol):
    """A module of targets of one scheme."""

    NAME: str

    def connect(self, address: str) -> Connection:
        """Open the target."""

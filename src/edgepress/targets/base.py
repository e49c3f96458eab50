"""What a target is: a module that connects to a place, and the connection it hands out."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Mapping, Protocol, Sequence


@dataclass(frozen=True)
class Completed:
    """A command that ended. `exit_code` is negative where a signal ended it."""

    exit_code: int
    stdout: str
    stderr: str


class Connection(Protocol):
    """A place where commands run and files lie."""

    def probe(self) -> Dict[str, Any]:
        """Facts about the place: machine, system, cpu, memory."""

    def interpreter(self, runtime: str) -> str:
        """Path of the Python that has a runtime.

        Raises:
            MissingDependencyError, UnsupportedError: the runtime is not there.
        """

    def push(self, path: Path) -> str:
        """Make a file available there; returns its path there."""

    def run(self, command: Sequence[str], *, environment: Mapping[str, str], timeout_seconds: float) -> Completed:
        """Run a command to its end while this process sleeps.

        Raises:
            JobError: it did not end in time, or could not be started.
        """

    def pull(self, path: str, to: Path) -> None:
        """Bring a file from there."""

    def close(self) -> None:
        """End the connection."""


class Target(Protocol):
    """A module of targets of one scheme."""

    NAME: str

    def connect(self, address: str) -> Connection:
        """Open the target."""

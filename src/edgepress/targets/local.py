"""This machine as a target: files stay where they are, commands are child processes."""
from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Mapping, Sequence

from edgepress.errors import DeviceError, JobError, MissingDependencyError, UnsupportedError
from edgepress.host import host_facts
from edgepress.runtimes import load_runtime
from edgepress.targets.base import RESULT_BYTES, Completed, NotThereError

NAME = "local"


def home_folder() -> Path:
    """$EDGEPRESS_HOME, or its default."""
    home = os.environ.get("EDGEPRESS_HOME")
    return Path(home) if home else Path.home() / ".local" / "share" / "edgepress"


def runtime_folder(runtime: str) -> Path:
    """Where a runtime that cannot live beside edgepress has its own virtual environment: below $EDGEPRESS_HOME."""
    return home_folder() / "runtimes" / runtime


def interpreter(runtime: str) -> str:
    """Path of the Python that has a runtime: this one, or that of the runtime's own virtual environment.

    Raises:
        MissingDependencyError: not installed; says how to install it.
        UnsupportedError: its virtual environment has not been made.
    """
    module = load_runtime(runtime)
    if not module.EXTRA:
        python = runtime_folder(runtime) / "bin" / "python"
        if not python.exists():
            raise UnsupportedError(f"runtime {runtime} is not installed here ({python.parent.parent} does not exist)",
                                   f"install it with: edgepress runtimes --install {runtime}")
        return str(python)
    if importlib.util.find_spec(module.MODULE) is None:
        raise MissingDependencyError(module.DISTRIBUTION, extra=module.EXTRA, why=f"runtime {runtime}")
    return sys.executable


class LocalConnection:
    """This machine."""

    address = NAME
    measured_on = "real"
    interpreter = staticmethod(interpreter)

    @property
    def home(self) -> str:
        """Folder of everything that is kept here."""
        return os.path.abspath(home_folder())

    def probe(self) -> Dict[str, Any]:
        """Facts about this machine."""
        return host_facts()

    def push(self, path: Path) -> str:
        """The file's own absolute path."""
        return os.path.abspath(path)

    def make_folder(self, folder: Path) -> str:
        """The job's own folder."""
        return os.path.abspath(folder)

    def write(self, data: bytes, path: str) -> None:
        """Write the file."""
        Path(path).write_bytes(data)

    def run(self, command: Sequence[str], *, environment: Mapping[str, str], timeout_seconds: float) -> Completed:
        """Run a child process; this one sleeps until it ends."""
        try:
            done = subprocess.run(command, env={**_environment(), **environment}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  errors="replace", timeout=timeout_seconds, check=False)
        except subprocess.TimeoutExpired as error:
            raise JobError(f"the command did not end within {timeout_seconds:g} s and was stopped", command=command, exit_code=None,
                           stdout=_text(error.stdout), stderr=_text(error.stderr), hint="raise the timeout, or give it a smaller file") from error
        except OSError as error:
            raise JobError(f"the command cannot be started: {error.strerror} ({error.filename})", command=command) from error
        return Completed(done.returncode, done.stdout, done.stderr)

    def pull(self, path: str, to: Path, *, max_bytes: int = RESULT_BYTES) -> None:
        """Copy, unless it is the same file."""
        if not os.path.isfile(path):
            raise NotThereError(f"{path} cannot be brought: there is no such file")
        if os.path.getsize(path) > max_bytes:
            raise DeviceError(f"{path} cannot be brought: it is larger than accepted ({max_bytes} bytes)")
        if os.path.abspath(path) != os.path.abspath(to):
            shutil.copyfile(path, to)

    def remove(self, path: str) -> None:
        """Remove the folder."""
        shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """Nothing to end."""


def connect(address: str = NAME) -> LocalConnection:
    """This machine."""
    return LocalConnection()


def _environment() -> Dict[str, str]:
    """The environment without what would mix this Python's packages into another one."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "__PYVENV_LAUNCHER__")}


def _text(output: object) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else str(output or "")

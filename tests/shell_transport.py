"""A device that is a shell of this machine: real processes, real scripts, and a way that can be disturbed."""
from __future__ import annotations

import shlex
from pathlib import Path
from typing import List, Optional, Sequence

from edgepress.errors import DeviceError


class ShellTransport:
    """`before` and `after` are what a login shell says of its own accord; `broken` replaces the script."""

    def __init__(self, home: Path, *, shell: Sequence[str] = ("sh",), before: str = "", after: str = "", broken: Optional[str] = None) -> None:
        self.address, self.home, self.shell = f"ssh://{shell[0]}", str(home), shell
        self.before, self.after, self.broken = before, after, broken
        self.is_closed = False

    def argv(self, script: str) -> List[str]:
        if self.broken is not None:
            return ["sh", "-c", self.broken.format(script=shlex.quote(script))]
        return ["sh", "-c", f"{self.before}\n{shlex.join([*self.shell, '-c', script])}; code=$?\n{self.after}\nexit $code"]

    def explain(self, exit_code: int, stderr: str) -> Optional[DeviceError]:
        return DeviceError("it is switched off", "switch it on") if "no route" in stderr else None

    def close(self) -> None:
        self.is_closed = True

"""Every error a user can cause, as one tree.

    EdgepressError                  exit code 1: message (what is wrong with the value, what is accepted) + hint (what to do)
    ├── RecipeError                 a recipe, a config value or a command-line combination that cannot be
    ├── DatasetError                images, labels or splits that cannot be used
    ├── ModelError                  a model file that cannot be read, converted or fitted together
    │   └── UnsafeModelError        a model file that would run code while it is being loaded
    ├── ArtifactError               a folder that should be a finished artifact and is not
    ├── UnsupportedError            a combination (format, runtime, scheme, target) that is known not to work
    ├── MissingDependencyError      a distribution that is not installed, with the command that installs it
    ├── DeviceError                 a device that is unreachable, refused us, or broke the protocol
    ├── JobError                    the worker process failed: command, exit code and both streams
    └── GateError                   exit code 4: a budget or gate was not met
"""
from __future__ import annotations

import difflib
from typing import Iterable, Optional, Sequence


class EdgepressError(Exception):
    """A mistake the user can mend. `message` says what is wrong and what is accepted, `hint` what to do next."""

    exit_code = 1

    def __init__(self, message: str, hint: Optional[str] = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class RecipeError(EdgepressError):
    """A recipe, a config value or a command-line combination that cannot be."""


class DatasetError(EdgepressError):
    """Images, labels or splits that cannot be used."""


class ModelError(EdgepressError):
    """A model file that cannot be read, converted or fitted together."""


class UnsafeModelError(ModelError):
    """A model file that would run code while it is being loaded."""


class ArtifactError(EdgepressError):
    """A folder that should be a finished artifact and is not."""


class UnsupportedError(EdgepressError):
    """A combination of format, runtime, scheme or target that is known not to work."""


class DeviceError(EdgepressError):
    """A device that is unreachable, refused us, or broke the protocol."""


class MissingDependencyError(EdgepressError):
    """A distribution that is not installed. `extra` names the edgepress extra that brings it."""

    def __init__(self, distribution: str, *, extra: str, why: str) -> None:
        super().__init__(f"{why} needs {distribution}, which is not installed here",
                         f"install it with: python -m pip install 'edgepress[{extra}]'")
        self.distribution = distribution
        self.extra = extra


class JobError(EdgepressError):
    """A worker process that failed."""

    def __init__(self, message: str, *, command: Sequence[str] = (), exit_code: Optional[int] = None,
                 stdout: str = "", stderr: str = "", hint: Optional[str] = None) -> None:
        parts = [message]
        if command:
            parts.append(f"command: {' '.join(command)} (exit code {exit_code})")
        parts += [f"{name}: {text.strip()[-4000:]}" for name, text in (("stdout", stdout), ("stderr", stderr)) if text.strip()]
        super().__init__("\n".join(parts), hint)
        self.reason = message


class GateError(EdgepressError):
    """A budget or gate that was not met."""

    exit_code = 4


def nearest(name: str, known: Iterable[str]) -> str:
    """The part of a message that lists what is accepted and suggests the nearest name."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    listed = ", ".join(names[:40]) + (", …" if len(names) > 40 else "")
    return f"accepted: {listed}" + (f" (did you mean {close[0]!r}?)" if close else "")

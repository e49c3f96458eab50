"""What a runtime is: a module that can say whether it works here and open a file, and the session it hands out."""
from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Protocol, Sequence, Tuple

from edgepress.errors import ModelError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a file. `shape` has -1 where the file leaves a dimension open.

    `scale` and `zero_point` are per tensor (real = scale · (stored − zero_point)); None where the numbers are what they say.
    """

    name: str
    shape: Tuple[int, ...]
    dtype: str  # NumPy's name
    scale: Optional[float] = None
    zero_point: Optional[int] = None

    def to_json(self) -> Dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "shape": list(self.shape)}


class Session(Protocol):
    """An open file."""

    inputs: List[TensorInfo]
    outputs: List[TensorInfo]

    @property
    def details(self) -> Dict[str, Any]:
        """What the runtime says about the open file: operators, delegate or execution provider, and how much of it runs there."""

    def run(self, arrays: Sequence[np.ndarray]) -> List[np.ndarray]:
        """One inference. Arrays in the order, types and shapes of `inputs`; open dimensions may have any size.

        Returns:
            One array per output; it belongs to the caller.
        """

    def close(self) -> None:
        """Give the memory back."""


class Runtime(Protocol):
    """A module that runs files of some formats."""

    NAME: str
    FORMATS: Tuple[str, ...]
    DISTRIBUTION: str  # what pip installs
    MODULE: str  # what Python imports
    EXTRA: str  # the edgepress extra that brings it
    PORTABLE: bool  # works from worker.pyz, without the rest of edgepress

    def health_check(self) -> Optional[str]:
        """None if a file can be opened here (it opens one), or the reason why not."""

    def version(self) -> str:
        """Version of the distribution."""

    def open_model(self, path: str, *, threads: int, accelerator: Optional[str] = None) -> Session:
        """Open a file.

        Args:
            accelerator: delegate or execution provider by the runtime's own name; None is the CPU.

        Raises:
            ModelError: the runtime refuses the file.
            UnsupportedError: the accelerator is not there.
        """


def distribution_version(distribution: str) -> str:
    """Version of an installed distribution, "unknown" where it left no metadata."""
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"


def refused(path: str, runtime: str, error: BaseException) -> ModelError:
    """The error of a file that a runtime does not open."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return ModelError(f"{runtime} does not open {path}: {reason[:600]}",
                      "`edgepress show` tells what is in the file; another runtime may open it (`edgepress runtimes`)")

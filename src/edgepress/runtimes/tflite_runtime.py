"""tflite-runtime 2.14, the last of its name: Python ≤ 3.11 and NumPy < 2 only, so it lives in its own virtual environment."""
from __future__ import annotations

from typing import Any, Optional

from edgepress.runtimes.base import Session, distribution_version
from edgepress.runtimes.interpreter import check_interpreter, open_interpreter

NAME = "tflite_runtime"
FORMATS = ("tflite",)
DISTRIBUTION = "tflite-runtime"
MODULE = "tflite_runtime"
EXTRA = ""  # never beside NumPy 2: `edgepress runtimes --install tflite_runtime`
PORTABLE = True


def _interpreter() -> Any:
    from tflite_runtime.interpreter import Interpreter

    return Interpreter


def health_check() -> Optional[str]:
    """None if a file can be opened here (it opens one), or the reason why not."""
    try:
        return check_interpreter(_interpreter())
    except ImportError as error:
        return f"{DISTRIBUTION} cannot be imported: {error}"


def version() -> str:
    """Version of the distribution."""
    return distribution_version(DISTRIBUTION)


def open_model(path: str, *, threads: int, accelerator: Optional[str] = None) -> Session:
    """Open a TFLite file; see `base.Runtime.open_model`."""
    return open_interpreter(_interpreter(), path, runtime=NAME, threads=threads, accelerator=accelerator)

"""The runtime table: name → module. A runtime opens a file and runs it; see `base.Runtime` for what its module must hold."""
from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Mapping, Tuple

from edgepress.errors import UnsupportedError, nearest

if TYPE_CHECKING:
    from edgepress.runtimes.base import Runtime

# In order of preference: the first installed one that opens a format is the default for it.
RUNTIMES: Mapping[str, str] = {
    "litert": "edgepress.runtimes.litert",
    "tflite_runtime": "edgepress.runtimes.tflite_runtime",
    "onnxruntime": "edgepress.runtimes.onnxruntime",
    "keras": "edgepress.runtimes.keras",
}


def load_runtime(name: str) -> Runtime:
    """The module of a runtime; importing it does not import the library behind it.

    Raises:
        UnsupportedError: there is no such runtime.
    """
    if name not in RUNTIMES:
        raise UnsupportedError(f"runtime {name!r} does not exist; {nearest(name, RUNTIMES)}", "`edgepress runtimes` lists them")
    return importlib.import_module(RUNTIMES[name])  # type: ignore[return-value]


def runtimes_for(model_format: str) -> Tuple[str, ...]:
    """Names of the runtimes that open files of a format (tflite, onnx, keras), the preferred one first; installed or not."""
    return tuple(name for name in RUNTIMES if model_format in load_runtime(name).FORMATS)

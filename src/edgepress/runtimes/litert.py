"""LiteRT (ai-edge-litert), Google's current TFLite runtime; through the Interpreter class, which is as fast as CompiledModel and quiet."""
from __future__ import annotations

from typing import Any, Optional

from edgepress.errors import UnsupportedError
from edgepress.runtimes.accelerators import parse_accelerator
from edgepress.runtimes.base import Session, distribution_version
from edgepress.runtimes.interpreter import check_interpreter, open_interpreter

NAME = "litert"
FORMATS = ("tflite",)
DISTRIBUTION = "ai-edge-litert"
MODULE = "ai_edge_litert"
EXTRA = "litert"
PORTABLE = True


def _interpreter() -> Any:
    from ai_edge_litert.interpreter import Interpreter

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
    """Open a TFLite file; see `base.Runtime.open_model`. The accelerator is gpu, or none for the CPU."""
    if accelerator is not None:
        wanted = parse_accelerator(accelerator)
        if wanted.name != "gpu":
            raise UnsupportedError(f"{NAME} has no accelerator {wanted.name!r}; accepted: gpu", "leave the accelerator out for the CPU")
        from edgepress.runtimes.litert_gpu import open_gpu

        return open_gpu(path, wanted)
    return open_interpreter(_interpreter(), path, runtime=NAME, threads=threads, accelerator=accelerator)

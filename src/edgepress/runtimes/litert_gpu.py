"""LiteRT's GPU accelerator (the WebGPU/Vulkan library inside ai-edge-litert), through CompiledModel. What it runs on is read from its own log: software adapters exist.

`CompiledModel.is_fully_accelerated()` is true on a Vulkan that runs on the CPU as well (SwiftShader, llvmpipe): only the adapter's type tells. A file is opened by
CompiledModel only where a GPU was asked for; it is less careful with damaged files than Interpreter.
"""
from __future__ import annotations

import os
import re
import sys
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Sequence, Tuple

from edgepress.errors import UnsupportedError
from edgepress.runtimes.accelerators import Accelerator
from edgepress.runtimes.base import TensorInfo

if TYPE_CHECKING:
    import numpy as np

_ADAPTER = re.compile(r"Selected adapter: (.*?)(?:, arch=.*)?, adapterType=(.*)")
_REASON = re.compile(r"ERROR: \[delegate_\w+\.cc:\d+\] (.*)")


class CompiledSession:
    """A TFLite file in CompiledModel; shapes are fixed."""

    def __init__(self, model: Any, *, accelerator: Dict[str, Any]) -> None:
        key = next(iter(model.get_signature_list()))
        self._model, self._accelerator = model, accelerator
        self.inputs, self.outputs = ([_tensor_info(detail) for detail in found.values()] for found in (model.get_input_tensor_details(key), model.get_output_tensor_details(key)))
        self._in, self._out = model.create_input_buffers(0), model.create_output_buffers(0)

    @property
    def details(self) -> Dict[str, Any]:
        """The adapter and whether all of the file runs there."""
        return {"delegate": self._accelerator["adapter"], "accelerator": self._accelerator}

    def run(self, arrays: Sequence[np.ndarray]) -> List[np.ndarray]:
        """One inference; copies to and from the device are part of it."""
        for buffer, array in zip(self._in, arrays):
            buffer.write(array)
        self._model.run_by_index(0, self._in, self._out)
        return [buffer.read(_count(info.shape), info.dtype).reshape(info.shape) for buffer, info in zip(self._out, self.outputs)]

    def close(self) -> None:
        """Give the memory back."""
        self._in = self._out = self._model = None


def open_gpu(path: str, wanted: Accelerator) -> CompiledSession:
    """Open a file on the GPU. The option `software=yes` accepts an adapter that runs on the CPU; the record then says so.

    Raises:
        UnsupportedError: no GPU, a file that it does not run whole, or an adapter in software.
    """
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator

    unknown = sorted(set(wanted.options) - {"software"})
    if unknown or not wanted.copies:
        raise UnsupportedError(f"litert's gpu has no option {unknown[0] if unknown else 'copies=out'!r}; accepted: software=yes", "its copies are always part of the timing")
    log: List[str] = []
    try:
        with _native_log(log):
            model = CompiledModel.from_file(path, hardware_accel=HardwareAccelerator.GPU)
    except (RuntimeError, ValueError, OSError) as error:
        found = _REASON.findall("".join(log))
        raise UnsupportedError(f"LiteRT's GPU accelerator does not start here: {found[-1] if found else ' '.join(str(error).split())[:300]}",
                               "it needs a GPU with a Vulkan driver and libvulkan.so.1; leave the accelerator out for the CPU") from error
    name, kind = adapter(log)
    whole = bool(model.is_fully_accelerated())
    if not whole:
        raise UnsupportedError(f"LiteRT's GPU accelerator ({name}) does not run all of {path}, and it cannot say which part the CPU does", "give it a float32 file, or leave the accelerator out")
    is_gpu = "gpu" in kind.lower()
    if not is_gpu and wanted.options.get("software") != "yes":
        raise UnsupportedError(f"the adapter of LiteRT's GPU accelerator is {name}, of type {kind}: the CPU would do the work", "install a GPU driver, or ask for gpu:software=yes to try it all the same")
    return CompiledSession(model, accelerator={"provider": "LiteRT WebGPU", "adapter": name, "adapter_type": kind, "device": "GPU" if is_gpu else "CPU" if "cpu" in kind.lower() else "unknown", "fully_accelerated": whole, "copies_timed": True})


def adapter(log: Sequence[str]) -> Tuple[str, str]:
    """(name, type) of the adapter that the accelerator chose, from its log; ("unknown", "unknown") where it does not say."""
    found = _ADAPTER.findall("".join(log))
    return (found[-1][0].strip(), found[-1][1].strip()) if found else ("unknown", "unknown")


@contextmanager
def _native_log(lines: List[str]) -> Iterator[None]:
    """What the library writes to stderr meanwhile, also handed on to stderr."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            text = file.read().decode("utf-8", "replace")
            lines += text.splitlines(keepends=True)
            sys.stderr.write(text)


def _tensor_info(detail: Dict[str, Any]) -> TensorInfo:
    return TensorInfo(name=detail["name"], shape=tuple(int(n) for n in detail["shape"]), dtype=str(detail["dtype"]))


def _count(shape: Sequence[int], start: int = 1) -> int:
    for size in shape:
        start *= size
    return start


"""ONNX Runtime: the CPU, or any execution provider that is installed and asked for."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence

from edgepress.errors import ModelError, UnsupportedError, nearest
from edgepress.onnx_bytes import external_tensors, operators
from edgepress.runtimes.base import Session, TensorInfo, refused

if TYPE_CHECKING:
    import numpy as np

NAME = "onnxruntime"
FORMATS = ("onnx",)
DISTRIBUTION = "onnxruntime"
MODULE = "onnxruntime"
EXTRA = "onnx"
PORTABLE = True

CPU = "CPUExecutionProvider"
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64", "tensor(uint8)": "uint8", "tensor(int8)": "int8",
           "tensor(uint16)": "uint16", "tensor(int16)": "int16", "tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(bool)": "bool"}
# y = x + x for one float, opset 13, IR 7.
_PROBE = (b'\x08\x07:5\n\x0e\n\x01x\n\x01x\x12\x01y"\x03Add\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
          b'b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r')


class OnnxSession:
    """An open ONNX file."""

    def __init__(self, session: Any, *, path: str) -> None:
        self._session, self._path = session, path
        self.inputs = [_tensor_info(i) for i in session.get_inputs()]
        self.outputs = [_tensor_info(o) for o in session.get_outputs()]
        self._names = [i.name for i in self.inputs]

    @property
    def details(self) -> Dict[str, Any]:
        """Operators of the file by name (the runtime fuses them later) and the execution providers in use."""
        return {"operators": operators(self._path), "providers": self._session.get_providers()}

    def run(self, arrays: Sequence[np.ndarray]) -> List[np.ndarray]:
        """One inference."""
        return self._session.run(None, dict(zip(self._names, arrays)))

    def close(self) -> None:
        """Give the memory back."""
        self._session = None


def _options(threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # errors only: the rest is about the runtime's own choices
    # Without this, idle threads keep a core busy between runs, which heats a small board and slows whatever else runs on it.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def health_check() -> Optional[str]:
    """None if a file can be opened here (it opens one), or the reason why not."""
    try:
        import numpy as np
        import onnxruntime

        answer = onnxruntime.InferenceSession(_PROBE, _options(1), providers=[CPU]).run(None, {"x": np.float32([21.0])})[0][0]
    except ImportError as error:
        return f"{DISTRIBUTION} cannot be imported: {error}"
    except Exception as error:  # a broken library may raise anything
        return f"{type(error).__name__}: {error}"
    return None if answer == 42.0 else f"21 + 21 is {answer} here"


def version() -> str:
    """Version of the library itself: it has several distributions (onnxruntime, onnxruntime-gpu, …)."""
    import onnxruntime

    return onnxruntime.__version__


def open_model(path: str, *, threads: int, accelerator: Optional[str] = None) -> Session:
    """Open an ONNX file; see `base.Runtime.open_model`. Weights outside the file are refused: they could be any file of this machine."""
    import onnxruntime

    provider = accelerator or CPU
    if provider not in onnxruntime.get_available_providers():
        raise UnsupportedError(f"{NAME} has no execution provider {provider!r} here; {nearest(provider, onnxruntime.get_available_providers())}",
                               "install the onnxruntime distribution that brings it")
    outside = external_tensors(path)
    if outside:
        raise ModelError(f"{path} keeps {len(outside)} tensors in other files (first: {outside[0]!r}); accepted: files that hold their own weights",
                         "save it with save_as_external_data=False")
    try:
        session = onnxruntime.InferenceSession(path, _options(threads), providers=[provider])
    except Exception as error:  # pybind exceptions of onnxruntime have no common base
        raise refused(path, NAME, error) from error
    if session.get_providers()[0] != provider:
        raise UnsupportedError(f"{NAME} did not take execution provider {provider}: it fell back to {session.get_providers()[0]}",
                               "see the runtime's own messages; the CPU works without an accelerator")
    return OnnxSession(session, path=path)


def _tensor_info(tensor: Any) -> TensorInfo:
    shape = tuple(n if isinstance(n, int) and n > 0 else -1 for n in tensor.shape)
    return TensorInfo(name=tensor.name, shape=shape, dtype=_DTYPES.get(tensor.type, tensor.type))

"""ONNX Runtime: the CPU, or any execution provider that is installed and asked for. What really ran is read back: no provider is reported that took no node."""
from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Tuple

from edgepress.errors import ModelError, UnsupportedError
from edgepress.onnx_bytes import external_tensors, operators
from edgepress.runtimes.accelerators import PROVIDERS, Accelerator, Provider, device_of, find_provider, parse_accelerator
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
_KEPT = 64  # inputs that stay on the device with copies=out: the benchmark's pool is smaller
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64", "tensor(uint8)": "uint8", "tensor(int8)": "int8",
           "tensor(uint16)": "uint16", "tensor(int16)": "int16", "tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(bool)": "bool"}
# y = x + x for one float, opset 13, IR 7.
_PROBE = (b'\x08\x07:5\n\x0e\n\x01x\n\x01x\x12\x01y"\x03Add\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
          b'b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r')


class OnnxSession:
    """An open ONNX file."""

    def __init__(self, session: Any, *, path: str, accelerator: Optional[Dict[str, Any]] = None) -> None:
        self._session, self._path, self._accelerator = session, path, accelerator
        self.inputs = [_tensor_info(i) for i in session.get_inputs()]
        self.outputs = [_tensor_info(o) for o in session.get_outputs()]
        self._names = [i.name for i in self.inputs]

    @property
    def details(self) -> Dict[str, Any]:
        """Operators of the file by name (the runtime fuses them later), the execution providers in use and, with an accelerator, what it took."""
        found = {"operators": operators(self._path), "providers": self._session.get_providers()}
        return {**found, "accelerator": self._accelerator} if self._accelerator else found

    def run(self, arrays: Sequence[np.ndarray]) -> List[np.ndarray]:
        """One inference."""
        return self._session.run(None, dict(zip(self._names, arrays)))

    def close(self) -> None:
        """Give the memory back."""
        self._session = None


class BoundSession(OnnxSession):
    """An open ONNX file whose inputs and outputs stay in the device's memory: an array is copied there when it is first seen, an answer when it is looked at."""

    def __init__(self, session: Any, *, path: str, accelerator: Dict[str, Any], device: Tuple[str, int]) -> None:
        super().__init__(session, path=path, accelerator=accelerator)
        self._device = device
        self._there: Dict[int, Tuple[Any, Any]] = {}  # id of an array → (the array, so that its id stays its own; its copy there)

    def run(self, arrays: Sequence[np.ndarray]) -> List[Any]:
        """One inference; answers are `onnxruntime.OrtValue`s that numpy.asarray copies here."""
        binding = self._session.io_binding()
        for name, array in zip(self._names, arrays):
            binding.bind_ortvalue_input(name, self._copy(array))
        for output in self.outputs:
            binding.bind_output(output.name, *self._device)
        self._session.run_with_iobinding(binding)
        return binding.get_outputs()

    def _copy(self, array: np.ndarray) -> Any:
        import onnxruntime

        if id(array) not in self._there:
            if len(self._there) >= _KEPT:
                self._there.clear()
            self._there[id(array)] = array, onnxruntime.OrtValue.ortvalue_from_numpy(array, *self._device)
        return self._there[id(array)][1]


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
    """Open an ONNX file; see `base.Runtime.open_model`. Weights outside the file are refused: they could be any file of this machine.

    Args:
        accelerator: cuda, tensorrt, openvino, xnnpack … or a provider's full name, with options; see accelerators.py.
    """
    outside = external_tensors(path)
    if outside:
        raise ModelError(f"{path} keeps {len(outside)} tensors in other files (first: {outside[0]!r}); accepted: files that hold their own weights",
                         "save it with save_as_external_data=False")
    if accelerator in (None, CPU):
        return OnnxSession(_session(path, _options(threads), [(CPU, {})]), path=path)
    return _open_accelerated(path, parse_accelerator(str(accelerator)), threads=threads)


def _session(path: str, options: Any, providers: Sequence[Tuple[str, Mapping[str, str]]]) -> Any:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(path, options, providers=[name for name, _ in providers], provider_options=[dict(o) for _, o in providers])
    except Exception as error:  # pybind exceptions of onnxruntime have no common base
        raise refused(path, NAME, error) from error


def _open_accelerated(path: str, wanted: Accelerator, *, threads: int) -> Session:
    """A session on a provider, once it has proved to do the work."""
    import onnxruntime

    provider, here = find_provider(wanted.name), onnxruntime.get_available_providers()
    if provider.name not in here:
        known = sorted(short for short, entry in PROVIDERS.items() if entry.name in here)
        raise UnsupportedError(f"this onnxruntime {onnxruntime.__version__} has no {provider.name}; here: {', '.join(known) or 'the CPU only'}",
                               f"install {provider.distribution} in place of onnxruntime, or leave the accelerator out")
    if provider.threads_option and device_of(provider, wanted.options) == "CPU":  # else it takes all cores, whatever the rows beside it have
        wanted = replace(wanted, options={provider.threads_option: str(threads), **wanted.options})
    options = _options(threads)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        session = _session(path, options, [(provider.name, wanted.options), (CPU, {})])
    except ModelError as error:
        if _opens_on_cpu(path, threads):
            raise UnsupportedError(f"{provider.name} does not run {path}: {error.message}", "the CPU runs it: leave the accelerator out") from error
        raise
    if session.get_providers()[0] != provider.name:  # onnxruntime prints why, and goes on with the CPU
        raise UnsupportedError(f"{provider.name} did not start: no such device, driver or library here. onnxruntime fell back to the CPU, which is not what was asked for",
                               "its message on stderr says what is missing; leave the accelerator out for the CPU")
    facts = _taken(session, provider, wanted)
    if wanted.copies:
        return OnnxSession(session, path=path, accelerator=facts)
    memory = "cuda" if provider.name in (PROVIDERS["cuda"].name, PROVIDERS["tensorrt"].name) else "dml" if provider.name == PROVIDERS["directml"].name else "cpu"
    return BoundSession(session, path=path, accelerator=facts, device=(memory, int(wanted.options.get("device_id", "0"))))


def _opens_on_cpu(path: str, threads: int) -> bool:
    try:
        _session(path, _options(threads), [(CPU, {})])
    except ModelError:
        return False
    return True


def _taken(session: Any, provider: Provider, wanted: Accelerator) -> Dict[str, Any]:
    """What a provider took of the file, as onnxruntime itself says.

    Raises:
        UnsupportedError: nothing, or this onnxruntime cannot tell.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise UnsupportedError(f"this onnxruntime cannot say which nodes {provider.name} took, so its figures could be the CPU's", "update onnxruntime to 1.24 or newer")
    nodes: Dict[str, Counter] = {}
    for part in session.get_provider_graph_assignment_info():
        nodes.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    total, ours = sum(sum(kinds.values()) for kinds in nodes.values()), sum(nodes.get(provider.name, Counter()).values())
    if not ours:
        raise UnsupportedError(f"{provider.name} took none of the {total} nodes: the CPU would have done all the work", "leave the accelerator out, or give it a file that it supports")
    return {"provider": provider.name, "device": device_of(provider, wanted.options), "options": dict(wanted.options), "copies_timed": wanted.copies, "nodes": total, "nodes_taken": ours,
            "left_to_the_cpu": dict(sorted(sum((kinds for name, kinds in nodes.items() if name != provider.name), Counter()).items()))}


def _tensor_info(tensor: Any) -> TensorInfo:
    shape = tuple(n if isinstance(n, int) and n > 0 else -1 for n in tensor.shape)
    return TensorInfo(name=tensor.name, shape=shape, dtype=_DTYPES.get(tensor.type, tensor.type))

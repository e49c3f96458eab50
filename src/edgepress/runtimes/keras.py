"""Legacy Keras (tf_keras) as the reference that files are compared with."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence

from edgepress.errors import EdgepressError, MissingDependencyError, UnsupportedError
from edgepress.runtimes.base import Session, TensorInfo, distribution_version

if TYPE_CHECKING:
    import numpy as np

NAME = "keras"
FORMATS = ("keras",)
DISTRIBUTION = "tf_keras"
MODULE = "tf_keras"
EXTRA = "train"
PORTABLE = False


class KerasSession:
    """An open Keras model, traced once per input shape."""

    def __init__(self, model: Any, *, tensorflow: Any, device: Optional[str] = None) -> None:
        self._model, self._device = model, device

        def infer(*arrays: Any) -> Any:
            with tensorflow.device("/GPU:0" if device else None):  # soft placement is off: what has no kernel there is an error
                return model(arrays[0] if len(arrays) == 1 else list(arrays), training=False)

        self._function = tensorflow.function(infer)
        self.inputs = [_tensor_info(t) for t in model.inputs]
        self.outputs = [_tensor_info(t) for t in model.outputs]

    @property
    def details(self) -> Dict[str, Any]:
        """Number of layers and weights."""
        found: Dict[str, Any] = {"layers": len(self._model.layers), "weights": int(self._model.count_params())}
        return {**found, "accelerator": {"provider": "TensorFlow", "device": "GPU", "adapter": self._device, "copies_timed": True}} if self._device else found

    def run(self, arrays: Sequence[np.ndarray]) -> List[np.ndarray]:
        """One inference."""
        answer = self._function(*arrays)
        tensors = answer if isinstance(answer, (list, tuple)) else [answer]
        if self._device and "GPU" not in tensors[0].device:
            raise UnsupportedError(f"TensorFlow computed on {tensors[0].device}, not on the GPU", "leave the accelerator out for the CPU")
        return [tensor.numpy() for tensor in tensors]

    def close(self) -> None:
        """Give the memory back."""
        self._model = self._function = None


def health_check() -> Optional[str]:
    """None if TensorFlow and legacy Keras can be imported together, or the reason why not. Runs nothing: the first operation fixes the threads."""
    from edgepress.tf import import_tensorflow

    try:
        import_tensorflow()
    except MissingDependencyError as error:
        return f"{error.distribution} is not installed"
    except EdgepressError as error:
        return str(error)
    except Exception as error:  # a broken library may raise anything
        return f"{DISTRIBUTION} cannot be imported: {type(error).__name__}: {error}"
    return None


def version() -> str:
    """Version of the distribution."""
    return distribution_version(DISTRIBUTION)


def open_model(path: str, *, threads: int, accelerator: Optional[str] = None) -> Session:
    """Open a .keras or .h5 file that runs no code of its own; see `base.Runtime.open_model`.

    Raises:
        UnsafeModelError: the file would run code while it is being loaded.
        MissingDependencyError: TensorFlow is not installed.
    """
    if accelerator not in (None, "gpu"):
        raise UnsupportedError(f"{NAME} has no accelerator {accelerator!r}; accepted: gpu", "leave the accelerator out for the CPU")
    from edgepress.tf import import_tensorflow

    tensorflow, _ = import_tensorflow()
    device = _choose_device(tensorflow, accelerator)
    try:
        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:  # TensorFlow has run something in this process already; a worker opens one model per process, so it has the threads asked for
        if tensorflow.config.threading.get_intra_op_parallelism_threads() != threads:
            raise
    return KerasSession(_load(path), tensorflow=tensorflow, device=device)


def _choose_device(tensorflow: Any, accelerator: Optional[str]) -> Optional[str]:
    """Name of the GPU that will do the work, or None for the CPU, which then does it even where there is a GPU."""
    found = tensorflow.config.list_physical_devices("GPU")
    if accelerator is None:
        if found:
            tensorflow.config.set_visible_devices([], "GPU")
        return None
    if not found:
        raise UnsupportedError("TensorFlow finds no GPU here, so Keras would run on the CPU", "leave the accelerator out, or install tensorflow[and-cuda] where there is one")
    tensorflow.config.set_soft_device_placement(False)  # an operator without a GPU kernel is an error, not silently the CPU's
    return str(tensorflow.config.experimental.get_device_details(found[0]).get("device_name", found[0].name))


def _load(path: str) -> Any:
    from pathlib import Path

    from edgepress.keras_files import load_model  # from the floor above: only the function that reads files knows which of them are safe

    return load_model(Path(path))


def _tensor_info(tensor: Any) -> TensorInfo:
    return TensorInfo(name=tensor.name.split(":")[0], shape=tuple(-1 if n is None else int(n) for n in tensor.shape), dtype=tensor.dtype.name)

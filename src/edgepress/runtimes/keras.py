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

    def __init__(self, model: Any, *, tensorflow: Any) -> None:
        self._model = model
        self._function = tensorflow.function(lambda *arrays: model(arrays[0] if len(arrays) == 1 else list(arrays), training=False))
        self.inputs = [_tensor_info(t) for t in model.inputs]
        self.outputs = [_tensor_info(t) for t in model.outputs]

    @property
    def details(self) -> Dict[str, Any]:
        """Number of layers and weights."""
        return {"layers": len(self._model.layers), "weights": int(self._model.count_params())}

    def run(self, arrays: Sequence[np.ndarray]) -> List[np.ndarray]:
        """One inference."""
        answer = self._function(*arrays)
        return [tensor.numpy() for tensor in (answer if isinstance(answer, (list, tuple)) else [answer])]

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
    if accelerator is not None:
        raise UnsupportedError(f"{NAME} has no accelerator {accelerator!r} here; accepted: none (the CPU)", "leave the accelerator out")
    from edgepress.tf import import_tensorflow

    tensorflow, _ = import_tensorflow()
    try:
        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:  # TensorFlow has run something in this process already; a worker opens one model per process, so it has the threads asked for
        if tensorflow.config.threading.get_intra_op_parallelism_threads() != threads:
            raise
    return KerasSession(_load(path), tensorflow=tensorflow)


def _load(path: str) -> Any:
    from pathlib import Path

    from edgepress.keras_files import load_model  # from the floor above: only the function that reads files knows which of them are safe

    return load_model(Path(path))


def _tensor_info(tensor: Any) -> TensorInfo:
    return TensorInfo(name=tensor.name.split(":")[0], shape=tuple(-1 if n is None else int(n) for n in tensor.shape), dtype=tensor.dtype.name)

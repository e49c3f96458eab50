"""The only door to TensorFlow: legacy Keras, quiet logs, version checks, seeds and threads."""
from __future__ import annotations

import contextlib
import gc
import os
import sys
import tempfile
from types import ModuleType
from typing import Iterator, Optional, Tuple

from edgepress.errors import EdgepressError, MissingDependencyError


def import_tensorflow() -> Tuple[ModuleType, ModuleType]:
    """Import (tensorflow, tf_keras) with legacy Keras chosen, which TensorFlow Model Optimization needs.

    Raises:
        MissingDependencyError: the `train` extra is not installed.
        EdgepressError: tensorflow and tf_keras are of different minor versions.
    """
    os.environ["TF_USE_LEGACY_KERAS"] = "1"  # must precede the import; tensorflow/model-optimization#1119
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    try:
        with _native_stderr_held(), _collector_at_rest():
            import tensorflow
            import tf_keras
    except ModuleNotFoundError as error:
        raise MissingDependencyError(error.name or "tensorflow", extra="train", why="training and conversion") from error
    tensorflow.get_logger().setLevel("ERROR")
    if tensorflow.__version__.split(".")[:2] != tf_keras.__version__.split(".")[:2]:
        raise EdgepressError(f"tensorflow {tensorflow.__version__} and tf_keras {tf_keras.__version__} do not belong together",
                             f"install the matching one: python -m pip install 'tf_keras~={tensorflow.__version__.rsplit('.', 1)[0]}.0'")
    return tensorflow, tf_keras


@contextlib.contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Import without cyclic garbage collection, and keep what was imported out of it for good.

    TensorFlow makes a million objects that stay: walking them again and again is a fifth of its import (2.9 s instead of 2.3) and of what follows.
    """
    if "tensorflow" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def _native_stderr_held() -> Iterator[None]:
    """Hold back what TensorFlow's C++ writes while it starts (before its own log level counts); shown after all if the import fails."""
    if "tensorflow" in sys.modules:
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def set_deterministic(seed: int) -> None:
    """Seed Python, NumPy and TensorFlow, and ask TensorFlow for operations that give the same bits in every run."""
    tensorflow, keras = import_tensorflow()
    keras.utils.set_random_seed(seed)
    tensorflow.config.experimental.enable_op_determinism()


def set_threads(count: Optional[int]) -> bool:
    """Limit TensorFlow to `count` threads (None: leave it); False where it already runs and can no longer be changed."""
    tensorflow, _ = import_tensorflow()
    if count is None:
        return True
    try:
        tensorflow.config.threading.set_intra_op_parallelism_threads(count)
        tensorflow.config.threading.set_inter_op_parallelism_threads(min(2, count))
    except RuntimeError:  # TensorFlow's own error once the context exists
        return False
    return True

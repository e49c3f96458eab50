"""The only door to TensorFlow: legacy Keras, quiet logs, version checks."""
from __future__ import annotations

import os
from types import ModuleType
from typing import Tuple

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
        import tensorflow
        import tf_keras
    except ModuleNotFoundError as error:
        raise MissingDependencyError(error.name or "tensorflow", extra="train", why="training and conversion") from error
    tensorflow.get_logger().setLevel("ERROR")
    if tensorflow.__version__.split(".")[:2] != tf_keras.__version__.split(".")[:2]:
        raise EdgepressError(f"tensorflow {tensorflow.__version__} and tf_keras {tf_keras.__version__} do not belong together",
                             f"install the matching one: python -m pip install 'tf_keras~={tensorflow.__version__.rsplit('.', 1)[0]}.0'")
    return tensorflow, tf_keras

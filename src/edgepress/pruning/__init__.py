"""The pruning methods: name → module with `refusal`, `wrap`, `callbacks` and `strip`; imported only when one is used."""
from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, Mapping, Tuple

from edgepress.errors import UnsupportedError
from edgepress.pruning.plan import PrunePlan

METHODS: Mapping[str, str] = {"tfmot": "edgepress.pruning.magnitude", "mask": "edgepress.pruning.mask"}


def choose_method(model: Any, plan: PrunePlan, *, method: str) -> Tuple[ModuleType, str]:
    """The module that prunes `model`, and why it was chosen.

    Args:
        method: auto (TensorFlow Model Optimization unless it refuses, then our mask pruner), tfmot or mask.

    Raises:
        UnsupportedError: tfmot was asked for by name and refuses this model or pattern.
        MissingDependencyError: tfmot was asked for by name and is not installed.
    """
    mask = importlib.import_module(METHODS["mask"])
    if method == "mask":
        return mask, "asked for with method = mask"
    tfmot = importlib.import_module(METHODS["tfmot"])
    reason = tfmot.refusal(model, plan)
    if reason is None:
        return tfmot, "TensorFlow Model Optimization takes every layer of this model" if method == "auto" else "asked for with method = tfmot"
    if method == "tfmot":
        raise UnsupportedError(f"TensorFlow Model Optimization cannot prune this model: {reason}", "use --method mask, which can")
    return mask, f"TensorFlow Model Optimization refuses: {reason}"

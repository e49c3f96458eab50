"""Prune with TensorFlow Model Optimization's magnitude pruning."""
from __future__ import annotations

from types import ModuleType
from typing import Any, Dict, List, Optional

from edgepress.errors import MissingDependencyError
from edgepress.pruning.kernels import walk_layers
from edgepress.pruning.patterns import BLOCK_SIZE, KEPT_OF_GROUP, GROUP
from edgepress.pruning.plan import POWER, PrunePlan, PruneSchedule
from edgepress.tf import import_tensorflow

NAME = "tfmot"


def _tfmot() -> ModuleType:
    import_tensorflow()  # legacy Keras must be chosen before TFMOT is imported
    try:
        import tensorflow_model_optimization
    except ModuleNotFoundError as error:
        raise MissingDependencyError("tensorflow-model-optimization", extra="train", why="pruning with method = tfmot") from error
    return tensorflow_model_optimization


def refusal(model: Any, plan: PrunePlan) -> Optional[str]:
    """Why TFMOT cannot prune this model in this pattern, or None.

    TFMOT prunes a whole model only if it knows every layer in it, skips nested models in silence where they are called with
    `training=False` (tensorflow/model-optimization#377), and prunes in blocks only kernels of rank 2.
    """
    if any(hasattr(layer, "layers") for layer in model.layers):
        return "the model has another model inside it"
    _tfmot()
    from tensorflow_model_optimization.python.core.sparsity.keras.prune_registry import PruneRegistry

    known = {"InputLayer"}
    foreign = sorted({type(layer).__name__ for _, layer in walk_layers(model) if not PruneRegistry.supports(layer)} - known)
    if foreign:
        return f"it does not know layers of type {', '.join(foreign)}"
    convolutions = [kernel.layer for kernel in plan.kernels if len(kernel.shape) != 2]
    if plan.pattern == "block" and convolutions:
        return f"it prunes in blocks only dense layers, and {convolutions[0]} is not one"
    return None


def wrap(model: Any, plan: PrunePlan) -> Any:
    """`model` with pruning wrappers around the layers of the plan. They share layers with it: give a clone."""
    _, keras = import_tensorflow()
    options = _options(plan)
    chosen = {kernel.layer for kernel in plan.kernels}
    prune = _tfmot().sparsity.keras.prune_low_magnitude

    def clone(layer: Any) -> Any:
        return prune(layer, **options) if layer.name in chosen else layer

    return keras.models.clone_model(model, clone_function=clone)


def callbacks(model: Any, plan: PrunePlan) -> List[Any]:
    """Keras callbacks that training needs."""
    return [_tfmot().sparsity.keras.UpdatePruningStep()]


def strip(model: Any) -> Any:
    """The trained model without wrappers."""
    return _tfmot().sparsity.keras.strip_pruning(model)


def _options(plan: PrunePlan) -> Dict[str, Any]:
    options: Dict[str, Any] = {"pruning_schedule": _schedule(plan.schedule)}
    if plan.pattern == "block":
        options["block_size"] = BLOCK_SIZE
    if plan.pattern == "2:4":
        options["sparsity_m_by_n"] = (GROUP - KEPT_OF_GROUP, GROUP)
    return options


def _schedule(schedule: PruneSchedule) -> Any:
    sparsity = _tfmot().sparsity.keras
    steps = {"begin_step": schedule.begin_step, "end_step": schedule.end_step, "frequency": schedule.frequency}
    if schedule.gradual:
        return sparsity.PolynomialDecay(initial_sparsity=0.0, final_sparsity=schedule.final, power=POWER, **steps)
    return sparsity.ConstantSparsity(schedule.final, **steps)

"""Prune any Keras model with masks of our own: no wrappers, the masks are applied again after each optimizer step."""
from __future__ import annotations

from typing import Any, List, Optional

from edgepress.pruning.kernels import variables
from edgepress.pruning.patterns import mask_for
from edgepress.pruning.plan import PrunePlan
from edgepress.tf import import_tensorflow

NAME = "mask"


def refusal(model: Any, plan: PrunePlan) -> Optional[str]:
    """Always None: a plan holds only kernels that can have a mask."""
    return None


def wrap(model: Any, plan: PrunePlan) -> Any:
    """`model` itself: masks live in the callback."""
    return model


def callbacks(model: Any, plan: PrunePlan) -> List[Any]:
    """The Keras callback that chooses and applies the masks of the compiled `model`."""
    tensorflow, keras = import_tensorflow()
    kernels = variables(model, plan)
    masks = [tensorflow.Variable(tensorflow.ones_like(kernel), trainable=False) for kernel in kernels]

    @tensorflow.function
    def apply_masks() -> None:
        for kernel, mask in zip(kernels, masks):
            kernel.assign(kernel * mask)

    def before_step(batch: int, logs: Any = None) -> None:
        step = int(model.optimizer.iterations.numpy()) + 1
        if plan.schedule.is_update(step):  # before the step, as TFMOT does it in its forward pass
            for kernel, mask in zip(kernels, masks):
                mask.assign(mask_for(kernel.numpy(), sparsity=plan.schedule.sparsity(step), pattern=plan.pattern))
            apply_masks()

    return [keras.callbacks.LambdaCallback(on_train_batch_begin=before_step, on_train_batch_end=lambda batch, logs=None: apply_masks())]


def strip(model: Any) -> Any:
    """`model` itself."""
    return model

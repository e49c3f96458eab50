"""The kernels of a Keras model: which are pruned, which are not and why, and how many zeros they have."""
from __future__ import annotations

from typing import Any, Dict, Iterator, List, Mapping, Tuple

import numpy as np

from edgepress.errors import ModelError
from edgepress.pruning import patterns
from edgepress.pruning.plan import Kernel, PrunePlan, Skipped

# Exact class names, as TFMOT's registry: a subclass may use its kernel in another way.
PRUNABLE: Mapping[str, str] = {"Conv2D": "kernel", "Dense": "kernel", "SeparableConv2D": "pointwise_kernel"}
NOT_PRUNED: Mapping[str, str] = {
    "BatchNormalization": "one weight per channel: no gain, much damage",
    "DepthwiseConv2D": "few weights, each of which a whole channel depends on",
}
STEM = "the first convolution sees the pixels: few weights, much damage"
TOLERANCE = 0.01  # share of zeros


def walk_layers(model: Any, prefix: str = "") -> Iterator[Tuple[str, Any]]:
    """(path, layer) of every layer, those of nested models as outer/inner."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from walk_layers(layer, f"{prefix}{layer.name}/")
        else:
            yield prefix + layer.name, layer


def choose_kernels(model: Any, *, pattern: str) -> Tuple[Tuple[Kernel, ...], Tuple[Skipped, ...]]:
    """The kernels that will be pruned, and the layers with weights that will not be, with the reason.

    Raises:
        ModelError: nothing in the model can be pruned in this pattern.
    """
    kernels: List[Kernel] = []
    skipped: List[Skipped] = []
    stem_seen = False
    for path, layer in walk_layers(model):
        if not layer.weights:
            continue
        kind = type(layer).__name__
        attribute = PRUNABLE.get(kind)
        shape = tuple(int(n) for n in getattr(layer, attribute).shape) if attribute else ()
        is_stem = kind == "Conv2D" and not stem_seen
        stem_seen = stem_seen or is_stem
        reason = (NOT_PRUNED.get(kind, f"layers of type {kind} are not pruned") if attribute is None else STEM if is_stem
                  else patterns.refusal(shape, pattern))
        if reason:
            skipped.append(Skipped(path, kind, reason))
        else:
            kernels.append(Kernel(path, attribute or "", kind, shape, zero_share(getattr(layer, attribute or "").numpy())))
    if not kernels:
        reasons = "; ".join(f"{s.layer}: {s.reason}" for s in skipped[:3]) or "it has no layer with weights"
        raise ModelError(f"the model has no kernel that can be pruned in the pattern {pattern} ({reasons})", "use --pattern unstructured, or another model")
    return tuple(kernels), tuple(skipped)


def variables(model: Any, plan: PrunePlan) -> List[Any]:
    """The variables of the plan's kernels in `model`, in the plan's order."""
    layers = dict(walk_layers(model))
    return [getattr(layers[kernel.layer], kernel.attribute) for kernel in plan.kernels]


def copy_weights(source: Any, target: Any) -> None:
    """Copy the weights of every layer of `source` to the layer of the same path in `target`."""
    layers = dict(walk_layers(target))
    for path, layer in walk_layers(source):
        layers[path].set_weights(layer.get_weights())


def zero_share(values: np.ndarray) -> float:
    """Share of exact zeros, 0–1."""
    return float(np.mean(values == 0))


def check_sparsity(model: Any, plan: PrunePlan) -> List[Dict[str, Any]]:
    """One record per kernel with the sparsity it reached.

    Raises:
        ModelError: a kernel is not within one percentage point of what was asked for, or not in the pattern.
    """
    records = []
    for kernel, variable in zip(plan.kernels, variables(model, plan)):
        values = variable.numpy()
        reached, wanted = zero_share(values), max(plan.sparsity, kernel.zeros_before)
        tolerance = max(TOLERANCE, patterns.GROUP / values.size)  # a small kernel cannot be split finer
        if abs(reached - wanted) > tolerance or not patterns.follows(values, pattern=plan.pattern):
            raise ModelError(f"layer {kernel.layer} has {reached:.1%} zeros after pruning where {wanted:.1%} in the pattern {plan.pattern} were asked for",
                             "train longer (--epochs), or use --method mask")
        records.append({"layer": kernel.layer, "kind": kernel.kind, "weights": int(values.size), "sparsity": round(reached, 6),
                        "sparsity_before": round(kernel.zeros_before, 6)})
    return records

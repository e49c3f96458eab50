"""The int32 biases of a static QDQ file take back what rounded weights lost; see bias_correction.py. (onnxruntime itself makes them fit.)"""
from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np
from onnx import numpy_helper

from edgepress.quantizers.bias_correction import add_to_bias, lost_mean
from edgepress.quantizers.input_folding_onnx import initializers

WEIGHTED = ("Conv", "Gemm")  # MatMul has no bias of its own


def weighted_inputs(model: Any) -> List[str]:
    """Names of the activations that layers with weights read: those whose means are needed."""
    return sorted({node.input[0] for node in model.graph.node if node.op_type in WEIGHTED})


def correct_biases(model: Any, float_model: Any, means: Mapping[str, np.ndarray]) -> int:
    """Move each int32 bias by the mean that rounding the weights lost (in place). Returns how many layers."""
    constants, floats = initializers(model), initializers(float_model)
    made_by = {name: node for node in model.graph.node for name in node.output}
    origins = {node.name: node for node in float_model.graph.node if node.op_type in WEIGHTED}
    corrected = 0
    for node in model.graph.node:
        origin = origins.get(node.name)
        if origin is None or len(node.input) < 3 or origin.input[1] not in floats or origin.input[0] not in means:
            continue
        weights, bias = (_stored(made_by.get(name), constants) for name in node.input[1:3])
        if weights is None or bias is None or bias[0].dtype != np.int32:
            continue
        values = _outputs_first(numpy_helper.to_array(floats[origin.input[1]]), origin)
        rounded = _outputs_first(_real(*weights), origin)
        shift = lost_mean(values, rounded, means[origin.input[0]], groups=_attribute(origin, "group", 1))
        name = made_by[node.input[2]].input[0]
        constants[name].CopyFrom(numpy_helper.from_array(add_to_bias(bias[0], shift, bias[1].astype(np.float64)), name))
        corrected += 1
    return corrected


def _stored(node: Optional[Any], constants: Mapping[str, Any]) -> Optional[Tuple[np.ndarray, np.ndarray, int]]:
    """(integers, scale, axis) of a constant behind a DequantizeLinear."""
    if node is None or node.op_type != "DequantizeLinear" or node.input[0] not in constants or node.input[1] not in constants:
        return None
    return numpy_helper.to_array(constants[node.input[0]]), numpy_helper.to_array(constants[node.input[1]]), _attribute(node, "axis", 1)


def _real(stored: np.ndarray, scale: np.ndarray, axis: int) -> np.ndarray:
    return stored * (scale.astype(np.float64).reshape([-1 if i == axis else 1 for i in range(stored.ndim)]) if scale.ndim else float(scale))


def _outputs_first(weights: np.ndarray, node: Any) -> np.ndarray:
    """[O, …, I/groups] of Conv [O, I/groups, …] (any number of kernel axes) or Gemm weights."""
    if node.op_type == "Gemm":
        return (weights if _attribute(node, "transB", 0) else weights.T)[:, None, None, :]
    return np.moveaxis(weights, 1, -1)


def _attribute(node: Any, name: str, default: int) -> int:
    found: Dict[str, int] = {attribute.name: attribute.i for attribute in node.attribute}
    return found.get(name, default)

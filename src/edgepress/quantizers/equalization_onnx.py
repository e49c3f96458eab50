"""Depthwise pairs in a float ONNX file, and how their channels are scaled; see equalization.py."""
from __future__ import annotations

from typing import Any, List, Optional, Tuple

import numpy as np
from onnx import numpy_helper

from edgepress.quantizers.input_folding_onnx import initializers


def depthwise_inputs(model: Any) -> List[str]:
    """Names of rectified convolution outputs that one depthwise convolution alone reads."""
    names = [node.output[0] for node in model.graph.node if node.op_type in ("Relu", "Clip")]
    return [name for name in names if _pair(model, name) is not None]


def _pair(model: Any, name: str) -> Optional[Tuple[Any, Any]]:
    """(producer, depthwise consumer) of an activation, both with float constants of their own."""
    nodes, constants = model.graph.node, initializers(model)
    made_by = {output: node for node in nodes for output in node.output}
    rectifier = made_by[name]
    maker = made_by.get(rectifier.input[0])
    users = [node for node in nodes if name in node.input]
    if maker is None or maker.op_type != "Conv" or len(maker.input) < 3 or len(users) != 1 or users[0].op_type != "Conv":
        return None
    if sum(maker.output[0] in node.input for node in nodes) != 1 or {name, maker.output[0]} & {value.name for value in model.graph.output}:
        return None
    if rectifier.op_type == "Clip" and not _clips_at_zero(rectifier, constants):
        return None
    owned = [maker.input[1], maker.input[2], users[0].input[1]]
    if any(item not in constants or sum(item in node.input for node in nodes) != 1 for item in owned):
        return None
    groups = next((attribute.i for attribute in users[0].attribute if attribute.name == "group"), 1)
    filters = constants[users[0].input[1]].dims[0]
    return (maker, users[0]) if groups > 1 and groups == filters == constants[maker.input[1]].dims[0] else None


def _clips_at_zero(node: Any, constants: Any) -> bool:
    return len(node.input) > 1 and node.input[1] in constants and float(numpy_helper.to_array(constants[node.input[1]])) == 0


def scale_pair(model: Any, name: str, gain: np.ndarray) -> None:
    """Make an activation `gain` times larger, channel by channel, without changing what comes out behind the depthwise convolution."""
    maker, user = _pair(model, name)
    constants = initializers(model)
    for item, factor in ((maker.input[1], gain[:, None, None, None]), (maker.input[2], gain), (user.input[1], 1 / gain[:, None, None, None])):
        values = (numpy_helper.to_array(constants[item]) * factor).astype(np.float32)
        constants[item].CopyFrom(numpy_helper.from_array(values, item))

"""Depthwise pairs in a float TFLite file, and how their channels are scaled; see equalization.py."""
from __future__ import annotations

from typing import Any, List, Optional, Tuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgepress.quantizers.input_folding import OPS, constant, op_code

CONVOLUTIONS = (OPS.CONV_2D, OPS.DEPTHWISE_CONV_2D)
RECTIFIED = (schema.ActivationFunctionType.RELU, schema.ActivationFunctionType.RELU6)  # what a positive factor passes through


def depthwise_inputs(model: Any) -> List[str]:
    """Names of rectified convolution outputs that one depthwise convolution alone reads."""
    graph = model.subgraphs[0]
    names = [graph.tensors[int(op.outputs[0])].name.decode("utf-8", "replace") for op in graph.operators if op_code(model, op) in CONVOLUTIONS]
    return [name for name in names if _pair(model, name) is not None]


def _pair(model: Any, name: str) -> Optional[Tuple[Any, Any]]:
    """(producer, depthwise consumer) of an activation, both with float constants of their own."""
    graph = model.subgraphs[0]
    index = next(i for i, tensor in enumerate(graph.tensors) if tensor.name.decode("utf-8", "replace") == name)
    makers = [op for op in graph.operators if index in map(int, op.outputs)]
    users = [op for op in graph.operators if index in map(int, op.inputs)]
    if len(makers) != 1 or len(users) != 1 or index in map(int, graph.outputs) or op_code(model, users[0]) != OPS.DEPTHWISE_CONV_2D:
        return None
    if makers[0].builtinOptions.fusedActivationFunction not in RECTIFIED or len(makers[0].inputs) < 3:
        return None
    weights = constant(model, graph, int(users[0].inputs[1]))
    if weights is None or weights.shape[3] != graph.tensors[index].shape[3]:  # a depth multiplier
        return None
    owned = [int(i) for i in (*list(makers[0].inputs)[1:3], users[0].inputs[1])]
    if any(i < 0 or constant(model, graph, i) is None or not _is_own(model, graph, i) for i in owned):
        return None
    return makers[0], users[0]


def _is_own(model: Any, graph: Any, index: int) -> bool:
    """Whether a constant belongs to one operator and its buffer to one tensor."""
    shared = sum(tensor.buffer == graph.tensors[index].buffer for tensor in graph.tensors)
    return shared == 1 and sum(index in map(int, op.inputs) for op in graph.operators) == 1


def scale_pair(model: Any, name: str, gain: np.ndarray) -> None:
    """Make an activation `gain` times larger, channel by channel, without changing what comes out behind the depthwise convolution."""
    maker, user = _pair(model, name)
    outputs_last = op_code(model, maker) == OPS.DEPTHWISE_CONV_2D
    _multiply(model, maker.inputs[1], gain if outputs_last else gain[:, None, None, None])
    _multiply(model, maker.inputs[2], gain)
    _multiply(model, user.inputs[1], 1 / gain)


def _multiply(model: Any, index: Any, factor: np.ndarray) -> None:
    graph = model.subgraphs[0]
    values = (constant(model, graph, int(index)) * factor).astype(np.float32)
    model.buffers[graph.tensors[int(index)].buffer].data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)

"""Mend int32 biases that do not fit: channels whose weights are (nearly) all zero get a scale so small that the bias overflows.

Pretrained MobileNets have such dead channels: after batch-norm folding only a bias is left. ai-edge-quantizer 0.10 gives them a weight
scale of 8e-12, clips the bias at 2³¹ − 1 in float32 (which rounds up to 2³¹) and casts: 2.28 became −0.0… with the sign flipped
(MobileNetV2 1.0, block_11_expand). The remedy is TFLiteConverter's: widen the weight scale of that channel until its bias fits.
"""
from __future__ import annotations

from typing import Any, Dict, List

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgepress.quantizers.input_folding import OPS, constant, op_code

LARGEST_BIAS = 2.0**29  # leaves room for the accumulator
WEIGHT_AXIS = {OPS.CONV_2D: 0, OPS.DEPTHWISE_CONV_2D: 3, OPS.FULLY_CONNECTED: 0}


def mend_biases(model: Any, float_model: Any) -> List[Dict[str, Any]]:
    """Mend `model` (a quantized ModelT, in place) from the float ModelT it was made of.

    Returns one record per mended tensor: its name and how many channels were widened.
    """
    floats = {tensor.name: index for index, tensor in enumerate(float_model.subgraphs[0].tensors)}
    graph, mended = model.subgraphs[0], []
    for op in graph.operators:
        axis = WEIGHT_AXIS.get(op_code(model, op))
        if axis is None or len(op.inputs) < 3 or int(op.inputs[2]) < 0:
            continue
        weights, bias = (graph.tensors[int(i)] for i in list(op.inputs)[1:3])
        index = floats.get(bias.name)
        values = constant(float_model, float_model.subgraphs[0], index) if index is not None else None
        if bias.type != schema.TensorType.INT32 or weights.type != schema.TensorType.INT8 or values is None:
            continue
        count = _mend(model, graph.tensors[int(op.inputs[0])], weights, bias, values.astype(np.float64), axis=axis)
        if count:
            mended.append({"tensor": bias.name.decode(errors="replace"), "channels": count})
    return mended


def _mend(model: Any, source: Any, weights: Any, bias: Any, values: np.ndarray, *, axis: int) -> int:
    scale = np.array(weights.quantization.scale, np.float64)
    source_scale = float(source.quantization.scale[0])
    needed = np.abs(values) / (source_scale * LARGEST_BIAS)
    if scale.size == 1:
        needed = needed.max(keepdims=True)
    bad = scale < needed
    if not bad.any():
        return 0
    wider = np.where(bad, needed, scale).astype(np.float32).astype(np.float64)
    shape = [1] * len(weights.shape)
    shape[axis] = scale.size
    old = np.frombuffer(bytes(model.buffers[weights.buffer].data), np.int8).reshape(weights.shape)
    new = np.rint(old * (scale / wider).reshape(shape)).astype(np.int8)
    model.buffers[weights.buffer].data = np.frombuffer(new.tobytes(), np.uint8)
    model.buffers[bias.buffer].data = np.frombuffer(np.rint(values / (source_scale * wider)).astype(np.int32).tobytes(), np.uint8)
    weights.quantization.scale = wider.astype(np.float32)
    bias.quantization.scale = (source_scale * wider).astype(np.float32)
    return int(bad.sum())

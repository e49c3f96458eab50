"""The int32 biases of a statically quantized TFLite file: make them fit, and make them take back what rounded weights lost.

Channels whose weights are (nearly) all zero get a scale so small that the bias overflows. Pretrained MobileNets have such dead channels:
after batch-norm folding only a bias is left. ai-edge-quantizer 0.10 gives them a weight scale of 8e-12, clips the bias at 2³¹ − 1 in
float32 (which rounds up to 2³¹) and casts that to int32: on x86 a bias of 2.28 comes out as the most negative number (MobileNetV2 1.0,
block_11_expand). The remedy is TFLiteConverter's: widen the weight scale of that channel until its bias fits.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Mapping

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgepress.quantizers.bias_correction import add_to_bias, lost_mean
from edgepress.quantizers.input_folding import OPS, constant, op_code

COMFORTABLE_BIAS = 2.0**29  # leaves room for the accumulator
WEIGHT_AXIS = {OPS.CONV_2D: 0, OPS.DEPTHWISE_CONV_2D: 3, OPS.FULLY_CONNECTED: 0}


@dataclass(frozen=True)
class Layer:
    """A quantized operator with weights, and the float numbers it was made of."""

    model: Any
    weights: Any  # TensorT, int8
    bias: Any  # TensorT, int32
    axis: int  # of the output channels in the weights
    source_scale: float  # of the layer's input
    source_name: str  # of the float activation it reads
    float_weights: np.ndarray
    float_bias: np.ndarray

    @property
    def scale(self) -> np.ndarray:
        """Weight scales, [O] or [1]."""
        return np.array(self.weights.quantization.scale, np.float64)

    def along(self, values: np.ndarray) -> np.ndarray:
        """Per-channel values in the shape of the weights."""
        return values.reshape([-1 if i == self.axis else 1 for i in range(self.float_weights.ndim)]) if values.size > 1 else values

    def stored_weights(self) -> np.ndarray:
        """int8 as they are in the file."""
        return np.frombuffer(bytes(self.model.buffers[self.weights.buffer].data), np.int8).reshape(self.float_weights.shape)

    def stored_bias(self) -> np.ndarray:
        """int32 as they are in the file."""
        return np.frombuffer(bytes(self.model.buffers[self.bias.buffer].data), np.int32)

    def store(self, tensor: Any, values: np.ndarray) -> None:
        """Replace a tensor's data."""
        self.model.buffers[tensor.buffer].data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)


def layers(model: Any, float_model: Any) -> Iterator[Layer]:
    """Layers with int8 weights and int32 bias, matched with those of `float_model` by the name of what they write."""
    graph, float_graph = model.subgraphs[0], float_model.subgraphs[0]
    made_by = {float_graph.tensors[int(op.outputs[0])].name: op for op in float_graph.operators}
    for op in graph.operators:
        axis, origin = WEIGHT_AXIS.get(op_code(model, op)), made_by.get(graph.tensors[int(op.outputs[0])].name)
        if axis is None or origin is None or min(len(op.inputs), len(origin.inputs)) < 3 or min(int(op.inputs[2]), int(origin.inputs[2])) < 0:
            continue
        source, weights, bias = (graph.tensors[int(i)] for i in list(op.inputs)[:3])
        values, float_bias = (constant(float_model, float_graph, int(i)) for i in list(origin.inputs)[1:3])
        if weights.type == schema.TensorType.INT8 and bias.type == schema.TensorType.INT32 and values is not None and float_bias is not None:
            name = float_graph.tensors[int(origin.inputs[0])].name.decode("utf-8", "replace")
            yield Layer(model, weights, bias, axis, float(source.quantization.scale[0]), name, values, float_bias)


def widen_dead_channels(model: Any, float_model: Any) -> List[Dict[str, Any]]:
    """Make every bias fit (in place). One record per tensor: its name and how many channels got a wider weight scale."""
    return [{"tensor": layer.bias.name.decode("utf-8", "replace"), "channels": count} for layer in layers(model, float_model) if (count := _widen(layer))]


def _widen(layer: Layer) -> int:
    needed = np.abs(layer.float_bias.astype(np.float64)) / (layer.source_scale * COMFORTABLE_BIAS)
    if layer.scale.size == 1:
        needed = needed.max(keepdims=True)
    bad = layer.scale < needed
    if not bad.any():
        return 0
    wider = np.where(bad, needed, layer.scale).astype(np.float32)
    layer.store(layer.weights, np.rint(layer.stored_weights() * layer.along(layer.scale / wider)).astype(np.int8))
    layer.weights.quantization.scale = wider
    layer.bias.quantization.scale = (layer.source_scale * wider.astype(np.float64)).astype(np.float32)
    layer.store(layer.bias, np.rint(layer.float_bias / (layer.source_scale * wider.astype(np.float64))).astype(np.int32))
    return int(bad.sum())


def correct_biases(model: Any, float_model: Any, means: Mapping[str, np.ndarray]) -> int:
    """Move each bias by the mean that rounding the weights lost (in place); `means`: activation name → mean per channel. Returns how many layers."""
    corrected = 0
    for layer in layers(model, float_model):
        mean = means.get(layer.source_name)
        if mean is None:
            continue
        rounded = layer.stored_weights() * layer.along(layer.scale)
        shift = lost_mean(_outputs_first(layer.float_weights, layer.axis), _outputs_first(rounded, layer.axis), mean, groups=mean.size if layer.axis == 3 else 1)
        layer.store(layer.bias, add_to_bias(layer.stored_bias(), shift, layer.source_scale * layer.scale))
        corrected += 1
    return corrected


def _outputs_first(weights: np.ndarray, axis: int) -> np.ndarray:
    """[O, kh, kw, I/groups] of convolution [O, kh, kw, I], depthwise [1, kh, kw, O] or dense [O, I] weights."""
    if weights.ndim == 2:
        return weights[:, None, None, :]
    return weights.transpose(3, 1, 2, 0) if axis == 3 else weights


def weighted_inputs(model: Any) -> List[str]:
    """Names of the activations that layers with weights read: those whose means are needed."""
    graph = model.subgraphs[0]
    return sorted({graph.tensors[int(op.inputs[0])].name.decode("utf-8", "replace") for op in graph.operators if op_code(model, op) in WEIGHT_AXIS})

"""Fold the normalisation of a float ONNX file into its first convolution; the ONNX side of input_folding.py, where the algebra is told."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgepress.errors import ModelError
from edgepress.quantizers.input_folding import CENTERED_NAME, Folded, as_affine, center_pixel, fold_weights

LAYOUT = ("Transpose",)  # moves values, changes none


@dataclass(frozen=True)
class _Prefix:
    scale: np.ndarray
    offset: np.ndarray
    affine: List[Any]  # Cast, Mul, Add, Sub, Div
    layout: List[Any]  # Transpose
    pad: Optional[Any]
    conv: Any
    boundary: str  # the tensor that becomes the input of the folded model


def initializers(model: Any) -> Dict[str, Any]:
    """Constant tensors by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def _affine_step(node: Any, name: str, constants: Dict[str, Any]) -> Optional[Tuple[np.ndarray, np.ndarray]]:
    if node.op_type not in ("Mul", "Add", "Sub", "Div") or len(node.input) != 2:
        return None
    other = node.input[1] if node.input[0] == name else node.input[0]
    if other not in constants or (node.op_type in ("Sub", "Div") and node.input[1] == name):
        return None
    value = numpy_helper.to_array(constants[other]).astype(np.float64)
    if value.size > 1 and value.size != max(value.shape):  # per channel or scalar only
        return None
    return as_affine(node.op_type, value.reshape(-1))


def _find_prefix(model: Any) -> Optional[_Prefix]:
    constants = initializers(model)
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type != TensorProto.UINT8:
        return None
    name, scale, offset = inputs[0].name, np.ones(1), np.zeros(1)
    affine: List[Any] = []
    layout: List[Any] = []
    pad, boundary = None, ""
    while True:
        users = [node for node in model.graph.node if name in node.input]
        if len(users) != 1 or any(value.name == name for value in model.graph.output):
            return None
        node = users[0]
        if node.op_type == "Conv" and name == node.input[0]:
            return _Prefix(scale, offset, affine, layout, pad, node, boundary or name) if affine else None
        if node.op_type == "Pad" and pad is None:
            pad, boundary = node, name
        elif pad is not None:
            return None
        elif node.op_type in LAYOUT:
            layout.append(node)
        elif node.op_type == "Cast" and not affine:
            affine.append(node)
        else:
            step = _affine_step(node, name, constants) if affine else None
            if step is None:
                return None
            scale, offset, affine = scale * step[0], offset * step[0] + step[1], affine + [node]
        name = node.output[0]


def _pads(prefix: _Prefix) -> bool:
    attributes = {attribute.name: attribute for attribute in prefix.conv.attribute}
    automatic = attributes["auto_pad"].s not in (b"NOTSET", b"VALID") if "auto_pad" in attributes else False
    return prefix.pad is not None or automatic or ("pads" in attributes and any(attributes["pads"].ints))


def fold(model: Any) -> Optional[Folded]:
    """A copy of the float ModelProto without its normalisation, or None where the pattern is another one.

    The pattern: uint8 input → Cast → any Mul, Add, Sub, Div by scalars or per-channel constants, with Transpose anywhere between →
    perhaps a Pad → Conv. The folded input lies behind the Transpose: float32 `pixels − zero_point` in the layout of the convolution.
    """
    prefix = _find_prefix(model)
    if prefix is None or prefix.conv.input[1] not in initializers(model):
        return None
    weights = numpy_helper.to_array(initializers(model)[prefix.conv.input[1]])
    bias_name = prefix.conv.input[2] if len(prefix.conv.input) > 2 else ""
    if weights.ndim != 4 or (bias_name and bias_name not in initializers(model)) or (prefix.scale == 0).any():
        return None
    channels = max(prefix.scale.size, prefix.offset.size)
    if channels > 1 and channels != weights.shape[1]:  # grouped first convolution with per-channel constants: not seen in the wild
        return None
    scale, offset = np.broadcast_to(prefix.scale, weights.shape[1]), np.broadcast_to(prefix.offset, weights.shape[1])
    zero_point = center_pixel(scale, offset)
    residual = scale * zero_point + offset
    bias = numpy_helper.to_array(initializers(model)[bias_name]) if bias_name else np.zeros(weights.shape[0], np.float32)
    new_weights, new_bias = fold_weights(weights.transpose(0, 2, 3, 1), bias, scale, residual)
    folded = _rewritten(model, prefix, new_weights.transpose(0, 3, 1, 2), new_bias)
    return Folded(folded, zero_point, float(np.abs(residual).max()) if _pads(prefix) else 0.0, tuple(node.op_type for node in prefix.affine),
                  permutations=tuple(_permutation(node) for node in prefix.layout))


def _permutation(node: Any) -> Tuple[int, ...]:
    return tuple(next(attribute for attribute in node.attribute if attribute.name == "perm").ints)


def _rewritten(model: Any, prefix: _Prefix, weights: np.ndarray, bias: np.ndarray) -> Any:
    shape = value_shape(model, prefix.boundary)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    dropped = {node.output[0] for node in (*prefix.affine, *prefix.layout)}
    nodes = [node for node in graph.node if node.output[0] not in dropped]
    for node in nodes:
        for index, name in enumerate(node.input):
            if name == prefix.boundary:
                node.input[index] = CENTERED_NAME
    conv = next(node for node in nodes if node.output[0] == prefix.conv.output[0])
    del conv.input[1:]
    conv.input.extend([prefix.conv.input[1] + "_folded", prefix.conv.input[1] + "_folded_bias"])
    graph.initializer.extend([numpy_helper.from_array(np.ascontiguousarray(weights), conv.input[1]), numpy_helper.from_array(bias, conv.input[2])])
    replace(graph.node, nodes)
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(CENTERED_NAME, TensorProto.FLOAT, shape))
    drop_unused(copy)
    return copy


def replace(field: Any, values: List[Any]) -> None:
    """Assign to a repeated protobuf field."""
    kept = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(kept)


def drop_unused(model: Any) -> None:
    """Remove initializers, value infos and opset domains that nothing refers to (in place)."""
    graph = model.graph
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in used])
    made = {name for node in graph.node for name in node.output}
    replace(graph.value_info, [value for value in graph.value_info if value.name in made])
    domains = {node.domain for node in graph.node} | {""}
    replace(model.opset_import, [entry for entry in model.opset_import if entry.domain in domains])


def value_shape(model: Any, name: str) -> List[Any]:
    """Dimensions of a tensor by shape inference (numbers, or names where dynamic)."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    for value in (*graph.value_info, *graph.input, *graph.output):
        if value.name == name:
            return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
    raise ModelError(f"the shape of tensor {name!r} is not known", "convert the model again with a fixed input size")


def attach_uint8_input(model: Any, source: Any, folded: Folded) -> None:
    """Put the uint8 input of `source` in front of the quantized `model` (in place): its pixels are the quantized values already.

    Unsigned activations need no operator at all but the Transpose of `source`; signed ones a DequantizeLinear → QuantizeLinear pair.
    """
    graph = model.graph
    quantizer = next((node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == CENTERED_NAME), None)
    if quantizer is None or sum(CENTERED_NAME in node.input for node in graph.node) != 1:
        raise ModelError("the quantizer left the first convolution in float", "report this with the file: input folding needs it quantized")
    constants = initializers(model)
    scale, zero = (numpy_helper.to_array(constants[name]) for name in quantizer.input[1:3])
    signed = zero.dtype == np.int8
    if not np.allclose(scale, 1.0, atol=1e-6) or int(zero) != folded.zero_point - (128 if signed else 0):
        raise ModelError(f"the quantized input has scale {scale}, zero point {zero}; asked for was scale 1", "report this with the file")
    image = next(value for value in source.graph.input if value.type.tensor_type.elem_type == TensorProto.UINT8)
    constants[quantizer.input[1]].CopyFrom(numpy_helper.from_array(np.ones_like(scale), quantizer.input[1]))  # 1 − 1e-8 is not 1
    nodes, name = [], image.name
    for index, order in enumerate(folded.permutations):
        target = f"{image.name}_layout_{index}"
        nodes.append(helper.make_node("Transpose", [name], [target], name=target, perm=order))
        name = target
    if signed:
        graph.initializer.append(numpy_helper.from_array(np.array(folded.zero_point, np.uint8), "image_zero_point"))
        nodes.append(helper.make_node("DequantizeLinear", [name, quantizer.input[1], "image_zero_point"], [CENTERED_NAME], name="image_centering"))
        nodes += list(graph.node)
    else:
        nodes += [node for node in graph.node if node.output[0] != quantizer.output[0]]
        for node in nodes:
            for index, used in enumerate(node.input):
                if used == quantizer.output[0]:
                    node.input[index] = name
    replace(graph.node, nodes)
    del graph.input[:]
    graph.input.append(image)
    drop_unused(model)

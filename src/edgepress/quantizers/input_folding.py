"""Fold the normalisation of a float TFLite file into its first convolution, so that raw uint8 pixels can be its quantized input.

A contract file starts with CAST → MUL → ADD on every pixel, in float: after static quantization these three operators and the
QUANTIZE behind them cost as much as several convolutions. Normalisation is affine, y = s_c·x + o_c, so it can move into the weights:

    conv(W, b)(s·x + o)  =  conv(W·s, b + Σ W·(s·m + o))(x − m)        with one integer m for all channels

What is left of the input, x − m, needs no arithmetic at all: uint8 pixels *are* that number with scale 1 and zero point m, and
int8 activations with scale 1 and zero point m − 128 are the same bytes with the top bit flipped. The identity is exact except where
the convolution pads with zeros: there it now pads with x = m instead of x = −o/s. `Folded.pad_error` is that difference in
normalised units; the caller measures what it does to the answers and decides.
"""
from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgepress.errors import ModelError
from edgepress.flatbuffer import operator_names

OPS = schema.BuiltinOperator
FLOAT32, UINT8, INT8 = schema.TensorType.FLOAT32, schema.TensorType.UINT8, schema.TensorType.INT8
INPUT_NAME = "image"
CENTERED_NAME = "image_centered"


@dataclass(frozen=True)
class Folded:
    """A float model without its normalisation. Its input is float32 `pixels − zero_point`."""

    model: Any  # ModelT, or an onnx.ModelProto
    zero_point: int  # the integer m
    pad_error: float  # largest |s·m + o| over the channels where the convolution pads with zeros, else 0 (exact)
    operators: Tuple[str, ...]  # what was folded away
    input_name: str = CENTERED_NAME
    permutations: Tuple[Tuple[int, ...], ...] = ()  # transpositions of the input that were dropped with them (ONNX)


@dataclass(frozen=True)
class _Prefix:
    """The affine operators between the input and the first convolution."""

    scale: np.ndarray  # [C] or scalar
    offset: np.ndarray
    operators: List[Any]  # OperatorT, to be removed
    pad: Optional[Any]  # a PAD between them and the convolution stays
    conv: Any


def center_pixel(scale: np.ndarray, offset: np.ndarray) -> int:
    """The integer pixel value that normalises nearest to zero, on the mean over the channels (0…255)."""
    middle = float(np.mean(-offset / scale))
    return int(np.clip(np.floor(middle + 0.5 + 1e-3), 0, 255))  # 127.5 − rounding noise must not fall to 127


def fold_weights(weights: np.ndarray, bias: np.ndarray, scale: np.ndarray, residual: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """(W·s, b + ΣW·residual) for weights `[O, kh, kw, I]`; scale and residual `[I]`. Sums in float64."""
    wide = weights.astype(np.float64)
    return (wide * scale).astype(np.float32), (bias + (wide * residual).sum(axis=(1, 2, 3))).astype(np.float32)


def op_code(model: Any, op: Any) -> int:
    """Builtin code of an operator, also in files from before the code had 32 bits."""
    code = model.operatorCodes[op.opcodeIndex]
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def constant(model: Any, graph: Any, index: int) -> Optional[np.ndarray]:
    """A float32 constant tensor as an array, or None if it is not one."""
    tensor = graph.tensors[index]
    data = model.buffers[tensor.buffer].data
    if tensor.type != FLOAT32 or data is None or len(data) == 0:
        return None
    return np.frombuffer(bytes(bytearray(data)), np.float32).reshape(_shape(tensor))


def _shape(tensor: Any) -> Tuple[int, ...]:
    return tuple(int(size) for size in tensor.shape) if tensor.shape is not None else ()


def _consumers(graph: Any, index: int) -> List[Any]:
    return [op for op in graph.operators if index in list(op.inputs)]


def _affine_step(model: Any, graph: Any, op: Any, index: int) -> Optional[Tuple[np.ndarray, np.ndarray]]:
    """(scale, offset) of one MUL, ADD, SUB or DIV by a constant that is scalar or per channel; None if it is something else."""
    code = op_code(model, op)
    if code not in (OPS.MUL, OPS.ADD, OPS.SUB, OPS.DIV) or getattr(op.builtinOptions, "fusedActivationFunction", 0):
        return None
    first, second = (int(i) for i in op.inputs)
    value = constant(model, graph, second if first == index else first)
    channels = _shape(graph.tensors[index])[-1]
    if value is None or value.size not in (1, channels) or (code in (OPS.SUB, OPS.DIV) and second == index):
        return None
    return as_affine({OPS.MUL: "Mul", OPS.DIV: "Div", OPS.ADD: "Add", OPS.SUB: "Sub"}[code], value.reshape(-1).astype(np.float64))


def as_affine(operator: str, value: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """(scale, offset) of x Mul, Div, Add or Sub `value`."""
    if operator in ("Mul", "Div"):
        return (value if operator == "Mul" else 1 / value), np.zeros(1)
    return np.ones(1), (value if operator == "Add" else -value)


def _find_prefix(model: Any) -> Optional[_Prefix]:
    graph = model.subgraphs[0]
    if len(graph.inputs) != 1 or graph.tensors[graph.inputs[0]].type != UINT8:
        return None
    index, scale, offset, removed, pad = int(graph.inputs[0]), np.ones(1), np.zeros(1), [], None
    while True:
        users = _consumers(graph, index)
        if len(users) != 1 or index in list(graph.outputs):
            return None
        op, code = users[0], op_code(model, users[0])
        if code in (OPS.CONV_2D, OPS.DEPTHWISE_CONV_2D):
            return _Prefix(scale, offset, removed, pad, op) if removed else None
        if code == OPS.PAD and pad is None:
            pad = op
        elif pad is not None or (code != OPS.CAST) == (not removed):  # exactly one CAST, first
            return None
        elif code == OPS.CAST:
            removed.append(op)
        else:
            step = _affine_step(model, graph, op, index)
            if step is None:
                return None
            scale, offset, removed = scale * step[0], offset * step[0] + step[1], removed + [op]
        index = int(op.outputs[0])


def _new_constant(model: Any, graph: Any, values: np.ndarray, *, like: Any, name: bytes) -> int:
    buffer, tensor = schema.BufferT(), copy.copy(like)
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor.buffer, tensor.name, tensor.shape, tensor.type = len(model.buffers) - 1, name, np.array(values.shape, np.int32), FLOAT32
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _rewrite_conv(model: Any, graph: Any, conv: Any, scale: np.ndarray, residual: np.ndarray) -> bool:
    """Replace the weights and bias of `conv`; False if they are not float constants."""
    weights = constant(model, graph, int(conv.inputs[1]))
    has_bias = len(conv.inputs) > 2 and int(conv.inputs[2]) >= 0
    if weights is None:
        return False
    if op_code(model, conv) == OPS.DEPTHWISE_CONV_2D:  # [1, kh, kw, O] → [O, kh, kw, 1]; output o reads channel o // multiplier
        outputs = weights.shape[3]
        channel = np.arange(outputs) // (outputs // scale.size)
        new, extra = fold_weights(weights.transpose(3, 1, 2, 0), np.zeros(outputs), scale[channel][:, None, None, None], residual[channel][:, None, None, None])
        new = new.transpose(3, 1, 2, 0)
    else:
        new, extra = fold_weights(weights, np.zeros(weights.shape[0]), scale, residual)
    bias = constant(model, graph, int(conv.inputs[2])) if has_bias else np.zeros(extra.size, np.float32)
    if bias is None:
        return False
    like = graph.tensors[int(conv.inputs[1])]
    inputs = [int(conv.inputs[0]), _new_constant(model, graph, np.ascontiguousarray(new), like=like, name=like.name + b"_folded"),
              _new_constant(model, graph, (bias + extra).astype(np.float32), like=like, name=like.name + b"_folded_bias")]
    conv.inputs = np.array(inputs, np.int32)
    return True


def _pads(conv: Any, pad: Optional[Any]) -> bool:
    return pad is not None or conv.builtinOptions.padding == schema.Padding.SAME


def fold(model: Any) -> Optional[Folded]:
    """A copy of the float ModelT `model` without its normalisation, or None where the pattern is another one.

    The pattern: uint8 input → CAST → any MUL, ADD, SUB, DIV by scalars or per-channel constants → perhaps a PAD → a convolution.
    """
    model = copy.deepcopy(model)
    prefix = _find_prefix(model) if len(model.subgraphs) == 1 else None
    if prefix is None:
        return None
    graph = model.subgraphs[0]
    channels = _shape(graph.tensors[graph.inputs[0]])[-1]
    scale, offset = np.broadcast_to(prefix.scale, channels), np.broadcast_to(prefix.offset, channels)
    if (scale == 0).any():
        return None
    zero_point = center_pixel(scale, offset)
    residual = scale * zero_point + offset
    if not _rewrite_conv(model, graph, prefix.conv, scale, residual):
        return None
    names = tuple(operator_names(model)[op.opcodeIndex] for op in prefix.operators)
    graph.operators = [op for op in graph.operators if op not in prefix.operators]
    _set_input(model, int(prefix.operators[-1].outputs[0]), name=CENTERED_NAME.encode())
    drop_unused(model)
    return Folded(model, zero_point, float(np.abs(residual).max()) if _pads(prefix.conv, prefix.pad) else 0.0, names)


def _set_input(model: Any, index: int, *, name: bytes) -> None:
    graph = model.subgraphs[0]
    for signature in model.signatureDefs or []:
        for entry in signature.inputs:
            if entry.tensorIndex == int(graph.inputs[0]):
                entry.tensorIndex = index
    graph.inputs = np.array([index], np.int32)
    graph.tensors[index].name = name
    graph.tensors[index].isVariable = False


def drop_unused(model: Any) -> None:
    """Remove tensors, buffers and operator codes that nothing refers to (one subgraph; in place)."""
    graph = model.subgraphs[0]
    used = set(map(int, graph.inputs)) | set(map(int, graph.outputs))
    for op in graph.operators:
        used |= {int(i) for i in (*op.inputs, *op.outputs, *(op.intermediates if op.intermediates is not None else ())) if int(i) >= 0}
    kept = sorted(used)
    place = {old: new for new, old in enumerate(kept)}
    place[-1] = -1
    graph.tensors = [graph.tensors[i] for i in kept]
    graph.inputs, graph.outputs = _moved(graph.inputs, place), _moved(graph.outputs, place)
    for op in graph.operators:
        op.inputs, op.outputs = _moved(op.inputs, place), _moved(op.outputs, place)
        op.intermediates = _moved(op.intermediates, place) if op.intermediates is not None else None
    for signature in model.signatureDefs or []:
        for entry in (*signature.inputs, *signature.outputs):
            entry.tensorIndex = place[int(entry.tensorIndex)]
    _drop_unused_buffers(model)
    _drop_unused_codes(model)


def _moved(indices: Sequence[int], place: Any) -> np.ndarray:
    return np.array([place[int(i)] for i in indices], np.int32)


def _drop_unused_buffers(model: Any) -> None:
    graph, metadata = model.subgraphs[0], model.metadata or []
    kept = sorted({0} | {tensor.buffer for tensor in graph.tensors} | {entry.buffer for entry in metadata} | set(map(int, model.metadataBuffer if model.metadataBuffer is not None else ())))
    place = {old: new for new, old in enumerate(kept)}
    model.buffers = [model.buffers[i] for i in kept]
    for holder in (*graph.tensors, *metadata):
        holder.buffer = place[holder.buffer]
    if model.metadataBuffer is not None:
        model.metadataBuffer = [place[int(i)] for i in model.metadataBuffer]


def _drop_unused_codes(model: Any) -> None:
    operators = model.subgraphs[0].operators
    kept = sorted({op.opcodeIndex for op in operators})
    model.operatorCodes = [model.operatorCodes[i] for i in kept]
    for op in operators:
        op.opcodeIndex = kept.index(op.opcodeIndex)


def attach_uint8_input(model: Any, zero_point: int, *, input_name: str = INPUT_NAME) -> None:
    """Put a uint8 `image` (scale 1, zero point m), a DEQUANTIZE and a QUANTIZE in front of a quantized folded model (in place).

    The two together only flip the top bit. One QUANTIZE from uint8 to int8 says the same, but no delegate takes it and its kernel
    works byte by byte: 0.10 ms for 224 × 224 × 3 on an x86 core, against 0.03 ms for this vectorised pair (benchmarks/normalization_cost.py).

    Raises:
        ModelError: the quantizer gave the input another type, scale or zero point than was asked for.
    """
    graph = model.subgraphs[0]
    inner_index = int(graph.inputs[0])
    inner = graph.tensors[inner_index]
    if inner.type != INT8 or not np.allclose(inner.quantization.scale, 1.0, atol=1e-6) or int(inner.quantization.zeroPoint[0]) != zero_point - 128:
        raise ModelError(f"the quantizer made the input type {inner.type} with {inner.quantization and inner.quantization.scale}; asked for was int8 with scale 1",
                         "use another --backend, and report this with the file")
    inner.quantization.scale = np.array([1.0], np.float32)
    outer, middle = copy.deepcopy(inner), copy.deepcopy(inner)
    outer.name, outer.type = input_name.encode(), UINT8
    outer.quantization.zeroPoint = np.array([zero_point], np.int64)
    middle.name, middle.type, middle.quantization = inner.name + b"_float", FLOAT32, None
    graph.tensors += [outer, middle]
    outer_index, middle_index = len(graph.tensors) - 2, len(graph.tensors) - 1
    _set_input(model, outer_index, name=outer.name)
    graph.operators[:0] = [_operator(model, OPS.DEQUANTIZE, outer_index, middle_index), _operator(model, OPS.QUANTIZE, middle_index, inner_index)]


def _operator(model: Any, code: int, source: int, target: int) -> Any:
    op = schema.OperatorT()
    op.inputs, op.outputs = np.array([source], np.int32), np.array([target], np.int32)
    op.opcodeIndex = _code_index(model, code)
    return op


def _code_index(model: Any, code: int) -> int:
    for index, entry in enumerate(model.operatorCodes):
        if max(entry.builtinCode, entry.deprecatedBuiltinCode) == code:
            return index
    entry = schema.OperatorCodeT()
    entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, 127), 1
    model.operatorCodes.append(entry)
    return len(model.operatorCodes) - 1

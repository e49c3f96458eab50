"""Small networks whose work is known exactly, as .tflite and .onnx bytes: what a runtime does with them is what this machine can do at best."""
from __future__ import annotations

from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np

from edgepress.flatbuffer import import_schema, pack_model

SIDE, DENSE_CHANNELS, DEPTHWISE_CHANNELS, CHAIN = 56, 256, 144, 64
MACS = {"dense": SIDE * SIDE * DENSE_CHANNELS**2, "depthwise": SIDE * SIDE * DEPTHWISE_CHANNELS * 9}
SCALE = 0.05


class _Writer:
    """Appends tensors and operators to a ModelT; `integer` files are int8 with one scale."""

    def __init__(self, *, integer: bool) -> None:
        self.schema = import_schema()
        self.model, self.graph, self.integer = self.schema.ModelT(), self.schema.SubGraphT(), integer
        self.model.version, self.model.buffers, self.model.operatorCodes, self.model.subgraphs = 3, [self.schema.BufferT()], [], [self.graph]
        self.graph.tensors, self.graph.operators, self.graph.name = [], [], b"main"

    def tensor(self, shape: Sequence[int], values: Optional[np.ndarray] = None, *, scale: float = SCALE) -> int:
        types, tensor = self.schema.TensorType, self.schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = f"t{len(self.graph.tensors)}".encode(), np.array(shape, np.int32), 0
        kind = values.dtype if values is not None else np.dtype(np.int8 if self.integer else np.float32)
        tensor.type = {"int8": types.INT8, "int32": types.INT32, "float32": types.FLOAT32}[np.dtype(kind).name]
        if self.integer:
            tensor.quantization = self.schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = np.float32([scale]), np.int64([0])
        if values is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def op(self, name: str, inputs: Sequence[int], output: int, options: Any, kind: int) -> int:
        code = getattr(self.schema.BuiltinOperator, name)
        known = [entry.builtinCode for entry in self.model.operatorCodes]
        if code not in known:
            entry = self.schema.OperatorCodeT()
            entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, 127), 3 if self.integer and name != "ADD" else 2 if self.integer else 1
            self.model.operatorCodes.append(entry)
            known.append(code)
        op = self.schema.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs, op.builtinOptions, op.builtinOptionsType = known.index(code), np.array(inputs, np.int32), np.array([output], np.int32), options, kind
        self.graph.operators.append(op)
        return output

    def finish(self, first: int, last: int) -> bytes:
        self.graph.inputs, self.graph.outputs = np.array([first], np.int32), np.array([last], np.int32)
        return pack_model(self.model)


def tflite_probe(kind: str, *, integer: bool) -> bytes:
    """A .tflite file of one operator (dense: a 1×1 convolution; depthwise: 3×3) or of a chain of CHAIN tiny additions."""
    w = _Writer(integer=integer)
    if kind == "chain":
        first = last = w.tensor((1, 1, 1, 16))
        for _ in range(CHAIN):
            last = w.op("ADD", [last, w.tensor((1, 1, 1, 16), _values(np.random.default_rng(0), (1, 1, 1, 16), integer))], w.tensor((1, 1, 1, 16)),
                        w.schema.AddOptionsT(), w.schema.BuiltinOptions.AddOptions)
        return w.finish(first, last)
    channels = DENSE_CHANNELS if kind == "dense" else DEPTHWISE_CHANNELS
    kernel = (channels, 1, 1, channels) if kind == "dense" else (1, 3, 3, channels)
    options = w.schema.Conv2DOptionsT() if kind == "dense" else w.schema.DepthwiseConv2DOptionsT()
    options.padding, options.strideH, options.strideW, options.dilationHFactor, options.dilationWFactor = w.schema.Padding.SAME, 1, 1, 1, 1
    if kind == "depthwise":
        options.depthMultiplier = 1
    first = w.tensor((1, SIDE, SIDE, channels))
    weights = w.tensor(kernel, _values(np.random.default_rng(0), kernel, integer))
    bias = w.tensor((channels,), np.zeros(channels, np.int32 if integer else np.float32), scale=SCALE * SCALE)
    name, table = ("CONV_2D", w.schema.BuiltinOptions.Conv2DOptions) if kind == "dense" else ("DEPTHWISE_CONV_2D", w.schema.BuiltinOptions.DepthwiseConv2DOptions)
    return w.finish(first, w.op(name, [first, weights, bias], w.tensor((1, SIDE, SIDE, channels), scale=4.0 * SCALE), options, table))


def onnx_probe(kind: str, *, integer: bool) -> bytes:
    """The same as an .onnx file; integers as QLinearConv on uint8 (the layout that onnxruntime's kernels take)."""
    from onnx import TensorProto, helper, numpy_helper

    random, constants = np.random.default_rng(0), {}  # type: Any, Dict[str, np.ndarray]
    if kind == "chain":
        shape: Tuple[int, ...] = (1, 16)
        nodes = [helper.make_node("Add", [f"x{i}", "c"], [f"x{i + 1}"]) for i in range(CHAIN)]
        constants["c"], last, elements = _values(random, shape, False), f"x{CHAIN}", TensorProto.FLOAT
    else:
        channels = DENSE_CHANNELS if kind == "dense" else DEPTHWISE_CHANNELS
        shape, last, elements = (1, channels, SIDE, SIDE), "y", TensorProto.UINT8 if integer else TensorProto.FLOAT
        kernel = (channels, channels, 1, 1) if kind == "dense" else (channels, 1, 3, 3)
        extra = {"group": channels, "pads": [1, 1, 1, 1]} if kind == "depthwise" else {}
        constants["w"] = _values(random, kernel, integer)
        if integer:
            constants.update(s=np.float32(SCALE), z=np.uint8(128), zw=np.int8(0), so=np.float32(4 * SCALE))
            nodes = [helper.make_node("QLinearConv", ["x0", "s", "z", "w", "s", "zw", "so", "z"], ["y"], **extra)]
        else:
            nodes = [helper.make_node("Conv", ["x0", "w"], ["y"], **extra)]
    graph = helper.make_graph(nodes, "probe", [helper.make_tensor_value_info("x0", elements, shape)], [helper.make_tensor_value_info(last, elements, shape)],
                              [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8).SerializeToString()


def _values(random: np.random.Generator, shape: Sequence[int], integer: bool) -> np.ndarray:
    return random.integers(-127, 128, shape, dtype=np.int8) if integer else random.normal(0, 0.1, shape).astype(np.float32)

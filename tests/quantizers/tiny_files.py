"""Tiny float networks written operator by operator: uint8 pixels, normalisation, one convolution, mean, dense, softmax."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Optional, Tuple

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper

from edgepress.flatbuffer import pack_model

SIZE, FILTERS, CLASSES = 12, 8, 4
OPS, TYPES, OPTIONS = schema.BuiltinOperator, schema.TensorType, schema.BuiltinOptions


def weights(seed: int = 0, *, dead: bool = False) -> Tuple[np.ndarray, ...]:
    """(kernel [O, 3, 3, 3] over RGB, bias [O], dense [classes, O], dense bias); `dead`: filter 0 is nothing but a large bias."""
    random = np.random.default_rng(seed)
    kernel = random.normal(0, 0.3, (FILTERS, 3, 3, 3)).astype(np.float32)
    bias = random.normal(0, 0.2, FILTERS).astype(np.float32)
    if dead:
        kernel[0], bias[0] = 0, 2.5
    return kernel, bias, random.normal(0, 1.0, (CLASSES, FILTERS)).astype(np.float32), random.normal(0, 0.1, CLASSES).astype(np.float32)


class _Writer:
    """Appends tensors and operators to a ModelT."""

    def __init__(self) -> None:
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.buffers, self.model.operatorCodes, self.model.subgraphs = 3, [schema.BufferT()], [], [self.graph]
        self.graph.tensors, self.graph.operators, self.graph.name = [], [], b"main"

    def tensor(self, name: str, shape: Tuple[int, ...], kind: int = TYPES.FLOAT32, values: Optional[np.ndarray] = None) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name.encode(), np.array(shape, np.int32), kind, 0
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def constant(self, name: str, values: np.ndarray) -> int:
        return self.tensor(name, values.shape, TYPES.INT32 if values.dtype == np.int32 else TYPES.FLOAT32, values)

    def op(self, code: int, inputs: list, output: int, options: Any = None, kind: int = 0) -> int:
        known = [c.builtinCode for c in self.model.operatorCodes]
        if code not in known:
            entry = schema.OperatorCodeT()
            entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, 127), 1
            self.model.operatorCodes.append(entry)
            known.append(code)
        op = schema.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = known.index(code), np.array(inputs, np.int32), np.array([output], np.int32)
        op.builtinOptions, op.builtinOptionsType = options, kind
        self.graph.operators.append(op)
        return output


def tflite(scale: Any, offset: Any, *, padding: str = "SAME", depthwise: bool = False, dead: bool = False, first: str = "conv", pair: bool = False) -> bytes:
    """A float .tflite file. `scale`, `offset`: scalars or per channel; `first`: conv, or relu (a nonlinear operator before it); `pair`: a depthwise convolution behind."""
    w, shape = _Writer(), (1, SIZE, SIZE, 3)
    kernel, bias, dense, dense_bias = weights(dead=dead)
    image = w.tensor("image", shape, TYPES.UINT8)
    x = w.op(OPS.CAST, [image], w.tensor("cast", shape), schema.CastOptionsT(), OPTIONS.CastOptions)
    x = w.op(OPS.MUL, [x, w.constant("scale", np.float32(scale))], w.tensor("scaled", shape), schema.MulOptionsT(), OPTIONS.MulOptions)
    x = w.op(OPS.ADD, [x, w.constant("offset", np.float32(offset))], w.tensor("normalized", shape), schema.AddOptionsT(), OPTIONS.AddOptions)
    if first == "relu":
        x = w.op(OPS.RELU, [x], w.tensor("rectified", shape))
    side, options = (SIZE if padding == "SAME" else SIZE - 2), schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
    options.padding, options.strideH, options.strideW, options.dilationHFactor, options.dilationWFactor = getattr(schema.Padding, padding), 1, 1, 1, 1
    options.fusedActivationFunction = schema.ActivationFunctionType.RELU
    filters = 6 if depthwise else FILTERS
    if depthwise:
        options.depthMultiplier, kernel, bias, dense = 2, kernel[:6, :, :, 0].transpose(1, 2, 0)[None], bias[:6], dense[:, :6]
    code, kind = (OPS.DEPTHWISE_CONV_2D, OPTIONS.DepthwiseConv2DOptions) if depthwise else (OPS.CONV_2D, OPTIONS.Conv2DOptions)
    x = w.op(code, [x, w.constant("kernel", np.ascontiguousarray(kernel)), w.constant("bias", bias)], w.tensor("features", (1, side, side, filters)), options, kind)
    if pair:
        again = schema.DepthwiseConv2DOptionsT()
        again.padding, again.strideH, again.strideW, again.dilationHFactor, again.dilationWFactor, again.depthMultiplier = schema.Padding.VALID, 1, 1, 1, 1, 1
        second = np.random.default_rng(5).normal(0, 0.3, (1, 3, 3, filters)).astype(np.float32)
        x = w.op(OPS.DEPTHWISE_CONV_2D, [x, w.constant("kernel2", second), w.constant("bias2", np.zeros(filters, np.float32))], w.tensor("features2", (1, side - 2, side - 2, filters)),
                 again, OPTIONS.DepthwiseConv2DOptions)
    x = w.op(OPS.MEAN, [x, w.constant("axes", np.array([1, 2], np.int32))], w.tensor("pooled", (1, filters)), schema.ReducerOptionsT(), OPTIONS.ReducerOptions)
    x = w.op(OPS.FULLY_CONNECTED, [x, w.constant("dense", np.ascontiguousarray(dense)), w.constant("dense_bias", dense_bias)], w.tensor("logits", (1, CLASSES)),
             schema.FullyConnectedOptionsT(), OPTIONS.FullyConnectedOptions)
    soft = schema.SoftmaxOptionsT()
    soft.beta = 1.0
    x = w.op(OPS.SOFTMAX, [x], w.tensor("probabilities", (1, CLASSES)), soft, OPTIONS.SoftmaxOptions)
    w.graph.inputs, w.graph.outputs = np.array([image], np.int32), np.array([x], np.int32)
    return pack_model(w.model)


def onnx_file(scale: Any, offset: Any, *, padding: bool = True, layout: str = "nhwc", channels_first_constants: bool = False) -> bytes:
    """The same network as an ONNX file; constants before the Transpose, or shaped [1, 3, 1, 1] behind it."""
    kernel, bias, dense, dense_bias = weights()
    values = {"scale": np.float32(scale), "offset": np.float32(offset), "kernel": kernel.transpose(0, 3, 1, 2), "bias": bias, "dense": dense.T, "dense_bias": dense_bias}
    if channels_first_constants:
        values.update({name: np.broadcast_to(values[name], 3).reshape(1, 3, 1, 1) for name in ("scale", "offset")})
    affine = [helper.make_node("Mul", ["x0", "scale"], ["x1"], name="mul"), helper.make_node("Add", ["x1", "offset"], ["x2"], name="add")]
    nodes = [helper.make_node("Cast", ["image" if not channels_first_constants or layout == "nchw" else "t"], ["x0"], name="cast", to=TensorProto.FLOAT), *affine]
    last = "x2"
    if layout == "nhwc":
        transpose = helper.make_node("Transpose", ["image" if channels_first_constants else "x2"], ["t"], name="transpose", perm=[0, 3, 1, 2])
        nodes = [transpose, *nodes] if channels_first_constants else [*nodes, transpose]
        last = "x2" if channels_first_constants else "t"
    pads = [1, 1, 1, 1] if padding else [0, 0, 0, 0]
    nodes += [helper.make_node("Conv", [last, "kernel", "bias"], ["c"], name="conv", pads=pads, kernel_shape=[3, 3]), helper.make_node("Relu", ["c"], ["r"], name="relu"),
              helper.make_node("GlobalAveragePool", ["r"], ["g"], name="pool"), helper.make_node("Flatten", ["g"], ["f"], name="flatten"),
              helper.make_node("Gemm", ["f", "dense", "dense_bias"], ["logits"], name="gemm"), helper.make_node("Softmax", ["logits"], ["probabilities"], name="softmax", axis=-1)]
    shape = [1, SIZE, SIZE, 3] if layout == "nhwc" else [1, 3, SIZE, SIZE]
    graph = helper.make_graph(nodes, "tiny", [helper.make_tensor_value_info("image", TensorProto.UINT8, shape)],
                              [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, CLASSES])],
                              [numpy_helper.from_array(np.ascontiguousarray(v), n) for n, v in values.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8, producer_name="tests").SerializeToString()


def pixels(count: int = 24, seed: int = 1) -> np.ndarray:
    """Smooth and noisy images, uint8 [N, SIZE, SIZE, 3], dark to bright."""
    random = np.random.default_rng(seed)
    level = random.integers(0, 256, (count, 1, 1, 3))
    noise = random.integers(-60, 61, (count, SIZE, SIZE, 3))
    return np.clip(level + noise, 0, 255).astype(np.uint8)


def run(data: bytes, images: np.ndarray) -> np.ndarray:
    """Outputs [N, C] of a file on uint8 images, through LiteRT or onnxruntime."""
    from edgepress.quantizers.calibration import session_onnx, session_tflite

    session = session_tflite(data, threads=1) if data[4:8] == b"TFL3" else session_onnx(data, threads=1)
    return np.concatenate([session(image[None]) for image in images])


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def loaded(data: bytes) -> Any:
    """A ModelProto."""
    return onnx.load_model_from_string(data)

"""Count the work in an .onnx file from its graph and inferred shapes; see counters.py."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from edgepress import onnx_summary
from edgepress.counters import HEAVY, Counts, Op, heavy, product
from edgepress.runtimes.base import TensorInfo
from edgepress.timing import concrete_shape

CONVERSIONS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast"}
MOVES = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Concat", "Split", "Slice", "Pad", "Gather", "Shape", "Constant", "ConstantOfShape", "Expand", "Tile"}
# operator → (input of the activations, of the weights, of the bias)
_CONVOLUTIONS = {"Conv": (0, 1, 2), "QLinearConv": (0, 3, 8), "ConvInteger": (0, 1, None), "FusedConv": (0, 1, 2), "NhwcFusedConv": (0, 1, 2)}
_PRODUCTS = {"MatMul": (0, 1, None), "Gemm": (0, 1, 2), "QLinearMatMul": (0, 3, None), "MatMulInteger": (0, 1, None), "QGemm": (0, 3, 6), "FusedMatMul": (0, 1, None), "FusedGemm": (0, 1, 2)}
WEIGHTED = {"BatchNormalization", "PRelu"}
_INTEGER = {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "QGemm", "QLinearAdd", "QLinearGlobalAveragePool", "QLinearMul", "QLinearConcat"}
Shape = Optional[Tuple[int, ...]]


class _Graph:
    """Shapes, constants and makers of the values of a graph."""

    def __init__(self, model: Any) -> None:
        from onnx import helper, numpy_helper, shape_inference

        self._numpy, self._helper = numpy_helper, helper
        graph = _with_sizes(model).graph
        self.nodes = list(graph.node)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.made_by = {name: node for node in graph.node for name in node.output}
        inferred = shape_inference.infer_shapes(model, data_prop=True).graph
        self.values = {value.name: value.type.tensor_type for value in (*inferred.value_info, *inferred.input, *inferred.output)}

    def shape(self, name: str) -> Shape:
        if name in self.constants:
            return tuple(self.constants[name].dims)
        value = self.values.get(name)
        return None if value is None or not value.HasField("shape") else tuple(d.dim_value if d.HasField("dim_value") else 1 for d in value.shape.dim)

    def width(self, name: str) -> float:
        number = self.constants[name].data_type if name in self.constants else self.values[name].elem_type if name in self.values else 1
        try:
            return float(self._helper.tensor_dtype_to_np_dtype(number).itemsize) if number not in (21, 22) else 0.5  # UINT4, INT4
        except KeyError:
            return 4.0

    def bytes(self, name: str) -> int:
        return int(product(self.shape(name) or ()) * self.width(name))

    def moved(self, name: str, node: Any) -> int:
        """Bytes of a value as they are moved: between Q/DQ pairs it is float in the file and an integer at run time."""
        integer = self.is_quantized(node) and node.op_type not in CONVERSIONS
        return product(self.shape(name) or ()) if integer and self.width(name) == 4 else self.bytes(name)

    def is_quantized(self, node: Any) -> bool:
        """Whether a float operator stands behind a DequantizeLinear: it is computed in integers."""
        maker = self.made_by.get(node.input[0]) if node.input else None
        return maker is not None and maker.op_type == "DequantizeLinear"

    def stored(self, name: str) -> Optional[str]:
        """The initializer that a value is, directly or through nodes that only unpack it."""
        for _ in range(4):
            if name in self.constants:
                return name
            node = self.made_by.get(name)
            if node is None or node.op_type not in CONVERSIONS | {"Identity", "Transpose", "Reshape"}:
                return None
            name = node.input[0]
        return None


def _with_sizes(model: Any) -> Any:
    """The model with the open dimensions of its inputs set as a benchmark sets them (one photo, of 224 pixels), so that shapes can be inferred; changes it."""
    constants = {tensor.name for tensor in model.graph.initializer}
    opened = False
    for value in (v for v in model.graph.input if v.name not in constants):
        dims = value.type.tensor_type.shape.dim
        opened |= any(not dim.HasField("dim_value") or dim.dim_value < 1 for dim in dims)
        open_shape = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else -1 for d in dims)
        for dim, size in zip(dims, concrete_shape(TensorInfo(value.name, open_shape, "float32"))):
            dim.Clear()
            dim.dim_value = size
    if opened:  # what the file says of other values is about open sizes too: all of it follows from the inputs
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        del model.graph.value_info[:]
    return model


def count(path: Path) -> Counts:
    """See counters.count_file."""
    graph = _Graph(onnx_summary.load_graph(path))
    ops: List[Op] = []
    unknown: List[str] = []
    weights: Dict[str, None] = {}
    for node in graph.nodes:
        if all(graph.stored(name) for name in node.input if name):
            continue  # unpacks a weight: folded when the file is opened
        op = _count_node(graph, node)
        if op is None:
            unknown.append(f"{node.op_type} {node.name or node.output[0]}")
            continue
        ops.append(op)
        if op.group in HEAVY or node.op_type in WEIGHTED:
            weights.update({stored: None for name in _weights(node) for stored in [graph.stored(name)] if stored})
    moving = sum(product(graph.shape(name) or ()) for node in graph.nodes if node.op_type == "BatchNormalization" for name in node.input[3:5])
    values = sum(product(graph.constants[name].dims) for name in weights)
    return Counts(file=str(path), format="onnx", ops=tuple(ops), parameters=values, trainable=values - moving, weight_bytes=sum(graph.bytes(name) for name in weights), unknown=tuple(unknown))


def _weights(node: Any) -> List[str]:
    """Inputs that may be weights; scales and zero points of integer operators are not."""
    table = {**_CONVOLUTIONS, **_PRODUCTS}
    if node.op_type in table:
        return [node.input[i] for i in table[node.op_type][1:] if i is not None and i < len(node.input) and node.input[i]]
    return list(node.input[1:]) if node.op_type in WEIGHTED else []  # constants of other operators are axes, shapes and the normalization of pixels


def _count_node(graph: _Graph, node: Any) -> Optional[Op]:
    """The node's work, or None where the shapes are not known."""
    output = graph.shape(node.output[0])
    group = "conversion" if node.op_type in CONVERSIONS else "movement" if node.op_type in MOVES else "elementwise"
    heavy_node = node.op_type in _CONVOLUTIONS or node.op_type in _PRODUCTS or node.op_type == "ConvTranspose"
    if output is None and heavy_node:
        return None
    facts: Mapping[str, Any] = _heavy(graph, node, output or ())
    names = [name for name in node.input if name]
    constants = [graph.stored(name) for name in names]
    table = _CONVOLUTIONS.get(node.op_type) or _PRODUCTS.get(node.op_type)
    bias = node.input[table[2]] if table and table[2] is not None and table[2] < len(node.input) else ""
    weights = [stored for name in _weights(node) for stored in [graph.stored(name)] if stored]
    return Op(**{"group": group, **facts}, name=node.name or node.output[0], kind=node.op_type, dtype=_dtype(graph, node), biases=_channels(graph, node.input[2] if node.op_type == "BatchNormalization" else bias),
              parameters=sum(product(graph.constants[name].dims) for name in weights), weight_bytes=sum(graph.bytes(stored) for stored in constants if stored),
              input_bytes=sum(graph.moved(name, node) for name, stored in zip(names, constants) if not stored), output_bytes=sum(graph.moved(name, node) for name in node.output if name))


def _channels(graph: _Graph, name: str) -> int:
    return product(graph.shape(name) or ()) if name else 0


def _heavy(graph: _Graph, node: Any, output: Tuple[int, ...]) -> Dict[str, Any]:
    if node.op_type in _CONVOLUTIONS:
        kernel = graph.shape(node.input[_CONVOLUTIONS[node.op_type][1]]) or ()  # [M, C/group, kH, kW]
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        size = product(kernel[1:])
        return heavy("depthwise" if groups > 1 and kernel[1] == 1 else "convolution", outputs=(output[0], *output[2:], output[1]), kernel=size, depth=size)
    if node.op_type == "ConvTranspose":
        kernel, image = graph.shape(node.input[1]) or (), graph.shape(node.input[0]) or ()
        facts = heavy("convolution", outputs=(output[0], *output[2:], output[1]), kernel=0, depth=product(kernel[1:]))
        return {**facts, "macs": product(image) * product(kernel[1:])}
    if node.op_type in _PRODUCTS:
        left = graph.shape(node.input[0]) or ()
        turned = any(a.name == "transA" and a.i for a in node.attribute)
        depth = (left[0] if turned else left[-1]) if left else 1
        return heavy("dense", outputs=output, kernel=depth, depth=depth)
    return {}


def _dtype(graph: _Graph, node: Any) -> str:
    """What onnxruntime computes it in: integers where integers go in and come out, also written as Q/DQ pairs around a float operator."""
    if node.op_type in _INTEGER:
        return "int8"
    if graph.is_quantized(node) and node.op_type not in CONVERSIONS:
        return "int16" if graph.width(graph.made_by[node.input[0]].input[0]) == 2 else "int8"
    if node.op_type == "QuantizeLinear":
        return "int8"
    return "float16" if node.output and graph.width(node.output[0]) == 2 and node.op_type not in CONVERSIONS else "float32"

"""Facts of an ONNX file that target profiles are decided by: scheme, operators by arithmetic, signedness."""
from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Mapping, Tuple

from edgepress.errors import MissingDependencyError, ModelError

MOVES = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape", "Constant"}
INTEGER = {"QLinearConv", "QLinearMatMul", "QLinearAdd", "QGemm"}
HYBRID = {"ConvInteger", "MatMulInteger"}
WEIGHTED = ("Conv", "Gemm", "MatMul", "ConvTranspose")


def onnx_facts(path: Path) -> Dict[str, Any]:
    """See profiles.file_facts."""
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise MissingDependencyError("onnx", extra="onnx", why="reading what is in an .onnx file") from error
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise ModelError(f"{path} cannot be read as ONNX ({error})", "copy or convert it again") from error
    graph = model.graph
    if not graph.node:
        raise ModelError(f"{path} holds no operators", "copy or convert it again")
    constants = {tensor.name: tensor for tensor in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    kinds = {"integer": 0, "hybrid": 0}
    floats: List[Dict[str, str]] = []
    for node in graph.node:
        kind = _arithmetic(node, made_by, constants)
        if kind in kinds:
            kinds[kind] += 1
        elif kind == "float":
            floats.append({"operator": node.op_type, "name": node.name or node.output[0]})
    counts = Counter(node.op_type for node in graph.node)
    version = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    activations = _activations(graph, constants, onnx) if kinds["integer"] else None
    return {"format": "onnx", "operators": {name: {"count": count, "version": version} for name, count in sorted(counts.items())},
            "scheme": _scheme(kinds, graph, constants, onnx), "integer_count": kinds["integer"], "hybrid_count": kinds["hybrid"], "float_operators": floats,
            "activations": activations, "weight_bits": _weight_bits(graph, constants, onnx), "sparse": bool(graph.sparse_initializer),
            "hybrid_dense_per_channel": False, "hybrid_depthwise": False,
            "inputs": [_value(value, onnx) for value in graph.input if value.name not in constants], "outputs": [_value(value, onnx) for value in graph.output]}


def _arithmetic(node: Any, made_by: Mapping[str, Any], constants: Mapping[str, Any]) -> str:
    if node.op_type in HYBRID:
        return "hybrid"
    if node.op_type in INTEGER:
        return "integer"
    sources = [made_by.get(name) for name in node.input if name and name not in constants]
    if node.op_type in MOVES or not sources or all(_from_constants(source, made_by, constants) for source in sources):
        return "moves"
    return "integer" if sources[0] is not None and sources[0].op_type == "DequantizeLinear" else "float"


def _from_constants(node: Any, made_by: Mapping[str, Any], constants: Mapping[str, Any]) -> bool:
    """Whether a node only unpacks stored weights."""
    return node is not None and all(name in constants or (name in made_by and _from_constants(made_by[name], made_by, constants)) for name in node.input if name)


def _scheme(kinds: Mapping[str, int], graph: Any, constants: Mapping[str, Any], onnx: Any) -> str:
    if kinds["integer"]:
        return "static_wi8_ai8"
    if kinds["hybrid"]:
        return "dynamic_wi8_afp32"
    stored = {constants[node.input[0]].data_type for node in graph.node if node.op_type in ("Cast", "DequantizeLinear") and node.input[0] in constants}
    if onnx.TensorProto.INT8 in stored or onnx.TensorProto.UINT8 in stored:
        return "weight_only_wi8_afp32"
    half = onnx.TensorProto.FLOAT16
    return "float16" if half in stored or any(tensor.data_type == half for tensor in constants.values()) else "float32"


def _activations(graph: Any, constants: Mapping[str, Any], onnx: Any) -> str:
    """Type of most quantized activations."""
    seen: Counter = Counter()
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and len(node.input) > 2 and node.input[2] in constants:
            seen[constants[node.input[2]].data_type] += 1
        elif node.op_type == "QLinearConv":
            seen[constants[node.input[7]].data_type if node.input[7] in constants else onnx.TensorProto.UINT8] += 1
    kind = seen.most_common(1)[0][0] if seen else onnx.TensorProto.UINT8
    return {onnx.TensorProto.INT8: "int8", onnx.TensorProto.UINT8: "uint8"}.get(kind, "int16")


def _weight_bits(graph: Any, constants: Mapping[str, Any], onnx: Any) -> int:
    """7 where every full convolution's int8 weights stay within ±64 (reduce_range), else 8. Depthwise ones do not matter: no kernel saturates there."""
    import numpy as np

    made_by = {name: node for node in graph.node for name in node.output}
    largest = 0
    for node in graph.node:
        source = made_by.get(node.input[1]) if node.op_type in WEIGHTED and len(node.input) > 1 else None
        grouped = any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
        if source is not None and source.op_type == "DequantizeLinear" and source.input[0] in constants and not grouped:
            values = onnx.numpy_helper.to_array(constants[source.input[0]])
            largest = max(largest, int(np.abs(values.astype(np.int16)).max(initial=0)))
    return 7 if 0 < largest <= 64 else 8


def _value(value: Any, onnx: Any) -> Dict[str, Any]:
    kind = value.type.tensor_type
    shape: Tuple[Any, ...] = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
    return {"name": value.name, "shape": list(shape), "dtype": onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name}

"""What is in an ONNX file: operators, inputs, outputs, constants by type, opset."""
from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Dict, List

from edgepress.errors import MissingDependencyError, ModelError

STANDARD_DOMAINS = ("", "ai.onnx")
MAX_BYTES = 2 << 30  # of a protobuf message


def load_graph(path: Path) -> Any:
    """The ModelProto of an ONNX file; data outside the file is not read.

    Raises:
        ModelError: unreadable, truncated or damaged.
        MissingDependencyError: onnx is not installed.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError as error:
        raise MissingDependencyError(error.name or "onnx", extra="onnx", why="reading an ONNX file") from error
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelError(f"{path} is larger than the 2 GiB a protobuf can be", "give an ONNX file")
        model = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror or error})", "check the path and its permissions") from error
    except (DecodeError, ValueError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is not an ONNX file, or is truncated or damaged", "copy or convert it again") from error
    if not model.graph.node or not model.graph.output:
        raise ModelError(f"{path} is not an ONNX model, or is truncated: it has no graph", "copy or convert it again")
    return model


def summarize(path: Path) -> Dict[str, Any]:
    """What conversion.json and `show` say of an ONNX file."""
    model = load_graph(path)
    constants = {tensor.name for tensor in model.graph.initializer}
    sizes, parameters = _weights(model)
    custom = sorted({f"{node.domain}:{node.op_type}" for node in model.graph.node if node.domain not in STANDARD_DOMAINS})
    return {"operators": dict(sorted(Counter(node.op_type for node in model.graph.node).items())), "custom_operators": custom,
            "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}, "ir_version": model.ir_version,
            "inputs": [_value(v) for v in model.graph.input if v.name not in constants], "outputs": [_value(v) for v in model.graph.output],
            "weight_bytes": sizes, "parameters": parameters, "producer": f"{model.producer_name} {model.producer_version}".strip(),
            "metadata_keys": sorted(entry.key for entry in model.metadata_props)[:100]}


def _type_name(number: int) -> str:
    import onnx

    try:
        name = onnx.TensorProto.DataType.Name(number).lower()
    except ValueError:
        return f"type {number}"
    return {"float": "float32", "double": "float64"}.get(name, name)


def _value(value: Any) -> Dict[str, Any]:
    tensor = value.type.tensor_type
    shape: List[Any] = [(d.dim_param or -1) if not d.HasField("dim_value") else d.dim_value for d in tensor.shape.dim]
    return {"name": value.name, "shape": shape, "dtype": _type_name(tensor.elem_type)}


def _weights(model: Any) -> Any:
    """(bytes of constants by type, number of constant values)."""
    from onnx import helper

    sizes: Counter = Counter()
    parameters = 0
    for tensor in model.graph.initializer:
        count = 1
        for size in tensor.dims:
            count *= size
        parameters += count
        name = _type_name(tensor.data_type)
        width = {"int4": 0.5, "uint4": 0.5, "string": 0}.get(name)
        sizes[name] += int(count * (helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize if width is None else width))
    return dict(sorted(sizes.items())), parameters

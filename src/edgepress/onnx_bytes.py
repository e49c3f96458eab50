"""Read what matters for safety and for people out of an ONNX file's bytes, without the onnx library (devices do not have it)."""
from __future__ import annotations

from collections import Counter
from typing import Dict, Iterator, List, Tuple, Union

from edgepress.errors import ModelError

# Field numbers of onnx.proto3 (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3).
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_OPERATOR, _NODE_ATTRIBUTE = 4, 5
_FUNCTION_NODE = 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES = 5, 6, 10, 11, 22, 23
_SPARSE_VALUES, _SPARSE_INDICES = 1, 2
_TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 8, 13, 14
# message → field → message inside it: all the ways to a tensor.
_INSIDE: Dict[str, Dict[int, str]] = {
    "model": {_MODEL_GRAPH: "graph", _MODEL_FUNCTIONS: "function"},
    "graph": {_GRAPH_NODE: "node", _GRAPH_INITIALIZER: "tensor", _GRAPH_SPARSE: "sparse"},
    "function": {_FUNCTION_NODE: "node"},
    "node": {_NODE_ATTRIBUTE: "attribute"},
    "attribute": {_ATTRIBUTE_TENSOR: "tensor", _ATTRIBUTE_GRAPH: "graph", _ATTRIBUTE_TENSORS: "tensor", _ATTRIBUTE_GRAPHS: "graph",
                  _ATTRIBUTE_SPARSE: "sparse", _ATTRIBUTE_SPARSES: "sparse"},
    "sparse": {_SPARSE_VALUES: "tensor", _SPARSE_INDICES: "tensor"},
    "tensor": {},
}
Field = Tuple[int, Union[int, memoryview]]


def external_tensors(path: str) -> List[str]:
    """Names of the tensors whose values are not in the file.

    Raises:
        ModelError: not a protobuf file.
    """
    return [_text(fields, _TENSOR_NAME) for kind, fields in _read(path)
            if kind == "tensor" and any(f == _TENSOR_EXTERNAL or (f == _TENSOR_LOCATION and value == 1) for f, value in fields)]


def operators(path: str) -> Dict[str, int]:
    """How many nodes of each operator the file has.

    Raises:
        ModelError: not a protobuf file.
    """
    return dict(sorted(Counter(_text(fields, _NODE_OPERATOR) for kind, fields in _read(path) if kind == "node").items()))


def _read(path: str) -> Iterator[Tuple[str, List[Field]]]:
    """Every message of interest as (kind, its fields)."""
    with open(path, "rb") as file:
        todo: List[Tuple[str, memoryview]] = [("model", memoryview(file.read()))]
    try:
        while todo:
            kind, data = todo.pop()
            fields = list(_fields(data))
            yield kind, fields
            todo += [(_INSIDE[kind][f], value) for f, value in fields if f in _INSIDE[kind] and isinstance(value, memoryview)]
    except (IndexError, ValueError) as error:
        raise ModelError(f"{path} is not an ONNX file: its protobuf is damaged", "export it again") from error


def _fields(data: memoryview) -> Iterator[Field]:
    """Fields of one message: numbers of varints, views of everything with a length; fixed-width numbers are passed over."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        field, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield field, value
        elif wire == 2:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise ValueError("a field is longer than its message")
            yield field, data[at:at + size]
            at += size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")


def _varint(data: memoryview, at: int) -> Tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is longer than ten bytes")


def _text(fields: List[Field], number: int) -> str:
    return next((bytes(v).decode("utf-8", "replace") for f, v in fields if f == number and isinstance(v, memoryview)), "")

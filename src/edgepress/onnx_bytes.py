"""Read what matters for safety and for people out of an ONNX file's bytes, without the onnx library (devices do not have it)."""
from __future__ import annotations

import struct
from collections import Counter
from typing import Dict, Iterator, List, Tuple

from edgepress.errors import ModelError
from edgepress.protobuf import Field, read_fields

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
            fields = list(read_fields(data))
            yield kind, fields
            todo += [(_INSIDE[kind][f], value) for f, value in fields if f in _INSIDE[kind] and isinstance(value, memoryview)]
    except (IndexError, ValueError, struct.error) as error:
        raise ModelError(f"{path} is not an ONNX file: its protobuf is damaged", "export it again") from error


def _text(fields: List[Field], number: int) -> str:
    return next((bytes(v).decode("utf-8", "replace") for f, v in fields if f == number and isinstance(v, memoryview)), "")

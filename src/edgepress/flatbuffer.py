"""Read a .tflite file (operators, tensors, signature) and write it back: the flatbuffer schema behind two functions and a summary."""
from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Tuple

from edgepress.artifact import write_atomic
from edgepress.errors import MissingDependencyError, ModelError

IDENTIFIER = b"TFL3"
MAX_BYTES = 2 << 30  # flatbuffers address at most 2 GiB
# What the generated reader raises on damaged bytes; it checks nothing itself.
_DAMAGE = (struct.error, IndexError, ValueError, TypeError, AttributeError, OverflowError, MemoryError, UnicodeDecodeError, RecursionError)


def import_schema() -> Any:
    """The generated flatbuffers schema of TFLite, which ai-edge-litert brings."""
    try:
        from ai_edge_litert import schema_py_generated
    except ModuleNotFoundError as error:
        raise MissingDependencyError("ai-edge-litert", extra="litert", why="reading a .tflite file") from error
    return schema_py_generated


def read_bytes(path: Path) -> bytes:
    """All bytes of a .tflite file, its identifier checked.

    Raises:
        ModelError: unreadable, too large, or not a TFLite flatbuffer.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelError(f"{path} is larger than the 2 GiB a .tflite file can be", "give a TFLite file")
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror})", "check the path and its permissions") from error
    if data[4:8] != IDENTIFIER:
        raise ModelError(f"{path} is not a TFLite file: its identifier is {data[4:8]!r}, not {IDENTIFIER!r}", "give a .tflite file, or convert the model again")
    return data


def parse_model(data: bytes, *, source: str = "the model") -> Any:
    """The `ModelT` object tree in `data`.

    Raises:
        ModelError: truncated or damaged.
    """
    schema = import_schema()
    try:
        model = schema.ModelT.InitFromPackedBuf(data, 0)
        if not model.subgraphs or not model.buffers or model.operatorCodes is None:
            raise ValueError("it holds no subgraph")
        _check_indices(model)
    except _DAMAGE as error:
        raise ModelError(f"{source} is truncated or damaged ({type(error).__name__}: {str(error)[:200]})", "copy or convert it again") from error
    return model


def _check_indices(model: Any) -> None:
    """Every index inside the object tree points at something; the packed form promises nothing."""
    for graph in model.subgraphs:
        tensors = len(graph.tensors)
        for tensor in graph.tensors:
            if not 0 <= tensor.buffer < len(model.buffers):
                raise IndexError(f"tensor {_text(tensor.name)!r} points at buffer {tensor.buffer} of {len(model.buffers)}")
        for op in graph.operators or []:
            if not 0 <= op.opcodeIndex < len(model.operatorCodes):
                raise IndexError(f"an operator points at code {op.opcodeIndex} of {len(model.operatorCodes)}")
        for index in [*_list(graph.inputs), *_list(graph.outputs), *(i for op in graph.operators or [] for i in (*_list(op.inputs), *_list(op.outputs)))]:
            if not -1 <= index < tensors:
                raise IndexError(f"tensor {index} of {tensors}")


def load_model_t(path: Path) -> Any:
    """Read a .tflite file as a `schema.ModelT` object tree that can be changed and saved again.

    Raises:
        ModelError: unreadable, not TFLite, truncated or damaged.
        MissingDependencyError: ai-edge-litert is not installed.
    """
    return parse_model(read_bytes(path), source=str(path))


def pack_model(model: Any) -> bytes:
    """The bytes of a `ModelT`: same tree → same bytes. Associated files behind the flatbuffer are not part of the tree (metadata.py)."""
    builder = _aligned_builder()
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def _aligned_builder() -> Any:
    """A flatbuffers builder that keeps the schema's `force_align: 16` of tensor data, which the Python generator drops (set `data` to NumPy arrays)."""
    import flatbuffers

    class AlignedBuilder(flatbuffers.Builder):
        __slots__ = ()

        def StartVector(self, elemSize: int, numElems: int, alignment: int) -> int:
            return super().StartVector(elemSize, numElems, max(alignment, 16) if elemSize == 1 else alignment)

    return AlignedBuilder(1 << 20)


def save_model_t(model: Any, path: Path) -> None:
    """Write a `ModelT` as a .tflite file, whole or not at all."""
    write_atomic(path, pack_model(model))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")


def _list(values: Any) -> List[int]:
    return [] if values is None else [int(value) for value in values]


def _names(enumeration: Any) -> Dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def operator_names(model: Any) -> List[str]:
    """The name of each operator code: `CONV_2D`, `CUSTOM:MyOp`, `CUSTOM:FlexErf`."""
    builtin = _names(import_schema().BuiltinOperator)
    names = []
    for code in model.operatorCodes:
        number = max(code.builtinCode, code.deprecatedBuiltinCode)  # the old field had 8 bits
        name = builtin.get(number, f"UNKNOWN_{number}")
        names.append(f"CUSTOM:{_text(code.customCode)}" if name == "CUSTOM" else name)
    return names


def count_operators(model: Any) -> Dict[str, int]:
    """How often each operator occurs, over all subgraphs, by name."""
    names = operator_names(model)
    return dict(sorted(Counter(names[op.opcodeIndex] for graph in model.subgraphs for op in graph.operators or []).items()))


def custom_operators(counts: Dict[str, int]) -> Tuple[List[str], List[str]]:
    """(custom, flex) operator names among `counts`."""
    custom = [name[len("CUSTOM:"):] for name in counts if name.startswith("CUSTOM:")]
    return [name for name in custom if not name.startswith("Flex")], [name for name in custom if name.startswith("Flex")]


def _tensor_facts(tensor: Any, types: Dict[int, str]) -> Dict[str, Any]:
    quantization = tensor.quantization
    scales = [] if quantization is None or quantization.scale is None else [float(s) for s in quantization.scale]
    zeros = [] if quantization is None or quantization.zeroPoint is None else [int(z) for z in quantization.zeroPoint]
    signature = _list(tensor.shapeSignature)
    facts: Dict[str, Any] = {"name": _text(tensor.name), "shape": signature or _list(tensor.shape), "dtype": types.get(tensor.type, str(tensor.type)).lower()}
    if scales:
        facts["scale"], facts["zero_point"] = scales[0], zeros[0] if zeros else 0
    return facts


def _weights(model: Any, types: Dict[int, str]) -> Tuple[Dict[str, int], int]:
    """(bytes of constant data by tensor type, number of constant values) over tensors with a buffer; shared buffers count once."""
    sizes: Counter = Counter()
    parameters, seen = 0, set()
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            if data is None or len(data) == 0 or tensor.buffer in seen:
                continue
            seen.add(tensor.buffer)
            sizes[types.get(tensor.type, str(tensor.type)).lower()] += len(data)
            count = 1
            for size in _list(tensor.shape):
                count *= size
            parameters += count
    return dict(sorted(sizes.items())), parameters


def summarize(model: Any) -> Dict[str, Any]:
    """What `show` says of a TFLite model: operators, inputs, outputs, constant bytes by type, parameters, signatures."""
    types = _names(import_schema().TensorType)
    graph = model.subgraphs[0]
    counts = count_operators(model)
    custom, flex = custom_operators(counts)
    weight_bytes, parameters = _weights(model, types)
    return {"operators": counts, "custom_operators": custom, "flex_operators": flex,
            "inputs": [_tensor_facts(graph.tensors[i], types) for i in _list(graph.inputs)],
            "outputs": [_tensor_facts(graph.tensors[i], types) for i in _list(graph.outputs)],
            "tensor_types": dict(sorted(Counter(types.get(t.type, str(t.type)).lower() for g in model.subgraphs for t in g.tensors).items())),
            "weight_bytes": weight_bytes, "parameters": parameters, "subgraphs": len(model.subgraphs),
            "signatures": [_signature(s) for s in model.signatureDefs or []], "description": _text(model.description)}


def _signature(signature: Any) -> Dict[str, Any]:
    return {"name": _text(signature.signatureKey), "inputs": [_text(m.name) for m in signature.inputs or []],
            "outputs": [_text(m.name) for m in signature.outputs or []]}

"""Facts of a TFLite file that target profiles are decided by: scheme, operators by arithmetic, versions."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional

from edgepress import flatbuffer

CONVERSIONS = ("QUANTIZE", "DEQUANTIZE", "CAST")  # change the type of numbers, compute nothing
WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL")


def tflite_facts(path: Path) -> Dict[str, Any]:
    """See profiles.file_facts."""
    model = flatbuffer.load_model_t(path)
    types = flatbuffer.import_schema().TensorType
    names = flatbuffer.operator_names(model)
    kinds: Dict[str, List[Dict[str, str]]] = {"integer": [], "hybrid": [], "float": []}
    facts: Dict[str, Any] = {"format": "tflite", "hybrid_dense_per_channel": False, "hybrid_depthwise": False, "activations": None, "weight_bits": 8,
                             "sparse": any(tensor.sparsity is not None for graph in model.subgraphs for tensor in graph.tensors)}
    packed, bits = set(), 32
    for graph in model.subgraphs:
        for op in graph.operators or []:
            name = names[op.opcodeIndex]
            kind = _arithmetic(model, graph, op, name, types)
            if kind in kinds:
                kinds[kind].append({"operator": name, "name": _text(graph.tensors[int(op.outputs[0])].name)})
            if kind == "integer" and graph.tensors[int(op.outputs[0])].type in (types.INT8, types.INT16):
                bits = min(bits, 16) if graph.tensors[int(op.outputs[0])].type == types.INT16 else 8
            if kind == "hybrid":
                scales = graph.tensors[int(op.inputs[1])].quantization.scale
                facts["hybrid_dense_per_channel"] |= name == "FULLY_CONNECTED" and scales is not None and len(scales) > 1
                facts["hybrid_depthwise"] |= name == "DEPTHWISE_CONV_2D"
            if name == "DEQUANTIZE" and _is_constant(model, graph, op.inputs[0]):
                packed.add(graph.tensors[int(op.inputs[0])].type)
    versions = {name: code.version for name, code in zip(names, model.operatorCodes)}
    counts = flatbuffer.count_operators(model)
    facts.update(operators={name: {"count": count, "version": versions[name]} for name, count in counts.items()},
                 scheme=_scheme(kinds, bits, packed, types), integer_count=len(kinds["integer"]), hybrid_count=len(kinds["hybrid"]), float_operators=kinds["float"])
    summary = flatbuffer.summarize(model)
    return {**facts, "activations": {8: "int8", 16: "int16", 32: "float32"}[bits], "inputs": summary["inputs"], "outputs": summary["outputs"]}


def _scheme(kinds: Dict[str, List[Any]], bits: int, packed: Any, types: Any) -> str:
    if kinds["integer"]:
        return "static_wi8_ai16" if bits == 16 else "static_wi8_ai8"
    if kinds["hybrid"]:
        return "dynamic_wi8_afp32"
    return "float16" if types.FLOAT16 in packed else "weight_only_wi8_afp32" if types.INT8 in packed else "float32"


def _arithmetic(model: Any, graph: Any, op: Any, name: str, types: Any) -> Optional[str]:
    """integer, hybrid or float; None for operators that only move or convert."""
    if name in CONVERSIONS or not len(op.outputs):
        return None
    output = graph.tensors[int(op.outputs[0])].type
    if output in (types.INT8, types.INT16, types.UINT8):
        return "integer"
    if output != types.FLOAT32 or all(_is_constant(model, graph, index) for index in op.inputs if int(index) >= 0):
        return None
    if name in WEIGHTED and len(op.inputs) > 1 and graph.tensors[int(op.inputs[1])].type in (types.INT8, types.INT4, types.UINT8):
        return "hybrid"
    return "float"


def _is_constant(model: Any, graph: Any, index: Any) -> bool:
    data = model.buffers[graph.tensors[int(index)].buffer].data
    return data is not None and len(data) > 0


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")

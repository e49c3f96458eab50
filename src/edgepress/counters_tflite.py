"""Count the work in a .tflite file from its flatbuffer; see counters.py."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Mapping, Tuple

from edgepress import flatbuffer
from edgepress.counters import HEAVY, Counts, Op, heavy, product

CONVERSIONS = {"QUANTIZE", "DEQUANTIZE", "CAST"}
MOVES = {"RESHAPE", "TRANSPOSE", "PAD", "PADV2", "CONCATENATION", "SPLIT", "SPLIT_V", "SLICE", "STRIDED_SLICE", "SQUEEZE", "EXPAND_DIMS", "PACK", "UNPACK", "GATHER", "SHAPE",
         "MIRROR_PAD", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "BROADCAST_TO", "TILE", "REVERSE_V2"}
WEIGHTED = {"PRELU"}
_WIDTH = {"FLOAT32": 4.0, "FLOAT16": 2.0, "INT32": 4.0, "UINT8": 1.0, "INT64": 8.0, "BOOL": 1.0, "INT16": 2.0, "INT8": 1.0, "FLOAT64": 8.0, "UINT32": 4.0, "UINT16": 2.0, "INT4": 0.5, "INT2": 0.25}


class _Graph:
    """One subgraph with what counting needs of its tensors."""

    def __init__(self, model: Any, graph: Any) -> None:
        types = {value: name for name, value in vars(flatbuffer.import_schema().TensorType).items() if isinstance(value, int)}
        self.names = flatbuffer.operator_names(model)
        self.tensors = [(types.get(t.type, "?"), tuple(int(n) for n in t.shape) if t.shape is not None else (), t.buffer, self._stored(model, t.buffer)) for t in graph.tensors]
        self.labels = [t.name.decode("utf-8", "replace") if isinstance(t.name, bytes) else str(t.name or "") for t in graph.tensors]
        self.operators = list(graph.operators or [])
        # weights may reach an operator through DEQUANTIZE (float16 files) or a conversion of constants: those outputs are constants too
        self.unpacked: Dict[int, int] = {}
        for op in self.operators:
            if self.names[op.opcodeIndex] in CONVERSIONS and self.is_constant(int(op.inputs[0])):
                self.unpacked[int(op.outputs[0])] = int(op.inputs[0])

    @staticmethod
    def _stored(model: Any, buffer: int) -> int:
        data = model.buffers[buffer].data
        return 0 if data is None else len(data)

    def is_constant(self, index: int) -> bool:
        return index >= 0 and self.tensors[index][3] > 0

    def source(self, index: int) -> int:
        return self.unpacked.get(index, index)

    def is_weight(self, index: int) -> bool:
        return self.is_constant(self.source(index))

    def bytes(self, index: int) -> int:
        kind, shape, _, stored = self.tensors[index]
        return stored or int(product(shape) * _WIDTH.get(kind, 4.0))


def count(path: Path) -> Counts:
    """See counters.count_file."""
    model = flatbuffer.load_model_t(path)
    ops: List[Op] = []
    weights: Dict[int, Tuple[int, int]] = {}  # buffer → (values, bytes): shared ones count once
    for graph in (_Graph(model, one) for one in model.subgraphs):
        for op in graph.operators:
            if int(op.outputs[0]) in graph.unpacked:
                continue  # it runs once, when the file is opened
            ops.append(_count_op(graph, op))
            for index in map(int, op.inputs):
                if graph.is_weight(index) and _has_weights(ops[-1]):
                    _, shape, buffer, stored = graph.tensors[graph.source(index)]
                    weights[buffer] = (product(shape), stored)
    values = sum(count for count, _ in weights.values())
    return Counts(file=str(path), format="tflite", ops=tuple(ops), parameters=values, trainable=values, weight_bytes=sum(size for _, size in weights.values()))


def _has_weights(op: Op) -> bool:
    return op.group in HEAVY or op.kind in WEIGHTED  # constants of other operators are axes, shapes and the normalization of pixels


def _count_op(graph: _Graph, op: Any) -> Op:
    name, inputs, output = graph.names[op.opcodeIndex], [int(i) for i in op.inputs], int(op.outputs[0])
    constants = [i for i in inputs if graph.is_weight(i)]
    shape = graph.tensors[output][1]
    facts: Mapping[str, Any] = _heavy(graph, name, inputs, shape)
    group = facts.get("group") or ("conversion" if name in CONVERSIONS else "movement" if name in MOVES else "elementwise")
    biases = product(graph.tensors[inputs[2]][1]) if facts and name != "TRANSPOSE_CONV" and len(inputs) > 2 and inputs[2] >= 0 else 0
    return Op(**{"group": group, **facts}, name=graph.labels[output], kind=name, dtype=_dtype(graph, inputs, output), biases=biases,
              parameters=sum(product(graph.tensors[i][1]) for i in constants) if group in HEAVY or name in WEIGHTED else 0,
              weight_bytes=sum(graph.bytes(graph.source(i)) for i in constants), input_bytes=sum(graph.bytes(i) for i in inputs if i >= 0 and not graph.is_weight(i)),
              output_bytes=sum(graph.bytes(int(i)) for i in op.outputs))


def _heavy(graph: _Graph, name: str, inputs: List[int], outputs: Tuple[int, ...]) -> Dict[str, Any]:
    """MACs of a weighted operator; empty for others. Layouts: tensorflow/lite/kernels (OHWI, 1HWC, OI)."""
    kernel = graph.tensors[inputs[1]][1] if len(inputs) > 1 and inputs[1] >= 0 else ()
    if name == "CONV_2D" and len(kernel) == 4:
        return heavy("convolution", outputs=outputs, kernel=product(kernel[1:]), depth=product(kernel[1:]))
    if name == "DEPTHWISE_CONV_2D" and len(kernel) == 4:
        return heavy("depthwise", outputs=outputs, kernel=product(kernel[1:3]), depth=product(kernel[1:3]))
    if name == "CONV_3D" and len(kernel) == 5:  # DHWIO
        return heavy("convolution", outputs=outputs, kernel=product(kernel[:4]), depth=product(kernel[:4]))
    if name == "FULLY_CONNECTED" and len(kernel) == 2:
        return heavy("dense", outputs=outputs, kernel=kernel[1], depth=kernel[1])
    if name == "BATCH_MATMUL" and inputs:
        depth = graph.tensors[inputs[0]][1][-1]
        return heavy("dense", outputs=outputs, kernel=depth, depth=depth)
    if name == "TRANSPOSE_CONV" and len(inputs) > 2:
        image = graph.tensors[inputs[2]][1]  # every input value meets the whole kernel once
        facts = heavy("convolution", outputs=outputs, kernel=0, depth=product(kernel[1:]))
        return {**facts, "macs": product(image[:-1]) * product(kernel)}
    return {}


def _dtype(graph: _Graph, inputs: List[int], output: int) -> str:
    """What it computes in: by its activations; float activations with 8-bit weights are computed in 8 bits (hybrid kernels)."""
    kinds = [graph.tensors[i][0] for i in [*inputs[:1], output] if i >= 0]
    if "INT16" in kinds:
        return "int16"
    if any(kind in ("INT8", "UINT8") for kind in kinds[-1:]):
        return "int8"
    hybrid = len(inputs) > 1 and inputs[1] >= 0 and inputs[1] not in graph.unpacked and graph.tensors[inputs[1]][0] in ("INT8", "UINT8", "INT4") and graph.is_constant(inputs[1])
    return "int8" if hybrid else "float32"

"""Work round two faults of tf2onnx 1.17, which the version pin keeps in reach.

- It loses the bias of every FULLY_CONNECTED whose input has more than two dimensions (`TflFullyConnectedOp` replaces three inputs by
  two) and says nothing: ResNet-8 of MLPerf Tiny then answers up to 0.06 beside. With a RESHAPE in front there is no such case.
- Its transpose optimizer does not know HardSwish: MobileNetV3Small keeps a pair of transposes around each, 36 in all.
"""
from __future__ import annotations

import contextlib
from typing import Any, Iterator, List

from edgepress import flatbuffer


def prepare(model: Any) -> Any:
    """The TFLite `ModelT`, changed in place and returned: same computation, every flattening spelled out."""
    names = flatbuffer.operator_names(model)
    for graph in model.subgraphs:
        operators: List[Any] = []
        for op in graph.operators:
            if names[op.opcodeIndex] == "FULLY_CONNECTED" and not op.builtinOptions.keepNumDims and len(graph.tensors[op.inputs[0]].shape) > 2:
                operators.append(_reshape(model, graph, op))
                op.inputs = [operators[-1].outputs[0], *op.inputs[1:]]
            operators.append(op)
        graph.operators = operators
    return model


@contextlib.contextmanager
def transposes_pass_hard_swish() -> Iterator[None]:
    """While the body runs, tf2onnx moves transposes through HardSwish as it does through Relu."""
    from tf2onnx import optimizer

    known = optimizer._optimizers["optimize_transpose"]

    class Optimizer(known):  # type: ignore[misc, valid-type]
        def _initialize_handlers(self) -> None:
            super()._initialize_handlers()
            self._handler_map["HardSwish"] = self._simple_through_handler
    optimizer._optimizers["optimize_transpose"] = Optimizer
    try:
        yield
    finally:
        optimizer._optimizers["optimize_transpose"] = known


def _reshape(model: Any, graph: Any, op: Any) -> Any:
    """A RESHAPE of the first input of a FULLY_CONNECTED to `[N, K]`; its tensors are added to the graph."""
    import numpy as np

    schema = flatbuffer.import_schema()
    given, weights = graph.tensors[op.inputs[0]], graph.tensors[op.inputs[1]]
    depth = int(weights.shape[1])
    rows = int(np.prod(given.shape)) // depth
    open_batch = given.shapeSignature is not None and -1 in list(given.shapeSignature)
    target = np.array([-1 if open_batch else rows, depth], np.int32)
    buffer, shape, made = schema.BufferT(), schema.TensorT(), schema.TensorT()
    buffer.data = target.view(np.uint8)
    shape.name, shape.type, shape.buffer, shape.shape = given.name + b"/flat_shape", schema.TensorType.INT32, len(model.buffers), np.array([2], np.int32)
    made.name, made.type, made.buffer, made.shape = given.name + b"/flat", given.type, 0, np.array([rows, depth], np.int32)
    made.shapeSignature = target if open_batch else None
    model.buffers.append(buffer)
    graph.tensors += [made, shape]
    reshape = schema.OperatorT()
    reshape.opcodeIndex = _code(model, "RESHAPE")
    reshape.inputs, reshape.outputs = [op.inputs[0], len(graph.tensors) - 1], [len(graph.tensors) - 2]
    reshape.builtinOptionsType, reshape.builtinOptions = schema.BuiltinOptions.ReshapeOptions, schema.ReshapeOptionsT()
    reshape.builtinOptions.newShape = target
    return reshape


def _code(model: Any, name: str) -> int:
    """Index of the operator code `name`; added where the model has none."""
    names = flatbuffer.operator_names(model)
    if name in names:
        return names.index(name)
    schema = flatbuffer.import_schema()
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1

"""Say in a TFLite graph what FULLY_CONNECTED does silently: flatten its input.

tf2onnx 1.17 loses the bias of every FULLY_CONNECTED whose input has more than two dimensions (`TflFullyConnectedOp` replaces three
inputs by two) and says nothing: ResNet-8 of MLPerf Tiny then answers up to 0.06 beside. With the RESHAPE spelled out it has no such case.
"""
from __future__ import annotations

from typing import Any, List

from edgepress import flatbuffer


def spell_out_reshape(model: Any) -> Any:
    """The `ModelT` (changed in place and returned) with a RESHAPE to `[N, K]` before every FULLY_CONNECTED that has none."""
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


def _reshape(model: Any, graph: Any, op: Any) -> Any:
    import numpy as np

    schema = flatbuffer.import_schema()
    given, weights = graph.tensors[op.inputs[0]], graph.tensors[op.inputs[1]]
    depth = int(weights.shape[1])
    open_batch = given.shapeSignature is not None and -1 in list(given.shapeSignature)
    rows = int(np.prod(given.shape)) // depth
    made = schema.TensorT()
    made.name, made.type, made.buffer, made.shape = given.name + b"/flat", given.type, 0, np.array([rows, depth], np.int32)
    if open_batch:
        made.shapeSignature = np.array([-1, depth], np.int32)
    shape = schema.TensorT()
    target = np.array([-1 if open_batch else rows, depth], np.int32)
    shape.name, shape.type, shape.buffer, shape.shape = given.name + b"/flat_shape", schema.TensorType.INT32, len(model.buffers), np.array([2], np.int32)
    buffer = schema.BufferT()
    buffer.data = target.view(np.uint8)
    model.buffers.append(buffer)
    graph.tensors += [made, shape]
    reshape = schema.OperatorT()
    reshape.opcodeIndex = _reshape_code(model, schema)
    reshape.inputs, reshape.outputs = [op.inputs[0], len(graph.tensors) - 1], [len(graph.tensors) - 2]
    reshape.builtinOptionsType, reshape.builtinOptions = schema.BuiltinOptions.ReshapeOptions, schema.ReshapeOptionsT()
    reshape.builtinOptions.newShape = target
    return reshape


def _reshape_code(model: Any, schema: Any) -> int:
    names = flatbuffer.operator_names(model)
    if "RESHAPE" in names:
        return names.index("RESHAPE")
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RESHAPE
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1

"""The ONNX quantizer on convolutions that are not over images."""
from __future__ import annotations

from typing import Tuple

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepress.quantizers import Request
from edgepress.quantizers import onnx as onnx_quantizer
from edgepress.quantizers.calibration import session_onnx
from edgepress.quantizers.samples import Samples


def convolution(axes: int, *, bias: bool, depthwise: bool = False) -> Tuple[bytes, np.ndarray]:
    """(a file with one convolution [1, 3, 12, …] → [1, 4 or 3, 8, …] and a ReLU, inputs [16, 3, 12, …])."""
    random = np.random.default_rng(0)
    names, filters, inputs, groups = ["w", "b"] if bias else ["w"], 3 if depthwise else 4, 1 if depthwise else 3, 3 if depthwise else 1
    constants = [numpy_helper.from_array(random.normal(0, 0.3, shape).astype(np.float32), name) for name, shape in zip(names, ((filters, inputs, *(5,) * axes), (filters,)))]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, *(side,) * axes]) for name, channels, side in (("x", 3, 12), ("y", filters, 8))]
    nodes = [helper.make_node("Conv", ["x", *names], ["c"], name="conv", group=groups), helper.make_node("Relu", ["c"], ["y"], name="relu")]
    model = helper.make_model(helper.make_graph(nodes, "net", values[:1], values[1:], constants), opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    return model.SerializeToString(), random.uniform(0, 1, (16, 3, *(12,) * axes)).astype(np.float32)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("scheme", ["dynamic_wi8_afp32", "static_wi8_ai8", "weight_only_wi8_afp32"])
def test_convolutions_of_any_rank_answer_like_the_float_file(scheme: str, bias: bool, axes: int) -> None:
    data, inputs = convolution(axes, bias=bias)
    request = Request(scheme, lambda info: Samples(inputs, "tensors", ("",), None))
    quantized, facts = onnx_quantizer.quantize(data, request)
    expected, found = (np.concatenate([session_onnx(file)(row[None]) for row in inputs]) for file in (data, quantized))
    assert found.shape == expected.shape == (16, 4, *(8,) * axes)
    assert 0 < np.abs(found - expected).max() < 0.03 * np.abs(expected).max()
    assert facts.get("bias_corrected_layers", bias) == bias


def test_dynamic_computes_depthwise_convolutions_in_float() -> None:
    data, inputs = convolution(2, bias=True, depthwise=True)
    quantized, _ = onnx_quantizer.quantize(data, Request("dynamic_wi8_afp32", lambda info: Samples(inputs, "tensors", ("",), None)))
    model = onnx_quantizer.load_model(quantized)
    assert [node.op_type for node in model.graph.node] == ["Cast", "Mul", "Conv", "Relu"] and "w_int8" in {tensor.name for tensor in model.graph.initializer}
    expected, found = (np.concatenate([session_onnx(file)(row[None]) for row in inputs]) for file in (data, quantized))
    assert 0 < np.abs(found - expected).max() < 0.03 * np.abs(expected).max()

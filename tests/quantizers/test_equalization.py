"""Louder channels before a depthwise convolution change no answer; what cannot be scaled is left alone."""
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parent))
import tiny_files as tiny  # noqa: E402

from edgepress import flatbuffer  # noqa: E402
from edgepress.quantizers import equalization, equalization_onnx, equalization_tflite  # noqa: E402
from edgepress.quantizers.bias_correction import add_to_bias, lost_mean  # noqa: E402

IMAGES = tiny.pixels(6)


def onnx_pair(*, low: float = 0.0, groups: int = 4) -> onnx.ModelProto:
    """Cast → Conv → Clip → depthwise Conv on NCHW bytes."""
    random = np.random.default_rng(0)
    values = {"w1": random.normal(0, 0.01, (4, 3, 3, 3)), "b1": random.normal(0, 1, 4), "w2": random.normal(0, 1, (4, 4 // groups, 3, 3)), "b2": random.normal(0, 1, 4),
              "low": np.array(low), "high": np.array(60.0)}
    nodes = [helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT), helper.make_node("Conv", ["x", "w1", "b1"], ["c"]),
             helper.make_node("Clip", ["c", "low", "high"], ["a"]), helper.make_node("Conv", ["a", "w2", "b2"], ["y"], group=groups)]
    graph = helper.make_graph(nodes, "pair", [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 3, 12, 12])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 8, 8])], [numpy_helper.from_array(v.astype(np.float32), n) for n, v in values.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)


def test_gains_stay_within_bounds() -> None:
    found = equalization.gains(np.array([6.0, 3.0, 2.0, 0.1, 0.0]), 6.0)
    assert found.tolist() == [1.0, 1.0, pytest.approx(1.5), equalization.LARGEST_GAIN, 1.0]


def test_tflite_answers_stay() -> None:
    data = tiny.tflite(1 / 255, 0.0, pair=True)
    model = flatbuffer.parse_model(data)
    assert equalization_tflite.depthwise_inputs(model) == ["features"]
    equalization_tflite.scale_pair(model, "features", np.linspace(1, 4, tiny.FILTERS))
    scaled = flatbuffer.pack_model(model)
    assert scaled != data and np.abs(tiny.run(scaled, IMAGES) - tiny.run(data, IMAGES)).max() < 1e-5
    assert equalization_tflite.depthwise_inputs(flatbuffer.parse_model(tiny.tflite(1 / 255, 0.0))) == []


def test_onnx_answers_stay() -> None:
    model = onnx_pair()
    before, images = model.SerializeToString(), IMAGES.transpose(0, 3, 1, 2)
    assert equalization_onnx.depthwise_inputs(model) == ["a"]
    equalization_onnx.scale_pair(model, "a", np.array([1, 1.5, 1.2, 1.0]))
    expected, found = (np.concatenate([tiny_session(data, image) for image in images]) for data in (before, model.SerializeToString()))
    assert before != model.SerializeToString() and np.abs(expected - found).max() < 1e-3 * np.abs(expected).max()


def tiny_session(data: bytes, image: np.ndarray) -> np.ndarray:
    from edgepress.quantizers.calibration import session_onnx

    return session_onnx(data, threads=1)(np.ascontiguousarray(image[None]))


@pytest.mark.parametrize("changes", [{"low": -1.0}, {"groups": 2}, {"groups": 1}])
def test_what_cannot_be_scaled_is_left_alone(changes: dict) -> None:
    assert equalization_onnx.depthwise_inputs(onnx_pair(**changes)) == []


def test_means_follow_and_silent_files_stay() -> None:
    model = flatbuffer.parse_model(tiny.tflite(1 / 255, 0.0, pair=True))
    means = {"features": np.ones(tiny.FILTERS), "other": np.ones(3)}
    changed = equalization.equalize(model, equalization_tflite.scale_pair, highest={"features": np.full(tiny.FILTERS, 1.0)}, ranges={"features": (0.0, 4.0)}, means=means)
    assert changed["features"].tolist() == [2.0] * tiny.FILTERS and changed["other"].tolist() == [1.0] * 3


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_lost_mean_is_what_rounding_loses(groups: int) -> None:
    """Against the definition: the mean output of (W − W_q) over random inputs with known channel means."""
    random = np.random.default_rng(groups)
    weights = random.normal(size=(6, 1, 1, 6 // groups))
    rounded = np.round(weights, 1)
    inputs = random.normal(2.0, 1.0, (500, 6))
    error = (weights - rounded)[:, 0, 0, :]
    per_output = [(inputs[:, (o // (6 // groups)) * (6 // groups):][:, :6 // groups] @ error[o]).mean() for o in range(6)]
    assert np.allclose(lost_mean(weights, rounded, inputs.mean(axis=0), groups=groups), per_output)


def test_a_bias_that_would_overflow_stays() -> None:
    assert add_to_bias(np.array([10, 2**31 - 2], np.int32), np.array([1.0, 1.0]), np.array([0.5, 0.1])).tolist() == [12, 2**31 - 2]

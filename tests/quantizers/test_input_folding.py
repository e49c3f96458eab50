"""The normalisation moves into the first convolution without changing an answer, and uint8 pixels become the quantized input."""
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import tiny_files as tiny  # noqa: E402

from edgepress import flatbuffer  # noqa: E402
from edgepress.errors import ModelError  # noqa: E402
from edgepress.modelspec import NORMALIZATIONS  # noqa: E402
from edgepress.quantizers import input_folding, input_folding_onnx  # noqa: E402
from edgepress.quantizers.calibration import session_onnx, session_tflite  # noqa: E402

EXACT = 2e-5  # float32 sums in another order
IMAGES = tiny.pixels(8)


def fold_tflite(data: bytes) -> input_folding.Folded | None:
    return input_folding.fold(flatbuffer.parse_model(data))


def outputs_of_folded(folded: input_folding.Folded) -> np.ndarray:
    centered = IMAGES.astype(np.float32) - folded.zero_point
    if hasattr(folded.model, "graph"):
        for order in folded.permutations:
            centered = centered.transpose(order)
        session = session_onnx(folded.model.SerializeToString(), threads=1)
    else:
        session = session_tflite(flatbuffer.pack_model(folded.model), threads=1)
    return np.concatenate([session(np.ascontiguousarray(image[None])) for image in centered])


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_without_padding_folding_is_exact(name: str, depthwise: bool) -> None:
    data = tiny.tflite(*NORMALIZATIONS[name], padding="VALID", depthwise=depthwise)
    folded = fold_tflite(data)
    assert folded.pad_error == 0 and folded.operators == ("CAST", "MUL", "ADD")
    assert np.abs(outputs_of_folded(folded) - tiny.run(data, IMAGES)).max() < EXACT


@pytest.mark.parametrize("name, most", [("0..255", EXACT), ("0..1", EXACT), ("-1..1", 0.01), ("imagenet", 0.3)])
def test_with_padding_the_error_is_what_pad_error_says(name: str, most: float) -> None:
    data = tiny.tflite(*NORMALIZATIONS[name], padding="SAME")
    folded = fold_tflite(data)
    difference = np.abs(outputs_of_folded(folded) - tiny.run(data, IMAGES)).max()
    assert difference <= most
    assert (difference > EXACT) == (folded.pad_error > 1e-6)  # exact if and only if it says so


def test_minus_one_to_one_centers_on_128_whatever_the_rounding() -> None:
    for scale in (1 / 127.5, np.float32(1 / 127.5), np.nextafter(np.float32(1 / 127.5), np.float32(1))):
        assert input_folding.center_pixel(np.array([float(scale)]), np.array([-1.0])) == 128


def test_scalar_constants_and_nothing_to_normalize() -> None:
    assert fold_tflite(tiny.tflite(1 / 255, 0.0)).zero_point == 0
    assert fold_tflite(tiny.tflite(2 / 255, -1.0)).zero_point == 128


def test_a_nonlinear_operator_before_the_convolution_is_left_alone() -> None:
    assert fold_tflite(tiny.tflite(1 / 255, 0.0, first="relu")) is None


def test_a_float_input_is_left_alone() -> None:
    model = flatbuffer.parse_model(tiny.tflite(1 / 255, 0.0))
    folded = input_folding.fold(model)
    assert input_folding.fold(folded.model) is None  # its input is float now


def test_folding_does_not_touch_its_argument() -> None:
    model = flatbuffer.parse_model(tiny.tflite(1 / 255, 0.0))
    before = flatbuffer.pack_model(model)
    input_folding.fold(model)
    assert flatbuffer.pack_model(model) == before


def test_attach_refuses_another_scale() -> None:
    model = input_folding.fold(flatbuffer.parse_model(tiny.tflite(1 / 255, 0.0))).model
    with pytest.raises(ModelError, match="asked for was int8"):
        input_folding.attach_uint8_input(model, 0)


@pytest.mark.parametrize("layout, behind", [("nhwc", False), ("nhwc", True), ("nchw", True)])
@pytest.mark.parametrize("name", ["-1..1", "imagenet", "0..255"])
def test_onnx_folding_is_exact_without_padding(name: str, layout: str, behind: bool) -> None:
    data = tiny.onnx_file(*NORMALIZATIONS[name], padding=False, layout=layout, channels_first_constants=behind)
    folded = input_folding_onnx.fold(tiny.loaded(data))
    images = IMAGES if layout == "nhwc" else IMAGES.transpose(0, 3, 1, 2)
    session = session_onnx(folded.model.SerializeToString(), threads=1)
    centered = images.astype(np.float32) - folded.zero_point
    for order in folded.permutations:
        centered = centered.transpose(order)
    found = np.concatenate([session(np.ascontiguousarray(image[None])) for image in centered])
    assert np.abs(found - tiny.run(data, images)).max() < EXACT
    assert [node.op_type for node in folded.model.graph.node][0] == "Conv" and folded.pad_error == 0


def test_onnx_padding_is_reported() -> None:
    folded = input_folding_onnx.fold(tiny.loaded(tiny.onnx_file(*NORMALIZATIONS["imagenet"])))
    assert 0.1 < folded.pad_error < 0.3


def test_both_formats_fold_to_the_same_numbers() -> None:
    scale, offset = NORMALIZATIONS["imagenet"]
    a = outputs_of_folded(fold_tflite(tiny.tflite(scale, offset)))
    b = outputs_of_folded(input_folding_onnx.fold(tiny.loaded(tiny.onnx_file(scale, offset))))
    assert np.abs(a - b).max() < EXACT

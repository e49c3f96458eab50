"""Pixels into tensors and tensors into scores, checked against numbers worked out by hand."""
from __future__ import annotations

import numpy as np
import pytest

from edgepress.errors import ModelError
from edgepress.feeding import feed_pixels, feed_tensors, quantize, read_scores, softmax
from edgepress.modelspec import NORMALIZATIONS, ModelSpec
from edgepress.runtimes.base import TensorInfo

PIXEL = np.uint8([[[[255, 128, 0]]]])  # one photo of one orange pixel


def spec(**changes: object) -> ModelSpec:
    return ModelSpec(labels=("a", "b"), input_height=1, input_width=1, **changes)  # type: ignore[arg-type]


def info(dtype: str, shape: tuple = (1, 1, 1, 3), scale: float | None = None, zero_point: int | None = None) -> TensorInfo:
    return TensorInfo("x", shape, dtype, scale, zero_point)


@pytest.mark.parametrize(("tensor", "expected"), [
    (info("uint8"), [255, 128, 0]),
    (info("uint8", scale=1 / 127.5, zero_point=127), [255, 128, 0]),  # the graph was calibrated on bytes: its scale is its own affair
    (info("int8", scale=1.0, zero_point=-128), [127, 0, -128]),
    (info("float32"), [255, 128, 0]),
])
def test_bytes_go_in_as_they_are_where_the_graph_normalizes(tensor: TensorInfo, expected: list) -> None:
    fed = feed_pixels(PIXEL, tensor, spec())
    assert fed.dtype.name == tensor.dtype and fed.reshape(-1).tolist() == expected


@pytest.mark.parametrize(("name", "tensor", "expected"), [
    ("-1..1", info("float32"), [1, 128 / 127.5 - 1, -1]),
    ("0..1", info("float16"), [1, 128 / 255, 0]),
    ("imagenet", info("float32"), [(1 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, -0.406 / 0.225]),
    ("0..255", info("int8", scale=1.0, zero_point=-128), [127, 0, -128]),  # MLPerf Tiny's ResNet-8
    ("0..1", info("int8", scale=1 / 255, zero_point=-128), [127, 0, -128]),
    ("-1..1", info("uint8", scale=1 / 128, zero_point=128), [255, 129, 0]),  # 1.0 would be 256: clipped
])
def test_the_caller_normalizes_and_quantizes_otherwise(name: str, tensor: TensorInfo, expected: list) -> None:
    scale, offset = NORMALIZATIONS[name]
    fed = feed_pixels(PIXEL, tensor, spec(normalization_inside=False, scale=scale, offset=offset))
    assert fed.dtype.name == tensor.dtype
    np.testing.assert_allclose(fed.reshape(-1), expected, atol=1e-3 if tensor.dtype == "float16" else 1e-5)  # float16 has 11 bits


def test_channels_are_turned_after_the_normalization_in_rgb() -> None:
    fed = feed_pixels(PIXEL, info("float32"), spec(normalization_inside=False, scale=(1, 1, 1), offset=(1, 2, 3), channel_order="bgr"))
    assert fed.reshape(-1).tolist() == [3, 130, 256]


def test_layout() -> None:
    photo = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    fed = feed_pixels(photo, info("uint8", (1, 3, 2, 2)), ModelSpec(labels=("a",), input_height=2, input_width=2, layout="nchw"))
    assert fed.shape == (1, 3, 2, 2) and fed.flags["C_CONTIGUOUS"] and fed[0, 1].tolist() == [[1, 4], [7, 10]]


def test_grey_files_get_luma() -> None:
    fed = feed_pixels(np.uint8([[[[255, 0, 0]]]]), info("uint8", (1, 1, 1, 1)), spec(channels=1))
    assert fed.reshape(-1).tolist() == [76]  # Pillow's Image.convert("L") of pure red


def test_numbers_of_the_files_own_type_are_taken_as_stored() -> None:
    stored = np.int8([[1, 2], [3, 4]])
    assert feed_tensors(stored, info("int8", (1, 2), 0.5, 3)) is not None
    assert feed_tensors(stored, info("int8", (1, 2), 0.5, 3)).tolist() == stored.tolist()
    assert feed_tensors(np.float32([[0.5, -1e9]]), info("int8", (1, 2), 0.5, 3)).tolist() == [[4, -128]]
    assert feed_tensors(np.zeros((2, 490), np.int8), info("int8", (1, 49, 10, 1), 1.0, 0)).shape == (2, 49, 10, 1)


def test_rows_of_another_size_and_types_without_scale_are_refused() -> None:
    with pytest.raises(ModelError, match="a row has 3 numbers"):
        feed_tensors(np.zeros((1, 3), np.float32), info("float32", (1, 2)))
    with pytest.raises(ModelError, match="without scale"):
        quantize(np.zeros(1, np.float32), info("int8"))


def test_scores() -> None:
    assert read_scores(np.uint8([[0, 128]]), info("uint8", (1, 2), 1 / 256, 0), logits=False).tolist() == [[0, 0.5]]
    assert read_scores(np.int8([[-128, 0]]), info("int8", (1, 2), 1 / 256, -128), logits=False).tolist() == [[0, 0.5]]
    assert read_scores(np.zeros((2, 1, 1, 4), np.float16), info("float16"), logits=False).shape == (2, 4)
    np.testing.assert_allclose(read_scores(np.float32([[0, np.log(3)]]), info("float32"), logits=True), [[0.25, 0.75]], rtol=1e-6)  # one float32 rounding or two


def test_softmax_survives_large_numbers() -> None:
    assert softmax(np.float32([[1e4, 1e4]])).tolist() == [[0.5, 0.5]]

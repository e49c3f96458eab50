"""Reading and writing TFLite files."""
from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from edgepress import flatbuffer
from edgepress.errors import ModelError

DATA = Path(__file__).parent / "data"
TINY = DATA / "tiny_float.tflite"


def run(path: Path, pixels: np.ndarray) -> np.ndarray:
    from edgepress.runtimes import load_runtime

    session = load_runtime("litert").open_model(str(path), threads=1)
    try:
        return session.run([pixels])[0]
    finally:
        session.close()


def test_summary_of_a_known_file() -> None:
    facts = flatbuffer.summarize(flatbuffer.load_model_t(DATA / "tiny_int8.tflite"))
    assert facts["operators"] == {"CONV_2D": 1, "DEQUANTIZE": 1, "FULLY_CONNECTED": 1, "MEAN": 1, "QUANTIZE": 1, "SOFTMAX": 1}
    assert facts["inputs"] == [{"name": "image", "shape": [1, 8, 8, 3], "dtype": "uint8", "scale": 1.0, "zero_point": 0}]
    assert facts["weight_bytes"] == {"int32": 40, "int8": 240}


def test_saved_file_answers_the_same_and_has_aligned_weights(tmp_path: Path) -> None:
    model = flatbuffer.load_model_t(TINY)
    flatbuffer.save_model_t(model, tmp_path / "again.tflite")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3)).astype(np.uint8)
    assert np.array_equal(run(TINY, pixels), run(tmp_path / "again.tflite", pixels))
    data = (tmp_path / "again.tflite").read_bytes()
    weights = [bytes(buffer.data) for buffer in model.buffers if buffer.data is not None and len(buffer.data) > 64]
    assert weights and all(data.index(weight) % 16 == 0 for weight in weights)
    assert flatbuffer.pack_model(flatbuffer.parse_model(data)) == data


@pytest.mark.parametrize("keep", [0, 4, 8, 64, 700, 1500])
def test_truncated_file(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "cut.tflite"
    path.write_bytes(TINY.read_bytes()[:keep])
    with pytest.raises(ModelError):
        flatbuffer.load_model_t(path)


def test_damaged_bytes_never_raise_anything_else() -> None:
    whole, dice = TINY.read_bytes(), random.Random(0)
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        try:
            flatbuffer.summarize(flatbuffer.parse_model(bytes(damaged)))
        except ModelError:
            pass


def test_custom_and_flex_operators_are_told_apart() -> None:
    assert flatbuffer.custom_operators({"CONV_2D": 3, "CUSTOM:Mine": 1, "CUSTOM:FlexErf": 2}) == (["Mine"], ["FlexErf"])


@pytest.mark.data
def test_custom_operator_of_a_real_file(shared_data) -> None:
    model = flatbuffer.load_model_t(shared_data("weights/tflite/coco_ssd_mobilenet_v1_1.0_quant_2018_06_29.tflite"))
    assert flatbuffer.summarize(model)["custom_operators"] == ["TFLite_Detection_PostProcess"]

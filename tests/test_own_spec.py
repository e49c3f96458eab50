"""A model file of the user's own: what its input says, what its owner must say, and that every command then knows."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgepress.cli import cli
from edgepress.errors import ModelError
from edgepress.metadata import find_spec
from edgepress.own_spec import ImageInput, describe_file, guess_spec, image_input

VWW, RESNET20 = "weights/mlperf_tiny/vww_96_float.tflite", "weights/onnx/resnet20_cifar10.onnx"


@pytest.mark.parametrize("shape, expected", [
    ([1, 96, 80, 3], ImageInput(96, 80, 3, "nhwc")), ([-1, 3, 32, 48], ImageInput(32, 48, 3, "nchw")), (["batch", 1, 28, 28], ImageInput(28, 28, 1, "nchw")),
    ([1, 3, 3, 3], ImageInput(3, 3, 3, "nhwc")), ([1, 640], None), ([1, -1, -1, 3], None), ([1, 3, "height", "width"], None), ([1, 49, 10, 16], None)])
def test_shapes_of_pictures(shape: list, expected: ImageInput) -> None:
    assert image_input(shape) == expected


def test_bytes_leave_one_reading() -> None:
    spec = guess_spec("m.tflite", shape=[1, 8, 6, 3], dtype="uint8", labels=("a", "b"))
    assert (spec.size, spec.normalization_inside, spec.labels) == ((8, 6), True, ("a", "b"))


def test_real_numbers_do_not_and_the_error_names_the_command() -> None:
    with pytest.raises(ModelError, match="how its pixels are to be normalised") as error:
        guess_spec("m.tflite", shape=[1, 8, 6, 3], dtype="float32")
    assert "edgepress describe m.tflite --normalization" in error.value.hint


@pytest.mark.data
def test_a_described_file_can_be_quantized_and_shown(tmp_path: Path, shared_data) -> None:
    file = Path(shutil.copy(shared_data(VWW), tmp_path / "vww.tflite"))
    before = file.read_bytes()
    run = CliRunner().invoke(cli, ["describe", str(file), "--normalization", "0..1"])
    assert run.exit_code == 0 and "96x96x3 float32" in run.output
    assert file.read_bytes() == before
    spec = find_spec(file)
    assert spec.scale == (1 / 255.0,) * 3 and not spec.normalization_inside and spec.labels == ()
    shown = json.loads(CliRunner().invoke(cli, ["show", str(file), "--json"]).output)
    assert shown["model_spec"]["found"] == "beside (vww.tflite.model.json)"
    made = CliRunner().invoke(cli, ["quantize", str(file), "--calibration", str(shared_data("datasets/cats_dogs/train")), "--samples", "4", "-o", str(tmp_path / "q.tflite")])
    assert made.exit_code == 0, made.output
    assert find_spec(tmp_path / "q.tflite").size == (96, 96)


@pytest.mark.data
@pytest.mark.parametrize("options, said", [({"normalization": "0..2"}, "does not exist"), ({"normalization": "imagenet", "labels": "two.txt"}, "lists 2 labels")])
def test_wrong_descriptions_write_nothing(tmp_path: Path, shared_data, options: dict, said: str) -> None:
    file = Path(shutil.copy(shared_data(RESNET20), tmp_path / "r.onnx"))
    (tmp_path / "two.txt").write_text("a\nb\n")
    labels = tmp_path / options.pop("labels") if "labels" in options else None
    with pytest.raises(Exception, match=said):
        describe_file(file, labels=labels, resize="stretch", channel_order="rgb", logits=True, **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.onnx", "two.txt"]


@pytest.mark.data
def test_a_model_that_takes_no_picture(tmp_path: Path, shared_data) -> None:
    file = Path(shutil.copy(shared_data("weights/mlperf_tiny/ad01_fp32.tflite"), tmp_path))
    with pytest.raises(ModelError, match="accepted: one picture"):
        describe_file(file, normalization="0..255", labels=None, resize="stretch", channel_order="rgb", logits=False)

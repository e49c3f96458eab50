"""Say what is on a photo, from the photo file to the label."""
from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from edgepress.errors import DatasetError, ModelError, UnsupportedError
from edgepress.modelspec import SPEC_FILE, ModelSpec, to_json
from edgepress.prediction import format_predictions, predict_photos, rank

DATA = Path(__file__).resolve().parent / "data"
LABELS = ("red", "green", "blue")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder such as an artifact or a bundle: the file and its model.json."""
    pytest.importorskip("ai_edge_litert")
    folder = tmp_path / "artifact"
    folder.mkdir()
    shutil.copy(DATA / "tiny_float.tflite", folder / "model.tflite")
    (folder / SPEC_FILE).write_text(to_json(ModelSpec(labels=LABELS, input_height=8, input_width=8, reject_threshold=0.8)))
    return folder


def photo(path: Path, colour: tuple) -> Path:
    Image.new("RGB", (40, 30), colour).save(path)
    return path


def test_photos_get_labels_in_their_order(model: Path, tmp_path: Path) -> None:
    photos = [photo(tmp_path / "a.jpg", (10, 10, 250)), photo(tmp_path / "b ü.png", (255, 0, 0)), photo(tmp_path / "c.png", (90, 90, 90))]
    answers = predict_photos(model, photos, top=2)
    assert [a["label"] for a in answers] == ["blue", "red", "unknown"]
    assert answers[0]["runtime"]["name"] == "litert" and len(answers[0]["top"]) == 2 and answers[1]["probability"] > 0.99
    lines = format_predictions(answers).splitlines()
    assert lines[1].startswith(f"{photos[1]}: red 1") and "unknown (" in lines[2]


def test_wrong_photos_are_named(model: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    for name, words in (("none.jpg", "does not exist"), ("bad.jpg", "cannot be used")):
        with pytest.raises(DatasetError, match=f"{name} {words}"):
            predict_photos(model, [tmp_path / name])


def test_a_file_that_does_not_say_what_it_wants(tmp_path: Path) -> None:
    shutil.copy(DATA / "tiny_float.tflite", tmp_path)
    with pytest.raises(ModelError, match="does not say how it wants its pixels"):
        predict_photos(tmp_path / "tiny_float.tflite", [photo(tmp_path / "a.png", (1, 2, 3))])


def test_a_runtime_of_another_format(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="onnxruntime does not open"):
        predict_photos(model, [photo(tmp_path / "a.png", (1, 2, 3))], runtime="onnxruntime")


def test_ranking() -> None:
    spec = ModelSpec(labels=LABELS, input_height=8, input_width=8)
    answer = rank([0.25, 0.5, 0.25], spec, top=9, file=Path("m"))
    assert answer["label"] == "green" and [t["label"] for t in answer["top"]] == ["green", "red", "blue"]
    with pytest.raises(ModelError, match="2 numbers for 3 labels"):
        rank([0.5, 0.5], spec, top=1, file=Path("m"))
    with pytest.raises(ModelError, match="not finite"):
        rank([0.5, None, 0.5], spec, top=1, file=Path("m"))

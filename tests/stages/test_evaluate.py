"""Files are scored as they lie on disk, in their own runtime, on plain folders, CSVs and raw tensors."""
from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgepress.errors import DatasetError, ModelError, UnsupportedError
from edgepress.modelspec import ModelSpec, to_json
from edgepress.recipe import EvaluateConfig
from edgepress.stages.evaluate import evaluate

DATA = Path(__file__).resolve().parents[1] / "data"
COLORS = {"red": (200, 20, 30), "green": (10, 180, 40), "blue": (20, 30, 220)}
SPEC = ModelSpec(labels=("red", "green", "blue"), input_height=8, input_width=8)


def make_photos(folder: Path, *, per_class: int = 4, wrong: int = 0) -> Path:
    """Plain photos in class folders; the first `wrong` red ones are green."""
    for label, color in COLORS.items():
        (folder / label).mkdir(parents=True)
        for i in range(per_class):
            shown = COLORS["green"] if label == "red" and i < wrong else color
            Image.new("RGB", (8, 8), tuple(c + i + (10 if shown is not color else 0) for c in shown)).save(folder / label / f"{i}.png")
    return folder


def with_spec(folder: Path, name: str, spec: ModelSpec = SPEC) -> Path:
    """A copy of a tiny model with its ModelSpec beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(DATA / name, folder / name)
    (folder / f"{name}.model.json").write_text(to_json(spec))
    return folder / name


def run(tmp_path: Path, model: Path, dataset: Path, **config) -> tuple[dict, dict]:
    out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
    out.mkdir()
    evaluate(out, model=model, dataset=dataset, config=EvaluateConfig(**config))
    arrays = dict(np.load(out / "predictions.npz")) if (out / "predictions.npz").exists() else {}
    assert not [p for p in out.iterdir() if p.name not in ("evaluation.json", "predictions.npz")]  # no leftovers of the job
    return json.loads((out / "evaluation.json").read_text()), arrays


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny_float.tflite", "tiny_int8.tflite", "tiny_float.onnx"])
def test_every_format_is_scored_in_its_runtime(tmp_path, name):
    facts, arrays = run(tmp_path, with_spec(tmp_path / "m", name), make_photos(tmp_path / "photos", wrong=1))
    assert facts["accuracy"] == pytest.approx(11 / 12) and facts["images"] == 12 and facts["status"] == "ok"
    assert facts["confusion"] == [[3, 1, 0], [0, 4, 0], [0, 0, 4]] and facts["labels"] == ["red", "green", "blue"]
    assert facts["runtime"]["name"] == {"tflite": "litert", "onnx": "onnxruntime"}[name.rpartition(".")[2]] and facts["runtime"]["version"]
    assert facts["sha256"] and facts["size_bytes"] == (DATA / name).stat().st_size and facts["warnings"] == []
    assert arrays["probabilities"].shape == (12, 3) and arrays["probabilities"].dtype == np.float32
    assert len(set(arrays["digests"].tolist())) == 12 and sorted(arrays["targets"].tolist()) == [0] * 4 + [1] * 4 + [2] * 4


def test_labels_of_the_file_decide_the_order_of_classes(tmp_path):
    """Class folders sort blue, green, red; the file says red, green, blue."""
    facts, arrays = run(tmp_path, with_spec(tmp_path / "m", "tiny_float.tflite"), make_photos(tmp_path / "photos"))
    assert facts["accuracy"] == 1.0
    for label, target, probability in zip(facts["labels"], range(3), np.eye(3)):
        assert (arrays["probabilities"][arrays["targets"] == target].argmax(1) == target).all(), label


def test_a_file_without_spec_takes_the_sorted_folders_and_says_so(tmp_path):
    (tmp_path / "m").mkdir()
    model = Path(shutil.copy(DATA / "tiny_float.tflite", tmp_path / "m"))
    photos = make_photos(tmp_path / "photos")
    for new, old in (("0", "red"), ("1", "green"), ("2", "blue")):
        (photos / old).rename(photos / new)
    facts, _ = run(tmp_path, model, photos)
    assert facts["accuracy"] == 1.0 and facts["labels"] == ["0", "1", "2"]
    assert "no ModelSpec" in facts["warnings"][0]


def test_wrong_number_of_classes_is_one_clear_error(tmp_path):
    (tmp_path / "m").mkdir()
    model = Path(shutil.copy(DATA / "tiny_float.tflite", tmp_path / "m"))
    photos = make_photos(tmp_path / "photos")
    shutil.rmtree(photos / "blue")
    with pytest.raises(ModelError, match="3 numbers per image, but there are 2 classes"):
        run(tmp_path, model, photos)


def test_a_class_the_model_does_not_know_is_an_error(tmp_path):
    photos = make_photos(tmp_path / "photos")
    (photos / "blue").rename(photos / "blu")
    with pytest.raises(DatasetError, match="'blu', which the model does not know.*did you mean 'blue'"):
        run(tmp_path, with_spec(tmp_path / "m", "tiny_float.tflite"), photos)


def test_logits_become_probabilities(tmp_path):
    spec = dataclasses.replace(SPEC, output="logits")  # a softmax over the tiny model's probabilities: flatter, same order
    facts, arrays = run(tmp_path, with_spec(tmp_path / "m", "tiny_float.tflite", spec), make_photos(tmp_path / "photos"))
    assert facts["accuracy"] == 1.0
    assert np.allclose(arrays["probabilities"].sum(1), 1, atol=1e-6) and arrays["probabilities"].max() < 0.6


def test_logits_that_are_called_probabilities_are_an_error(tmp_path):
    import onnx

    model = with_spec(tmp_path / "m", "tiny_float.onnx")
    graph = onnx.load(model)
    last = next(node for node in graph.graph.node if graph.graph.output[0].name in node.output)
    assert last.op_type == "Softmax"
    last.op_type = "Identity"
    del last.attribute[:]
    onnx.save(graph, model)
    photos = make_photos(tmp_path / "photos")
    with pytest.raises(ModelError, match=r"run from .* and do not sum to 1.*\"output\": \"logits\" in its model.json"):
        run(tmp_path, model, photos)
    (tmp_path / "m" / "tiny_float.onnx.model.json").write_text(to_json(dataclasses.replace(SPEC, output="logits")))
    assert run(tmp_path, model, photos)[0]["accuracy"] == 1.0


def test_csv_of_paths(tmp_path):
    photos = make_photos(tmp_path / "photos")
    lines = ["path,label"] + [f"photos/{label}/{i}.png,{label}" for label in COLORS for i in range(2)]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    facts, _ = run(tmp_path, with_spec(tmp_path / "m", "tiny_float.onnx"), tmp_path / "list.csv")
    assert facts["images"] == 6 and facts["accuracy"] == 1.0 and photos.exists()


@pytest.mark.parametrize("name", ["tiny_float.tflite", "tiny_int8.tflite"])
def test_raw_tensors_as_mlperf_tiny_lists_them(tmp_path, name):
    rows = []
    for target, color in enumerate(COLORS.values()):
        np.full((8, 8, 3), color, np.uint8).tofile(tmp_path / f"{target}.bin")
        rows.append(f"{target}.bin,3,{target}")
    (tmp_path / "y_labels.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "m").mkdir()
    facts, _ = run(tmp_path, Path(shutil.copy(DATA / name, tmp_path / "m")), tmp_path / "y_labels.csv")
    assert facts["accuracy"] == 1.0 and facts["images"] == 3


def test_a_runtime_that_refuses_the_file_gives_a_reason_instead_of_figures(tmp_path):
    (tmp_path / "m").mkdir()
    broken = tmp_path / "m" / "broken.onnx"
    broken.write_bytes(b"\x08\x08")  # a ModelProto that holds nothing but its version
    broken.with_name("broken.onnx.model.json").write_text(to_json(SPEC))
    facts, arrays = run(tmp_path, broken, make_photos(tmp_path / "photos"))
    assert facts["status"] == "unsupported" and "onnxruntime does not open" in facts["reason"]
    assert "accuracy" not in facts and not arrays


def test_a_runtime_for_another_format_is_refused(tmp_path):
    with pytest.raises(UnsupportedError, match="onnxruntime does not open tiny_float.tflite; accepted for .tflite: litert"):
        run(tmp_path, with_spec(tmp_path / "m", "tiny_float.tflite"), make_photos(tmp_path / "photos"), runtime="onnxruntime")


def test_the_same_evaluation_twice_is_the_same(tmp_path):
    model, photos = with_spec(tmp_path / "m", "tiny_float.tflite"), make_photos(tmp_path / "photos")
    (first, a), (second, b) = run(tmp_path, model, photos), run(tmp_path, model, photos)
    assert first == second and all((a[key] == b[key]).all() for key in a)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(("model", "inputs", "accuracy"), [("pretrainedResnet.tflite", "ic01", 0.855), ("pretrainedResnet_quant.tflite", "ic01", 0.85), ("kws_ref_model.tflite", "kws01", 0.902)])
def test_official_files_on_official_inputs(tmp_path, shared_data, model, inputs, accuracy):
    facts, _ = run(tmp_path, shared_data(f"weights/mlperf_tiny/{model}"), shared_data(f"datasets/mlperf_tiny/{inputs}/y_labels.csv"))
    assert facts["accuracy"] == pytest.approx(accuracy, abs=1e-9)  # the figure that the data's authors measured, image for image

"""Pairs of files: reused predictions, verdicts, flips that can be found again, and pairs that do not belong together."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_evaluate import COLORS, DATA, SPEC, make_photos, with_spec

from edgepress.errors import ArtifactError, DatasetError, ModelError, RecipeError, UnsupportedError
from edgepress.modelspec import to_json
from edgepress.predictions import Score, write_score
from edgepress.recipe import CertifyConfig, EvaluateConfig
from edgepress.stages.certify import certify, write_beside
from edgepress.stages.evaluate import evaluate


def answers(folder: Path, predicted, targets, *, labels=("red", "green", "blue"), **changes) -> Path:
    """What an evaluate stage would leave for a file that says `predicted`."""
    folder.mkdir(parents=True)
    predicted, targets = np.asarray(predicted), np.asarray(targets)
    probabilities = np.where(np.eye(len(labels))[predicted] > 0, 0.9, 0.05).astype(np.float32)
    facts = {"schema": 1, "status": "ok", "reason": None, "file": f"{folder.name}.tflite", "sha256": f"sha of {folder.name}", "size_bytes": 10, "labels": list(labels),
             "runtime": {"name": "litert", "version": "2"}, "split": "test", "dataset": "photos", **changes}
    write_score(folder, Score(facts, labels, probabilities, targets, tuple(f"digest-{i}" for i in range(len(targets))), tuple(f"{i}.png" for i in range(len(targets)))), facts)
    return folder


def run(tmp_path: Path, model: Path, reference: Path, dataset=None, **config) -> dict:
    out = tmp_path / f"certify-{len(list(tmp_path.iterdir()))}"
    out.mkdir()
    certify(out, model=model, reference=reference, dataset=dataset, config=CertifyConfig(**config))
    assert sorted(p.name for p in out.iterdir()) == ["certificate.json", "predictions.npz"]
    return json.loads((out / "certificate.json").read_text())


TARGETS = np.arange(400) % 3


def test_flips_are_listed_with_what_was_said(tmp_path):
    ours, theirs = TARGETS.copy(), TARGETS.copy()
    ours[3], theirs[7] = 1, 0
    found = run(tmp_path, answers(tmp_path / "small", ours, TARGETS), answers(tmp_path / "float", theirs, TARGETS))
    assert [f["index"] for f in found["lost"]] == [3] and [f["index"] for f in found["gained"]] == [7]
    flip = found["lost"][0]
    assert (flip["digest"], flip["target"], flip["reference"], flip["prediction"]) == ("digest-3", "red", "red", "green")
    assert flip["probability"] == pytest.approx(0.9)
    assert found["drop"] == 0 and found["agreement"] == pytest.approx(398 / 400)
    assert found["file"] == "small.tflite" and found["reference"]["sha256"] == "sha of float"
    arrays = np.load(tmp_path / next(p.name for p in tmp_path.iterdir() if p.name.startswith("certify")) / "predictions.npz")
    assert arrays["probabilities"][3].argmax() == 1 and arrays["reference_probabilities"][3].argmax() == 0


@pytest.mark.parametrize(("lost", "max_drop", "certified"), [(0, 1.0, True), (0, 0.5, "unresolved"), (4, 1.0, "unresolved"), (4, 3.0, True), (20, 1.0, False)])
def test_verdict_depends_on_the_budget_and_on_what_400_images_can_tell(tmp_path, lost, max_drop, certified):
    ours = TARGETS.copy()
    ours[:lost] = (ours[:lost] + 1) % 3
    found = run(tmp_path, answers(tmp_path / "small", ours, TARGETS), answers(tmp_path / "float", TARGETS, TARGETS), max_drop=max_drop)
    assert found["certified"] is certified or found["certified"] == certified == "unresolved"
    assert found["max_drop"] == max_drop and "one-sided" in found["rule"] and found["reason"]


@pytest.mark.slow
def test_a_reused_prediction_needs_no_file_and_no_images(tmp_path):
    """The evaluated files and photos are gone: nothing is run again."""
    photos, model = make_photos(tmp_path / "photos"), with_spec(tmp_path / "m", "tiny_int8.tflite")
    for name, file in (("a", model), ("b", with_spec(tmp_path / "m", "tiny_float.tflite"))):
        (tmp_path / name).mkdir()
        evaluate(tmp_path / name, model=file, dataset=photos, config=EvaluateConfig())
    expected = run(tmp_path, model, tmp_path / "m" / "tiny_float.tflite", photos)
    shutil.rmtree(photos)
    shutil.rmtree(tmp_path / "m")
    assert run(tmp_path, tmp_path / "a", tmp_path / "b") == expected
    assert 0 < expected["parity"]["max_abs_difference"] < 0.1 and expected["agreement"] == 1.0


def test_float_files_of_two_formats_agree(tmp_path):
    photos = make_photos(tmp_path / "photos", per_class=10)
    found = run(tmp_path, with_spec(tmp_path / "m", "tiny_float.onnx"), with_spec(tmp_path / "m", "tiny_float.tflite"), photos)
    assert found["parity"]["max_abs_difference"] < 1e-4 and found["kl"]["max"] < 1e-6  # the bar of the project for float files
    assert found["runtime"]["name"] == "onnxruntime" and found["reference"]["runtime"]["name"] == "litert"


def test_certificate_beside_the_file_names_its_bytes(tmp_path):
    photos, model = make_photos(tmp_path / "photos"), with_spec(tmp_path / "m", "tiny_int8.tflite")
    out = tmp_path / "certificate"
    out.mkdir()
    certify(out, model=model, reference=with_spec(tmp_path / "m", "tiny_float.tflite"), dataset=photos, config=CertifyConfig())
    beside = write_beside(out, model)
    assert beside.name == "tiny_int8.tflite.certificate.json"
    from hashlib import sha256
    assert json.loads(beside.read_text())["sha256"] == sha256(model.read_bytes()).hexdigest()
    model.write_bytes(model.read_bytes() + b"\0")
    with pytest.raises(ArtifactError, match="is not the file that was certified"):
        write_beside(out, model)


def test_different_images_are_refused(tmp_path):
    ours = answers(tmp_path / "small", TARGETS[:200], TARGETS[:200])
    with pytest.raises(DatasetError, match=r"small.tflite in litert \(200 images\) and float.tflite in litert \(400 images\) were evaluated on different images"):
        run(tmp_path, ours, answers(tmp_path / "float", TARGETS, TARGETS))


def test_different_labels_are_refused(tmp_path):
    ours = answers(tmp_path / "small", TARGETS, TARGETS, labels=("red", "green", "cyan"))
    with pytest.raises(ModelError, match="different labels.*'cyan' and 'blue'"):
        run(tmp_path, ours, answers(tmp_path / "float", TARGETS, TARGETS))


def test_a_file_that_did_not_run_cannot_be_certified(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    facts = {"status": "unsupported", "reason": "no such kernel", "file": "small.tflite", "runtime": {"name": "litert"}, "labels": ["red", "green", "blue"]}
    write_score(folder, Score(facts, ("red", "green", "blue")), facts)
    with pytest.raises(UnsupportedError, match="no answers to compare: no such kernel"):
        run(tmp_path, folder, answers(tmp_path / "float", TARGETS, TARGETS))


def test_files_need_images(tmp_path):
    model = with_spec(tmp_path / "m", "tiny_float.tflite")
    with pytest.raises(RecipeError, match="needs labelled images.*--images"):
        run(tmp_path, model, model)


@pytest.mark.parametrize("config", [{"max_drop": -1.0}, {"confidence": 0.3}, {"confidence": 1.0}])
def test_impossible_budgets_are_refused(tmp_path, config):
    ours = answers(tmp_path / "small", TARGETS, TARGETS)
    with pytest.raises(RecipeError, match="cannot be certified"):
        run(tmp_path, ours, ours, **config)


def test_what_a_reader_should_know_is_a_warning(tmp_path):
    ours = TARGETS.copy()
    ours[TARGETS == 2] = 0
    small = answers(tmp_path / "small", ours, TARGETS, split="validation")
    found = run(tmp_path, small, answers(tmp_path / "float", TARGETS, TARGETS, split="validation"))
    assert any("validation split" in w for w in found["warnings"]) and any("class 'blue' lost 100.0 points" in w for w in found["warnings"])
    assert found["worst_class"]["label"] == "blue"
    same = run(tmp_path, small, small)
    assert any("same bytes in the same runtime" in w for w in same["warnings"])
    guesses = answers(tmp_path / "guess", (TARGETS + 1) % 3, TARGETS)
    assert any("right on only 0.0%" in w for w in run(tmp_path, guesses, guesses)["warnings"])


def test_damaged_predictions_are_one_clear_error(tmp_path):
    ours = answers(tmp_path / "small", TARGETS, TARGETS)
    (ours / "predictions.npz").write_bytes(b"PK half")
    with pytest.raises(ArtifactError, match="is not the result of an evaluate stage"):
        run(tmp_path, ours, ours)

"""The finetune stage: what it writes, what it keeps and why, and what it says about wrong inputs."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from edgepress import keras_files, modelspec
from edgepress.errors import DatasetError, ModelError, RecipeError
from edgepress.recipe import FinetuneConfig
from edgepress.stages import finetune as stage
from edgepress.tasks import training

pytestmark = pytest.mark.tensorflow
CONFIG = FinetuneConfig(backbone="glyphs_32", strategy="head", views=2, epochs=2, patience=2)


def letters(folder: Path, splits: dict, classes: str = "AKT") -> Path:
    """Photos of letters, `splits[name]` per class, in split folders (name "" for none)."""
    rng, font = np.random.default_rng(0), ImageFont.load_default(22)
    for split, count in splits.items():
        for label in classes:
            (folder / split / f"letter {label}").mkdir(parents=True, exist_ok=True)
            for i in range(count):
                photo = Image.fromarray(rng.integers(150, 255, (32, 32, 3)).astype(np.uint8))
                ImageDraw.Draw(photo).text((6 + rng.integers(-3, 4), 1 + rng.integers(-3, 4)), label, fill=tuple(rng.integers(0, 90, 3)), font=font)
                photo.save(folder / split / f"letter {label}" / f"{i}.png")
    return folder


def run(out: Path, photos: Path, config: FinetuneConfig = CONFIG) -> dict:
    out.mkdir(parents=True)
    stage.finetune(out, dataset=photos, config=config)
    return json.loads((out / "training.json").read_text())


def accuracy(out: Path, photos: Path) -> float:
    from edgepress.imageset import load_images, pixel_file

    spec, model = modelspec.read_spec(out), keras_files.load_model(out / "model.keras")
    images = load_images(photos, split="test", labels=spec.labels)
    pixels = np.load(pixel_file(images, spec, cache=out.parent / ".cache"))
    probabilities = model.predict_on_batch(pixels * np.float32(spec.scale) + np.float32(spec.offset))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    return float((probabilities.argmax(axis=1) == images.targets).mean())


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return letters(tmp_path_factory.mktemp("photos"), {"train": 12, "validation": 6, "test": 8})


def test_head_only(tmp_path: Path, photos: Path) -> None:
    record = run(tmp_path / "out", photos)
    assert record["kept"] == "head" and record["finetune"] is None and record["images"] == {"train": 36, "validation": 18}
    assert "comes with edgepress" in record["weights"] and record["probe"]["features_by"] in ("litert", "keras")
    assert {"features", "head", "refit", "write"} <= set(record["seconds"]) and record["probe"]["strength"] > 0
    spec = modelspec.read_spec(tmp_path / "out")
    assert spec.labels == ("letter A", "letter K", "letter T") and not spec.normalization_inside and spec.backbone == "glyphs_32"
    assert spec.weights == record["weights"] and spec.weights_license.startswith("Apache-2.0")
    model = keras_files.load_model(tmp_path / "out" / "model.keras")
    assert [layer.name for layer in model.layers[-2:]] == ["logits", "probabilities"]
    assert accuracy(tmp_path / "out", photos) > 0.9
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"model.keras", "model.json", "training.json"}


def test_fine_tuning_reports_both_and_keeps_the_better(tmp_path: Path, photos: Path) -> None:
    record = run(tmp_path / "out", photos, FinetuneConfig(backbone="glyphs_32", views=2, epochs=2, learning_rate=0.01))
    probe, tuned = record["probe"], record["finetune"]
    better = (tuned["accuracy"], -tuned["loss"]) > (probe["accuracy"], -probe["loss"])
    assert record["kept"] == ("finetune" if better else "head") and record["why"].count("validation") == 1
    assert len(tuned["history"]) == 2 and list((tmp_path / "out" / "tensorboard").glob("events*"))
    assert not list((tmp_path / ".cache").glob("finetune-*")), "the checkpoint is removed at the end"
    assert accuracy(tmp_path / "out", photos) > 0.9


def test_fine_tuning_that_ruins_the_network_is_not_kept_and_leaves_the_head_right(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ruin(model: object, *_: object, **__: object) -> training.Tuned:
        for variable in model.trainable_variables:
            variable.assign(variable * 0)
        return training.Tuned([v.numpy() for v in model.trainable_variables], 0.1, 1.0, 9.0, 1, [], 0)

    monkeypatch.setattr(training, "fine_tune", ruin)
    record = run(tmp_path / "out", photos, FinetuneConfig(backbone="glyphs_32", views=1))
    assert record["kept"] == "head" and record["finetune"]["accuracy"] == 0.1
    assert accuracy(tmp_path / "out", photos) > 0.9


def test_augmentation_follows_what_the_probe_saw() -> None:
    from edgepress.tasks.head import Calibrated, Head, Probe

    def probe(sure: float) -> Probe:
        return Probe(Head(np.eye(2, dtype=np.float32) * sure, np.zeros(2, np.float32)), 0.1, 1.0, 0.1, Calibrated(1.0, 0.1))

    whole, targets = np.eye(2, dtype=np.float32)[np.arange(20) % 2], np.arange(20) % 2
    flowers = stage._augmentation({"whole": probe(2), "crops": probe(2), "flips and crops": probe(3)}, whole, targets)
    digits = stage._augmentation({"whole": probe(3), "crops": probe(2), "flips and crops": probe(1)}, whole, targets)
    assert flowers == {"mirror": True, "smallest_zoom": stage.CLOSE_ZOOM} and digits == {"mirror": False, "smallest_zoom": stage.CAREFUL_ZOOM}
    assert stage._augmentation({"whole": probe(3)}, whole, targets) == {"mirror": False, "smallest_zoom": stage.CAREFUL_ZOOM}


def test_without_a_validation_split_training_photos_judge_and_that_is_said(tmp_path: Path) -> None:
    for name, splits in (("no split", {"": 10}), ("no validation", {"train": 10, "test": 4})):
        record = run(tmp_path / name / "out", letters(tmp_path / name / "photos", splits))
        assert record["images"] == {"train": 24, "validation": 6}
        assert "6 training images (20% of each class) judge" in record["notes"][0]


def test_the_same_seed_gives_the_same_network(tmp_path: Path, photos: Path) -> None:
    config = FinetuneConfig(backbone="glyphs_32", views=1, epochs=1)
    weights = []
    for name in ("a", "b"):
        run(tmp_path / name / "out", photos, config)
        weights.append(keras_files.load_model(tmp_path / name / "out" / "model.keras").get_weights())
    for ours, theirs in zip(*weights):
        np.testing.assert_array_equal(ours, theirs)


def test_a_killed_run_goes_on_after_its_last_epoch(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = FinetuneConfig(backbone="glyphs_32", views=1, epochs=3, patience=3)
    run(tmp_path / "whole" / "out", photos, config)

    def killed(folder: Path) -> object:
        def log(epoch: int, figures: object) -> None:
            if epoch == 2:
                raise KeyboardInterrupt
        return log

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage, "_board", killed)
        run(tmp_path / "killed" / "first", photos, config)
    record = run(tmp_path / "killed" / "second", photos, config)
    assert record["finetune"]["resumed_from"] == 1 and len(record["finetune"]["history"]) == 3
    ours, theirs = (keras_files.load_model(tmp_path / place / "model.keras").get_weights() for place in ("killed/second", "whole/out"))
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("change, error, said", [
    ({"backbone": "glyph_32"}, RecipeError, "did you mean 'glyphs"), ({"weights": "absent.h5"}, ModelError, "absent.h5"),
    ({"backbone": "resnet50_16"}, RecipeError, "32 to 1024")])
def test_wrong_settings_are_one_clear_error(tmp_path: Path, photos: Path, change: dict, error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        run(tmp_path / "out", photos, FinetuneConfig(**{"backbone": "glyphs_32", **change}))


def test_one_class_cannot_be_told_from_another(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="at least 2 classes"):
        run(tmp_path / "out", letters(tmp_path / "photos", {"train": 5}, classes="A"))

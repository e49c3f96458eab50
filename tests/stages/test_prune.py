"""The prune stage on a folder of tiny photos: files, figures, errors, and zeros that later stages keep."""
from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pruning"))
import tiny_networks as tiny  # noqa: E402

from edgepress.errors import DatasetError, ModelError, RecipeError  # noqa: E402
from edgepress.modelspec import to_json  # noqa: E402
from edgepress.recipe import PruneConfig  # noqa: E402
from edgepress.stages.prune import NOTE, prune  # noqa: E402

CONFIG = PruneConfig(sparsity=0.75, epochs=3, batch_size=12, learning_rate=0.01)


def save_photos(folder: Path, count: int) -> None:
    images = tiny.tiny_images(count)
    for number, (pixels, target) in enumerate(zip(images.pixels, images.targets)):
        place = folder / tiny.CLASSES[target]
        place.mkdir(parents=True, exist_ok=True)
        pixels = pixels.copy()
        pixels[0, 0, 0] = number % 256  # no two photos are the same file
        Image.fromarray(pixels).save(place / f"{number:03}.png")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    save_photos(folder / "train", 36)
    save_photos(folder / "validation", 15)
    for path in (folder / "validation").rglob("*.png"):  # other photos than those of the training split
        Image.fromarray(np.asarray(Image.open(path))[::-1].copy()).save(path)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny.tiny_model().save(folder / "model.keras", save_format="keras")
    (folder / "model.json").write_text(to_json(tiny.tiny_spec()), encoding="utf-8")
    return folder


def run(folder: Path, model: Path, photos: Path, config: PruneConfig = CONFIG) -> Path:
    out = folder / "pruned"
    out.mkdir()
    prune(out, model=model, dataset=photos, config=config)
    return out


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory, model: Path, photos: Path) -> Path:
    return run(tmp_path_factory.mktemp("run"), model, photos)


def read(out: Path) -> Any:
    return json.loads((out / "training.json").read_text())


@pytest.mark.tensorflow
def test_files_and_figures(pruned: Path, model: Path) -> None:
    assert sorted(path.name for path in pruned.iterdir()) == ["model.json", "model.keras", "training.json"]
    assert (pruned / "model.json").read_bytes() == (model / "model.json").read_bytes()
    record = read(pruned)
    assert record["method"] == "tfmot" and "every layer" in record["why"] and record["note"] == NOTE and "not the inference faster" in NOTE
    assert {layer["layer"]: layer["sparsity"] for layer in record["layers"]} == {"pointwise": pytest.approx(0.75, abs=0.01), "logits": pytest.approx(0.75, abs=0.01)}
    assert {skipped["layer"] for skipped in record["not_pruned"]} == {"stem", "stem_bn", "depthwise", "pointwise_bn"} and all(s["reason"] for s in record["not_pruned"])
    assert record["after"]["weights_gzip_bytes"] < record["before"]["weights_gzip_bytes"] and record["after"]["weights_bytes"] == record["before"]["weights_bytes"]
    assert record["images"] == {"train": 36, "validation": 15} and record["epochs"][record["kept_epoch"] - 1]["at_final_sparsity"]


@pytest.mark.tensorflow
def test_the_saved_model_answers_as_recorded(pruned: Path, photos: Path) -> None:
    from edgepress.keras_files import load_model
    from edgepress.pruning import training

    network = load_model(pruned / "model.keras")
    files = sorted((photos / "validation").rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in files])
    answers = training.predict(network, pixels, tiny.tiny_spec(), batch_size=12).argmax(axis=1)
    assert np.mean([tiny.CLASSES[answer] == path.parent.name for answer, path in zip(answers, files)]) == pytest.approx(read(pruned)["after"]["validation_accuracy"])


@pytest.fixture(scope="module")
def converted(pruned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from edgepress.recipe import ConvertConfig
    from edgepress.stages.convert import convert

    out = tmp_path_factory.mktemp("converted")
    convert(out, model=pruned, config=ConvertConfig(formats=("tflite",)))
    return out / "model.tflite"


def check_zeros(file: Path) -> None:
    shares = zero_shares(file)
    assert shares[(32, 1, 1, 8)] >= 0.74  # pointwise, [out, height, width, in]
    assert shares[(3, 32)] >= 0.74  # head
    assert shares[(8, 3, 3, 3)] < 0.2  # stem, not pruned


@pytest.mark.tensorflow
def test_conversion_keeps_the_zeros(converted: Path) -> None:
    check_zeros(converted)


@pytest.mark.tensorflow
def test_quantization_keeps_the_zeros(converted: Path, photos: Path, tmp_path: Path) -> None:
    from edgepress.recipe import QuantizeConfig
    from edgepress.stages.quantize import quantize

    quantize(tmp_path, model=converted, dataset=photos, config=QuantizeConfig(samples=12))
    check_zeros(tmp_path / "model.tflite")


def zero_shares(file: Path) -> dict:
    """Shape → share of zeros of the constant kernels of a TFLite file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file))
    shares = {}
    for detail in interpreter.get_tensor_details():
        try:
            values = interpreter.get_tensor(detail["index"])
        except ValueError:
            continue  # not a constant
        shares[tuple(int(n) for n in detail["shape"])] = float(np.mean(values == 0))
    return shares


@pytest.mark.tensorflow
def test_photos_without_splits_are_all_trained_on_and_none_judges(tmp_path: Path, model: Path, photos: Path) -> None:
    record = read(run(tmp_path, model, photos / "train", replace(CONFIG, epochs=1)))
    assert record["images"] == {"train": 36, "validation": 0} and record["after"]["validation_accuracy"] is None and record["kept_epoch"] == 1


@pytest.mark.parametrize(("change", "says"), [({"sparsity": 1.0}, "between 0 and 1"), ({"sparsity": 0.0}, "between 0 and 1"), ({"sparsity": 50.0}, "between 0 and 1"),
                                              ({"pattern": "2:4", "sparsity": 0.75}, "two of four")])
def test_impossible_sparsity_is_refused_at_once(tmp_path: Path, change: dict, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        prune(tmp_path, model=tmp_path / "none", dataset=tmp_path / "none", config=PruneConfig(**change))


@pytest.mark.tensorflow
def test_unknown_classes_are_an_error(tmp_path: Path, model: Path) -> None:
    save_photos(tmp_path / "photos" / "train", 6)
    (tmp_path / "photos" / "train" / "dark").rename(tmp_path / "photos" / "train" / "drak")
    with pytest.raises(DatasetError, match="drak.*did you mean 'dark'"):
        run(tmp_path, model, tmp_path / "photos" / "train")


@pytest.mark.tensorflow
def test_a_model_without_a_spec_is_an_error(tmp_path: Path, photos: Path) -> None:
    tiny.tiny_model().save(tmp_path / "model.keras", save_format="keras")
    with pytest.raises(ModelError, match="model.json"):
        run(tmp_path, tmp_path / "model.keras", photos)

"""Every row of the backbone table keeps the contract; weights are said, fit, and get the pixels they were trained on."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgepress import backbones
from edgepress.backbones import BACKBONES, backbone_names, build_backbone, parse_backbone, weight_file_names
from edgepress.errors import ModelError, RecipeError
from edgepress.modelspec import NORMALIZATIONS
from edgepress.weightfiles import write_npz

QUICK = {"mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small_minimalistic", "squeezenet_1.1", "vgg16", "glyphs"}
FAMILIES = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in BACKBONES]
PREPROCESSING = {"Rescaling", "Normalization", "Lambda"}


def test_every_name_resolves_to_itself() -> None:
    names = backbone_names()
    assert len(set(names)) == len(names) > 60
    assert [parse_backbone(name).name for name in names] == names
    assert {"mobilenet_v1_0.25_128", "mobilenet_v2_1.4_224", "efficientnet_v2_b0_224", "resnet50_v2_224", "squeezenet_1.1_227", "glyphs_32"} <= set(names)


@pytest.mark.parametrize("name, width, size", [("mobilenet_v2", 1.0, 224), ("mobilenet_v2_0.35", 0.35, 224), ("mobilenet_v2_0.35_100", 0.35, 100),
                                               ("resnet50_v2", None, 224), ("resnet50_160", None, 160), ("squeezenet_1.1", None, 227)])
def test_what_is_left_out_is_the_default(name: str, width: float, size: int) -> None:
    backbone = parse_backbone(name)
    assert (backbone.width, backbone.size) == (width, size)


@pytest.mark.parametrize("name, said", [("mobilnet_v2_1.0_224", "did you mean 'mobilenet_v2"), ("mobilenet_v2_0.9_224", "0.35, 0.5, 0.75"), ("xception_32", "71 to 1024"),
                                        ("resnet50_1.0_224", "one width only"), ("mobilenet_v2_1.0_224_extra", "does not exist"), ("", "does not exist")])
def test_wrong_names_say_what_is_accepted(name: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parse_backbone(name)


@pytest.mark.tensorflow
@pytest.mark.parametrize("family", FAMILIES)
def test_contract_of_every_row(family: str) -> None:
    row, size = BACKBONES[family], max(BACKBONES[family].min_size, 96)
    width = f"_{min(row.widths)}" if row.widths else ""
    built = build_backbone(f"{family}{width}_{size}", weights="none")
    names = [layer.name for layer in built.model.layers]
    assert built.model.input_shape == (None, size, size, 3) and len(built.model.output_shape) == 2
    assert not {type(layer).__name__ for layer in built.model.layers} & PREPROCESSING
    assert not [layer.name for layer in built.model.layers if hasattr(layer, "layers")], "a nested model"
    positions = [names.index(point) for point in built.freeze_points]
    assert positions == sorted(positions) and 0 < positions[0] and positions[-1] < len(names) - 1
    assert built.weights == "none (random initialization)" and built.weights_license is None
    assert (built.scale, built.offset) == NORMALIZATIONS[row.normalization] and row.license and row.mparams > 0 and row.mmac > 0
    features = built.model.predict_on_batch(np.zeros((1, size, size, 3), np.float32))
    assert np.isfinite(features).all()


@pytest.mark.tensorflow
def test_layer_names_do_not_depend_on_what_was_built_before() -> None:
    first, second = (build_backbone("mobilenet_v2_0.35_96", weights="none").model for _ in range(2))
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]


@pytest.mark.tensorflow
def test_weights_trained_on_bgr_are_turned_to_rgb(tmp_path: Path) -> None:
    source = build_backbone("squeezenet_1.1_64", weights="none").model
    write_npz(tmp_path / "squeezenet.npz", source)
    built = build_backbone("squeezenet_1.1_64", weights=str(tmp_path / "squeezenet.npz"))
    image = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    np.testing.assert_allclose(built.model.predict_on_batch(image), source.predict_on_batch(image[..., ::-1]), rtol=0.02, atol=1e-3)  # half-precision weights
    assert built.weights_license.startswith("not known: a file of your own") and "BGR to RGB" in built.weights and "squeezenet.npz" in built.weights


@pytest.mark.tensorflow
def test_published_weights_are_found_by_the_name_keras_gives_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = build_backbone("mobilenet_v2_0.35_96", weights="none").model
    file = tmp_path / weight_file_names(parse_backbone("mobilenet_v2_0.35_96"), 160)[-1]
    assert file.name == "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_160_no_top.h5"
    source.save_weights(file)
    monkeypatch.setenv("EDGEPRESS_WEIGHTS", str(tmp_path))
    built = build_backbone("mobilenet_v2_0.35_96")
    assert "found in $EDGEPRESS_WEIGHTS" in built.weights and "pretrained at 160, not 96" in built.weights
    assert built.weights_sha256 == backbones.weights_digest(source)
    assert build_backbone("mobilenet_v2_0.35_96", weights=file.name).weights_sha256 == built.weights_sha256
    with pytest.raises(ModelError, match="first layer that differs is 'block_1_project'"):
        build_backbone("mobilenet_v2_0.5_96", weights=file.name)


@pytest.mark.tensorflow
def test_missing_weights_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise Exception("URL fetch failure on https://…: None -- Name or service not known")  # what Keras raises

    monkeypatch.delenv("EDGEPRESS_WEIGHTS", raising=False)
    with pytest.raises(ModelError, match="not a file and \\$EDGEPRESS_WEIGHTS is not set"):
        build_backbone("glyphs_32", weights="absent.h5")
    row = BACKBONES["squeezenet_1.1"]
    monkeypatch.setitem(BACKBONES, "squeezenet_1.1", replace(row, build=lambda keras, image, width, weights=None: offline() if weights else row.build(keras, image, width)))
    with pytest.raises(ModelError, match="URL fetch failure.*put squeezenet_weights.*EDGEPRESS_WEIGHTS"):
        build_backbone("squeezenet_1.1_64")


@pytest.mark.tensorflow
def test_a_family_without_published_files_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    built = build_backbone("glyphs_32")
    assert "comes with edgepress, not ImageNet" in built.weights and "Apache-2.0" in built.weights_license
    letters = build_backbone("glyphs_48")
    assert "pretrained at 32, not 48" in letters.weights


REAL = {"mobilenet_v1_0.25_128": "0..255", "mobilenet_v2_0.35_128": "0..255", "mobilenet_v2_1.0_128": "0..255", "squeezenet_1.1_128": "-1..1"}


@pytest.mark.tensorflow
@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_own_preprocessing_beats_a_wrong_one_on_real_weights(name: str, shared_data, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgepress.preprocess import decode, to_pixels
    from edgepress.tasks.head import refit_head

    photos = shared_data("datasets/flowers")
    monkeypatch.setenv("EDGEPRESS_WEIGHTS", str(shared_data("weights/keras")))
    built = build_backbone(name)
    size, labels = (built.backbone.size,) * 2, sorted(p.name for p in (photos / "train").iterdir())

    def accuracy(scale: tuple, offset: tuple) -> float:
        found = {}
        for split, count in (("train", 24), ("test", 24)):
            files = [f for label in labels for f in sorted((photos / split / label).iterdir())[:count]]
            pixels = np.stack([to_pixels(decode(f), size=size, resize="stretch") for f in files])
            found[split] = built.model.predict(pixels * np.float32(scale) + np.float32(offset), verbose=0), np.repeat(np.arange(len(labels)), count)
        head = refit_head(*found["train"], strength=0.1, classes=len(labels), weights=np.ones(len(labels)))
        return float((head.probabilities(found["test"][0]).argmax(axis=1) == found["test"][1]).mean())

    own, wrong = accuracy(built.scale, built.offset), accuracy(*NORMALIZATIONS[REAL[name]])
    assert own > wrong + 0.03, f"{name}: {own:.3f} with its own preprocessing, {wrong:.3f} with a wrong one"

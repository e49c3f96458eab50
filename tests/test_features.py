"""Features are those of the backbone, made once per view, whichever runtime makes them."""
from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgepress import features
from edgepress.features import VIEWS, WHOLE, Extractor, View, apply_view, view_sets

PHOTO = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)


def test_views_show_the_part_they_name() -> None:
    np.testing.assert_array_equal(apply_view(PHOTO, WHOLE), PHOTO)
    np.testing.assert_array_equal(apply_view(PHOTO, View(flip=True)), PHOTO[:, ::-1])
    half = np.zeros_like(PHOTO)
    half[:16, :16] = 200
    inner = slice(0, 30), slice(0, 30)  # bilinear looks one pixel past the edge of the crop
    assert apply_view(half, View(0.5, 0.0, 0.0))[inner].min() == 200 and apply_view(half, View(0.5, 1.0, 1.0))[2:, 2:].max() == 0
    assert apply_view(half, View(0.5, 0.0, 1.0, flip=True))[inner].max() == 0


def test_sets_of_views_grow_and_do_not_repeat() -> None:
    assert list(view_sets(1)) == ["whole"] and list(view_sets(2)) == ["whole", "flips and crops"]
    sets = view_sets(4)
    assert sets["whole"] == (WHOLE,) and not any(v.flip for v in sets["crops"]) and len(sets["crops"]) == 2
    assert sets["flips and crops"] == VIEWS[:4] and len(set(VIEWS)) == len(VIEWS) == 8


@pytest.fixture(scope="module")
def built():
    from edgepress.backbones import build_backbone

    return build_backbone("glyphs_32")


@pytest.mark.tensorflow
def test_features_are_the_backbones_and_cached(built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, digests = np.stack([PHOTO, PHOTO[::-1], PHOTO[:, ::-1]]), ["a", "b", "c"]
    extractor, done = Extractor(built, cache=tmp_path), []
    found = np.array(extractor.extract(pixels, digests, WHOLE, key=[], progress=done.append))
    wanted = built.model.predict_on_batch(pixels * np.float32(built.scale) + np.float32(built.offset))
    assert found.dtype == np.float16 and done[-1] == 3
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-3)  # half precision
    monkeypatch.setattr(extractor, "_run", lambda *_: pytest.fail("the cache was not used"))
    np.testing.assert_array_equal(extractor.extract(pixels, digests, WHOLE, key=[]), found)
    with pytest.raises(BaseException, match="cache was not used"):
        extractor.extract(pixels, ["a", "b", "other"], WHOLE, key=[])
    extractor.close()


@pytest.mark.tensorflow
def test_without_litert_keras_does_the_work_and_that_is_said(built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = Extractor(built, cache=tmp_path / "fast").extract(PHOTO[None], ["a"], View(0.8, 0, 0, True), key=[])
    monkeypatch.setattr(features, "load_runtime", lambda name: SimpleNamespace(health_check=lambda: "not installed"))
    slow = Extractor(built, cache=tmp_path / "slow")
    assert slow.runtime == "keras" and "not installed" in slow.note
    np.testing.assert_allclose(slow.extract(PHOTO[None], ["a"], View(0.8, 0, 0, True), key=[]), fast, rtol=2e-3, atol=2e-3)

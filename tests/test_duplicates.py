"""Copies are found, look-alikes are not, and the search does not compare everything with everything."""
from __future__ import annotations

import io
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

sys.path.insert(0, str(Path(__file__).resolve().parent))
from photo_folders import photo

from edgepress import duplicates
from edgepress.duplicates import Looks, divide_scenes, group_copies, look


def reencoded(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


@pytest.mark.parametrize("change", [
    lambda i: reencoded(i, 40), lambda i: i.resize((i.width // 2, i.height // 2), Image.Resampling.LANCZOS), lambda i: i.resize((i.width * 2, i.height * 3)),
    lambda i: ImageEnhance.Brightness(i).enhance(1.1), lambda i: ImageEnhance.Color(i).enhance(0.8)], ids=["jpeg", "half", "stretched", "brighter", "paler"])
def test_changed_copies_are_found(change) -> None:
    originals = [photo(seed, size=(160, 120)) for seed in range(40)]
    copies = [change(image) for image in originals]
    looks = [look(image) for image in originals + copies]
    groups = group_copies([str(i) for i in range(80)], looks, bits=4)
    assert (groups[:40] == np.arange(40)).all()
    assert (groups[40:] == np.arange(40)).mean() >= 0.95


def test_different_photos_stay_apart() -> None:
    groups = group_copies([str(i) for i in range(300)], [look(photo(i)) for i in range(300)], bits=4)
    assert len(set(groups)) == 300


def test_flat_images_of_other_colors_stay_apart_and_equal_ones_do_not() -> None:
    colors = ["black", "white", "red", "lime", "blue", (128, 128, 128), (130, 128, 128)]
    groups = group_copies(list("abcdefg"), [look(Image.new("RGB", (50, 40), color)) for color in colors], bits=4)
    assert groups.tolist() == [0, 1, 2, 3, 4, 5, 5]


def test_without_bits_only_equal_bytes_count() -> None:
    looks = [look(photo(1)), look(reencoded(photo(1), 90)), look(photo(1))]
    assert group_copies(["a", "b", "a"], looks, bits=None).tolist() == [0, 1, 0]
    assert group_copies(["a", "b", "a"], looks, bits=4).tolist() == [0, 0, 0]


def test_groups_are_transitive_whatever_the_order() -> None:
    view = np.tile(np.arange(0, 256, 8, dtype=np.uint8), 9)
    chain = [Looks((1 << 4 * k) - 1, view) for k in (3, 0, 2, 1)]  # neighbours differ in 4 bits, the ends in 12
    assert group_copies(list("abcd"), chain, bits=4).tolist() == [0, 0, 0, 0]
    assert group_copies(list("abcd"), chain, bits=3).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("bits", [0, 1, 4, 10])
@pytest.mark.parametrize("long_run", [0, 200])
def test_the_banded_search_misses_no_pair(bits: int, long_run: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(bits)
    base = rng.integers(0, 2 ** 63, 60, dtype=np.uint64)
    hashes = [int(h) ^ sum(1 << int(b) for b in rng.choice(64, rng.integers(0, 13), replace=False)) for h in np.tile(base, 5)]
    view = np.tile(np.arange(0, 256, 8, dtype=np.uint8), 9)
    monkeypatch.setattr(duplicates, "_LONG_RUN", long_run)
    groups = group_copies([str(i) for i in range(300)], [Looks(h, view) for h in hashes], bits=bits)
    expected = np.arange(300)
    for i in range(300):
        for j in range(i):
            if bin(hashes[i] ^ hashes[j]).count("1") <= bits and expected[i] != expected[j]:
                expected[expected == max(expected[i], expected[j])] = min(expected[i], expected[j])
    assert (groups == expected).all()


@pytest.mark.parametrize("kind", ["random", "all alike", "same hash, other views"])
def test_many_photos_take_seconds(kind: str) -> None:
    count, rng = 3000, np.random.default_rng(0)
    hashes = rng.integers(0, 2 ** 63, count, dtype=np.uint64) if kind == "random" else np.full(count, 12345, np.uint64)
    views = np.tile(rng.integers(0, 255, 288, dtype=np.uint8), (count, 1)) if kind == "all alike" else rng.integers(0, 255, (count, 288), dtype=np.uint8)
    started = time.process_time()
    groups = group_copies([str(i) for i in range(count)], [Looks(int(h), v) for h, v in zip(hashes, views)], bits=4)
    assert len(set(groups)) == (1 if kind == "all alike" else count)
    assert time.process_time() - started < 20  # pair by pair the last kind takes 70


def test_a_scene_that_is_most_of_a_class_is_divided() -> None:
    digests = [f"{i // 2}" for i in range(40)]  # pairs of equal bytes
    targets = np.array([0] * 30 + [1] * 10)
    groups, divided = divide_scenes(np.array([0] * 30 + list(range(30, 40))), digests, targets)
    assert divided == {0: 30} and groups.tolist() == [i - i % 2 for i in range(30)] + list(range(30, 40))
    burst = np.array([0] * 10 + list(range(10, 40)))
    assert divide_scenes(burst, digests, targets)[1] == {} and (divide_scenes(burst, digests, targets)[0] == burst).all()

"""Which images a source means, in which class order, and their pixels in one file that is made once."""
from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))
from photo_folders import class_folders, photo

from edgepress import imageset
from edgepress.artifact import run_stage
from edgepress.errors import ArtifactError, DatasetError
from edgepress.hashes import digest_files
from edgepress.imageset import ImageSet, calibration_images, is_tensor_csv, load_images, load_tensors, pixel_file, source_digest
from edgepress.modelspec import ModelSpec
from edgepress.preprocess import load_pixels
from edgepress.recipe import DatasetConfig
from edgepress.stages import STAGES

SPEC = ModelSpec(labels=("cat", "dog"), input_height=16, input_width=24)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "photos")


@pytest.fixture
def artifact(folder: Path, tmp_path: Path) -> Path:
    return run_stage(STAGES["dataset"], inputs={"images": folder}, config=DatasetConfig(), out=tmp_path / "run" / "dataset", digest=lambda path: "x")


def test_class_folders_give_all_their_images(folder: Path) -> None:
    for split in ("train", "test"):
        images = load_images(folder, split=split)
        assert images.labels == ("cat", "dog") and len(images) == 24 and images.targets.tolist() == [0] * 12 + [1] * 12
    assert images.targets.dtype == np.int64 and images.paths[0] == folder / "cat/00000.png"
    assert images.digests == tuple(digest_files(images.paths)) and len(set(images.digests)) == 24


def test_split_folders_give_their_split(tmp_path: Path) -> None:
    for i, name in enumerate(("train", "val")):
        class_folders(tmp_path / name, count=i + 2, seed=100 * i)
    assert len(load_images(tmp_path, split="train")) == 4 and len(load_images(tmp_path, split="validation")) == 6
    with pytest.raises(DatasetError, match="has no test photos; it has: train, validation"):
        load_images(tmp_path, split="test")
    with pytest.raises(DatasetError, match="'val'; accepted: test, train, validation"):
        load_images(tmp_path, split="val")


def test_artifact_gives_its_split(artifact: Path) -> None:
    parts = [load_images(artifact, split=split) for split in ("train", "validation", "test")]
    assert sum(map(len, parts)) == 24 and len({d for part in parts for d in part.digests}) == 24
    assert parts[0].labels == ("cat", "dog") and all(part.paths[0].is_file() for part in parts)


def test_numbers_are_ordered_by_value(tmp_path: Path) -> None:
    class_folders(tmp_path, labels=tuple(map(str, range(12))), count=1)
    images = load_images(tmp_path, split="test")
    assert images.labels == tuple(map(str, range(12))) and images.targets.tolist() == sorted(images.targets.tolist(), key=lambda t: str(t))


def test_targets_follow_the_models_labels(folder: Path, artifact: Path) -> None:
    for source in (folder, artifact):
        own, turned = load_images(source, split="train"), load_images(source, split="train", labels=("dog", "emu", "cat"))
        assert turned.labels == ("dog", "emu", "cat") and turned.targets.tolist() == [{0: 2, 1: 0}[t] for t in own.targets.tolist()]


def test_unknown_class_names_the_nearest(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"class 'dog', which the model does not know; accepted: cat, dogs \(did you mean 'dogs'\?\)"):
        load_images(folder, split="test", labels=("cat", "dogs"))


def test_csv_with_header_relative_and_absolute_paths(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"﻿label;file\ncat;photos/cat/00001.png\ndog;{folder}/dog/00002.png\n", encoding="utf-8")
    images = load_images(tmp_path / "list.csv", split="test")
    assert images.labels == ("cat", "dog") and [p.name for p in images.paths] == ["00001.png", "00002.png"] and all(p.is_file() for p in images.paths)


def test_csv_of_class_numbers(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("photos/cat/00001.png,1\nphotos/dog/00002.png,0\n")
    assert load_images(tmp_path / "list.csv", split="test").labels == ("0", "1")
    images = load_images(tmp_path / "list.csv", split="test", labels=("dog", "cat"))
    assert images.labels == ("dog", "cat") and images.targets.tolist() == [1, 0]
    with pytest.raises(DatasetError, match="class '0'"):
        load_images(tmp_path / "list.csv", split="test", labels=("dog",))  # 1 is no index of one label


def test_csv_with_a_split_column(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label,split\nphotos/cat/00001.png,a,train\nphotos/dog/00002.png,b,val\n")
    assert load_images(tmp_path / "list.csv", split="validation").targets.tolist() == [1]


@pytest.mark.parametrize("text, message", [("", "is empty"), ("a.png\nb.png\n", "no line with a path and a label"), ("path,label\n", "no line with a path")])
def test_csv_that_says_nothing(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        load_images(tmp_path / "list.csv", split="test")


def test_sources_that_are_none(tmp_path: Path, artifact: Path) -> None:
    for path, message in ((tmp_path / "none", "does not exist"), (Path("digits"), "edgepress dataset digits"), (artifact / "index.csv.", "does not exist")):
        with pytest.raises(DatasetError, match=message):
            load_images(path, split="test")
    (artifact / "index.csv").write_text("path\n")
    with pytest.raises(ArtifactError, match="index.csv"):
        load_images(artifact, split="test")


def test_photo_that_disappeared_is_named(folder: Path, artifact: Path, tmp_path: Path) -> None:
    images = load_images(artifact, split="train")
    images.paths[3].unlink()
    with pytest.raises(DatasetError, match=f"{images.paths[3].name} cannot be used: it cannot be read"):
        pixel_file(images, SPEC, cache=tmp_path / "cache")


def test_photo_that_changed_is_named_and_leaves_nothing_behind(artifact: Path, tmp_path: Path) -> None:
    images = load_images(artifact, split="train")
    photo(999).save(images.paths[2])
    with pytest.raises(DatasetError, match=f"{images.paths[2].name} is not the file it was"):
        pixel_file(images, SPEC, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_damaged_photo_of_a_plain_folder_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "cat" / "00001.png").write_bytes((folder / "cat" / "00001.png").read_bytes()[:300])
    with pytest.raises(DatasetError, match="cat/00001.png cannot be used: it is damaged"):
        pixel_file(load_images(folder, split="test"), SPEC, cache=tmp_path / "cache")


def test_pixels_are_those_of_preprocess(folder: Path, tmp_path: Path) -> None:
    images = load_images(folder, split="test")
    pixels = np.load(pixel_file(images, SPEC, cache=tmp_path / "cache"), mmap_mode="r")
    assert pixels.shape == (24, 16, 24, 3) and pixels.dtype == np.uint8
    for i in (0, 7, 23):
        assert np.array_equal(pixels[i], load_pixels(images.paths[i], SPEC))


def test_pixels_are_made_once_per_content_and_spec(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, images = tmp_path / "cache", load_images(folder, split="test")
    first = pixel_file(images, SPEC, cache=cache)
    moved = load_images(Path(shutil.move(folder, tmp_path / "elsewhere")), split="test")
    monkeypatch.setattr(imageset, "load_pixels", None)  # decoding again would fail
    assert pixel_file(moved, SPEC, cache=cache) == first
    monkeypatch.undo()
    other = {pixel_file(moved, ModelSpec(labels=(), input_height=16, input_width=24, resize="pad"), cache=cache), pixel_file(moved, ModelSpec(labels=(), input_height=24, input_width=16), cache=cache)}
    assert len(other | {first}) == 3


def test_half_written_pixels_are_made_again(folder: Path, tmp_path: Path) -> None:
    images = load_images(folder, split="test")
    file = pixel_file(images, SPEC, cache=tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    assert pixel_file(images, SPEC, cache=tmp_path).read_bytes() == whole


def test_no_images_make_an_empty_file(tmp_path: Path) -> None:
    assert np.load(pixel_file(ImageSet(("a",), (), np.zeros(0, np.int64), ()), SPEC, cache=tmp_path)).shape == (0, 16, 24, 3)


def test_calibration_is_stratified_seeded_and_from_training_images(artifact: Path, tmp_path: Path) -> None:
    train = load_images(artifact, split="train")
    chosen = calibration_images(artifact, count=6, seed=1)
    assert np.bincount(chosen.targets).tolist() == [3, 3] and set(chosen.digests) <= set(train.digests) and len(set(chosen.paths)) == 6
    assert calibration_images(artifact, count=6, seed=1).paths == chosen.paths != calibration_images(artifact, count=6, seed=2).paths
    assert len(calibration_images(artifact, count=10_000, seed=0)) == len(train)


def test_calibration_of_folders(folder: Path, tmp_path: Path) -> None:
    assert np.bincount(calibration_images(folder, count=7, seed=0).targets).tolist() in ([4, 3], [3, 4])
    flat = calibration_images(folder / "cat", count=5, seed=0)
    assert len(flat) == 5 and len(set(flat.digests)) == 5
    class_folders(tmp_path / "split/train", count=3), class_folders(tmp_path / "split/test", count=9, seed=50)
    assert {p.parts[-3] for p in calibration_images(tmp_path / "split", count=50, seed=0).paths} == {"train"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="has no images to calibrate with; give"):
        calibration_images(tmp_path / "empty", count=5, seed=0)


def test_source_digest_follows_content_names_and_place(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = source_digest(folder, cache=cache)
    assert source_digest(folder, cache=cache) == first == source_digest(folder, cache=tmp_path / "other")
    (folder / "cat" / ".DS_Store").write_bytes(b"x")
    assert source_digest(folder, cache=cache) == first
    seen = {first}
    photo(77).save(folder / "cat" / "new.png")
    seen.add(source_digest(folder, cache=cache))
    (folder / "cat" / "new.png").rename(folder / "dog" / "new.png")
    seen.add(source_digest(folder, cache=cache))
    photo(78).save(folder / "dog" / "new.png")
    seen.add(source_digest(folder, cache=cache))
    shutil.move(folder, tmp_path / "elsewhere")
    seen.add(source_digest(tmp_path / "elsewhere", cache=cache))
    assert len(seen) == 5


def test_loose_photos_have_a_digest_too(folder: Path, tmp_path: Path) -> None:
    (folder / "cat" / "__MACOSX").mkdir()
    seen = {source_digest(folder / "cat", cache=tmp_path), source_digest(folder / "dog", cache=tmp_path)}
    assert source_digest(folder / "cat", cache=tmp_path) in seen
    assert len(calibration_images(folder / "cat", count=3, seed=0)) == 3
    photo(77).save(folder / "cat" / "new.png")
    seen.add(source_digest(folder / "cat", cache=tmp_path))
    assert len(seen) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no photos"):
        source_digest(tmp_path / "empty", cache=tmp_path)


def test_a_change_of_equal_size_and_time_is_seen_by_its_inode(folder: Path, tmp_path: Path) -> None:
    file = folder / "cat" / "00000.png"
    os.utime(file, ns=(10 ** 18, 10 ** 18))
    first = source_digest(folder, cache=tmp_path)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    other = folder / "other"
    other.write_bytes(data)
    os.utime(other, ns=(10 ** 18, 10 ** 18))
    os.replace(other, file)
    assert source_digest(folder, cache=tmp_path) != first


@pytest.mark.slow
def test_remembered_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(5000):
        file = tmp_path / "photos" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"%d" % i)
        os.utime(file, (1, 1))
    first = source_digest(tmp_path / "photos", cache=tmp_path)
    monkeypatch.setattr("edgepress.hashes.digest_file", None)  # reading one again would fail
    started = time.thread_time()
    assert source_digest(tmp_path / "photos", cache=tmp_path) == first
    assert time.thread_time() - started < 1.0
    next(tmp_path.glob("hashes-*")).write_text("{damaged")
    monkeypatch.undo()
    assert source_digest(tmp_path / "photos", cache=tmp_path) == first


def tensor_csv(folder: Path, lines: str, sizes: dict) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "y_labels.csv").write_text(lines)
    for name, size in sizes.items():
        (folder / name).write_bytes(bytes(range(size)))
    return folder / "y_labels.csv"


def test_tensors(tmp_path: Path, folder: Path) -> None:
    file = tensor_csv(tmp_path / "t", "a.bin, 3, 2\nb.bin, 3, 0\n", {"a.bin": 12, "b.bin": 12})
    assert is_tensor_csv(file) and not is_tensor_csv(folder)
    array, images = load_tensors(file, shape=(2, 2, 3), dtype="int8")
    assert array.shape == (2, 2, 2, 3) and array.dtype == np.int8 and images.targets.tolist() == [2, 0] and images.labels == ("0", "1", "2")
    assert load_tensors(file)[0].shape == (2, 12) and load_tensors(file, labels=("x", "y", "z"))[1].labels == ("x", "y", "z")
    with pytest.raises(DatasetError, match="raw tensors"):
        load_images(file, split="test")


@pytest.mark.parametrize("lines, sizes, message", [
    ("a.bin,3,2\nb.bin,3,0\n", {"a.bin": 12, "b.bin": 11}, r"b.bin has 11 bytes; accepted: \[2, 2, 3\] uint8 = 12 bytes"),
    ("a.bin,3,2\nb.bin,3,0\n", {"a.bin": 12}, "b.bin cannot be read"),
    ("a.bin,3,3\n", {"a.bin": 12}, "line 1 is 'a.bin,3,3'"),
    ("a.bin,3,2\nb.bin,4,0\n", {"a.bin": 12, "b.bin": 12}, "line 2"),
])
def test_tensors_that_do_not_fit(lines: str, sizes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=message):
        load_tensors(tensor_csv(tmp_path / "t", lines, sizes), shape=(2, 2, 3))


@pytest.mark.data
def test_official_inputs(shared_data) -> None:
    for name, shape, dtype, count, classes in (("ic01", (32, 32, 3), "uint8", 200, 10), ("kws01", (49, 10, 1), "int8", 1000, 12), ("vww01", (96, 96, 3), "uint8", 300, 2)):
        array, images = load_tensors(shared_data(f"datasets/mlperf_tiny/{name}/y_labels.csv"), shape=shape, dtype=dtype)
        assert array.shape == (count, *shape) and len(np.bincount(images.targets)) == classes == len(images.labels)


@pytest.mark.data
def test_csv_beside_a_folder_of_images(shared_data) -> None:
    images = load_images(shared_data("datasets/imagenet_sample/labels.csv"), split="test")
    assert len(images) == 1000 and images.labels[:11] == tuple(map(str, range(11))) and images.targets.tolist() == list(range(1000))
    with Image.open(images.paths[0]) as first:
        assert first.size == (224, 224)

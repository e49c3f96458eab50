"""Labelled images as stages use them: which files, which class, which split, and their pixels in one file."""
from __future__ import annotations

import csv
import json
import os
import threading
import warnings
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Iterator, Optional, Sequence, Tuple

import numpy as np

from edgepress.artifact import digest_json, is_artifact, read_record
from edgepress.errors import ArtifactError, DatasetError, nearest
from edgepress.hashes import UNREADABLE, digest_files, source_digest
from edgepress.modelspec import ModelSpec
from edgepress.photos import SPLITS, Photo, find_loose, find_photos, sort_labels
from edgepress.preprocess import MAX_PIXELS, decode, load_pixels, name_of, read_bytes
from edgepress.streaming import map_ordered, show_progress
from edgepress.tensors import is_tensor_csv, load_tensors

__all__ = ["ImageSet", "load_images", "pixel_file", "calibration_images", "source_digest", "load_tensors", "is_tensor_csv"]
DATASET_FILE = "dataset.json"
INDEX_FILE = "index.csv"
_PIXELS_VERSION = 1  # raise when preprocess.py changes what it makes of the same bytes


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images. `targets` int64 [N] are indices into `labels`; `digests` are sha256 of the files."""

    labels: Tuple[str, ...]
    paths: Tuple[Path, ...]
    targets: np.ndarray
    digests: Tuple[str, ...]
    max_pixels: int = MAX_PIXELS

    def __len__(self) -> int:
        return len(self.paths)


def load_images(path: Path, *, split: str, labels: Optional[Tuple[str, ...]] = None) -> ImageSet:
    """The images of one split of a dataset artifact, of class folders or of a CSV of path,label.

    Args:
        split: train, validation or test. Photos without splits (plain class folders, a CSV) are all taken, whichever is asked for.
        labels: class order that `targets` must follow; default: the source's own.

    Raises:
        DatasetError: no such path or split, or a class that is not among `labels`.
        ArtifactError: the folder is another stage's result, or damaged.
    """
    path = Path(path)
    if split not in SPLITS:
        raise DatasetError(f"split is {split!r}; {nearest(split, SPLITS)}")
    if (path / DATASET_FILE).is_file() or is_artifact(path):
        return _with_labels(_read_index(path, split), labels, path)
    return _with_digests(_with_labels(_listed(path, split), labels, path))


def calibration_images(path: Path, *, count: int, seed: int) -> ImageSet:
    """`count` images in equal numbers per class (fewer where there are not as many), the same for the same seed.

    Args:
        path: dataset artifact (its training split), class folders (their train folder, where there is one), a CSV, or a folder of photos without classes.

    Raises:
        DatasetError: no images.
    """
    path = Path(path)
    stored = (path / DATASET_FILE).is_file() or is_artifact(path)
    loose = None if stored else find_loose(path)
    images = _of_photos(("",), loose) if loose is not None else _read_index(path, "train") if stored else _listed(path, "train")
    if not len(images):
        raise DatasetError(f"{name_of(path)} has no images to calibrate with", "give a dataset with a training split, or a folder of photos")
    chosen = select(images, _stratified(images.targets, count, seed))
    return chosen if stored else _with_digests(chosen)


def pixel_file(images: ImageSet, spec: ModelSpec, *, cache: Path) -> Path:
    """A .npy file of the images as uint8 [N, H, W, 3], made once per content and spec and shared by all stages; open it with mmap_mode="r".

    Raises:
        DatasetError: a file is gone, damaged, or not what it was when the dataset was made.
    """
    key = digest_json([_PIXELS_VERSION, *spec.size, spec.resize, list(images.digests)])
    file = cache / f"pixels-{key[:24]}.npy"
    shape = (len(images), *spec.size, 3)
    if not (file.is_file() and file.stat().st_size > np.prod(shape, dtype=np.int64)):
        cache.mkdir(parents=True, exist_ok=True)
        _write_rows(file, shape, _pixel_rows(images, spec))
    return file


def select(images: ImageSet, indices: np.ndarray) -> ImageSet:
    """The images at `indices`."""
    return replace(images, paths=tuple(images.paths[i] for i in indices), targets=images.targets[indices],
                   digests=tuple(images.digests[i] for i in indices) if images.digests else ())


def _read_index(folder: Path, split: str) -> ImageSet:
    """A split of a dataset artifact; relative paths (the digits) lie inside the artifact."""
    if is_artifact(folder) and read_record(folder)["stage"] != "dataset":
        raise ArtifactError(f"{folder} holds the result of the {read_record(folder)['stage']} stage; accepted: that of the dataset stage", "give a dataset artifact, or the photos")
    try:
        facts = json.loads((folder / DATASET_FILE).read_text(encoding="utf-8"))
        with open(folder / INDEX_FILE, encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == split]
        return ImageSet(tuple(facts["labels"]), tuple(folder / row["path"] for row in rows), np.array([int(row["label"]) for row in rows], dtype=np.int64),
                        tuple(row["sha256"] for row in rows), int(facts["max_pixels"]))
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{folder} is not a whole dataset artifact ({error})", "delete it and run `edgepress dataset` again") from error


def _listed(path: Path, split: str) -> ImageSet:
    """The photos of a split as they lie there, without digests."""
    if str(path) == "digits":
        raise DatasetError("digits is not a folder", "make a dataset of it first: edgepress dataset digits -o work/digits")
    if is_tensor_csv(path):
        raise DatasetError(f"{name_of(path)} lists raw tensors, not photos", "only `edgepress evaluate` and `certify` take these")
    found = find_photos(path)
    present = {photo.split for photo in found.photos if photo.split}
    if present and split not in present:
        raise DatasetError(f"{name_of(path)} has no {split} photos; it has: {', '.join(s for s in SPLITS if s in present)}", "name one of these with --split, or make a dataset: edgepress dataset")
    return _of_photos(found.labels, [photo for photo in found.photos if photo.split in (None, split)])


def _of_photos(labels: Sequence[str], photos: Sequence[Photo]) -> ImageSet:
    index = {label: i for i, label in enumerate(labels)}
    return ImageSet(tuple(labels), tuple(photo.path for photo in photos), np.array([index[photo.label] for photo in photos], dtype=np.int64), ())


def _with_labels(images: ImageSet, labels: Optional[Sequence[str]], path: Path) -> ImageSet:
    """`images` with targets in the order of `labels`; classes are matched by name, those of a CSV of class numbers by number."""
    if labels is None or tuple(labels) == images.labels:
        return images
    position = {label: i for i, label in enumerate(labels)}
    used = {images.labels[target] for target in np.unique(images.targets)}
    if path.suffix.lower() == ".csv" and not used & set(position) and all(label.isdigit() and int(label) < len(labels) for label in used):
        position = {label: int(label) for label in used}
    for label in sort_labels(tuple(used)):
        if label not in position:
            raise DatasetError(f"{name_of(path)} has the class {label!r}, which the model does not know; {nearest(label, labels)}", "rename its folder, or leave it out")
    turned = np.array([position.get(label, -1) for label in images.labels], dtype=np.int64)
    return replace(images, labels=tuple(labels), targets=turned[images.targets] if len(images) else images.targets)


def _with_digests(images: ImageSet) -> ImageSet:
    digests = digest_files(images.paths)
    if UNREADABLE in digests:
        read_bytes(images.paths[digests.index(UNREADABLE)])  # raises with the reason
    return replace(images, digests=tuple(digests))


def _stratified(targets: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` indices, class by class in turns, each class in random order."""
    order = np.random.default_rng(seed).permutation(len(targets))
    turn = np.empty(len(targets), dtype=np.int64)
    for target in np.unique(targets):
        mine = order[targets[order] == target]
        turn[mine] = np.arange(len(mine))
    return np.lexsort((targets, turn))[:count]


def _pixel_rows(images: ImageSet, spec: ModelSpec) -> Iterator[np.ndarray]:
    def row(i: int) -> np.ndarray:
        data = read_bytes(images.paths[i])
        if sha256(data).hexdigest() != images.digests[i]:
            raise DatasetError(f"{name_of(images.paths[i])} is not the file it was when the dataset was made", "run the dataset stage again")
        try:
            return load_pixels(data, spec, max_pixels=images.max_pixels)
        except DatasetError:
            decode(images.paths[i], max_pixels=images.max_pixels)  # the same error, with the file's name
            raise

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks about metadata
        yield from show_progress(f"decoding {len(images)} photos", map_ordered(row, range(len(images))), total=len(images))


def _write_rows(file: Path, shape: Tuple[int, ...], rows: Iterator[np.ndarray]) -> None:
    """Stream rows into a .npy file that appears whole or not at all."""
    part = file.with_name(f".{file.name}-{threading.get_ident()}.part-{os.getpid()}")
    try:
        with open(part, "wb") as target:
            np.lib.format.write_array_header_1_0(target, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for row in rows:
                target.write(row.data)
            target.flush()
            os.fsync(target.fileno())
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)

"""Read photos into train, validation and test splits: which files, which class, which side, and what was left out and why."""
from __future__ import annotations

import csv
import io
import json
import os
import warnings
from collections import Counter
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple, Union

import numpy as np

from edgepress import digits
from edgepress.artifact import write_atomic
from edgepress.dataset_report import SCHEMA, describe
from edgepress.duplicates import VIEW_SIDE, Looks, divide_scenes, group_copies, look
from edgepress.errors import DatasetError, RecipeError
from edgepress.photos import Found, Photo, Skipped, find_photos
from edgepress.preprocess import UnusableImage, decode_reduced, name_of, read_bytes
from edgepress.recipe import DatasetConfig
from edgepress.splits import SIDES, split_by_content
from edgepress.streaming import map_ordered, show_progress
from edgepress.tensors import is_tensor_csv

MOST_SHARE, MOST_SHARES = 0.9, 0.95  # of validation or test, and of both
COLUMNS = ("path", "label", "split", "sha256", "phash", "width", "height")


@dataclass(frozen=True)
class Item:
    """A photo that was read."""

    photo: Photo
    digest: str
    looks: Looks
    width: int
    height: int


def dataset(out: Path, *, images: Path, config: DatasetConfig) -> None:
    """Write index.csv (one line per used photo) and dataset.json into `out`; photos stay where they are (the digits are made in `out`/images).

    Args:
        images: a folder with one folder per class, maybe inside train/, validation/ and test/; a CSV of path,label; or digits.

    Raises:
        DatasetError: no classes, too few usable photos of one, or a test class without training photos.
        RecipeError: shares or limits that cannot be.
    """
    _check(config)
    if is_tensor_csv(images):
        raise DatasetError(f"{name_of(images)} lists raw tensors, not photos", "only `edgepress evaluate` and `certify` take these")
    if str(images) == digits.NAME:
        digits.write_digits(out / "images")
    found = _existing(find_photos(out / "images" if str(images) == digits.NAME else images))
    _check_shares(found, config)
    if len(found.labels) < 2:
        raise _one_class(found)
    _check_counts(found, [photo.label for photo in found.photos], found.skipped, config)
    max_pixels = int(config.max_megapixels * 1e6)
    items, skipped = _read(found, max_pixels)
    _check_counts(found, [item.photo.label for item in items], skipped, config)
    targets = np.array([found.labels.index(item.photo.label) for item in items], dtype=np.int64)
    groups = group_copies([item.digest for item in items], [item.looks for item in items], bits=config.near_duplicate_bits)
    groups, scenes = divide_scenes(groups, [item.digest for item in items], targets)
    sides, dropped = _assign(items, targets, groups, config)
    skipped += [Skipped(items[i].photo.name, reason) for i, reason in dropped.items()]
    kept = [i for i in range(len(items)) if i not in dropped]
    _check_sides(found, [items[i] for i in kept], [sides[i] for i in kept], config)
    _write_index(out, [(items[i], int(targets[i]), sides[i]) for i in kept])
    facts = describe(labels=found.labels, names=[item.photo.name for item in items], digests=[item.digest for item in items], targets=targets, groups=groups,
                     sides=sides, kept=kept, sizes=[(item.width, item.height) for item in items])
    for first, size in scenes.items():
        facts["warnings"].append(f"{size} photos look like {items[first].photo.name} (one scene, seen by a fixed camera?), more than half of a class: they are divided one by one, "
                                 "so test photos resemble training photos and the accuracy flatters")
    document = {"schema": SCHEMA, "stage": "dataset", "source": name_of(images), "labels": list(found.labels), "found": len(found.photos) + len(found.skipped),
                "images": len(kept), **facts, "skipped": [asdict(s) for s in skipped], "max_pixels": max_pixels}
    write_atomic(out / "dataset.json", (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))


def _check(config: DatasetConfig) -> None:
    """Refuse limits that cannot be, whatever the photos."""
    if config.min_images < 2:
        raise RecipeError(f"[dataset] min_images is {config.min_images}; accepted: 2 or more, as a class is split into photos to train on and photos to test with")
    if config.max_megapixels <= 0:
        raise RecipeError(f"[dataset] max_megapixels is {config.max_megapixels:g}; accepted: a number above 0")
    if config.near_duplicate_bits is not None and not 0 <= config.near_duplicate_bits <= 16:
        raise RecipeError(f"[dataset] near_duplicate_bits is {config.near_duplicate_bits}; accepted: 0 to 16, or none")


def _check_shares(found: Found, config: DatasetConfig) -> None:
    """Refuse shares that leave a split without photos; the share of a split that has its own folder is not used."""
    given = {photo.split for photo in found.photos}
    shares = {side: getattr(config, side) for side in ("validation", "test") if side not in given}
    for side, share in shares.items():
        if not 0 < share <= MOST_SHARE:
            raise RecipeError(f"[dataset] {side} is {share:g}; accepted: a share of the photos above 0 and at most {MOST_SHARE:g}", f"leave it out for {getattr(DatasetConfig(), side):g}, or make a folder {side}/ with photos of your choice")
    if sum(shares.values()) >= MOST_SHARES:
        raise RecipeError(f"[dataset] {' and '.join(f'{side} = {share:g}' for side, share in shares.items())} leave too little to train on; accepted: shares whose sum is below {MOST_SHARES:g}",
                          "the defaults are validation = 0.15 and test = 0.2")


def _one_class(found: Found) -> DatasetError:
    name = found.labels[0] if found.labels else "?"
    inside = found.root / name
    deeper = sorted(name_of(p.name) for p in inside.iterdir() if p.is_dir() and not p.name.startswith(".")) if inside.is_dir() else []
    hint = f"its folders {', '.join(deeper[:5])} may be the classes: give {name_of(inside)}" if len(deeper) > 1 else "add a folder with photos of something else"
    return DatasetError(f"{name_of(found.root)} has the one class {name!r}; a classifier needs at least 2", hint)


def _existing(found: Found) -> Found:
    """`found` without the rows of a CSV that name no file; they count as skipped."""
    if found.root.is_dir():
        return found
    there = [os.path.exists(photo.path) for photo in found.photos]
    gone = tuple(Skipped(photo.name, "file does not exist") for photo, exists in zip(found.photos, there) if not exists)
    return replace(found, photos=tuple(photo for photo, exists in zip(found.photos, there) if exists), skipped=(*found.skipped, *gone))


def _read(found: Found, max_pixels: int) -> Tuple[List[Item], List[Skipped]]:
    """Every photo read once: bytes → digest, decoded → looks and size. What cannot be used is listed."""
    def read(photo: Photo) -> Union[Item, Skipped]:
        try:
            data = read_bytes(photo.path)
            image, (width, height) = decode_reduced(data, side=VIEW_SIDE, max_pixels=max_pixels)
            return Item(photo, sha256(data).hexdigest(), look(image), width, height)
        except UnusableImage as error:
            return Skipped(photo.name, error.reason)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks about metadata
        results = list(show_progress(f"reading {len(found.photos)} photos", map_ordered(read, found.photos), total=len(found.photos)))
    return [r for r in results if isinstance(r, Item)], [*found.skipped, *(r for r in results if isinstance(r, Skipped))]


def _check_counts(found: Found, usable_labels: Sequence[str], skipped: Sequence[Skipped], config: DatasetConfig) -> None:
    usable, files = Counter(usable_labels), Counter(photo.label for photo in found.photos)
    few = [label for label in found.labels if usable[label] < max(1, config.min_images)]
    if few:
        listed = ", ".join(f"{label!r} has {usable[label]}" + (f" (of {files[label]} files)" if files[label] > usable[label] else "") for label in few[:8])
        example = f" (skipped: {len(skipped)} files, for example {skipped[-1].path}: {skipped[-1].reason})" if skipped else ""
        raise DatasetError(f"{name_of(found.root)}: each class needs at least {max(1, config.min_images)} usable photos, but {listed}{', …' if len(few) > 8 else ''}{example}",
                           "add photos, remove the folder, or accept fewer with --min-images")


def _assign(items: Sequence[Item], targets: np.ndarray, groups: np.ndarray, config: DatasetConfig) -> Tuple[List[str], Dict[int, str]]:
    """Side of each photo, and the copies that are dropped because they lie in two split folders (position → reason)."""
    given = [item.photo.split for item in items]
    dropped = _leaks(items, given, groups)
    missing = {side: share for side, share in (("validation", config.validation), ("test", config.test)) if side not in given}
    pool = [i for i in range(len(items)) if given[i] in (None, "train") and i not in dropped]
    sides = [side or "train" for side in given]
    chosen = split_by_content([items[i].digest for i in pool], groups[pool].tolist(), targets[pool].tolist(),
                              validation=missing.get("validation", 0.0), test=missing.get("test", 0.0))
    for i, side in zip(pool, chosen):
        sides[i] = side
    return sides, dropped


def _leaks(items: Sequence[Item], given: Sequence[Any], groups: np.ndarray) -> Dict[int, str]:
    """Copies that straddle split folders, without the one that stays: test keeps its photo before validation, validation before train."""
    rank = {side: i for i, side in enumerate(SIDES)}
    keeper: Dict[int, int] = {}
    for i, group in enumerate(groups.tolist()):
        if given[i] and rank[given[i]] > rank.get(given[keeper[group]] if group in keeper else "", -1):
            keeper[group] = i
    return {i: f"{'an exact' if items[i].digest == items[keeper[g]].digest else 'a near'} duplicate of {items[keeper[g]].photo.name}, which is in {given[keeper[g]]}"
            for i, g in enumerate(groups.tolist()) if given[i] and given[i] != given[keeper[g]]}


def _check_sides(found: Found, items: Sequence[Item], sides: Sequence[str], config: DatasetConfig) -> None:
    trained = {item.photo.label for item, side in zip(items, sides) if side == "train"}
    for label in found.labels:
        if label not in trained:
            raise DatasetError(f"{name_of(found.root)}: class {label!r} has no training photos left (copies of one photo count as one, copies of test photos not at all)",
                               f"add different photos of {label!r} to train on: at least {max(3, config.min_images)}")


def _write_index(out: Path, rows: Sequence[Tuple[Item, int, str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for item, target, side in rows:
        inside = item.photo.path.is_relative_to(os.path.abspath(out))
        path = item.photo.path.relative_to(os.path.abspath(out)).as_posix() if inside else str(item.photo.path)
        writer.writerow((path, target, side, item.digest, f"{item.looks.phash:016x}", item.width, item.height))
    write_atomic(out / "index.csv", text.getvalue().encode("utf-8", "surrogateescape"))

"""Find photos and their labels: class folders (with or without split folders) or a CSV of path,label. Reads names, not images."""
from __future__ import annotations

import csv
import os
import stat
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, FrozenSet, Iterator, List, Mapping, Optional, Sequence, Tuple

from edgepress.errors import DatasetError
from edgepress.preprocess import SUFFIXES, name_of

SPLITS = ("train", "validation", "test")
SPLIT_FOLDERS: Mapping[str, str] = {"train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
                                    "test": "test", "testing": "test"}
ACCEPTED = "a folder with one folder of photos per class, a CSV of path,label, or the word digits"
_PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "img")
_LABEL_COLUMNS = ("label", "class", "class_name", "category", "target")
_NOT_CLASSES = ("__MACOSX", "@eaDir")  # left by macOS archives and Synology
_LOOSE = "not inside a class folder"
Ancestors = FrozenSet[Tuple[int, int]]


@dataclass(frozen=True)
class Photo:
    """One image file as it was found. `name` is its path below the source, for people."""

    path: Path
    name: str
    label: str
    split: Optional[str] = None


@dataclass(frozen=True)
class Skipped:
    """A file that is not used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Found:
    """What a source holds. `labels` has the classes without photos too."""

    root: Path
    labels: Tuple[str, ...]
    photos: Tuple[Photo, ...]
    skipped: Tuple[Skipped, ...]


def find_photos(source: Path) -> Found:
    """All photos of a folder of class folders, or of a CSV, in a fixed order.

    Raises:
        DatasetError: there is no such path, a single photo, a CSV without labels, photos without class folders, or nothing at all.
    """
    source = Path(os.path.abspath(source))
    if source.is_dir():
        return _find_in_folder(source)
    if not source.exists():
        raise DatasetError(f"{name_of(source)} does not exist; accepted: {ACCEPTED}", "check the path")
    if source.suffix.lower() != ".csv":
        raise DatasetError(f"{name_of(source)} is one file; accepted: {ACCEPTED}",
                           "put your photos into folders named after their classes, and give the folder around those")
    return _find_in_csv(source)


def find_loose(folder: Path) -> Optional[Tuple[Photo, ...]]:
    """Photos that lie directly in a folder, without a label; None where there are class folders, or no folder."""
    if not folder.is_dir() or any(p.is_dir() and not p.name.startswith(".") and p.name not in _NOT_CLASSES for p in folder.iterdir()):
        return None
    files = (p for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES and p.is_file() and not p.name.startswith("."))
    return tuple(Photo(Path(os.path.abspath(p)), name_of(p.name), "") for p in files)


def sort_labels(labels: Sequence[str]) -> Tuple[str, ...]:
    """Class order: by name; whole numbers by value."""
    unique = set(labels)
    return tuple(sorted(unique, key=(lambda label: (int(label), label)) if all(_is_number(label) for label in unique) else None))


def _is_number(label: str) -> bool:
    return label.isascii() and label.isdigit()


def _label(name: str) -> str:
    return unicodedata.normalize("NFC", name_of(name))  # macOS decomposes accents: the same word must be the same class


def _find_in_folder(root: Path) -> Found:
    skipped: List[Skipped] = []
    files = list(_walk(root, "", frozenset(), skipped))
    folders = [p.name for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".") and p.name not in _NOT_CLASSES]
    splits = _split_folders(root, folders)
    photos, labels = [], set()
    for parts, path in files:
        name = "/".join(map(name_of, parts))
        reason = _why_not(parts, splits)
        if reason:
            skipped.append(Skipped(name, reason))
        else:
            photos.append(Photo(path, name, _label(parts[1 if splits else 0]), splits.get(parts[0])))
    for folder in splits or [""]:
        labels |= {_label(p.name) for p in (root / folder).iterdir() if p.is_dir() and not p.name.startswith(".") and p.name not in _NOT_CLASSES}
    _check_layout(root, photos, skipped)
    return Found(root, sort_labels(tuple(labels)), tuple(photos), tuple(skipped))


def _walk(folder: Path, relative: str, ancestors: Ancestors, skipped: List[Skipped]) -> Iterator[Tuple[Tuple[str, ...], Path]]:
    """(parts of the relative path, path) of every regular file below `folder`, in the order of names; the rest goes to `skipped`."""
    try:
        facts = os.stat(folder)
        entries = sorted(os.listdir(folder), key=os.fsencode)
    except OSError as error:
        skipped.append(Skipped(name_of(relative or folder), f"the folder cannot be listed ({error.strerror})"))
        return
    ancestors = ancestors | {(facts.st_dev, facts.st_ino)}
    for name in entries:
        path, below = folder / name, f"{relative}/{name}" if relative else name
        try:
            facts = os.stat(path)
        except OSError as error:
            skipped.append(Skipped(name_of(below), "broken link" if path.is_symlink() else f"it cannot be read ({error.strerror})"))
            continue
        if stat.S_ISDIR(facts.st_mode):
            if (facts.st_dev, facts.st_ino) in ancestors:
                skipped.append(Skipped(name_of(below), "a link to a folder around it"))
            else:
                yield from _walk(path, below, ancestors, skipped)
        elif stat.S_ISREG(facts.st_mode):
            yield tuple(below.split("/")), path
        else:
            skipped.append(Skipped(name_of(below), "not a regular file"))  # reading a pipe would wait forever


def _split_folders(root: Path, folders: Sequence[str]) -> Dict[str, str]:
    """Folder name → split, where the folders of `root` are splits: named like one, with class folders and no photos directly inside."""
    named = {name: SPLIT_FOLDERS[name.lower()] for name in folders if name.lower() in SPLIT_FOLDERS}
    holds_classes = {name: split for name, split in named.items() if any(p.is_dir() for p in (root / name).iterdir())
                     and not any(p.suffix.lower() in SUFFIXES and p.is_file() for p in (root / name).iterdir())}
    if len(set(holds_classes.values())) < len(holds_classes):
        raise DatasetError(f"{name_of(root)} has several folders for one split ({', '.join(sorted(holds_classes))})", "keep one of them")
    return holds_classes


def _why_not(parts: Tuple[str, ...], splits: Mapping[str, str]) -> Optional[str]:
    """Why a file is not a labelled photo, or None."""
    suffix = os.path.splitext(parts[-1])[1].lower()
    if any(part.startswith(".") or part in _NOT_CLASSES for part in parts):
        return "hidden file"
    if suffix in (".heic", ".heif"):
        return "HEIC is not read here; convert it to JPEG first"
    if suffix not in SUFFIXES:
        return f"not the name of an image ({name_of(suffix) or 'no suffix'})"
    if splits and parts[0] not in splits:
        return f"not inside {', '.join(sorted(splits))}"
    if len(parts) < (3 if splits else 2):
        return _LOOSE
    return None


def _check_layout(root: Path, photos: Sequence[Photo], skipped: Sequence[Skipped]) -> None:
    """Raise where no photo has a label."""
    if photos:
        return
    loose = sum(s.reason == _LOOSE for s in skipped)
    if loose:
        raise DatasetError(f"{name_of(root)} holds {loose} photos and no class folders", "put the photos of each class into a folder named after it")
    example = f" ({len(skipped)} other files, for example {skipped[0].path}: {skipped[0].reason})" if skipped else ""
    raise DatasetError(f"{name_of(root)} holds no photos{example}; accepted: {ACCEPTED}", "check the path; names of photos end in .jpg, .png, .webp, …")


def read_rows(file: Path) -> List[List[str]]:
    """The rows of a CSV (comma, semicolon or tab); empty lines left out.

    Raises:
        DatasetError: cannot be read, or is empty.
    """
    try:
        text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DatasetError(f"{name_of(file)} cannot be read ({error.strerror})", "check the path") from error
    first = text.partition("\n")[0]
    delimiter = next((mark for mark in ",;\t" if mark in first), ",")
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=delimiter) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DatasetError(f"{name_of(file)} is not a CSV ({error})", "write one line path,label per photo") from error
    if not rows:
        raise DatasetError(f"{name_of(file)} is empty", "write one line path,label per photo")
    return rows


def _find_in_csv(file: Path) -> Found:
    rows = read_rows(file)
    columns, body = _columns(file, rows)
    photos, skipped = [], []
    for row in body:
        cells = {role: row[index] if index is not None and index < len(row) else "" for role, index in columns.items()}
        if cells["path"] and cells["label"]:
            split = SPLIT_FOLDERS.get(cells["split"].lower()) if cells["split"] else None
            photos.append(Photo(_beside(file, cells["path"]), name_of(cells["path"]), _label(cells["label"]), split))
        else:
            skipped.append(Skipped(name_of(",".join(row)), "no label" if cells["path"] else "no path"))
    if not photos:
        raise DatasetError(f"{name_of(file)} has no line with a path and a label (first line: {name_of(','.join(rows[0]))[:80]!r})", "write one line path,label per photo")
    return Found(file, sort_labels([photo.label for photo in photos]), tuple(photos), tuple(skipped))


def _columns(file: Path, rows: Sequence[Sequence[str]]) -> Tuple[Dict[str, Optional[int]], Sequence[Sequence[str]]]:
    """Where path, label and split are, and the rows without the header; a header is optional."""
    head = [cell.lower() for cell in rows[0]]
    is_header = any(cell in _PATH_COLUMNS for cell in head) and not _beside(file, rows[0][0]).is_file()
    if not is_header:
        return {"path": 0, "label": 1, "split": None}, rows
    path = next(i for i, cell in enumerate(head) if cell in _PATH_COLUMNS)
    other = next((i for i in range(len(head)) if i != path), None)
    label = next((i for i, cell in enumerate(head) if cell in _LABEL_COLUMNS), other)
    return {"path": path, "label": label, "split": head.index("split") if "split" in head else None}, rows[1:]


def _beside(file: Path, path: str) -> Path:
    """A path of a CSV: absolute, relative to the CSV, or to the folder `images` beside it."""
    near = file.parent / path
    inside = file.parent / "images" / path
    return inside if inside.is_file() and not near.exists() else near

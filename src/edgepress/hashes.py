"""Digests of photos that are read once: remembered by path, size, modification time and inode."""
from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from edgepress.artifact import digest_file, digest_json, write_atomic
from edgepress.photos import Found, find_loose, find_photos
from edgepress.preprocess import name_of
from edgepress.streaming import map_ordered, show_progress

SCHEMA = 1
UNREADABLE = "unreadable"
_SETTLED_NS = 50_000_000  # a file changed this shortly before it was read could change again within one tick of its timestamp


def source_digest(images: Path, *, cache: Path) -> str:
    """Digest of a folder's (or CSV's) photos, names and place; each file is read once and then remembered in `cache`.

    The place is part of it because a dataset points at the photos where they lie. Files that are no photos do not count. Loose photos
    without class folders count too: they are enough to calibrate with, and a stage that needs labels says so itself.

    Raises:
        DatasetError: no photos there (see `find_photos`).
    """
    loose = find_loose(images)
    found = Found(Path(os.path.abspath(images)), (), loose, ()) if loose else find_photos(images)
    digests = digest_files([photo.path for photo in found.photos], memory=_memory_file(found.root, cache))
    described = [[photo.name, photo.label, photo.split, digest] for photo, digest in zip(found.photos, digests)]
    return digest_json([name_of(found.root), list(found.labels), described])


def _memory_file(root: Path, cache: Path) -> Path:
    return cache / f"hashes-{digest_json(name_of(root))[:16]}.json"


def digest_files(paths: Sequence[Path], *, memory: Optional[Path] = None) -> List[str]:
    """sha256 of each file in order; `unreadable` for one that cannot be read.

    Args:
        memory: JSON file of what was read before; made and brought up to date.
    """
    known = _recall(memory) if memory else {}
    stamps = [_stamp(path) for path in paths]
    unknown = [i for i, (path, stamp) in enumerate(zip(paths, stamps)) if stamp is None or known.get(str(path), [None])[:-1] != stamp]
    digests = [known.get(str(path), [UNREADABLE])[-1] for path in paths]
    fresh = show_progress("reading the photos' bytes", map_ordered(lambda i: _digest(paths[i]), unknown), total=len(unknown))
    for i, digest in zip(unknown, fresh):
        digests[i] = digest
    if memory and (unknown or len(known) != len(paths)):
        _remember(memory, paths, stamps, digests)
    return digests


def _digest(path: Path) -> str:
    try:
        return digest_file(path)
    except OSError:
        return UNREADABLE


def _stamp(path: Path) -> Optional[List[int]]:
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return [facts.st_size, facts.st_mtime_ns, facts.st_ino]


def _recall(memory: Path) -> Dict[str, List[Any]]:
    """What earlier calls remembered; nothing where the file is missing or damaged (it only saves time)."""
    try:
        document = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document["files"] if isinstance(document, dict) and document.get("schema") == SCHEMA else {}


def _remember(memory: Path, paths: Sequence[Path], stamps: Sequence[Optional[List[int]]], digests: Sequence[str]) -> None:
    newest = time.time_ns() - _SETTLED_NS
    settled: Sequence[Tuple[Path, Optional[List[int]], str]] = list(zip(paths, stamps, digests))
    files = {str(path): [*stamp, digest] for path, stamp, digest in settled if stamp and stamp[1] < newest and digest != UNREADABLE}
    with contextlib.suppress(OSError):  # it only saves time: a full or read-only disk is the business of what is written next
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(memory, json.dumps({"schema": SCHEMA, "files": files}).encode())

"""Galleries of the report: photos whose answer flipped or is wrong, as small JPEG data URIs."""
from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from edgepress.errors import EdgepressError
from edgepress.predictions import PREDICTIONS, read_score
from edgepress.report_data import Run
from edgepress.report_text import percent

SIDE, QUALITY = 144, 68  # about 5 kB a photo


@dataclass(frozen=True)
class Line:
    """A short line under a photo, and what its tooltip adds."""

    text: str
    detail: str = ""


@dataclass(frozen=True)
class Card:
    """One photo and what was said about it."""

    data: Optional[str]  # data URI, None where the photo cannot be read any more
    alt: str
    title: str
    lines: Tuple[Line, ...]


@dataclass(frozen=True)
class Gallery:
    """Photos to show, and a note about those that are not."""

    cards: Tuple[Card, ...]
    note: str


def thumbnail(path: str) -> Optional[str]:
    """A photo as a JPEG data URI (PNG below 64 pixels, where JPEG would smear it), or None if it cannot be shown."""
    from PIL import Image

    from edgepress.preprocess import decode

    try:
        image = decode(Path(path), max_pixels=100_000_000)
    except (EdgepressError, OSError):
        return None
    small = max(image.size) < 64
    if not small:
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if small else "JPEG", **({"optimize": True} if small else {"quality": QUALITY, "optimize": True}))
    return f"data:image/{'png' if small else 'jpeg'};base64," + base64.b64encode(buffer.getvalue()).decode()


def flipped(certificates: Sequence[Tuple[Mapping[str, Any], Mapping[str, Any]]], run: Run, *, limit: int) -> Gallery:
    """Each photo once, those that most files lost first; files that are over the budget anyway count last."""
    found: Dict[str, Dict[str, Any]] = {}
    for row, certificate in certificates:
        paths = _paths(run, row["sources"]["certificate"])
        for side in ("lost", "gained"):
            for flip in certificate[side]:
                entry = found.setdefault(flip["digest"], {"path": paths[flip["index"]] if flip["index"] < len(paths) else "", "target": flip["target"], "lost": 0, "matters": 0, "said": {}})
                entry["lost"] += side == "lost"
                entry["matters"] += row["certified"] is not False
                entry["said"].setdefault((side, flip["prediction"] if side == "lost" else flip["reference"]), []).append(row["variant"] if row["format"] == "onnx" or row["runtime"] == "litert" else f"{row['variant']} in {row['runtime']}")
    ranked = sorted(found.values(), key=lambda e: (-e["matters"], -e["lost"]))
    cards = tuple(_flip_card(entry) for entry in ranked[:limit])
    return Gallery(cards, _note(len(cards), len(found)))


def _flip_card(entry: Mapping[str, Any]) -> Card:
    lines = []
    for (side, label), files in entry["said"].items():
        names = files[0] if len(files) == 1 else f"{len(files)} files"
        lines.append(Line(f"✗ {label} in {names}" if side == "lost" else f"✓ right in {names}, float said {label}", ", ".join(files)))
    return Card(thumbnail(entry["path"]), f"a photo of class {entry['target']}", entry["target"], tuple(lines))


def misclassified(row: Optional[Mapping[str, Any]], run: Run, *, limit: int) -> Gallery:
    """Photos one file gets wrong, the surest mistakes first."""
    if row is None:
        return Gallery((), "")
    folder = run.folder / Path(row["sources"]["evaluation"]).parent
    score = read_score(folder)
    predicted = score.probabilities.argmax(axis=1)
    sure = score.probabilities.max(axis=1)
    wrong = [int(i) for i in np.argsort(-sure, kind="stable") if predicted[i] != score.targets[i]]
    cards = tuple(Card(thumbnail(score.paths[i]), f"a photo of class {score.labels[score.targets[i]]}", score.labels[score.targets[i]],
                       (Line(f"said {score.labels[predicted[i]]}, {percent(float(sure[i]), 0)} sure"),)) for i in wrong[:limit])
    return Gallery(cards, _note(len(cards), len(wrong)))


def _note(shown: int, total: int) -> str:
    return f"{shown} of {total}." if shown < total else f"all {total}."


def _paths(run: Run, source: str) -> List[str]:
    file = run.folder / Path(source).parent / PREDICTIONS
    if not file.is_file():
        return []
    with np.load(file, allow_pickle=False) as kept:
        return kept["paths"].tolist() if "paths" in kept else []

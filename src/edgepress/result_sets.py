"""One side of a comparison: every latency and accuracy that a run, a benchmark, a suite or an evaluation left in files, by what it is about."""
from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

from edgepress import measurement
from edgepress.errors import ArtifactError
from edgepress.measurement import Measurement
from edgepress.measurement_table import short_names
from edgepress.predictions import EVALUATION, PREDICTIONS
from edgepress.report_data import RUN_FILE, read_run

CELLS = "cells"  # folder of a suite's results


class Key(NamedTuple):
    """What a figure is about; `runtime` names the accelerator, too. Accuracy does not depend on threads: None there."""

    name: str
    runtime: str
    threads: Optional[int]
    target: str
    batch: int = 1

    def __str__(self) -> str:
        parts = [self.name, f"in {self.runtime}", f"on {self.target}" if self.target != "local" else "", f"{self.threads} thread{'s' if self.threads != 1 else ''}" if self.threads else "",
                 f"batch {self.batch}" if self.batch != 1 else ""]
        return ", ".join(filter(None, [" ".join(filter(None, parts[:3])), *parts[3:]]))


@dataclass(frozen=True)
class Accuracy:
    """How often a file was right. `right` has one character (0 or 1) per image, where the answers were kept; `images_id` tells one set of images from another."""

    accuracy: float
    images: int
    right: Optional[str] = None
    images_id: Optional[str] = None


@dataclass(frozen=True)
class Results:
    """Everything that was measured, and what could not be, with its reason."""

    source: str
    latencies: Mapping[Key, Measurement] = field(default_factory=dict)
    accuracies: Mapping[Key, Accuracy] = field(default_factory=dict)
    holes: Mapping[Key, str] = field(default_factory=dict)


def read_results(path: Path) -> Results:
    """The results in a run folder, a suite's folder, a benchmark's or evaluation's folder, or a measurements.json.

    Raises:
        ArtifactError: none of these, or damaged.
    """
    if path.is_dir() and (path / RUN_FILE).is_file():
        return _of_run(path)
    if path.is_dir() and (path / CELLS).is_dir():
        return _of_suite(path)
    if path.is_dir() and (path / EVALUATION).is_file():
        return _of_evaluation(path)
    if path.is_file() and path.suffix == ".json" or path.is_dir() and (path / measurement.FILE).is_file():
        return of_measurements(measurement.read_measurements(path), source=str(path))
    raise ArtifactError(f"{path} holds no results; accepted: a run folder ({RUN_FILE}), a suite's folder ({CELLS}/), the folder of a benchmark or an evaluation, {measurement.FILE}, or a model file",
                        "measure it first with `edgepress benchmark`")


def of_measurements(records: List[Measurement], *, source: str, names: Optional[Mapping[str, str]] = None) -> Results:
    """Results from measurements; `names` says what each file is called (default: the end of its path)."""
    names = names or short_names(records)
    keyed = {Key(names[m.file], m.engine, m.threads, m.target, _batch(m)): m for m in records}
    return Results(source, {k: m for k, m in keyed.items() if m.status == "ok"}, {}, {k: str(m.reason) for k, m in keyed.items() if m.status != "ok"})


def _batch(m: Measurement) -> int:
    return int(m.timed.rpartition("batch ")[2]) if m.timed.rpartition("batch ")[2].isdigit() else 1


def _of_run(folder: Path) -> Results:
    run = read_run(folder)
    variants, accuracies, holes = {}, {}, {}
    for step, documents in run.of("evaluate"):
        facts = documents.get(EVALUATION)
        if facts is not None:
            key = Key(step["variant"], facts["runtime"]["name"], None, facts.get("target", "local"))
            variants[facts["sha256"]] = step["variant"]
            found = _accuracy(facts, folder / step["artifact"])
            accuracies.update({key: found} if found else {})
            holes.update({} if found else {key: str(facts.get("reason"))})
    records = [m for m, _ in run.measurements]
    names = {m.file: variants.get(m.sha256) or name for m, name in zip(records, map(short_names(records).get, (m.file for m in records)))}
    measured = of_measurements(records, source=str(folder), names=names)  # type: ignore[arg-type]
    return Results(str(folder), measured.latencies, accuracies, {**holes, **measured.holes})


def _of_evaluation(folder: Path) -> Results:
    facts = _read(folder / EVALUATION)
    key = Key(Path(facts["file"]).name, facts["runtime"]["name"], None, facts.get("target", "local"))
    found = _accuracy(facts, folder)
    return Results(str(folder), {}, {key: found} if found else {}, {} if found else {key: str(facts.get("reason"))})


def _accuracy(facts: Mapping[str, Any], folder: Path) -> Optional[Accuracy]:
    if facts.get("accuracy") is None:
        return None
    if not (folder / PREDICTIONS).is_file():
        return Accuracy(facts["accuracy"], facts["images"])
    import numpy as np

    with np.load(folder / PREDICTIONS, allow_pickle=False) as kept:
        right = kept["probabilities"].argmax(axis=1) == kept["targets"]
        order = np.argsort(kept["digests"], kind="stable")
        return Accuracy(facts["accuracy"], facts["images"], "".join("01"[int(v)] for v in right[order]), images_id(kept["digests"][order].tolist()))


def images_id(digests: List[str]) -> str:
    """One short name for a set of images."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()[:16]


def _of_suite(folder: Path) -> Results:
    latencies: Dict[Key, Measurement] = {}
    accuracies: Dict[Key, Accuracy] = {}
    holes: Dict[Key, str] = {}
    for file in sorted((folder / CELLS).glob("*.json")):
        cell = _read(file)
        try:
            key = Key(cell["label"], measurement.engine_name(cell["runtime"], cell.get("accelerator")), cell.get("threads"), cell["target"], cell.get("batch", 1))
            if cell["status"] != "ok":
                holes[key] = str(cell["reason"])
            elif cell["kind"] == "accuracy":
                accuracies[key] = Accuracy(**cell["accuracy"])
            else:
                latencies[key] = measurement.from_json(cell["measurement"], source=str(file))
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"{file} is no cell of a suite ({error})", "run the suite again") from error
    return Results(str(folder), latencies, accuracies, holes)


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file} cannot be read ({error})", "measure again") from error


def rename_single(old: Results, new: Results) -> Tuple[Results, Results]:
    """Where each side is about one file only, that file is the same whatever it is called."""
    names = [{key.name for part in (side.latencies, side.accuracies, side.holes) for key in part} for side in (old, new)]
    if len(names[0]) != 1 or len(names[1]) != 1 or names[0] == names[1]:
        return old, new
    name = names[1].pop()
    renamed = [{key._replace(name=name): value for key, value in part.items()} for part in (old.latencies, old.accuracies, old.holes)]
    return Results(old.source, *renamed), new  # type: ignore[arg-type]

"""A file's figures over time: every run, benchmark, suite and measurements file of a folder, in the order they were made."""
from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

from edgepress.errors import ArtifactError, UnsupportedError
from edgepress.measurement import FILE, Measurement
from edgepress.predictions import EVALUATION
from edgepress.ratios import Ratio, latency_ratio, machine_of, own_half_width
from edgepress.report_data import RUN_FILE
from edgepress.result_sets import CELLS, Key, Results, read_results
from edgepress.statistics import wilson_interval

METRICS = (("latency", "ms"), ("accuracy", "%"), ("size", "kB"), ("memory", "MB"))


@dataclass(frozen=True)
class Point:
    """One figure of one run, with its 95 % interval. `machine` tells which points may be joined by a line."""

    label: str
    started: str
    value: float
    low: float
    high: float
    machine: str


@dataclass(frozen=True)
class Series:
    """One metric of one file in one runtime, oldest first. `ratio` compares the last two latencies of one machine."""

    key: Key
    metric: str
    unit: str
    points: Tuple[Point, ...]
    ratio: Optional[Ratio] = None


def read_history(folder: Path) -> List[Tuple[str, str, Results]]:
    """(started, label, results) of everything in a folder, oldest first.

    Raises:
        ArtifactError: no such folder, nothing in it, or a damaged file.
    """
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is no folder; accepted: one that holds runs, benchmarks or measurement files", "keep each run in a folder of its own below it")
    found = [(_started(path, results), str(path.relative_to(folder)), results) for path in _places(folder) for results in [read_results(path)]]
    if not found:
        raise ArtifactError(f"{folder} holds no results; accepted: folders of runs, benchmarks and suites, and {FILE} under any name", "measure something into it: edgepress benchmark FILE -o " + f"{folder}/first")
    return sorted(found, key=lambda entry: entry[:2])


def _places(folder: Path, depth: int = 2) -> Iterator[Path]:
    """Results in a folder and up to two levels below; a run is one place, whatever is in it."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_file() and path.suffix == ".json" and path.name not in (FILE, RUN_FILE) and _is_list_of_records(path):
            yield path
        elif path.is_dir() and any((path / name).exists() for name in (RUN_FILE, CELLS, EVALUATION, FILE)):
            yield path
        elif path.is_dir() and depth > 1:
            yield from _places(path, depth - 1)


def _is_list_of_records(path: Path) -> bool:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(data, list) and bool(data) and isinstance(data[0], dict) and "rounds" in data[0]


def _started(path: Path, results: Results) -> str:
    """When it was measured: what the measurements say, else when the file was written."""
    said = [m.started for m in results.latencies.values() if m.started]
    newest = path if path.is_file() else max((p for p in path.glob("*.json")), key=lambda p: p.stat().st_mtime, default=path)
    return max(said) if said else datetime.datetime.fromtimestamp(newest.stat().st_mtime, datetime.timezone.utc).isoformat(timespec="seconds")


def history(entries: List[Tuple[str, str, Results]]) -> List[Series]:
    """One series per file, runtime, threads and metric, in the order they first appear."""
    points: Dict[Tuple[Key, str], List[Point]] = {}
    latest: Dict[Key, List[Measurement]] = {}
    for started, label, results in entries:
        for key, m in results.latencies.items():
            latest.setdefault(key, []).append(m)
            width = 1 + own_half_width(m)
            for metric, value, factor in (("latency", m.median_ms, width), ("size", m.size_bytes / 1e3, 1.0), ("memory", m.peak_rss_bytes and m.peak_rss_bytes / 1e6, 1.0)):
                if value:
                    points.setdefault((key, metric), []).append(Point(label, started, value, value / factor, value * factor, machine_of(m)))
        for key, a in results.accuracies.items():
            low, high = wilson_interval(round(a.accuracy * a.images), a.images)
            points.setdefault((key, "accuracy"), []).append(Point(label, started, 100 * a.accuracy, 100 * low, 100 * high, ""))
    units = dict(METRICS)
    return [Series(key, metric, units[metric], tuple(found), _last_ratio(latest[key]) if metric == "latency" else None) for (key, metric), found in points.items()]


def _last_ratio(records: List[Measurement]) -> Optional[Ratio]:
    """The newest latency against the one before it; None where they cannot be compared."""
    try:
        return latency_ratio(records[-2], records[-1]) if len(records) > 1 else None
    except UnsupportedError:
        return None


def to_json(series: List[Series]) -> List[Mapping[str, Any]]:
    """Plain values."""
    return [{**s.key._asdict(), "metric": s.metric, "unit": s.unit, "points": [vars(p) for p in s.points], "last_change": s.ratio.to_json() if s.ratio else None} for s in series]

"""Measurements as a table in plain text, and below it what is doubtful about them."""
from __future__ import annotations

import statistics as stats
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from edgepress.caveats import Caveat
from edgepress.errors import UnsupportedError
from edgepress.measurement import Measurement
from edgepress.ratios import latency_ratio, own_half_width

HEADER = ("file", "runtime", "threads", "min ms", "median ms", "±", "p90 ms", "load ms", "peak MB", "file kB", "gzip kB", "time against first")


def table(measurements: Sequence[Measurement]) -> str:
    """The measurements as a table in plain text, and below it what is doubtful, each doubt once.

    The last column is the ratio of latencies to the first file with as many threads on the same target, and whether that is a difference.
    """
    names = short_names(measurements)
    first: Dict[Tuple[str, int], Measurement] = {}
    rows: List[Tuple[str, ...]] = [HEADER]
    for m in measurements:
        if m.rounds:
            first.setdefault((m.target, m.threads), m)
        rows.append((names[m.file], m.engine if m.target == "local" else f"{m.engine} on {m.target}", str(m.threads), *_cells(m, first.get((m.target, m.threads)))))
    return "\n".join([*_aligned(rows), *_throughput(measurements, names), *_doubts(measurements, names)])


def _throughput(measurements: Sequence[Measurement], names: Dict[str, str]) -> List[str]:
    """A line per measurement that has one."""
    return [f"throughput of {names[m.file]} in {m.engine}, {m.threads} thread{'s' if m.threads > 1 else ''}: "
            + ", ".join(f"{stats.median(values):.4g}/s with {count} process{'es' if count != '1' else ''}" for count, values in m.throughput.items()) for m in measurements if m.throughput]


def _aligned(rows: Sequence[Tuple[str, ...]]) -> List[str]:
    """Rows of cells; a row of four cells ends in a sentence, which takes no column's width."""
    widths = [max(len(row[i]) for row in rows if len(row) > i and not (i == 3 and len(row) == 4)) for i in range(len(rows[0]))]
    left = (0, 1, len(widths) - 1)
    return ["  ".join(text.ljust(w) if i in left else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths))).rstrip() if len(row) > 4
            else "  ".join([*(text.ljust(w) if i in left else text.rjust(w) for i, (text, w) in enumerate(zip(row[:3], widths))), row[3]]) for row in rows]


def _doubts(measurements: Sequence[Measurement], names: Dict[str, str]) -> List[str]:
    doubts: Dict[str, List[Tuple[str, Caveat]]] = {}
    for m in measurements:
        for doubt in m.warnings:
            doubts.setdefault(doubt.code, []).append((f"{names[m.file]} in {m.engine}", doubt))
    lines = []
    for entries in doubts.values():
        more = f" (and {len(entries) - 1} more likewise)" if len(entries) > 1 else ""
        lines.append(f"warning: {entries[0][0]}: {entries[0][1].message}{more}; {entries[0][1].hint}")
    return lines


def _cells(m: Measurement, first: Optional[Measurement]) -> Tuple[str, ...]:
    if m.status != "ok":
        return (f"{m.status}: {m.reason}",)
    low, median, p90, load = (f"{value:.3g}" if value is not None and value < 100 else "-" if value is None else f"{value:.0f}" for value in (m.min_ms, m.median_ms, m.p90_ms, m.load_ms))
    peak = m.peak_rss_bytes
    return (low, median, f"{100 * own_half_width(m):.1f} %", p90, load, "-" if peak is None else f"{peak / 1e6:.0f}", f"{m.size_bytes / 1e3:.0f}", f"{m.gzip_bytes / 1e3:.0f}",
            against(first, m))


def against(first: Optional[Measurement], m: Measurement) -> str:
    """Ratio to another measurement with its interval and verdict, in words; "-" where there is nothing to compare."""
    if first is None or first is m:
        return "-"
    try:
        ratio = latency_ratio(first, m)
    except UnsupportedError:
        return "-"  # other inputs: no ratio, rather than a wrong one
    return f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] {ratio.verdict}"


def short_names(measurements: Sequence[Measurement]) -> Dict[str, str]:
    """File → as much of the end of its path as tells it from the others."""
    paths = {m.file: Path(m.file).parts for m in measurements}
    for parts in range(1, 10):
        names = {file: "/".join(path[-parts:]) for file, path in paths.items()}
        if len(set(names.values())) == len(names):
            return names
    return {file: file for file in paths}

"""A suite's matrix as text: one line per file and runtime, a column per thread count, and the reason of every hole."""
from __future__ import annotations

from typing import Any, Dict, List, Mapping, Sequence, Tuple

from edgepress.measurement import Measurement, engine_name, from_json
from edgepress.ratios import own_half_width

Row = Tuple[str, str, str]


def matrix(documents: Sequence[Mapping[str, Any]], *, markdown: bool = False) -> str:
    """The table, then the holes, then what the measurements say against themselves."""
    records = {id(d): from_json(d["measurement"]) for d in documents if d["kind"] == "latency" and d["status"] == "ok"}
    columns = sorted({(d["threads"], d["batch"]) for d in documents if d["kind"] == "latency"})
    scored = ["accuracy"] if any(d["kind"] == "accuracy" for d in documents) else []
    rows: Dict[Row, Dict[Any, str]] = {}
    holes: List[str] = []
    for d in documents:
        cells = rows.setdefault((d["label"], engine_name(d["runtime"], d.get("accelerator")), d["target"]), {})
        place = "accuracy" if d["kind"] == "accuracy" else (d["threads"], d["batch"])
        if d["status"] != "ok":
            holes.append(str(d["reason"]))
            number = list(dict.fromkeys(holes)).index(str(d["reason"])) + 1
            cells[place] = f"({number})"
        elif d["kind"] == "accuracy":
            cells[place] = f"{100 * d['accuracy']['accuracy']:.1f} %" + (f" (expected {d['expected']:.1f})" if d["expected"] is not None else "")
        else:
            cells[place], cells["kB"] = _latency(records[id(d)]), f"{records[id(d)].size_bytes / 1e3:.0f}"
    header = ["file", "runtime", "target", "kB", *(f"{threads} thread{'s' if threads > 1 else ''}, ms" + (f", batch {batch}" if batch > 1 else "") for threads, batch in columns), *scored]
    body = [[*key, cells.get("kB", ""), *(cells.get(c, "") for c in (*columns, *scored))] for key, cells in rows.items()]
    lines = _markdown([header, *body]) if markdown else _aligned([header, *body])
    notes = [f"({i}) {reason}" for i, reason in enumerate(dict.fromkeys(holes), start=1)]
    return "\n".join(lines + ([""] if markdown else []) + notes + _warnings(documents, records))


def _latency(m: Measurement) -> str:
    return f"{m.median_ms:.4g} ± {100 * own_half_width(m):.1f} %"


def _warnings(documents: Sequence[Mapping[str, Any]], records: Mapping[int, Measurement]) -> List[str]:
    found: Dict[str, List[str]] = {}
    for d in documents:
        for doubt in records[id(d)].warnings if id(d) in records else ():
            found.setdefault(doubt.code, []).append(f"{d['label']} in {records[id(d)].engine}, {d['threads']} threads: {doubt.message}; {doubt.hint}")
    return [f"warning: {texts[0]}" + (f" (and {len(texts) - 1} more likewise)" if len(texts) > 1 else "") for texts in found.values()]


def _aligned(rows: Sequence[Sequence[str]]) -> List[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(text.ljust(w) for text, w in zip(row, widths)).rstrip() for row in rows]


def _markdown(rows: Sequence[Sequence[str]]) -> List[str]:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]

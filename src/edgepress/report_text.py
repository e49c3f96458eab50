"""The comparison as text: cells, rows, a plain table for the terminal and a Markdown table."""
from __future__ import annotations

import math
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

MEASUREMENTS = "measurements.json"  # the source of warnings about timing: spread, a busy machine
VERDICTS = {True: "yes", False: "no", "unresolved": "unresolved"}


def percent(share: Optional[float], digits: int = 1) -> str:
    """0.9123 → "91.2 %"."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def points(value: Optional[float], digits: int = 1) -> str:
    """Percentage points with a sign, a true minus, and no sign at zero."""
    if value is None:
        return "–"
    text = f"{abs(value):.{digits}f}"
    return text if float(text) == 0 else ("+" if value > 0 else "−") + text


def at_most(value: Optional[float], digits: int = 1) -> str:
    """An upper bound in points, rounded up so that it stays one, without a plus sign."""
    return "–" if value is None else points(math.ceil(value * 10 ** digits - 1e-9) / 10 ** digits, digits).lstrip("+")


def size(count: Optional[float]) -> str:
    """Bytes in decimal units: 2704120 → "2.70 MB"."""
    if count is None:
        return "–"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}" if count / factor >= 100 else f"{count / factor:.{2 if count / factor < 10 else 1}f} {unit}"
    return f"{count:.0f} B"


def milliseconds(value: Optional[float]) -> str:
    """Three significant digits: 1.7243 → "1.72 ms"."""
    return "–" if value is None else f"{significant(value)} ms"


def significant(value: float) -> str:
    """Three significant digits without an exponent: 0.0123, 1.72, 17.2, 1,724."""
    if value == 0:
        return "0"
    digits = max(0, 2 - int(f"{abs(value):e}".split("e")[1]))
    return f"{value:,.{digits}f}"


def factor(ratio: Optional[float]) -> str:
    """3.127 → "3.13×"."""
    return "–" if ratio is None else f"{ratio:.2f}×" if ratio < 10 else f"{ratio:.1f}×"


def speedup(entry: Optional[Mapping[str, Any]]) -> str:
    """A ratio where its interval excludes 1.0, otherwise that no difference was shown."""
    if not entry or entry.get("speedup") is None:
        return "–"
    return factor(entry["speedup"]) if entry["speedup_claimed"] else "≈ 1"


def certified(row: Mapping[str, Any]) -> str:
    """The verdict in one word; the reference is not certified against itself."""
    return "reference" if row.get("is_reference") else VERDICTS.get(row.get("certified"), "–")


def drop(row: Mapping[str, Any]) -> str:
    """Accuracy lost in points with its interval."""
    if row.get("drop") is None:
        return "–"
    low, high = row["drop_interval"]
    return f"{points(row['drop'])} [{points(low)}, {points(high)}]"


HEAD = ("file", "runtime", "accuracy", "drop, points [95 %]", "certified", "agree", "size", "gzip", "1 thr", "× float", "all thr")


def table_rows(report: Mapping[str, Any]) -> List[Tuple[str, ...]]:
    """One tuple of cells per file and runtime, in the order of HEAD; a file without figures says why instead."""
    return [_cells(row) for row in report["rows"]]


def _cells(row: Mapping[str, Any]) -> Tuple[str, ...]:
    one, all_threads = row["latency"].get("1"), row["latency"].get(row["most_threads"] or "")
    star = "→ " if row.get("chosen") else ""
    shown = certified(row) if row["status"] == "ok" else row["status"]
    return (star + row["variant"], row["runtime"], percent(row.get("accuracy")), drop(row), shown, percent(row.get("agreement")), size(row["size_bytes"]), size(row["gzip_bytes"]),
            milliseconds(one and one["median_ms"]), speedup(one), milliseconds(all_threads and all_threads["median_ms"]) if row["most_threads"] != "1" else "–")


PLAIN_HEAD = ("file", "run by", "right", "lost   ≤", "certified", "size", "1 thread", "×float", "agree", "all thr", "gzip")


def plain_table(report: Mapping[str, Any], *, width: int = 100) -> str:
    """The table for a terminal of `width` columns; columns are left out from the right until it fits.

    `lost ≤` holds the points lost on the test images and the most that may have been lost, with 95 % confidence.
    """
    rows = [_plain_cells(row) for row in report["rows"]]
    count = len(PLAIN_HEAD)
    widths = [max(len(line[c]) for line in [PLAIN_HEAD, *rows]) for c in range(count)]
    while count > 5 and sum(widths[:count]) + 2 * (count - 1) > width:
        count -= 1
    lines = ["  ".join(line[c].ljust(widths[c]) if c < 2 else line[c].rjust(widths[c]) for c in range(count)).rstrip() for line in [PLAIN_HEAD, *rows]]
    return "\n".join([lines[0], "─" * max(map(len, lines))] + lines[1:])


def _plain_cells(row: Mapping[str, Any]) -> List[str]:
    one, many = row["latency"].get("1"), row["latency"].get(row["most_threads"] or "") if row["most_threads"] != "1" else None
    runtime = {"onnxruntime": "ort", "tflite_runtime": "tflite-rt"}.get(row["runtime"], row["runtime"])
    lost = "–" if row.get("drop") is None else f"{points(row['drop'])} ≤{at_most(row['drop_at_most'])}"
    cells = [("→ " if row.get("chosen") else "") + row["variant"], runtime, percent(row.get("accuracy")), lost, certified(row) if row["status"] == "ok" else row["status"], size(row["size_bytes"]),
             milliseconds(one and one["median_ms"]), speedup(one), percent(row.get("agreement")), milliseconds(many and many["median_ms"]), size(row["gzip_bytes"])]
    return [cell.replace(" %", "%") for cell in cells]


def markdown_table(report: Mapping[str, Any]) -> str:
    """The table as GitHub Markdown."""
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * 2 + "---:|" * (len(HEAD) - 2)]
    for cells, row in zip(table_rows(report), report["rows"]):
        bold = [f"**{c}**" if i == 0 and row.get("chosen") else c for i, c in enumerate(cells)]
        lines.append("| " + " | ".join(c.replace("|", "\\|") for c in bold) + " |")
    return "\n".join(lines)


def markdown_report(report: Mapping[str, Any]) -> str:
    """report.md: verdict, table, warnings, what was skipped."""
    headline = report["headline"]
    parts = [f"# {report['title']}", f"**{headline['text']}** {headline['why']}", markdown_table(report), NOTES]
    if report["warnings"]:
        parts.append("## Warnings\n" + "\n".join(f"- {w['text']} ({w['source']})" for w in report["warnings"]))
    if report["skipped"]:
        parts.append("## Skipped\n" + "\n".join(f"- {s['name']}: {s['reason']}" for s in report["skipped"]))
    return "\n\n".join(parts) + "\n"


NOTES = ("Accuracy on test images that nothing else has seen, measured on the file's own bytes in the runtime named. Drop: percentage points lost against the float reference on the "
         "same images, with its 95 % interval. Latency: median of a fresh process; × float: how many times as fast as the float file in the same runtime with one thread, only where the "
         "95 % interval of the ratio excludes 1 (≈ 1 otherwise).")


SHOWN_WARNINGS = 3


def summary_lines(report: Mapping[str, Any]) -> List[str]:
    """What `edgepress run` prints under the table: verdict, and the first warnings; what casts doubt on a claimed speed-up comes first."""
    headline: Dict[str, Any] = report["headline"]
    claimed = any(entry.get("speedup_claimed") for row in report["rows"] for entry in row["latency"].values())
    found = sorted(report["warnings"], key=lambda w: not (claimed and w["source"].endswith(MEASUREMENTS)))
    more = len(found) - SHOWN_WARNINGS
    return [headline["text"], headline["why"]] + [f"warning: {w['text']}" for w in found[:SHOWN_WARNINGS]] + ([f"… and {more} more in the report"] if more > 0 else [])

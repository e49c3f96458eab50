"""Which file to ship and why; which files no other beats; how much faster than float each is."""
from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from edgepress.measurement import Measurement
from edgepress.ratios import latency_ratio
from edgepress.report_text import at_most, factor, milliseconds, percent, points, size


def latency_entry(measured: Measurement, base: Optional[Measurement]) -> Dict[str, Any]:
    """Figures of one measurement, and its speed-up over the float file's, claimed only where the ratio's interval excludes 1."""
    entry = {key: value for key, value in measured.summary().items() if key in ("median_ms", "min_ms", "p90_ms", "p99_ms", "runs", "median_interval_ms")}
    entry.update(speedup=None, speedup_interval=None, speedup_claimed=False)
    if base is not None and base is not measured:
        ratio = latency_ratio(base, measured).inverse()
        entry.update(speedup=ratio.value, speedup_interval=[ratio.low, ratio.high], speedup_claimed=ratio.verdict != "can't tell")
    return entry


def cost(row: Mapping[str, Any], kind: str) -> Optional[float]:
    """Latency with one thread (or the fewest measured) in ms, or size in bytes."""
    if kind == "size":
        return row["size_bytes"]
    threads = sorted(row["latency"], key=int)
    return row["latency"][threads[0]]["median_ms"] if threads else None


def pareto_front(rows: Sequence[Mapping[str, Any]], kind: str) -> List[str]:
    """Keys of the rows that no other row beats in accuracy and cost at once."""
    known = [(cost(row, kind), row["accuracy"], row["key"]) for row in rows if row.get("accuracy") is not None and cost(row, kind) is not None]
    return [key for c, a, key in known if not any((oc <= c and oa >= a) and (oc < c or oa > a) for oc, oa, _ in known)]


def choose(rows: Sequence[Mapping[str, Any]]) -> Optional[Mapping[str, Any]]:
    """The fastest certified file; the float reference needs no certificate. Without latencies the smallest; None where nothing was scored."""
    fit = [row for row in rows if row["status"] == "ok" and (row.get("certified") is True or row.get("is_reference"))]
    timed = [row for row in fit if cost(row, "latency") is not None]
    return min(timed, key=lambda row: (cost(row, "latency"), row["size_bytes"] or 0), default=None) if timed else min(fit, key=lambda row: row["size_bytes"] or 0, default=None)


def promising(rows: Sequence[Mapping[str, Any]], chosen: Optional[Mapping[str, Any]]) -> Optional[Mapping[str, Any]]:
    """The fastest unresolved file whose seen drop is within the budget, if it is faster than the chosen one: more test images might certify it."""
    limit = cost(chosen, "latency") if chosen else None
    fit = [row for row in rows if row.get("certified") == "unresolved" and row["drop"] <= row["max_drop"] and cost(row, "latency") is not None]
    best = min(fit, key=lambda row: cost(row, "latency"), default=None)
    return best if best and (limit is None or cost(best, "latency") < limit) else None


def headline(rows: Sequence[Mapping[str, Any]], images: Optional[int]) -> Dict[str, Any]:
    """The verdict for people: {"key", "text", "why", "caveat"}."""
    chosen = choose(rows)
    other = promising(rows, chosen)
    if chosen is None:
        return {"key": None, "text": "Nothing can be shipped yet.", "why": _why_nothing(rows), "caveat": _caveat(other)}
    if chosen.get("is_reference"):
        return {"key": chosen["key"], **_float_only(rows, chosen, other), "caveat": _caveat(other)}
    why = _why(chosen, next((row for row in rows if row.get("is_reference")), None))
    return {"key": chosen["key"], "text": f"Ship {chosen['variant']}, run by {chosen['runtime']}.", "why": why, "caveat": _caveat(other)}


def _why_nothing(rows: Sequence[Mapping[str, Any]]) -> str:
    """Why no file can ship where the float reference has no row of its own."""
    scored = [row for row in rows if row.get("accuracy") is not None]
    if not scored:
        return "No file was scored on test images."
    compared = [row for row in scored if row.get("max_drop") is not None]
    if not compared:
        return f"{len(scored)} file{'s were' if len(scored) > 1 else ' was'} scored on test images, but none was certified against the float file."
    row = min(compared, key=lambda r: r["drop_at_most"])
    return (f"{row['variant']} in {row['runtime']} is right on {percent(row['accuracy'])} of {row['images']} test images, but "
            + (f"its certificate is unresolved: up to {at_most(row['drop_at_most'], 2)} points lost cannot be ruled out" if row["certified"] == "unresolved" else "lost too much against the float file")
            + f" (budget {row['max_drop']:g}). The float file was not evaluated itself.")


def _float_only(rows: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any], other: Optional[Mapping[str, Any]]) -> Dict[str, str]:
    """The verdict where the float reference is what ships: because it is the fastest, or because nothing else is certified."""
    what = f"{chosen['variant']} run by {chosen['runtime']}, right on {percent(chosen['accuracy'])} of {chosen['images']} test images"
    compared = [row for row in rows if row["status"] == "ok" and row.get("max_drop") is not None]
    if not compared or any(row["certified"] is True for row in compared):
        return {"text": f"Ship {chosen['variant']}, run by {chosen['runtime']}.", "why": f"It is the float reference{', and no certified file is faster' if compared else ''} ({percent(chosen['accuracy'])} of {chosen['images']} test images)."}
    budget = f"a loss of at most {compared[0]['max_drop']:g} point{'s' if compared[0]['max_drop'] != 1 else ''}"
    if other or any(row["certified"] == "unresolved" for row in compared):
        return {"text": f"No compressed file is certified: {chosen['images']} test images cannot show {budget}.", "why": f"Until they can, the proven choice is the float file, {what}."}
    return {"text": f"No compressed file keeps to {budget}.", "why": f"What is left to ship is the float file, {what}."}


def _why(row: Mapping[str, Any], reference: Optional[Mapping[str, Any]]) -> str:
    facts = [f"It is right on {percent(row['accuracy'])} of {row['images']} test images and certified to lose at most {at_most(row['drop_at_most'], 2)} points against float"]
    one = row["latency"].get("1") or {}
    if one:
        facts.append(f"it answers in {milliseconds(one['median_ms'])}" + (f", {factor(one['speedup'])} as fast as float" if one.get("speedup_claimed") and one["speedup"] > 1 else ""))
    if reference and reference["size_bytes"] and row["size_bytes"]:
        facts.append(f"and takes {size(row['size_bytes'])}, {percent(row['size_bytes'] / reference['size_bytes'], 0)} of the float file")
    return ", ".join(facts) + "."


def _caveat(row: Optional[Mapping[str, Any]]) -> Optional[str]:
    """The faster file that these images cannot settle, and both ways to settle it."""
    if row is None:
        return None
    entry = row["latency"].get("1") or {}
    speed = f", {factor(entry['speedup'])} as fast as float" if entry.get("speedup_claimed") and entry["speedup"] > 1 else ""
    images = f"about {row['images_needed']:,} test images would settle it, or " if row.get("images_needed") else ""
    return (f"Fastest within the budget so far: {row['variant']} in {row['runtime']} ({milliseconds(cost(row, 'latency'))}{speed}, {size(row['size_bytes'])}). It lost {points(row['drop']).lstrip('+')} points on these "
            f"{row['images']} images, and up to {at_most(row['drop_at_most'], 2)} cannot be ruled out: {images}--max-drop {at_most(row['drop_at_most'])} would accept it.")

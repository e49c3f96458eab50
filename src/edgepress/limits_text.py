"""Limits as tables for a terminal and as plain values for JSON."""
from __future__ import annotations

from dataclasses import asdict
from typing import Any, Dict, List, Optional, Sequence, Tuple

from edgepress import anchors
from edgepress.limits import Limit

HEADER = ("file", "runtime", "threads", "MMAC", "type", "compute ms", "roofline ms", "measured ms", "of roofline", "file kB", "gzip kB", "zstd kB", "xz kB", "entropy kB")
OPS_SHOWN = 15


def format_limits(limits: Sequence[Limit], *, ops: bool = False) -> str:
    """A table, and below it for each file where the time goes, what was published, and on request its operators."""
    rows = [HEADER, *(_row(limit, limits) for limit in limits)]
    lines = _aligned(rows)
    for limit in limits:
        lines += ["", *_explanation(limit)]
        if ops:
            lines += _operators(limit)
    return "\n".join([*lines, "", "bounds: multiply-accumulates at the best rate measured here (compute); the same or the memory traffic of each operator, whichever is longer (roofline); measured: the fastest run",
                      "entropy: what coding the weights value by value could reach at best, and everything else packed by xz"])


def _row(limit: Limit, limits: Sequence[Limit]) -> Tuple[str, ...]:
    sizes = [_kilobytes(limit.sizes.get(name)) for name in ("file", "gzip", "zstd", "xz", "entropy_bound")]
    measured = _ms(limit.measured_ms) if limit.measured_ms else limit.status
    return (_name(limit, limits), limit.runtime, str(limit.threads), f"{limit.counts['macs'] / 1e6:.5g}", limit.counts["dtype"], _ms(limit.compute_ms), _ms(limit.roofline_ms), measured,
            "-" if limit.share is None else f"{limit.share:.0%}", *sizes)


def _name(limit: Limit, limits: Sequence[Limit]) -> str:
    """The end of the path that tells the files apart."""
    parts = limit.file.split("/")
    others = [other.file.split("/") for other in limits if other.file != limit.file]
    count = next((n for n in range(1, len(parts)) if all(parts[-n:] != other[-n:] for other in others)), len(parts))
    return "/".join(parts[-count:])


def _explanation(limit: Limit) -> List[str]:
    title = f"{limit.file} in {limit.runtime}:"
    if limit.measured_ms is None:
        return [f"{title} {limit.status}: {limit.reason}"]
    lines = [title, f"  {_ms(limit.roofline_ms):>8} ms  roofline"]
    lines += [f"  {_signed(part['ms']):>8} ms  {part['what']} ({part['how']}; {part['note']})" for part in limit.gap]
    lines.append(f"  {_ms(limit.measured_ms):>8} ms  measured (fastest run; median {_ms(limit.median_ms)} ms)")
    lines += [f"  {note}" for note in limit.notes]
    return lines + [f"  {line}" for line in anchors.describe(limit.counts, ms=limit.measured_ms, threads=limit.threads, host=limit.host, details=limit.details)]


def _operators(limit: Limit) -> List[str]:
    """The operators with the longest bounds."""
    rows: List[Tuple[str, ...]] = [("operator", "kind", "type", "MMAC", "kB", "roofline µs", "reachable µs", "limited by")]
    longest = sorted(limit.ops, key=lambda op: -op["reachable_ms"])
    rows += [(op["name"][-40:], op["kind"], op["dtype"], f"{op['macs'] / 1e6:.3f}", f"{op['bytes'] / 1e3:.0f}", f"{1e3 * op['roofline_ms']:.1f}", f"{1e3 * op['reachable_ms']:.1f}", op["limited_by"]) for op in longest[:OPS_SHOWN]]
    return [f"  {line}" for line in _aligned(rows)] + ([f"  and {len(longest) - OPS_SHOWN} more: see --json"] if len(longest) > OPS_SHOWN else [])


def _aligned(rows: Sequence[Tuple[str, ...]]) -> List[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(text.ljust(w) if i < 2 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths))).rstrip() for row in rows]


def _ms(value: Optional[float]) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _signed(value: float) -> str:
    return f"{value:+.3g}"


def _kilobytes(value: Optional[int]) -> str:
    return "-" if value is None else f"{value / 1e3:.0f}"


def as_json(limits: Sequence[Limit]) -> List[Dict[str, Any]]:
    """Plain values."""
    return [{**asdict(limit), "share_of_roofline": limit.share} for limit in limits]

"""Published figures beside a user's own: what others measured on the same board, and why a file may be slower here. Published figures are never mixed with measured ones."""
from __future__ import annotations

import statistics
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

from edgepress.artifact import SUFFIXES
from edgepress.errors import ArtifactError

SCHEMA = 1
SLOW = 1.5  # times the published figure
CLOSE = 0.015  # of the MACs: a head of a few classes has less than one of a thousand


@dataclass(frozen=True)
class Anchor:
    """One published latency."""

    device: str
    board: str
    model: str
    dtype: str
    runtime: str
    threads: int
    ms: float
    source: str
    url: str
    date: str


class Cause(NamedTuple):
    """Why a file may be slow: whether it is so here (None: not known), and what to do."""

    what: str
    found: Optional[bool]
    hint: str


def load_anchors() -> List[Anchor]:
    """All published figures of data/anchors.toml.

    Raises:
        ArtifactError: the file is not of this version.
    """
    document = _document()
    anchors = []
    for entry in document["anchor"]:
        source = document["sources"][entry["source"]]
        for dtype in ("float32", "int8"):
            anchors += [Anchor(entry["device"], entry["board"], model, dtype, entry["runtime"], entry["threads"], float(ms), source["title"], source["url"], source["date"])
                        for model, ms in entry.get(dtype, {}).items()]
    return anchors


def _document() -> Dict[str, Any]:
    document = tomllib.loads(resources.files("edgepress").joinpath("data", "anchors.toml").read_text(encoding="utf-8"))
    if document.get("schema") != SCHEMA:
        raise ArtifactError(f"data/anchors.toml is of schema {document.get('schema')}, not {SCHEMA}", "install edgepress again")
    return document


def recognize(counts: Mapping[str, Any]) -> Optional[str]:
    """The network that a file has as much work as, or None."""
    macs = counts["macs"] / 1e6
    for name, facts in _document()["models"].items():
        if any(abs(macs - known) <= CLOSE * known for known in (facts["macs"], facts.get("also", facts["macs"]))):
            return name
    return None


def find_anchors(counts: Mapping[str, Any], *, board: Optional[str]) -> Tuple[List[Anchor], List[Anchor]]:
    """(of this very board, of others) for the same network and type, the fastest first."""
    model = recognize(counts)
    found = sorted((a for a in load_anchors() if a.model == model and a.dtype == counts["dtype"]), key=lambda a: a.ms)
    here = [a for a in found if board and a.board in board]
    return here, [a for a in found if a not in here]


def nearest_anchor(anchors: List[Anchor], *, threads: int) -> Optional[Anchor]:
    """The one to be held against: with as many threads where there is one."""
    same = [a for a in anchors if a.threads == threads]
    return (same or anchors or [None])[0]


def causes(anchor: Anchor, *, threads: int, host: Mapping[str, Any], details: Mapping[str, Any], caveats: Tuple[str, ...] = ()) -> List[Cause]:
    """The usual reasons for a file that is slower than published, each looked at.

    Args:
        details: what the runtime said of the open file. caveats: codes of the measurement's own warnings.
    """
    return [Cause(what, check(anchor, threads, host, details, caveats), hint) for what, check, hint in _CHECKS]


def _delegate(anchor: Anchor, threads: int, host: Mapping[str, Any], details: Mapping[str, Any], caveats: Tuple[str, ...]) -> Optional[bool]:
    return details["delegate"] is None if "delegate" in details else None


def _left_out(anchor: Anchor, threads: int, host: Mapping[str, Any], details: Mapping[str, Any], caveats: Tuple[str, ...]) -> Optional[bool]:
    heavy = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "ADD", "MUL"}
    return bool(heavy & set(details["not_delegated"])) if "not_delegated" in details else None


Check = Callable[[Anchor, int, Mapping[str, Any], Mapping[str, Any], Tuple[str, ...]], Optional[bool]]
_CHECKS: Tuple[Tuple[str, Check, str], ...] = (
    ("a 32-bit system", lambda a, t, host, d, c: host["bits"] == 32 if host.get("bits") else None, "install the 64-bit system: its kernels use twice the registers"),
    ("another number of threads", lambda a, t, host, d, c: t != a.threads, "measure with as many threads as the published figure"),
    ("no XNNPACK", _delegate, "another runtime, version or scheme: these are the reference kernels"),
    ("heavy operators outside XNNPACK", _left_out, "`edgepress show` lists the operators; quantize again, or take another scheme"),
    ("a frequency governor that saves power", lambda a, t, host, d, c: host["governor"] not in ("performance",) if host.get("governor") else None,
     "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"),
    ("throttling by heat or by the power supply", lambda a, t, host, d, c: True if "throttling" in c else None, "a heat sink or fan, and the official power supply (vcgencmd get_throttled)"),
    ("other programs at work", lambda a, t, host, d, c: True if {"busy", "stolen", "spread"} & set(c) else None, "close them and measure again"),
)


def describe(counts: Mapping[str, Any], *, ms: float, threads: int, host: Mapping[str, Any], details: Mapping[str, Any], caveats: Tuple[str, ...] = ()) -> List[str]:
    """Lines for people: published figures of this board, or of others, and the causes where this is more than SLOW times slower."""
    here, elsewhere = find_anchors(counts, board=host.get("board"))
    anchor = nearest_anchor(here, threads=threads)
    if anchor is None:
        return [f"published for other machines: {_text(elsewhere[0])}; none for this one"] if elsewhere else []
    ratio = ms / anchor.ms
    lines = [f"published: {_text(anchor)}; here {ratio:.2f} times that"]
    if ratio <= SLOW:
        return lines
    words = {True: "yes", False: "no", None: "not known"}
    return lines + [f"  {cause.what}? {words[cause.found]}" + (f": {cause.hint}" if cause.found is not False else "")
                    for cause in causes(anchor, threads=threads, host=host, details=details, caveats=caveats)]


def _text(anchor: Anchor) -> str:
    return f"{anchor.model} {anchor.dtype} {anchor.ms:g} ms on {anchor.device}, {anchor.runtime}, {anchor.threads} thread{'s' if anchor.threads > 1 else ''} ({anchor.source}, {anchor.date}, {anchor.url})"


def bench_lines(document: Mapping[str, Any]) -> List[str]:
    """As `describe`, for what `device_bench.measure_device` found: by the number of threads that was fastest. Empty where nothing comparable was published."""
    from edgepress.counters import count_file

    file = Path(document["file"])
    if SUFFIXES.get(file.suffix.lower()) not in ("tflite", "onnx"):
        return []
    timed = [(statistics.median(values), part) for part in document["inference"] for values in [[ms for one in part["rounds"] if one["valid"] for ms in one["latencies_ms"]]] if values]
    if not timed:
        return []
    ms, part = min(timed, key=lambda pair: pair[0])
    last = part["rounds"][-1]
    host = {**document["device"], "governor": last.get("governor")}
    caveats = ("throttling",) if any(not one["valid"] for one in part["rounds"]) else ()
    return describe(count_file(file).summary(), ms=ms, threads=part["threads"], host=host, details=last.get("details", {}), caveats=caveats)

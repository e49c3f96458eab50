"""Gates: limits on what may change between two results, such as `latency>+5%` or `accuracy<-0.5`, judged by intervals and not by raw figures."""
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Mapping, Optional, Tuple

from edgepress.errors import RecipeError, nearest

Outcome = Literal["met", "failed", "unresolved"]

# metric → (unit of a change without %, unit of an absolute limit). A change in % is of the old value; accuracy changes in percentage points.
METRICS: Mapping[str, Tuple[str, str]] = {"latency": ("ms", "ms"), "p90": ("ms", "ms"), "load": ("ms", "ms"), "first_run": ("ms", "ms"), "memory": ("MB", "MB"), "size": ("kB", "kB"), "accuracy": ("points", "%")}
_GRAMMAR = re.compile(r"\s*([a-z0-9_]+)\s*([<>])\s*([+-]?)(\d+(?:\.\d+)?)\s*(%|ms|MB|kB|points?)?\s*")
ACCEPTED = "METRIC>LIMIT or METRIC<LIMIT, where a sign makes the limit a change: latency>+5%, latency>20ms, size>+10%, memory>200MB, accuracy<-0.5, accuracy<90%"


@dataclass(frozen=True)
class Gate:
    """It fails where the metric is surely beyond the limit."""

    text: str
    metric: str
    above: bool  # fails above the limit, or below it
    limit: float
    change: bool  # the limit is a change, or a value
    percent: bool  # of the old value

    def outcome(self, low: float, high: float) -> Outcome:
        """Judge an interval in the gate's own unit."""
        if self.above:
            return "failed" if low > self.limit else "met" if high <= self.limit else "unresolved"
        return "failed" if high < self.limit else "met" if low >= self.limit else "unresolved"


def parse_gate(text: str) -> Gate:
    """A gate from its text.

    Raises:
        RecipeError: not of the grammar, an unknown metric, or a unit that does not fit.
    """
    match = _GRAMMAR.fullmatch(text)
    if not match:
        raise RecipeError(f"gate {text!r} cannot be read; accepted: {ACCEPTED}", "write it in quotes, so that the shell leaves < and > alone")
    metric, sign, direction, number, unit = match[1], match[3], match[2], float(match[4]), match[5]
    if metric not in METRICS:
        raise RecipeError(f"gate {text!r} is about {metric!r}; {nearest(metric, METRICS)}")
    change = bool(sign)
    _check_unit(text, metric, unit, change=change)
    limit = -number if sign == "-" else number
    return Gate(text=text.strip(), metric=metric, above=direction == ">", limit=limit, change=change, percent=unit == "%" and metric != "accuracy")


def _check_unit(text: str, metric: str, unit: Optional[str], *, change: bool) -> None:
    plain, absolute = METRICS[metric]
    if metric == "accuracy":
        fits = unit in (None, "point", "points") if change else unit in (None, "%")
        wanted = "points (or no unit) for a change" if change else "% for a value"
    else:
        fits = unit in (("%", plain) if change else (absolute,))
        wanted = f"% or {plain} for a change" if change else f"{absolute} for a value (a change has a sign: {metric}>+5%)"
    if not fits:
        raise RecipeError(f"gate {text!r} {'has no unit' if unit is None else f'has the unit {unit!r}'}; accepted: {wanted}")


def split_gates(words: Tuple[str, ...]) -> Tuple[Tuple[str, ...], Tuple[str, ...]]:
    """Command-line words → (those that are paths, those that are gates): `--fail-on A B` leaves B among the paths."""
    gates = tuple(w for w in words if "<" in w or ">" in w)
    return tuple(w for w in words if w not in gates), gates

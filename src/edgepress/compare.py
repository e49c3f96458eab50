"""Compare two results, figure by figure, with intervals; judge gates."""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Callable, Container, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from edgepress.errors import UnsupportedError
from edgepress.gates import METRICS, Gate, Outcome
from edgepress.measurement import Measurement, Round, quantile
from edgepress.ratios import Ratio, latency_ratio, machine_of, own_half_width, rounds_ratio
from edgepress.result_sets import Accuracy, Key, Results, rename_single
from edgepress.statistics import paired_drop_interval, wilson_interval

MISSING = "it was measured before and is not any more"


@dataclass(frozen=True)
class Figure:
    """One metric on both sides, in its unit, with the interval of the change: a ratio, or for accuracy percentage points."""

    metric: str
    old: float
    new: float
    low: float
    high: float
    value: float
    verdict: str  # faster | slower | smaller | larger | better | worse | can't tell | same


@dataclass(frozen=True)
class Row:
    """Everything known about one key: its figures, or why there are none."""

    key: Key
    figures: Mapping[str, Figure]
    note: Optional[str] = None


@dataclass(frozen=True)
class Check:
    """One gate at one key."""

    gate: Gate
    key: Key
    outcome: Outcome
    text: str


@dataclass(frozen=True)
class Comparison:
    """Rows in the order of the old results, then what is new; checks in the order of the gates."""

    old: str
    new: str
    rows: Tuple[Row, ...]
    checks: Tuple[Check, ...]
    warnings: Tuple[str, ...]

    @property
    def failed(self) -> List[Check]:
        """Checks that surely miss their limit."""
        return [check for check in self.checks if check.outcome == "failed"]


def compare(old: Results, new: Results, *, gates: Sequence[Gate] = (), across_machines: bool = False) -> Comparison:
    """Compare what both sides have; what only one side has is a row with a note.

    With several gates or keys, intervals of the gates are widened so that all of them together raise a false alarm in at most 5 % (Bonferroni).

    Raises:
        UnsupportedError: other machines, unless `across_machines`; or nothing in common.
    """
    old, new = rename_single(old, new)
    warnings = _check_machines(old, new, across_machines)
    keys = list(dict.fromkeys([*old.accuracies, *old.latencies, *old.holes, *new.accuracies, *new.latencies, *new.holes]))
    rows = _size_once([_row(key, old, new, across_machines, 0.95) for key in keys])
    if not any(row.figures for row in rows):
        for key, reason in {**old.holes, **new.holes}.items():
            raise UnsupportedError(f"{old.source} and {new.source} cannot be compared: nothing was measured of {key}: {reason}")
        raise UnsupportedError(f"{old.source} and {new.source} have nothing in common to compare ({_listed(old)}; and {_listed(new)})",
                               "compare results of the same files, runtimes and threads")
    judged = [(gate, row) for gate in gates for row in rows if _concerns(gate, row, old)]
    confidence = 1 - 0.05 / max(1, len(judged))
    metrics = {gate.metric for gate in gates}
    wide = {row.key: _row(row.key, old, new, across_machines, confidence, metrics) for _, row in judged}
    checks = [_check(gate, wide[row.key], new) for gate, row in judged]
    unused = [gate.text for gate in gates if not any(check.gate is gate for check in checks)]
    warnings += [f"gate {text} was not judged: the old results have no such figure" for text in unused]
    return Comparison(old.source, new.source, tuple(rows), tuple(checks), tuple(warnings))


def _check_machines(old: Results, new: Results, across: bool) -> List[str]:
    machines = [sorted({f"{machine_of(m)}, {m.target}" for m in side.latencies.values()}) for side in (old, new)]
    if not machines[0] or not machines[1] or machines[0] == machines[1] or set(machines[1]) & set(machines[0]):
        return []
    text = f"{old.source} was measured on {'; '.join(machines[0])}, {new.source} on {'; '.join(machines[1])}"
    if not across:
        raise UnsupportedError(f"{text}: latencies of different machines are not compared", "measure both on one machine (give both model files), or say --across-machines")
    return [f"different machines: {text}"]


def _listed(side: Results) -> str:
    return ", ".join(map(str, [*side.latencies, *side.accuracies][:3])) or "nothing"


def _row(key: Key, old: Results, new: Results, across: bool, confidence: float, metrics: Container[str] = METRICS) -> Row:
    if key in old.latencies and key in new.latencies:
        return _latency_row(key, old.latencies[key], new.latencies[key], across, confidence, metrics)
    if key in old.accuracies and key in new.accuracies:
        return Row(key, {"accuracy": _accuracy_figure(old.accuracies[key], new.accuracies[key], confidence)})
    was, now = (key in side.latencies or key in side.accuracies for side in (old, new))
    if was:
        return Row(key, {}, f"{MISSING}: {new.holes[key]}" if key in new.holes else MISSING)
    return Row(key, {}, "new" if now else f"not measured on either side: {new.holes.get(key) or old.holes.get(key)}")


# metric → what each round has of it, its usual spread between rounds, bytes or milliseconds per unit shown
_OF_ROUNDS: Mapping[str, Tuple[Callable[[Round], Optional[float]], float, float]] = {
    "p90": (lambda r: quantile(r.latencies_ms, 0.9) if len(r.latencies_ms) >= 20 else None, 0.05, 1.0),
    "load": (lambda r: r.load_ms, 0.2, 1.0),
    "first_run": (lambda r: r.first_run_ms, 0.2, 1.0),
    "memory": (lambda r: r.rss_after_runs_bytes, 0.01, 1e6),
}


def _latency_row(key: Key, old: Measurement, new: Measurement, across: bool, confidence: float, metrics: Container[str]) -> Row:
    try:
        ratio = latency_ratio(old, new, confidence=confidence, across_machines=across)
    except UnsupportedError as error:
        return Row(key, {}, str(error))
    figures = {"latency": _from_ratio("latency", old.median_ms or 0.0, new.median_ms or 0.0, ratio, ratio.verdict)}
    for metric, (value_of, spread, unit) in _OF_ROUNDS.items():
        sides = [[v / unit for r in m.rounds for v in [value_of(r)] if v] for m in (old, new)] if metric in metrics else []
        if sides and all(sides):
            found = rounds_ratio(*sides, prior_spread=spread, confidence=confidence)
            figures[metric] = _from_ratio(metric, *map(max if metric == "memory" else _middle, sides), found, _words(found, metric))
    size = new.size_bytes / old.size_bytes
    figures["size"] = Figure("size", old.size_bytes / 1e3, new.size_bytes / 1e3, size, size, size, "same" if size == 1 else "smaller" if size < 1 else "larger")
    return Row(key, figures)


def _from_ratio(metric: str, old: float, new: float, ratio: Ratio, verdict: str) -> Figure:
    return Figure(metric, old, new, ratio.low, ratio.high, ratio.value, verdict)


def _words(ratio: Ratio, metric: str) -> str:
    if ratio.verdict == "can't tell" or metric != "memory":
        return ratio.verdict
    return "smaller" if ratio.value < 1 else "larger"


def _middle(values: List[float]) -> float:
    return sorted(values)[len(values) // 2]


def _accuracy_figure(old: Accuracy, new: Accuracy, confidence: float) -> Figure:
    """Change in percentage points; paired where both sides saw the same images and kept their answers, else from both Wilson intervals (Newcombe 1998, method 10)."""
    change = 100 * (new.accuracy - old.accuracy)
    if old.right and new.right and old.images_id == new.images_id and len(old.right) == len(new.right):
        lost, gained = (sum(pair == wanted for pair in zip(old.right, new.right)) for wanted in (("1", "0"), ("0", "1")))
        low, high = (-100 * drop for drop in reversed(paired_drop_interval(lost, gained, len(old.right), confidence=confidence)))
        if lost == gained == 0:
            return Figure("accuracy", 100 * old.accuracy, 100 * new.accuracy, low, high, change, "same")
    else:
        (a_low, a_high), (b_low, b_high) = (wilson_interval(round(s.accuracy * s.images), s.images, confidence=confidence) for s in (old, new))
        down = ((new.accuracy - b_low) ** 2 + (a_high - old.accuracy) ** 2) ** 0.5
        up = ((b_high - new.accuracy) ** 2 + (old.accuracy - a_low) ** 2) ** 0.5
        low, high = change - 100 * down, change + 100 * up
    verdict = "better" if low > 0 else "worse" if high < 0 else "can't tell"
    return Figure("accuracy", 100 * old.accuracy, 100 * new.accuracy, low, high, change, verdict)


def _size_once(rows: Sequence[Row]) -> List[Row]:
    """A file's size is shown once, whatever the runtimes and threads."""
    seen: Set[str] = set()
    kept = []
    for row in rows:
        drop = row.key.name in seen
        seen.update([row.key.name] if "size" in row.figures else [])
        kept.append(replace(row, figures={name: f for name, f in row.figures.items() if name != "size"}) if drop else row)
    return kept


def _concerns(gate: Gate, row: Row, old: Results) -> bool:
    """Accuracy gates are about evaluations, all others about measurements; what was measured before must be there still."""
    if gate.metric == "size":
        return "size" in row.figures
    return row.key in (old.accuracies if gate.metric == "accuracy" else old.latencies)


def _check(gate: Gate, row: Row, new: Results) -> Check:
    figure = row.figures.get(gate.metric)
    if figure is None:
        return Check(gate, row.key, "failed", row.note or f"the new results have no {gate.metric}")
    low, high = _interval(gate, figure, new.latencies.get(row.key))
    unit = "%" if gate.percent else METRICS[gate.metric][0 if gate.change else 1]
    value = (low + high) / 2 if not gate.change else _scale(gate, figure, figure.value)
    words = {"met": "within", "failed": "beyond", "unresolved": "can't tell whether within"}[gate.outcome(low, high)]
    return Check(gate, row.key, gate.outcome(low, high), f"{_signed(value, gate)} {unit} [{_signed(low, gate)}, {_signed(high, gate)}]: {words} the limit")


def _interval(gate: Gate, figure: Figure, measured: Optional[Measurement]) -> Tuple[float, float]:
    """The figure's interval in the gate's unit."""
    if gate.change:
        return _scale(gate, figure, figure.low), _scale(gate, figure, figure.high)
    if gate.metric == "accuracy" or gate.metric == "size" or measured is None:
        return figure.new, figure.new
    width = 1 + own_half_width(measured)
    return figure.new / width, figure.new * width


def _scale(gate: Gate, figure: Figure, value: float) -> float:
    if gate.metric == "accuracy":
        return value
    return 100 * (value - 1) if gate.percent else figure.old * (value - 1)


def _signed(value: float, gate: Gate) -> str:
    return f"{value:+.3g}" if gate.change else f"{value:.4g}"


def to_json(comparison: Comparison) -> Dict[str, Any]:
    """Plain values."""
    rows = [{**row.key._asdict(), "note": row.note, "figures": {name: vars(figure) for name, figure in row.figures.items()}} for row in comparison.rows]
    checks = [{"gate": check.gate.text, **check.key._asdict(), "outcome": check.outcome, "text": check.text} for check in comparison.checks]
    return {"schema": 1, "old": comparison.old, "new": comparison.new, "rows": rows, "checks": checks, "warnings": list(comparison.warnings), "failed": bool(comparison.failed)}

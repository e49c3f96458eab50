"""What two machines' answers to the same photos amount to: limits, problems and notes by step, and a report for people."""
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np

from edgepress import bundle_files, bundle_golden, profiles
from edgepress.errors import ModelError

PIXEL_LEVELS = 2  # of 255: decoders of other versions round differently; more is another picture
# Largest difference of a float answer in the same runtime and version, by scheme. Measured, MobileNetV2 on flowers, litert 2.3.0, x86 with VNNI against an emulated Cortex-A72:
# float32 4e-7, float16 4e-7, weight-only 3e-7, static int8 1e-7; dynamic 0.0097, because ranges are taken at run time, where one rounding moves a whole step.
DIFFERENCES = {"float32": 1e-4, "float16": 1e-3, "weight_only_wi8_afp32": 1e-3, "dynamic_wi8_afp32": 0.02}
QUANTIZED_DIFFERENCE = 1.001 / 256  # all others: one step of an 8-bit probability
CONSTANT = bundle_files.CONSTANT


@dataclass(frozen=True)
class Answers:
    """One machine's answers: `given` to the host's pixels (inference alone), `own` to the pixels it made itself (the whole way); float32 [N, K]."""

    given: Optional[np.ndarray]
    own: np.ndarray
    steps: Sequence[Mapping[str, Any]]
    facts: Mapping[str, Any]  # runtime, versions, delegate


@dataclass(frozen=True)
class Limit:
    """Largest accepted difference: `values` per number of an answer, `steps` where all of them are stored as integers; in words."""

    values: np.ndarray
    steps: Optional[np.ndarray]
    text: str


@dataclass(frozen=True)
class ParityReport:
    """How a target compares. `problems` is empty where figures of it may be believed."""

    file: str
    sha256: str
    target: str
    measured_on: str
    runtime: Mapping[str, Any]
    reference: str
    rule: str
    cases: Sequence[Mapping[str, Any]]
    largest_difference: float
    there: Mapping[str, Any]
    here: Mapping[str, Any]
    problems: Sequence[str]
    notes: Sequence[str]

    @property
    def passed(self) -> bool:
        """Whether the target answers as this machine does."""
        return not self.problems

    def to_json(self) -> Dict[str, Any]:
        """Plain values."""
        return {"schema": 1, "passed": self.passed, **dataclasses.asdict(self)}


def limit_of(file: Path, here: Answers, there: Answers) -> Limit:
    """What may differ: one step of stored integers, or a stated share of float answers, where runtime and version are the same; more where they are not."""
    scheme = _scheme(file)
    same = here.facts["runtime"] == there.facts["runtime"] and here.given is not None
    sizes = [(int(np.prod([abs(n) for n in info["shape"][1:]], dtype=np.int64)), info["scale"]) for info in there.facts["outputs"]]
    width = there.own.shape[1]
    scales = np.concatenate([np.full(size, scale or 0.0) for size, scale in sizes]) if sizes and sum(size for size, _ in sizes) == width else np.zeros(width)
    finite = np.abs(here.own[np.isfinite(here.own)])
    peak = max(1.0, float(finite.max(initial=0.0)))
    base = DIFFERENCES.get(scheme, QUANTIZED_DIFFERENCE) if same else bundle_golden.tolerance(f"{scheme}.file")
    values = np.where(scales > 0, scales * 1.001, base * peak) if same else np.maximum(scales * 1.001, base * peak)
    versions = "the same runtime and version" if same else f"{_spoken(there)} there against {_spoken(here)}"
    stored = bool((scales > 0).all())
    return Limit(values, scales if stored else None, f"{versions}: at most " + ("1 step of the stored integers" if same and stored else f"{base * peak:.3g} in any number of an answer"))


def _scheme(file: Path) -> str:
    try:
        return str(profiles.file_facts(file).get("scheme") or "unknown")
    except ModelError:
        return "unknown"


def _spoken(answers: Answers) -> str:
    return f"{answers.facts['runtime']['name']} {answers.facts['runtime'].get('version') or ''}".strip()


def compare(here: Answers, there: Answers, *, names: Sequence[str], labels: Sequence[str], limit: Limit, **about: Any) -> ParityReport:
    """The report on two machines' answers, case by case.

    Args:
        names: of the cases, for people.
        about: file, sha256, target, measured_on and reference of the report.
    """
    if there.own.shape != here.own.shape or not there.own.size:
        shapes = " and ".join(f"{len(one.steps)} answers of {one.own.shape[1]} numbers {place}" for one, place in ((there, "there"), (here, "here")))
        problem = f"the file gives {shapes}: there is nothing to compare"
        return ParityReport(**{**about, "file": str(about["file"])}, runtime=there.facts["runtime"], there=there.facts, here=here.facts, rule=limit.text, cases=(), largest_difference=0.0, problems=(problem,), notes=())
    cases = [_case(index, name, here, there, limit, labels) for index, name in enumerate(names)]
    problems = _general_problems(here, there) + [f"{case['name']}: {problem}" for case in cases for problem in case["problems"]]
    notes = [f"{case['name']}: {note}" for case in cases for note in case["notes"]] + _notes(here, there)
    facts = {"runtime": there.facts["runtime"], "there": there.facts, "here": here.facts, "rule": limit.text}
    about["file"] = str(about["file"])
    return ParityReport(**about, **facts, cases=cases, largest_difference=max((case["difference"] for case in cases if case["difference"] is not None), default=0.0), problems=problems, notes=notes)


def _general_problems(here: Answers, there: Answers) -> List[str]:
    if not np.isfinite(there.own).all() or (there.given is not None and not np.isfinite(there.given).all()):
        if here.given is None or np.isfinite(here.own).all():
            return ["answers there are not finite (NaN or infinite)"]
        return ["answers are not finite (NaN or infinite), here too"]
    if len(there.own) > 1 and _spread(there.own) < CONSTANT <= _spread(here.own):
        return ["the target gives the same answer to everything: its runtime opens the file but does not compute it"]
    return []


def _spread(rows: np.ndarray) -> float:
    """Largest difference between rows of any one number; rows without answers are left out."""
    known = rows[np.isfinite(rows).all(axis=1)]
    return float((known.max(axis=0) - known.min(axis=0)).max(initial=0.0)) if len(known) else 0.0


def _notes(here: Answers, there: Answers) -> List[str]:
    notes = []
    if len(here.own) > 1 and _spread(here.own) < CONSTANT:
        notes.append("the file gives the same answer to everything, here too")
    if here.facts["delegate"] and not there.facts["delegate"]:
        notes.append(f"{here.facts['delegate']} was not created there: slow reference kernels, whose numbers differ")
    versions = [f"{name} {there.facts['versions'].get(name)} there, {version} here" for name, version in here.facts["versions"].items() if there.facts["versions"].get(name) != version]
    return notes + ([", ".join(versions)] if versions else [])


def _case(index: int, name: str, here: Answers, there: Answers, limit: Limit, labels: Sequence[str]) -> Dict[str, Any]:
    """One photo or tensor: each step in a word, the largest difference of an answer, and what is wrong."""
    case: Dict[str, Any] = {"name": name, **_step_words(here.steps[index], there.steps[index]), "difference": None, "steps": None, "top": None, "problems": [], "notes": []}
    _judge_steps(case, there.steps[index])
    expected = here.own[index]
    if not np.isfinite(expected).all():  # nothing to compare with
        return case
    if there.given is not None and here.given is not None:
        _judge_answers(case, there.given[index], here.given[index], limit, labels, what="inference")
    if here.given is None or (case.get("pixels") == "differ" and not case["problems"]):
        loose = dataclasses.replace(limit, values=np.maximum(limit.values, bundle_golden.TOLERANCE)) if case.get("pixels") == "differ" else limit
        _judge_answers(case, there.own[index], expected, loose, labels, what="the whole way")
    return case


def _step_words(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Dict[str, Any]:
    if "inputs_sha256" in theirs:
        return {"inputs": "same" if ours.get("inputs_sha256") == theirs["inputs_sha256"] else "differ"}
    if "error" in theirs:
        return {"decoding": "failed", "pixels": "none"}
    return {step: "same" if ours.get(key) == theirs.get(key) else "differ" for step, key in (("decoding", "decoded_sha256"), ("pixels", "pixels_sha256"))}


def _judge_steps(case: Dict[str, Any], theirs: Mapping[str, Any]) -> None:
    if "error" in theirs:
        case["problems"].append(f"decoding: it cannot be decoded there: {theirs['error']}")
    elif case.get("inputs") == "differ":
        case["problems"].append("inputs: the same seed gives other numbers there (another NumPy)")
    elif case.get("pixels") == "differ":
        levels, step = theirs.get("pixels_max_difference"), "resizing" if case["decoding"] == "same" else "decoding"
        text = f"{step} differs: pixels are off by up to {levels} of 255 levels"
        case["notes" if isinstance(levels, int) and levels <= PIXEL_LEVELS else "problems"].append(text)


def _judge_answers(case: Dict[str, Any], answer: np.ndarray, expected: np.ndarray, limit: Limit, labels: Sequence[str], *, what: str) -> None:
    difference = np.abs(answer.astype(np.float64) - expected)
    largest = float(difference.max(initial=0.0))
    case["difference"] = max(case["difference"] or 0.0, largest) if np.isfinite(largest) else None
    if limit.steps is not None and np.isfinite(largest):
        case["steps"] = int(round(float((difference / limit.steps).max(initial=0.0))))
    if not np.isfinite(answer).all():
        case["problems"].append(f"{what}: the answer is not finite (NaN or infinite)")
        return
    top, best = int(answer.argmax()), int(expected.argmax())
    case["top"] = [_label(top, labels), _label(best, labels)]
    if top != best and expected[best] - expected[top] > 2 * limit.values[best]:
        case["problems"].append(f"{what}: the top class is {case['top'][0]} there and {case['top'][1]} here")
    elif top != best:
        case["notes"].append(f"{what}: {case['top'][0]} and {case['top'][1]} are as good as equal, and swapped")
    if (difference > limit.values).any():
        amount = f"{case['steps']} steps of the stored integers" if limit.steps is not None else f"{largest:.3g}"
        case["problems"].append(f"{what}: a number of the answer is off by {amount}; accepted: {'1 step' if limit.steps is not None else format(float(limit.values.max()), '.3g')}")


def _label(index: int, labels: Sequence[str]) -> str:
    return labels[index] if index < len(labels) else f"number {index}"


def format_report(report: ParityReport) -> str:
    """The report for people."""
    place = report.target + (" (an emulated device)" if report.measured_on == "emulated" else "")
    runtime = f"{report.runtime['name']} {report.runtime.get('version') or ''}".strip()
    shown = [case for case in report.cases if "inputs" not in case or case["problems"]]
    width = max((len(case["name"]) for case in shown), default=0)
    lines = [f"{Path(report.file).name} in {runtime} on {place}, against {report.reference}", f"rule: {report.rule}"]
    lines += [_line(case, width) for case in shown]
    if len(shown) < len(report.cases):
        lines.append(f"  {len(report.cases) - len(shown)} random tensors: the same inputs, answers within the rule")
    lines += [f"note: {note}" for note in report.notes] + [f"FAILED  {problem}" for problem in report.problems]
    return "\n".join(lines + [f"parity: {'passed' if report.passed else 'FAILED'}, largest difference {report.largest_difference:.2g} over {len(report.cases)} cases; "
                              f"delegate there: {report.there['delegate'] or 'none'}"])


def _line(case: Mapping[str, Any], width: int) -> str:
    steps = f"inputs {case['inputs']:6}" if "inputs" in case else f"decoding {case['decoding']:6}  pixels {case['pixels']:6}"
    answer = "no expected answer" if case["top"] is None and case["difference"] is None else f"top {' / '.join(dict.fromkeys(case['top'] or ['-']))}, off by {case['difference'] if case['difference'] is None else format(case['difference'], '.2g')}"
    return f"  {case['name']:{width}}  {steps}  {answer}"

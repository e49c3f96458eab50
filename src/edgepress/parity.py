"""Compare what a target makes of photos with what this machine makes of them, step by step, before any figure of that target is believed."""
from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np

from edgepress import bundle_files, bundle_golden, parity_photos, profiles
from edgepress.artifact import digest_file, model_file
from edgepress.errors import DatasetError, DeviceError, EdgepressError, JobError, ModelError, UnsupportedError
from edgepress.jobs import available_runtimes, run_job
from edgepress.metadata import find_spec
from edgepress.modelspec import ModelSpec
from edgepress.preprocess import load_pixels
from edgepress.progress import report_progress
from edgepress.scoring import choose_runtime
from edgepress.targets.base import Connection

PIXEL_LEVELS = 2  # of 255: decoders of other versions round differently; more is another picture
FLOAT_DIFFERENCE = 1e-4  # float kernels of another processor add in another order (measured: 1e-6 of MobileNetV2's probabilities)
QUANTIZED_DIFFERENCE = 1 / 256  # one step of an 8-bit probability, where the file's last numbers are float
CONSTANT = bundle_files.CONSTANT
EMULATED = "an emulated device has no latency worth printing; `edgepress device instructions` counts what it executes"


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


def check_parity(model: Path, connection: Connection, *, target: Optional[str] = None, runtime: Optional[str] = None, images: Sequence[Path] = (), threads: int = 1) -> ParityReport:
    """Run a file on the same photos here and there and compare decoding, resizing and answers.

    Args:
        model: a bundle (its golden photos are used, and hard copies of the first), or a model file.
        target: what the user calls the place; default: its address.
        images: photos to use instead. A file that does not take photos gets seeded random tensors.

    Raises:
        UnsupportedError: the file does not run there, or there is nothing to compare it with here.
        JobError: the process there died.
    """
    file = model_file(model)
    spec, name = find_spec(file), choose_runtime(file, runtime, connection=connection)
    report_progress(f"comparing {file.name} in {name} on {target or connection.address} with this machine")
    with tempfile.TemporaryDirectory(prefix="edgepress-parity-") as folder:
        work = Path(folder)
        golden = _golden(file) if not images else None
        photos = _photos(file, golden, images, work=work) if spec is not None else []
        job: Dict[str, Any] = {"job": "parity", "runtime": name, "model": str(file.resolve()), "sha256": digest_file(file), "threads": threads, "spec": spec and dataclasses.asdict(spec)}
        if spec is not None:
            np.save(work / "pixels.npy", np.stack([load_pixels(photo, spec) for photo in photos]))
            job.update(images=[str(photo.resolve()) for photo in photos], pixels="pixels.npy")
        there = _answers(job, connection, work=work, place=target or connection.address)
        if name in available_runtimes(_format(file)):
            here, reference = _answers(job, "local", work=work, place="this machine"), "this machine"
        else:
            here, reference = _expected(golden, there, file=file, runtime=name, photos=photos, spec=spec, work=work), "the bundle's expected answers"
    return _compare(here, there, file=file, sha256=job["sha256"], names=_names(photos, len(there.own)), labels=spec.labels if spec else (), reference=reference,
                    limit=_limit(file, here, there), target=target or connection.address, measured_on=connection.measured_on)


def gate(file: Path, runtime: str, connection: Connection, *, work: Path) -> Optional[str]:
    """Why no latency of this file may be measured there, or None. A file that does not run there is left to the measurement to report."""
    if connection.measured_on == "emulated":
        return EMULATED
    try:
        report = check_parity(file, connection, runtime=runtime)
    except (JobError, UnsupportedError):
        return None
    except EdgepressError as error:
        return f"its answers cannot be compared with this machine's: {error}"
    return None if report.passed else f"it answers otherwise there than on this machine: {report.problems[0]} (edgepress device parity)"


def _format(file: Path) -> str:
    return file.suffix.lower()[1:]


def _golden(file: Path) -> Optional[Dict[str, Any]]:
    """The golden.json of the bundle that holds the file, or None where it is no bundle."""
    if not (file.parent / bundle_files.MANIFEST).is_file() or not (file.parent / bundle_files.GOLDEN).is_file():
        return None
    listed = bundle_files.read_manifest(file.parent)["files"]
    for name in (file.name, bundle_files.GOLDEN):
        if name not in listed or bundle_files.file_facts(file.parent / name)["sha256"] != listed[name]["sha256"]:
            raise ModelError(f"{file.parent / name} is not what the bundle's manifest lists", "copy or pack the bundle again")
    import json

    return json.loads((file.parent / bundle_files.GOLDEN).read_text(encoding="utf-8"))


def _photos(file: Path, golden: Optional[Mapping[str, Any]], images: Sequence[Path], *, work: Path) -> List[Path]:
    """The photos to compare: those given, or the bundle's golden ones and hard copies of the first, or drawn ones."""
    for photo in images:
        if not photo.is_file():
            raise DatasetError(f"{photo} does not exist or is not a file", "give image files")
    chosen = list(images) if images else [file.parent / image["file"] for image in golden["images"]] if golden else []
    return chosen + parity_photos.hard_photos(work / "hard", chosen[0] if chosen else None)


def _names(photos: Sequence[Path], count: int) -> List[str]:
    return [photo.name for photo in photos] if photos else [f"random tensor {number}" for number in range(count)]


def _answers(job: Mapping[str, Any], target: Any, *, work: Path, place: str) -> Answers:
    """What one machine makes of the job.

    Raises:
        UnsupportedError: its runtime does not open the file.
        DeviceError: what came back is no such answer.
    """
    output = "answers.npy"
    result = run_job({**job, "output": output}, work=work, target=target)
    if result["status"] != "ok":
        raise UnsupportedError(f"{Path(job['model']).name} does not run in {job['runtime']} on {place}: {result['reason']}", "choose another --runtime")
    try:
        rows = np.load(work / output, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DeviceError(f"the answers of {place} cannot be read ({error})", "run it again") from error
    halves = 2 if "images" in job else 1
    steps = result.get("steps")
    if rows.ndim != 2 or rows.dtype != np.float32 or not isinstance(steps, list) or not steps or len(rows) != halves * len(steps):
        raise DeviceError(f"the answers of {place} are {rows.dtype} {list(rows.shape)} for {len(steps or [])} cases; accepted: float32, {halves} rows a case", "run it again")
    facts = {"runtime": result["runtime"], "versions": result["versions"], "delegate": result["details"].get("delegate"), "outputs": result["outputs"],
             "cpu": result["host"].get("cpu"), "machine": result["host"].get("machine")}
    return Answers(given=rows[:len(steps)], own=rows[-len(steps):], steps=steps, facts=facts)


def _expected(golden: Optional[Mapping[str, Any]], there: Answers, *, file: Path, runtime: str, photos: Sequence[Path], spec: Optional[ModelSpec], work: Path) -> Answers:
    """The bundle's own expected answers, where this machine lacks the runtime; rows without any are NaN."""
    if golden is None or spec is None:
        raise UnsupportedError(f"{file.name} cannot be compared: {runtime} is not installed on this machine", "install it here (`edgepress runtimes`), or check a bundle, which carries its expected answers")
    from edgepress.fingerprint import photo_steps

    rows = np.full((len(photos), there.own.shape[1]), np.nan, np.float32)
    expected = np.float32([image["probabilities"] for image in golden["images"]])
    if expected.shape[1:] != rows.shape[1:]:
        raise ModelError(f"{file.name} gives {rows.shape[1]} numbers and the bundle expects {expected.shape[1]}", "pack the bundle again")
    rows[:len(expected)] = expected
    return Answers(given=None, own=rows, steps=[photo_steps(photo, spec)[0] for photo in photos], facts={"runtime": golden["runtime"], "versions": {}, "delegate": None, "outputs": there.facts["outputs"]})


def _limit(file: Path, here: Answers, there: Answers) -> Limit:
    """What may differ: one step of stored integers, or a stated share of float answers, where runtime and version are the same; more where they are not."""
    scheme = _scheme(file)
    same = here.facts["runtime"] == there.facts["runtime"] and here.given is not None
    sizes = [(int(np.prod([abs(n) for n in info["shape"][1:]], dtype=np.int64)), info["scale"]) for info in there.facts["outputs"]]
    width = there.own.shape[1]
    scales = np.concatenate([np.full(size, scale or 0.0) for size, scale in sizes]) if sum(size for size, _ in sizes) == width else np.zeros(width)
    finite = np.abs(here.own[np.isfinite(here.own)])
    peak = max(1.0, float(finite.max(initial=0.0)))
    base = (FLOAT_DIFFERENCE if scheme == "float32" else QUANTIZED_DIFFERENCE) if same else bundle_golden.tolerance(f"{scheme}.file")
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


def _compare(here: Answers, there: Answers, *, names: Sequence[str], labels: Sequence[str], limit: Limit, **about: Any) -> ParityReport:
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
    width = max(len(case["name"]) for case in report.cases)
    lines = [f"{Path(report.file).name} in {runtime} on {place}, against {report.reference}", f"rule: {report.rule}"]
    lines += [_line(case, width) for case in report.cases]
    lines += [f"note: {note}" for note in report.notes] + [f"FAILED  {problem}" for problem in report.problems]
    return "\n".join(lines + [f"parity: {'passed' if report.passed else 'FAILED'}, largest difference {report.largest_difference:.2g} over {len(report.cases)} cases; "
                              f"delegate there: {report.there['delegate'] or 'none'}"])


def _line(case: Mapping[str, Any], width: int) -> str:
    steps = f"inputs {case['inputs']:6}" if "inputs" in case else f"decoding {case['decoding']:6}  pixels {case['pixels']:6}"
    answer = "no expected answer" if case["top"] is None and case["difference"] is None else f"top {' / '.join(dict.fromkeys(case['top'] or ['-']))}, off by {case['difference'] if case['difference'] is None else format(case['difference'], '.2g')}"
    return f"  {case['name']:{width}}  {steps}  {answer}"

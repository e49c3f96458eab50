"""Measure one file on one device: parity first, then inference, photo to answer, minutes without a pause, energy. Throttled rounds are repeated."""
from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from edgepress import parity, power
from edgepress.artifact import digest_file, model_file
from edgepress.errors import DeviceError, GateError, UnsupportedError
from edgepress.jobs import run_job
from edgepress.metadata import find_spec
from edgepress.parity_photos import hard_photos
from edgepress.progress import report_progress
from edgepress.scoring import choose_runtime
from edgepress.targets.base import Connection

Job = Dict[str, Any]
Result = Dict[str, Any]
SLOWED = 0.10  # a clock that fell by more than this share makes a round invalid
CHART_ROWS, CHART_WIDTH = 24, 40


@dataclass(frozen=True)
class Plan:
    """What to measure there, and how patiently."""

    threads: Tuple[int, ...] = ()  # default: 1 and all cores of the device
    rounds: int = 2
    min_runs: int = 25  # of a round
    min_seconds: float = 1.0
    max_seconds: float = 10.0
    sustained_minutes: float = 0.0
    energy_seconds: float = 0.0
    repeats: int = 3  # of a round that was throttled
    cool_down_seconds: float = 60.0


def measure_device(model: Path, connection: Connection, plan: Plan, *, target: Optional[str] = None, runtime: Optional[str] = None, raw: Optional[Path] = None,
                   sleep: Callable[[float], None] = time.sleep) -> Dict[str, Any]:
    """Everything about one file on one device, raw values included.

    Args:
        model: a bundle or a model file.
        raw: where the raw latencies of the sustained run are kept, float32 .npy [N, 2] (start in s, latency in ms).
        sleep: how a cool-down is waited for.

    Raises:
        UnsupportedError: an emulated device, which has no latency worth printing, or the file does not run there.
        GateError: the device answers otherwise than this machine: nothing is measured.
    """
    place = target or connection.address
    if connection.measured_on == "emulated":
        raise UnsupportedError(f"{place} is an emulated device: {parity.EMULATED}", f"edgepress device parity {place} {model} checks its answers")
    file = model_file(model)
    name, spec = choose_runtime(file, runtime, connection=connection), find_spec(file)
    report = parity.check_parity(model, connection, target=place, runtime=name)
    if not report.passed:
        raise GateError(f"{file.name} answers otherwise on {place} than here, so nothing is measured: {report.problems[0]}", f"edgepress device parity {place} {model} shows each photo")
    facts = connection.probe()
    document: Dict[str, Any] = {"schema": 1, "target": place, "measured_on": connection.measured_on, "file": str(file), "sha256": digest_file(file), "size_bytes": file.stat().st_size,
                                "runtime": dict(report.runtime), "parity": report.to_json(), "device": facts, "plan": dataclasses.asdict(plan), "inference": [], "end_to_end": None, "sustained": None, "energy": None}
    with tempfile.TemporaryDirectory(prefix="edgepress-bench-") as folder:
        job = {"runtime": name, "model": str(file.resolve()), "sha256": document["sha256"], "spec": spec and dataclasses.asdict(spec)}
        there = _Place(connection, Path(folder), plan, place, sleep)
        counts = plan.threads or tuple(sorted({1, int(facts.get("cpus") or 1)}))
        document["inference"] = [{"threads": count, **there.rounds({**job, "job": "benchmark", "threads": count, "seed": 0}, f"inference with {count} thread{'s' if count > 1 else ''}")} for count in counts]
        best = _fastest(document["inference"], counts[0])
        if spec is not None:
            photos = [str(photo.resolve()) for photo in _photos(file, Path(folder))]
            document["end_to_end"] = {"threads": best, **there.rounds({**job, "job": "end_to_end", "threads": best, "images": photos}, "photo to answer")}
        if plan.sustained_minutes:
            document["sustained"] = {"threads": best, **there.sustained({**job, "threads": best}, raw)}
        if plan.energy_seconds:
            document["energy"] = {"threads": best, **there.energy({**job, "threads": best})}
    return document


@dataclass(frozen=True)
class _Place:
    """A device that is held while it is measured."""

    connection: Connection
    work: Path
    plan: Plan
    name: str
    sleep: Callable[[float], None]

    def rounds(self, job: Job, what: str) -> Dict[str, Any]:
        """The rounds of one job; those that were throttled are kept, marked, and repeated after a cool-down."""
        job = {**job, "min_runs": self.plan.min_runs, "min_seconds": self.plan.min_seconds, "max_seconds": self.plan.max_seconds}
        done: List[Dict[str, Any]] = []
        while sum(one["valid"] for one in done) < self.plan.rounds:
            invalid = [one for one in done if not one["valid"]]
            if len(invalid) > self.plan.repeats:
                return {"status": "failed", "reason": f"{len(invalid)} rounds were disturbed, the last one because {invalid[-1]['reason']}", "rounds": done}
            if invalid and not done[-1]["valid"]:
                report_progress(f"{self.name}: {invalid[-1]['reason']}; cooling down for {self.plan.cool_down_seconds:g} s, then once more")
                self.sleep(self.plan.cool_down_seconds)
            report_progress(f"{self.name}: {what}, round {len(done) + 1}")
            done.append(_round(self.run(job)))
        return {"status": "ok", "reason": None, "rounds": done}

    def run(self, job: Job, *, seconds: float = 0.0) -> Result:
        """The result of one job there.

        Raises:
            UnsupportedError: the runtime does not run it there.
        """
        result = run_job(job, work=self.work, target=self.connection, timeout_seconds=600 + seconds)
        if result["status"] != "ok":
            raise UnsupportedError(f"{Path(job['model']).name} cannot be measured in {job['runtime']} on {self.name}: {result['reason']}", "choose another --runtime")
        return result

    def sustained(self, job: Job, raw: Optional[Path]) -> Dict[str, Any]:
        """Windows over time; the raw latencies go to `raw`."""
        seconds = self.plan.sustained_minutes * 60
        report_progress(f"{self.name}: {self.plan.sustained_minutes:g} minutes without a pause")
        result = self.run({**job, "job": "sustained", "seconds": seconds, "output": "sustained.npy"}, seconds=2 * seconds)
        rows = np.load(self.work / "sustained.npy", allow_pickle=False)
        if rows.ndim != 2 or rows.shape[1] != 2 or not np.isfinite(rows).all():
            raise DeviceError(f"the raw latencies of {self.name} are {rows.dtype} {list(rows.shape)}; accepted: two finite numbers a row", "measure again")
        if raw is not None:
            np.save(raw, rows)
        return {"windows": result["windows"], "runs": result["runs"], "seconds": result["seconds"], "raw_kept": len(rows), "raw": str(raw) if raw else None, **sustained_facts(result["windows"])}

    def energy(self, job: Job) -> Dict[str, Any]:
        """Joules per inference, or the reason why there are none."""
        report_progress(f"{self.name}: energy, {self.plan.energy_seconds:g} s at rest and as long at work")
        return self.run({**job, "job": "energy", "seconds": self.plan.energy_seconds}, seconds=3 * self.plan.energy_seconds)["energy"]


def _photos(file: Path, work: Path) -> List[Path]:
    """The bundle's golden photos, or drawn ones."""
    golden = file.parent / "golden"
    found = sorted(path for path in golden.iterdir() if path.is_file()) if golden.is_dir() else []
    return found or hard_photos(work / "photos")


def _round(result: Result) -> Dict[str, Any]:
    """One round with its verdict."""
    kept = {key: value for key, value in result.items() if key not in ("log", "schema", "status", "reason", "stderr", "inputs", "outputs", "host", "job")}
    reason = disturbance(result)
    return {"valid": reason is None, "reason": reason, "governor": result["host"].get("governor"), **kept}


def disturbance(result: Mapping[str, Any]) -> Optional[str]:
    """Why a round says nothing about the file, or None: the firmware throttled, or the clock fell."""
    told = power.throttled_between(result.get("throttled"), result.get("throttled_after"))
    if told:
        return f"the firmware reports {', '.join(told)}"
    before, after = (result[key].get("clock_mhz") for key in ("state", "state_after"))
    if before and after and after < (1 - SLOWED) * before:
        return f"the clock fell from {before:.0f} to {after:.0f} MHz"
    return None


def latencies(part: Mapping[str, Any]) -> List[float]:
    """All latencies of the valid rounds, in ms."""
    return [value for one in part["rounds"] if one["valid"] for value in one["latencies_ms"]]


def _fastest(parts: Sequence[Mapping[str, Any]], default: int) -> int:
    """The number of threads with the smallest median."""
    medians = {part["threads"]: statistics.median(latencies(part)) for part in parts if latencies(part)}
    return min(medians, key=lambda count: medians[count]) if medians else default


def sustained_facts(windows: Sequence[Mapping[str, Any]]) -> Dict[str, Any]:
    """How much slower it became: medians of the first and the last tenth (ten seconds at least), and what the firmware said."""
    size = min(len(windows), max(10, len(windows) // 10))
    first, last = (statistics.median(w["median_ms"] for w in part) for part in (windows[:size], windows[-size:]))
    bits = [w["throttled"] for w in windows if w["throttled"] is not None]
    told = sorted({words for value in bits for words in power.throttle_words(value)})
    return {"first_median_ms": first, "last_median_ms": last, "slowdown": last / first, "throttling": told}


def format_bench(document: Mapping[str, Any]) -> str:
    """The measurement for people, with a chart of the sustained run."""
    runtime = document["runtime"]
    lines = [f"{Path(document['file']).name} in {runtime['name']} {runtime.get('version') or ''} on {document['target']}: parity passed ({len(document['parity']['cases'])} cases, "
             f"largest difference {document['parity']['largest_difference']:.2g})", _device_line(document), f"{'':26}{'min ms':>9}{'median ms':>11}{'p90 ms':>9}{'runs':>7}"]
    lines += [_row(f"inference, {part['threads']} thread{'s' if part['threads'] > 1 else ''}", part) for part in document["inference"]]
    if document["end_to_end"]:
        part = document["end_to_end"]
        lines.append(_row(f"photo to answer, {part['threads']} thr.", part))
        lines += [f"  of it {step:10}{'':8}{'':9}{statistics.median(_steps(part, step)):11.3g}" for step in ("decode", "resize", "inference") if latencies(part)]
    if document["sustained"]:
        lines += ["", *chart(document["sustained"]), f"raw latencies: {document['sustained']['raw'] or 'not kept; give -o FILE'}"]
    if document["energy"]:
        lines.append(_energy_line(document["energy"]))
    return "\n".join(lines)


def _device_line(document: Mapping[str, Any]) -> str:
    facts, first = document["device"], document["inference"][0]["rounds"][0]
    words = [str(facts.get("board") or facts.get("cpu") or "unknown processor"), f"governor {first['governor'] or 'unknown'}"]
    state, after = first["state"], document["inference"][-1]["rounds"][-1]["state_after"]
    words += [f"{name} {state[key]:.0f} to {after[key]:.0f} {unit}" for name, key, unit in (("clock", "clock_mhz", "MHz"), ("temperature", "temperature_c", "°C")) if state[key] is not None and after[key] is not None]
    bits = first.get("throttled")
    return ", ".join(words + (["throttling unknown (no vcgencmd)"] if bits is None else [f"throttled={bits:#x}"]))


def _row(name: str, part: Mapping[str, Any]) -> str:
    if part["status"] != "ok":
        return f"{name:26} {part['status']}: {part['reason']}"
    values = sorted(latencies(part))
    repeated = sum(not one["valid"] for one in part["rounds"])
    p90 = values[max(0, -(-9 * len(values) // 10) - 1)]
    return f"{name:26}{values[0]:9.3g}{statistics.median(values):11.3g}{p90:9.3g}{len(values):7}" + (f"  ({repeated} disturbed rounds left out and repeated)" if repeated else "")


def _steps(part: Mapping[str, Any], step: str) -> List[float]:
    return [value for one in part["rounds"] if one["valid"] for value in one[f"{step}_ms"]]


def chart(part: Mapping[str, Any]) -> List[str]:
    """Latency over time as text: medians of equal stretches of time, each with a bar, the clock and the temperature."""
    windows = part["windows"]
    size = -(-len(windows) // CHART_ROWS)
    stretches = [windows[i:i + size] for i in range(0, len(windows), size)]
    medians = [statistics.median(w["median_ms"] for w in stretch) for stretch in stretches]
    lines = [f"latency over {part['seconds'] / 60:.3g} minutes without a pause ({part['runs']} runs, {part['threads']} thread{'s' if part['threads'] > 1 else ''}); median of each stretch"]
    for stretch, median in zip(stretches, medians):
        bar = "█" * max(1, round(CHART_WIDTH * median / max(medians)))
        state = "".join(f"  {stretch[-1][key]:.0f} {unit}" for key, unit in (("clock_mhz", "MHz"), ("temperature_c", "°C")) if stretch[-1][key] is not None)
        told = "  " + ", ".join(power.throttle_words(stretch[-1]["throttled"])) if power.throttle_words(stretch[-1]["throttled"]) else ""
        lines.append(f"{stretch[0]['at_seconds']:6.0f} s {median:8.3g} ms  {bar:{CHART_WIDTH}}{state}{told}")
    return lines + [f"last stretch against the first: {part['slowdown']:.2f} times the latency" + (f"; the firmware reported {', '.join(part['throttling'])}" if part["throttling"] else "")]


def _energy_line(part: Mapping[str, Any]) -> str:
    if "reason" in part:
        return f"energy: not measured: {part['reason']}"
    return f"energy: {part['joules_per_inference'] * 1e3:.3g} mJ per inference, idle power subtracted ({part['runs']} runs in {part['seconds']:.0f} s; {part['scope']})"

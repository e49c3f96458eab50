"""Measure a .tflite file with Google's own `benchmark_model` on a device: no Python is needed there. The program is the user's; it is never downloaded.

Parity first: golden inputs go in as files (`--input_layer_value_files`), the answers come back (`--output_filepath`); a device that answers otherwise gets no figures.
Each round is a fresh process. The tool keeps no single latencies, so one round is one value: the median of its timed runs, as its result file says (`Measurement.timed`).
"""
from __future__ import annotations

import contextlib
import random
import re
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from edgepress import android_facts, benchmark_output, bundle_files
from edgepress.android_facts import Cores
from edgepress.android_parity import check_answers
from edgepress.artifact import SUFFIXES, digest_file
from edgepress.bundle_archive import opened_bundle
from edgepress.errors import DeviceError, EdgepressError, JobError, ModelError, UnsupportedError, nearest
from edgepress.measurement import Measurement, Round
from edgepress.model_size import gzip_bytes
from edgepress.progress import report_progress
from edgepress.targets.base import Completed, Connection

RUNTIME = "benchmark_model"
ACCELERATORS = {"gpu": ("--use_gpu=true", "GPU"), "nnapi": ("--use_nnapi=true", "NNAPI")}  # name → flag, what the tool calls it when it was applied
SEED = 0
_APPLIED = re.compile(r"Explicitly applied (\w+) delegate, and the model graph will be (completely|partially)")
_XNNPACK = re.compile(r"Created TensorFlow Lite XNNPACK delegate for CPU|XNNPACK delegate")
_TIMED = {"median_ms": "one value a process: the median of its timed runs, by benchmark_model itself", "avg_ms": "one value a process: the mean of its timed runs, by benchmark_model itself (it printed no median)"}


@dataclass(frozen=True)
class Plan:
    """What to measure and for how long. `cores` are kinds of cores (all, little, middle, big), `accelerator` gpu or nnapi."""

    threads: Tuple[int, ...] = (1,)
    cores: Tuple[str, ...] = ("all",)
    accelerator: Optional[str] = None
    rounds: int = 6  # with fewer, the median has no 95 % interval
    min_runs: int = 50
    min_seconds: float = 1.0
    max_seconds: float = 30.0
    cool_down_seconds: float = 30.0
    retries: int = 2  # of a round in which the device throttled


@dataclass(frozen=True)
class Tool:
    """The program and the file as they lie on the device, and a folder of ours there."""

    connection: Connection
    runner: str
    model: str
    folder: str
    flags: Tuple[str, ...] = ()

    def run(self, *flags: str, mask: Optional[str] = None, timeout_seconds: float = 120.0) -> Completed:
        """One process of the tool."""
        pinned = ["taskset", mask] if mask else []
        return self.connection.run([*pinned, self.runner, f"--graph={self.model}", *self.flags, *flags], environment={}, timeout_seconds=timeout_seconds)

    def pull(self, name: str, to: Path) -> Optional[bytes]:
        """A file that the tool wrote into the folder, or None where it wrote none."""
        if self.connection.run(["test", "-s", f"{self.folder}/{name}"], environment={}, timeout_seconds=30).exit_code != 0:
            return None
        self.connection.pull(f"{self.folder}/{name}", to)
        return to.read_bytes() if to.stat().st_size <= benchmark_output.MAX_BYTES else None


@dataclass
class Case:
    """One combination of threads and cores, and what was measured of it so far."""

    threads: int
    cores: Cores
    rounds: List[Round] = field(default_factory=list)
    processes: List[Dict[str, Any]] = field(default_factory=list)
    invalid: List[Dict[str, Any]] = field(default_factory=list)
    problem: Optional[Tuple[str, str]] = None  # (status, reason)
    value: str = "median_ms"


def run_benchmark_model(connection: Connection, runner: Path, model: Path, *, plan: Plan = Plan(), bundle: Optional[Path] = None,
                        runner_sha256: Optional[str] = None) -> List[Measurement]:
    """One record for each number of threads and kind of cores; what cannot run or answers otherwise has a status and a reason.

    Args:
        runner: Google's benchmark_model for the device.
        bundle: folder whose golden photos are the parity check; without it, random inputs that this machine answers too.
        runner_sha256: what `runner` must be, where the caller pins it.

    Raises:
        DeviceError: the program is not the pinned one or is built for another processor, or the device broke the protocol.
        ModelError: not a .tflite file. UnsupportedError: no such cores or accelerator.
    """
    digest = _check_files(runner, model, plan, runner_sha256)
    facts: Dict[str, Any] = {"host": {**android_facts.device_properties(connection), "machine": android_facts.ask(connection, "uname", "-m").strip()[:40]},
                             "details": {"runner": {"name": runner.name, "sha256": digest, "size_bytes": runner.stat().st_size}}}
    with tempfile.TemporaryDirectory(prefix="benchmark-model-") as work:
        there = connection.make_folder(Path(work))
        try:
            tool = _place(connection, runner, model, folder=there, plan=plan)
            problem, facts["details"]["parity"] = check_answers(tool, model, bundle=bundle, work=Path(work))
            cores = android_facts.list_cores(connection)
            cases = [Case(threads, android_facts.choose_cores(cores, name)) for threads in plan.threads for name in plan.cores]
            if connection.measured_on != "real":
                problem = problem or ("unsupported", "the device is emulated: its milliseconds mean nothing" + _agreement(facts["details"]["parity"]))
            if problem is None:
                _measure(cases, tool, plan, work=Path(work))
        finally:
            connection.remove(there)
    return [_record(case, model, connection, plan, problem=problem or case.problem, facts=facts) for case in cases]


@contextlib.contextmanager
def opened_model(path: Path) -> Iterator[Tuple[Path, Optional[Path]]]:
    """(model file, bundle folder or None) of a model file, or of a bundle as folder or zip: its .tflite file."""
    if path.suffix.lower() in SUFFIXES or (path.is_file() and path.suffix.lower() != ".zip"):
        yield path, None
        return
    with opened_bundle(path) as folder:
        manifest = bundle_files.read_manifest(folder)
        names = [manifest["model"], *(entry.get("file", "") for entry in manifest.get("models", ()))]
        yield folder / next((name for name in names if name.endswith(".tflite")), manifest["model"]), folder


def _check_files(runner: Path, model: Path, plan: Plan, pinned: Optional[str]) -> str:
    """The sha256 of the program, once everything that can be wrong without the device is right."""
    if not runner.is_file():
        raise DeviceError(f"{runner} does not exist; accepted: the path of Google's benchmark_model for the device", "device/android/README.md says where it is found")
    if model.suffix.lower() != ".tflite" or not model.is_file():
        raise ModelError(f"{model} {'is no .tflite file' if model.is_file() else 'does not exist'}; benchmark_model runs .tflite files only", "give a .tflite file")
    if plan.accelerator is not None and plan.accelerator not in ACCELERATORS:
        raise UnsupportedError(f"accelerator {plan.accelerator!r} does not exist in benchmark_model; {nearest(plan.accelerator, ACCELERATORS)}", "leave it out for the CPU")
    digest = digest_file(runner)
    if pinned is not None and pinned.lower() != digest:
        raise DeviceError(f"{runner} has sha256 {digest}, {pinned} was asked for", "give the pinned program, or the new sha256 once you trust this one")
    return digest


def _place(connection: Connection, runner: Path, model: Path, *, folder: str, plan: Plan) -> Tool:
    with open(runner, "rb") as stream:
        android_facts.check_machine(stream.read(20), connection, file=runner.name)
    report_progress(f"pushing {runner.name} and {model.name}")
    program = connection.push(runner)
    if connection.run(["test", "-x", program], environment={}, timeout_seconds=30).exit_code != 0:
        done = connection.run(["chmod", "755", program], environment={}, timeout_seconds=30)
        if done.exit_code != 0:
            raise DeviceError(f"{program} cannot be made executable on the device: {done.stderr.strip()[:300]}", "is its folder mounted noexec?")
    flags = (ACCELERATORS[plan.accelerator][0],) if plan.accelerator else ()
    return Tool(connection, program, connection.push(model), folder, flags)


def _agreement(parity: Dict[str, Any]) -> str:
    if not parity["checked"]:
        return f"; its answers could not be compared: {parity['reason']}"
    return f"; its answers agree: {parity['inputs']} inputs, largest difference {parity['largest_difference']:g} (accepted: {parity['tolerance']:g})"


def _measure(cases: Sequence[Case], tool: Tool, plan: Plan, *, work: Path) -> None:
    """Rounds of all cases, in another order each time, so that a disturbance does not hit one case alone."""
    for number in range(plan.rounds):
        order = [case for case in cases if case.problem is None]
        random.Random(SEED + number).shuffle(order)
        for done, case in enumerate(order):
            report_progress(f"benchmark_model with {case.threads} threads on {case.cores.name} cores", done=(number + done / len(order)) / plan.rounds)
            try:
                _valid_round(case, tool, plan, work=work)
            except JobError as error:
                case.problem = "failed", error.reason
            except EdgepressError as error:
                case.problem = "failed", str(error)


def _valid_round(case: Case, tool: Tool, plan: Plan, *, work: Path) -> None:
    """One round in which the device did not throttle; the others are kept as invalid, with a pause after each."""
    for attempt in range(plan.retries + 1):
        before = android_facts.state(tool.connection)
        metrics, text = _one_process(case, tool, plan, work=work)
        after = android_facts.state(tool.connection)
        entry = {**metrics, "state": before, "state_after": after, "delegate": _delegate(text, plan)}
        if not android_facts.is_throttled(after):
            case.value = "median_ms" if "median_ms" in metrics else "avg_ms"
            case.processes.append(entry)
            case.rounds.append(_round(metrics, case.value, before, after))
            return
        case.invalid.append({**entry, "reason": f"thermal status {after['thermal']['status_name']}"})
        if attempt < plan.retries:
            time.sleep(plan.cool_down_seconds)
    raise DeviceError(f"the device throttled in {plan.retries + 1} runs one after the other", "let it cool, take it off the charger and out of its case, and measure again")


def _one_process(case: Case, tool: Tool, plan: Plan, *, work: Path) -> Tuple[benchmark_output.Metrics, str]:
    """The metrics of one run of the tool and what it printed."""
    name = f"result-{len(case.processes) + len(case.invalid)}-{case.threads}-{case.cores.name}.pb"
    done = tool.run(f"--num_threads={case.threads}", f"--num_runs={plan.min_runs}", f"--min_secs={plan.min_seconds:g}", f"--max_secs={plan.max_seconds:g}",
                    f"--result_file_path={tool.folder}/{name}", "--report_peak_memory_footprint=true", mask=case.cores.mask, timeout_seconds=120 + 2 * plan.max_seconds)
    text = done.stdout + "\n" + done.stderr  # Android's log lines go to stderr
    if done.exit_code != 0:
        raise JobError(f"benchmark_model ended with exit code {done.exit_code}: " + " ".join(text[-400:].split()), command=[tool.runner], exit_code=done.exit_code)
    printed = benchmark_output.parse_text(text)
    data = tool.pull(name, work / name)
    if data is None:  # tools from before 2024 have no --result_file_path
        return printed, text
    metrics = benchmark_output.parse_result(data)
    benchmark_output.agree(metrics, printed)
    return {**printed, **metrics}, text


def _delegate(text: str, plan: Plan) -> Optional[str]:
    """What ran the graph, as the tool says.

    Raises:
        UnsupportedError: an accelerator was asked for, and the CPU did the work.
    """
    applied = _APPLIED.search(text)
    if plan.accelerator:
        wanted = ACCELERATORS[plan.accelerator][1]
        if not applied or applied[1].upper() != wanted:
            raise UnsupportedError(f"benchmark_model did not apply the {wanted} delegate: the CPU would have been measured", "leave the accelerator out, or see what it printed on the device")
        return f"{applied[1]} ({applied[2]})"
    return "XNNPACK" if _XNNPACK.search(text) else None


def _round(metrics: benchmark_output.Metrics, value: str, before: Dict[str, Any], after: Dict[str, Any]) -> Round:
    if not metrics[value]:
        raise DeviceError("benchmark_model gives times to 0.01 ms, and this file takes less", "take a benchmark_model that knows --result_file_path")
    return Round(latencies_ms=(metrics[value],), import_ms=0.0, load_ms=metrics.get("init_ms", 0.0), first_run_ms=metrics.get("first_ms", metrics[value]),
                 warmup_runs=int(metrics.get("warmup_runs", 0)), temperature_c=android_facts.hottest_c(before), temperature_after_c=android_facts.hottest_c(after))


def _record(case: Case, model: Path, connection: Connection, plan: Plan, *, problem: Optional[Tuple[str, str]], facts: Dict[str, Any]) -> Measurement:
    status, reason = problem or ("ok", None)
    details = {**facts["details"], "cores": {"name": case.cores.name, "cpus": list(case.cores.cpus), "mask": case.cores.mask}, "processes": case.processes, "invalid_runs": case.invalid,
               "delegate": case.processes[0]["delegate"] if case.processes else None}
    settings = {**{key: value for key, value in asdict(plan).items() if key not in ("threads", "cores", "accelerator")}, "min_runs": plan.rounds, "runs_a_process": plan.min_runs, "seed": SEED}
    return Measurement(file=str(model), sha256=digest_file(model), format="tflite", size_bytes=model.stat().st_size, gzip_bytes=gzip_bytes(model), runtime=RUNTIME, threads=case.threads,
                       target=connection.address, measured_on=connection.measured_on, accelerator=plan.accelerator, status=status, reason=reason, timed=_TIMED[case.value],
                       settings=settings, host=facts["host"], details=details, rounds=tuple(case.rounds) if status == "ok" else ())

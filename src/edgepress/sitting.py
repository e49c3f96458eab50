"""One sitting of the benchmark: every case measured by turns, round after round, until the ratios are known well enough or the time is over."""
from __future__ import annotations

import dataclasses
import datetime
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from edgepress.artifact import SUFFIXES
from edgepress.device_use import LOCAL
from edgepress.errors import DeviceError, EdgepressError, JobError
from edgepress.measurement import Measurement, Round, engine_name
from edgepress.progress import report_progress
from edgepress.ratios import blocks_of, latency_ratio, own_half_width
from edgepress.recipe import BenchmarkConfig
from edgepress.runtimes import load_runtime
from edgepress.targets.base import Connection
from edgepress.turns import Pace, groups, measure_by_turns

SEED = 0
BLOCK_SECONDS = 0.4  # at most: a block is long against waking a process up and short against what disturbs a machine
BLOCKS = 8  # of a round at least: what the block bootstrap needs
WELL_KNOWN = 0.01  # half-width of the 95 % interval of a ratio at which measuring ends
MAX_KEPT = 10_000  # latencies of one measurement


@dataclass(frozen=True)
class Effort:
    """Defaults of a benchmark's length. `rounds` is the fewest: each is a fresh process per case."""

    rounds: int
    min_runs: int
    min_seconds: float
    max_seconds: float


EFFORTS: Mapping[str, Effort] = {
    "quick": Effort(rounds=3, min_runs=50, min_seconds=1.5, max_seconds=2.0),
    "normal": Effort(rounds=4, min_runs=50, min_seconds=2.0, max_seconds=10.0),
    "long": Effort(rounds=6, min_runs=1024, min_seconds=60.0, max_seconds=600.0),  # MLPerf Mobile's shortest run: 1,024 queries and 60 s
}


@dataclass(frozen=True)
class Case:
    """One file in one runtime with one number of threads."""

    file: Path
    sha256: str
    size_bytes: int
    gzip_bytes: int
    runtime: str
    threads: int
    verdict: str = "ok"  # ok | marked | refused: what is known about such a file in this runtime, and why
    remark: Optional[str] = None
    target: str = LOCAL
    measured_on: str = "real"
    batch: int = 1
    accelerator: Optional[str] = None  # None: the CPU
    role: str = ""  # tells two cases of one and the same file apart

    def record(self, **facts: Any) -> Measurement:
        """The measurement of this case."""
        return Measurement(file=str(self.file), sha256=self.sha256, format=SUFFIXES[self.file.suffix.lower()], size_bytes=self.size_bytes,
                           gzip_bytes=self.gzip_bytes, runtime=self.runtime, threads=self.threads, remark=self.remark, target=self.target, accelerator=self.accelerator,
                           measured_on=self.measured_on, timed=f"inputs handed over, inference, outputs read; batch {self.batch}", **facts)

    def job(self, settings: Mapping[str, Any]) -> Dict[str, Any]:
        """The benchmark job of one round."""
        blocks = settings["rounds"] * settings["blocks"]
        return {"job": "benchmark", "runtime": self.runtime, "model": str(self.file.resolve()), "sha256": self.sha256, "threads": self.threads, "batch": self.batch,
                **({"accelerator": self.accelerator} if self.accelerator else {}),
                "max_seconds": settings["max_seconds"] / blocks, "max_runs": -(-settings["max_runs"] // blocks), "warmup_seconds": settings["warmup_seconds"], "seed": SEED}

    def refusal(self) -> Optional[str]:
        """Why it is not even tried."""
        if SUFFIXES[self.file.suffix.lower()] not in load_runtime(self.runtime).FORMATS:
            return f"runtime {self.runtime} does not open {self.file.suffix} files"
        return self.remark if self.verdict == "refused" else None


def settings_of(config: BenchmarkConfig) -> Dict[str, Any]:
    """What a config means in numbers: its own, else those of its effort."""
    effort = EFFORTS[config.effort]
    found = {key: getattr(config, key) if getattr(config, key) is not None else getattr(effort, key) for key in ("min_runs", "min_seconds", "max_seconds")}
    seconds = found["min_seconds"] / effort.rounds
    blocks = max(BLOCKS, round(seconds / BLOCK_SECONDS))
    return {"effort": config.effort, **found, "warmup_seconds": config.warmup_seconds, "rounds": effort.rounds, "blocks": blocks, "max_runs": max(MAX_KEPT, found["min_runs"]), "seed": SEED}


def measure_cases(cases: Sequence[Case], config: BenchmarkConfig, *, connection: Connection, work: Path) -> List[Measurement]:
    """One record per case, in their order; what cannot run has a status and a reason."""
    records: Dict[Case, Measurement] = {}
    settings = settings_of(config)
    able = []
    for case in cases:
        reason = case.refusal()
        if reason is None:
            able.append(case)
        else:
            records[case] = case.record(status="unsupported", reason=reason, settings=settings)
    where = "" if connection.address == LOCAL else f" on {connection.address}"
    for part in groups(len(able), connection.probe().get("memory_bytes")):
        group = [able[i] for i in part]
        text = f"measuring {len(cases)} combinations of file, runtime and threads by turns{where}"
        records.update(_measure_group(group, settings, connection=connection, work=work, text=text))
        for case in group if config.processes else ():
            records[case] = _with_throughput(case, records[case], config.processes, settings, connection=connection, work=work)
    return [records[case] for case in cases]


def _measure_group(cases: Sequence[Case], settings: Mapping[str, Any], *, connection: Connection, work: Path, text: str) -> Dict[Case, Measurement]:
    """Rounds until every ratio is known to 1 %, or the time is over: `max_seconds` a case, once the fewest rounds are done."""
    results: Dict[Case, List[Dict[str, Any]]] = {case: [] for case in cases}
    facts = {"settings": settings, "sitting": secrets.token_hex(8), "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")}
    begin, done = time.monotonic(), 0
    while True:
        report_progress(f"{text}, round {done + 1}", done=min(0.95, max(done / settings["rounds"] / 2, (time.monotonic() - begin) / (settings["max_seconds"] * len(cases)))))
        able = [case for case in cases if not results[case] or results[case][-1]["status"] == "ok"]
        for case, result in zip(able, _round_of(able, settings, number=done, connection=connection, work=work)):
            results[case].append(result)
        done += 1
        records = {case: _record(case, results[case], facts) for case in cases}
        spent = time.monotonic() - begin
        if done >= settings["rounds"] and (_well_known(list(records.values())) or spent * (done + 1) / done > settings["max_seconds"] * len(cases)):
            return records
        if not any(record.status == "ok" for record in records.values()):
            return records


def _with_throughput(case: Case, record: Measurement, processes: Sequence[int], settings: Mapping[str, Any], *, connection: Connection, work: Path) -> Measurement:
    """The record with runs per second of several processes at once: in each block the sum of their rates."""
    if record.status != "ok":
        return record
    found: Dict[str, List[float]] = {}
    for count in processes:
        report_progress(f"measuring {case.file.name} in {engine_name(case.runtime, case.accelerator)}: {count} processes at once")
        results = measure_by_turns([case.job(settings)] * count, _pace(settings), seed=SEED, work=work, connection=connection, together=True)
        if all(r["status"] == "ok" for r in results):
            rates = [[case.batch * 1e3 * len(block) / sum(block) for block in blocks_of(r["latencies_ms"], r["block_runs"])] for r in results]
            found[str(count)] = [round(sum(block), 3) for block in zip(*rates)]
    return dataclasses.replace(record, throughput=found)


def _pace(settings: Mapping[str, Any]) -> Pace:
    seconds = settings["min_seconds"] / settings["rounds"]
    return Pace(blocks=settings["blocks"], block_seconds=seconds / settings["blocks"], block_runs=max(1, -(-settings["min_runs"] // (settings["rounds"] * settings["blocks"]))),
                case_seconds=settings["max_seconds"] / settings["rounds"])


def _round_of(cases: Sequence[Case], settings: Mapping[str, Any], *, number: int, connection: Connection, work: Path) -> List[Dict[str, Any]]:
    """The result of each case in one round. Where the whole round is lost, each case is tried alone, so that one file does not spoil all."""
    try:
        return measure_by_turns([case.job(settings) for case in cases], _pace(settings), seed=SEED + number, work=work, connection=connection)
    except JobError as error:
        if len(cases) == 1:
            return [{"status": "failed", "reason": error.reason}]
    except DeviceError:
        raise  # says nothing about a file
    except EdgepressError as error:
        if len(cases) == 1:
            return [{"status": "unsupported", "reason": str(error)}]
    return [_round_of([case], settings, number=number, connection=connection, work=work)[0] for case in cases]


def _well_known(records: Sequence[Measurement]) -> bool:
    """Whether every ratio to the first record of as many threads has a half-width of 1 %; a record that is alone, its own latency."""
    measured = [m for m in records if m.status == "ok"]
    first: Dict[int, Measurement] = {}
    for m in measured:
        first.setdefault(m.threads, m)
    widths = []
    for m in measured:
        base = first[m.threads]
        if m is not base and m.input_shapes and base.input_shapes and sorted(map(sorted, m.input_shapes)) == sorted(map(sorted, base.input_shapes)):
            widths.append(latency_ratio(base, m).half_width)
        elif m is not base or sum(o.threads == m.threads for o in measured) == 1:
            widths.append(own_half_width(m))
    return all(width < WELL_KNOWN for width in widths)


def _record(case: Case, results: Sequence[Dict[str, Any]], facts: Mapping[str, Any]) -> Measurement:
    """The rounds of a case as one record; one round that is not ok decides."""
    last = results[-1]
    known = {**facts, "host": last.get("host", {}), "runtime_version": last.get("runtime", {}).get("version")}
    if last["status"] != "ok":
        return case.record(status=last["status"], reason=last["reason"], **known)
    return case.record(**known, details=last["details"], input_shapes=tuple(tuple(s) for s in last["input_shapes"]), rounds=tuple(map(round_of, results)))


def round_of(result: Mapping[str, Any]) -> Round:
    """A worker's result as a round."""
    state, after = result["state"], result["state_after"]
    names = {f.name for f in dataclasses.fields(Round)} - {"latencies_ms", "block_runs"}
    return Round(latencies_ms=tuple(result["latencies_ms"]), block_runs=tuple(result.get("block_runs", ())), load_average=state["load_average"], temperature_c=state["temperature_c"],
                 temperature_after_c=after["temperature_c"], clock_mhz=state["clock_mhz"], clock_after_mhz=after["clock_mhz"], **{k: v for k, v in result.items() if k in names})

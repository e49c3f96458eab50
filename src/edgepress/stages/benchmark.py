"""Measure latency, memory and size of model files: each in every runtime that opens it, in fresh processes."""
from __future__ import annotations

import dataclasses
import random
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from edgepress import measurement, profiles
from edgepress.artifact import SUFFIXES, digest_file, model_file, write_atomic
from edgepress.device_use import LOCAL, hold, on_each
from edgepress.errors import EdgepressError, JobError, ModelError
from edgepress.host import usable_cpus
from edgepress.jobs import available_runtimes, run_job
from edgepress.measurement import Measurement, Round
from edgepress.progress import report_progress
from edgepress.recipe import BenchmarkConfig
from edgepress.runtimes import load_runtime, runtimes_for
from edgepress.targets.base import Connection

ROUNDS = 2  # every case is measured this many times, in another order each time, so that a disturbance does not hit one file alone
SEED = 0


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

    def record(self, **facts: Any) -> Measurement:
        """The measurement of this case."""
        return Measurement(file=str(self.file), sha256=self.sha256, format=SUFFIXES[self.file.suffix.lower()], size_bytes=self.size_bytes,
                           gzip_bytes=self.gzip_bytes, runtime=self.runtime, threads=self.threads, remark=self.remark, target=self.target,
                           measured_on=self.measured_on, **facts)


def benchmark(out: Path, *, model: Union[Path, Sequence[Path]], config: BenchmarkConfig) -> None:
    """Write measurements.json: one record per file, runtime and thread count; what cannot run has a status and a reason.

    Args:
        model: model files, or folders of them.
    """
    files = [model] if isinstance(model, Path) else model
    parts = on_each(config.target, lambda target: _on_target(target, files, config, work=out))
    records = [record for part in parts.values() for record in part]
    write_atomic(out / measurement.FILE, measurement.dump(records).encode())


def _on_target(target: str, files: Sequence[Path], config: BenchmarkConfig, *, work: Path) -> List[Measurement]:
    """The records of one target, which is held meanwhile."""
    with hold(target) as connection:
        doubts: Dict[Tuple[Path, str], Optional[str]] = {}
        cases = [_checked(case, doubts, connection, work=work) for case in _cases(files, config, connection=connection, target=target)]
        results: Dict[Case, List[Dict[str, Any]]] = {case: [] for case in cases}
        for number in range(ROUNDS):
            order = [case for case in cases if not results[case] or results[case][-1]["status"] == "ok"]
            random.Random(SEED + number).shuffle(order)
            for done, case in enumerate(order):
                report_progress(f"measuring {len(cases)} combinations of file, runtime and threads" + ("" if target == LOCAL else f" on {target}"), done=(number + done / len(order)) / ROUNDS)
                results[case].append(_measure(case, config, work=work, connection=connection))
    return [_record(case, results[case], config) for case in cases]


def _checked(case: Case, doubts: Dict[Tuple[Path, str], Optional[str]], connection: Connection, *, work: Path) -> Case:
    """The case, refused where its device must not be measured: an emulated one, or one that answers otherwise than this machine.

    Args:
        doubts: reasons that were found already, by file and runtime; added to.
    """
    if case.target == LOCAL or case.verdict == "refused":
        return case
    from edgepress.parity import gate

    pair = case.file, case.runtime
    if pair not in doubts:
        doubts[pair] = gate(*pair, connection, work=work)
    return dataclasses.replace(case, verdict="refused" if doubts[pair] else "ok", remark=doubts[pair])  # "slow" is known of this machine, not of that one


def _cases(paths: Sequence[Path], config: BenchmarkConfig, *, connection: Connection, target: str) -> List[Case]:
    """Every combination to measure, in the order of the table.

    Raises:
        ModelError: a path that is or holds no model file.
    """
    cpus = usable_cpus() if target == LOCAL else int(connection.probe().get("cpus") or 1)
    threads = config.threads or tuple(sorted({1, cpus}))
    cases: List[Case] = []
    for path in paths:
        for file in _files(path):
            facts = {"target": target, "measured_on": connection.measured_on, "file": file, "sha256": digest_file(file), "size_bytes": file.stat().st_size, "gzip_bytes": gzip_size(file)}
            for runtime, (verdict, remark) in _verdicts(file, _runtimes(file, config.runtimes, connection)).items():
                cases += [Case(**facts, runtime=runtime, threads=count, verdict=verdict, remark=remark) for count in threads]
    return list(dict.fromkeys(cases))  # the same file may have been named twice


def _verdicts(file: Path, runtimes: Sequence[str]) -> Dict[str, Tuple[str, Optional[str]]]:
    """Runtime → what the target profiles know about this file there. A file they cannot read is left to the runtime to judge."""
    if SUFFIXES[file.suffix.lower()] == "keras":
        return dict.fromkeys(runtimes, ("ok", None))
    try:
        facts = profiles.file_facts(file)
    except ModelError:
        return dict.fromkeys(runtimes, ("ok", None))
    return {runtime: profiles.verdict(runtime, facts) for runtime in runtimes}


def _files(path: Path) -> List[Path]:
    """The file itself, or every model file of a folder."""
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file()) if path.is_dir() else []
    return found or [model_file(path)]


def _runtimes(file: Path, wanted: Tuple[str, ...], connection: Connection) -> Tuple[str, ...]:
    """Those asked for that open the format, else the installed ones; where there is none, all that would: the records then say why not."""
    for name in wanted:
        load_runtime(name)
    openers = runtimes_for(SUFFIXES[file.suffix.lower()])
    asked = tuple(name for name in wanted if name in openers)
    if wanted:
        return asked or wanted
    return available_runtimes(SUFFIXES[file.suffix.lower()], connection=connection) or openers


def gzip_size(file: Path) -> int:
    """Size after gzip -9: what a download of the file costs."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    with open(file, "rb") as stream:
        size = sum(len(packer.compress(block)) for block in iter(lambda: stream.read(1 << 20), b""))
    return size + len(packer.flush())


def _measure(case: Case, config: BenchmarkConfig, *, work: Path, connection: Connection) -> Dict[str, Any]:
    """The worker's result of one round; a failure is a result too."""
    if SUFFIXES[case.file.suffix.lower()] not in load_runtime(case.runtime).FORMATS:
        return {"status": "unsupported", "reason": f"runtime {case.runtime} does not open {case.file.suffix} files"}
    if case.verdict == "refused":
        return {"status": "unsupported", "reason": case.remark}
    job = {"job": "benchmark", "runtime": case.runtime, "model": str(case.file.resolve()), "sha256": case.sha256, "threads": case.threads,
           "min_runs": -(-config.min_runs // ROUNDS), "min_seconds": config.min_seconds / ROUNDS, "max_seconds": config.max_seconds / ROUNDS,
           "warmup_seconds": config.warmup_seconds, "seed": SEED}
    try:
        return run_job(job, work=work, target=connection, timeout_seconds=600 + config.max_seconds)
    except JobError as error:
        return {"status": "failed", "reason": error.reason}
    except ModelError:
        raise
    except EdgepressError as error:
        return {"status": "unsupported", "reason": str(error)}


def _record(case: Case, results: Sequence[Dict[str, Any]], config: BenchmarkConfig) -> Measurement:
    """The rounds of a case as one record; one round that is not ok decides."""
    settings = {**{key: value for key, value in dataclasses.asdict(config).items() if key not in ("runtimes", "threads", "target")}, "rounds": ROUNDS, "seed": SEED}
    last = results[-1]
    facts: Dict[str, Any] = {"settings": settings, "host": last.get("host", {}), "runtime_version": last.get("runtime", {}).get("version")}
    if last["status"] != "ok":
        return case.record(status=last["status"], reason=last["reason"], **facts)
    return case.record(**facts, details=last["details"], input_shapes=tuple(tuple(s) for s in last["input_shapes"]), rounds=tuple(map(_round, results)))


def _round(result: Dict[str, Any]) -> Round:
    state, after = result["state"], result["state_after"]
    kept = {f.name: result[f.name] for f in dataclasses.fields(Round) if f.name in result and f.name != "latencies_ms"}
    return Round(latencies_ms=tuple(result["latencies_ms"]), load_average=state["load_average"], temperature_c=state["temperature_c"],
                 temperature_after_c=after["temperature_c"], clock_mhz=state["clock_mhz"], clock_after_mhz=after["clock_mhz"], **kept)

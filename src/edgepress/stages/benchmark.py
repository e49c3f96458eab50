"""Measure latency, memory and size of model files: each in every runtime that opens it, in fresh processes."""
from __future__ import annotations

import dataclasses
import zlib
from functools import partial
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple, Union

from edgepress import measurement, profiles
from edgepress.artifact import SUFFIXES, digest_file, model_file, write_atomic
from edgepress.device_use import LOCAL, hold, on_each
from edgepress.errors import DeviceError, ModelError, UnsupportedError
from edgepress.host import usable_cpus
from edgepress.jobs import available_runtimes
from edgepress.measurement import Measurement
from edgepress.recipe import BenchmarkConfig
from edgepress.runtimes import load_runtime, runtimes_for
from edgepress.runtimes.accelerators import runtimes_of
from edgepress.sitting import Case, measure_cases
from edgepress.targets import connect
from edgepress.targets.base import Connection


def benchmark(out: Path, *, model: Union[Path, Sequence[Path]], config: BenchmarkConfig) -> None:
    """Write measurements.json: one record per file, runtime (with the CPU or an accelerator) and thread count; what cannot run has a status and a reason.

    Args:
        model: model files, or folders of them.
    """
    files = [model] if isinstance(model, Path) else model
    parts, failure = on_each(config.target, lambda target: _on_target(target, files, config, work=out))
    if failure is not None:
        raise failure
    records = [record for part in parts.values() for record in part]
    write_atomic(out / measurement.FILE, measurement.dump(records).encode())


def _on_target(target: str, files: Sequence[Path], config: BenchmarkConfig, *, work: Path) -> List[Measurement]:
    """The records of one target, which is held meanwhile. A device that is lost loses nothing of the others: its records say why they are empty."""
    try:
        with hold(target) as connection:
            cases = check_cases(cases_of(files, config, connection=connection, target=target), connection, work=work)
            return measure_cases(cases, config, connection=connection, work=work)
    except DeviceError as error:
        if len(set(config.target)) == 1:
            raise
        once = dataclasses.replace(config, threads=config.threads or (1,))
        return [case.record(status="failed", reason=str(error)) for case in cases_of(files, once, connection=connect(LOCAL), target=target)]


def check_cases(cases: Sequence[Case], connection: Connection, *, work: Path) -> List[Case]:
    """The cases, those refused whose device must not be measured: no figure of a place comes before its answers are this machine's.

    Raises:
        DeviceError: the device is gone.
    """
    doubts: Dict[Tuple[Path, str], Optional[str]] = {}
    return [_checked(case, doubts, connection, work=work) for case in cases]


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


def cases_of(paths: Sequence[Path], config: BenchmarkConfig, *, connection: Connection, target: str = LOCAL) -> List[Case]:
    """Every combination to measure, in the order of the table.

    Raises:
        ModelError: a path that is or holds no model file.
        UnsupportedError: an accelerator that does not exist, or is for none of these files.
    """
    cpus = usable_cpus() if target == LOCAL else int(connection.probe().get("cpus") or 1)
    threads = config.threads or tuple(sorted({1, cpus}))
    accelerators = {name: runtimes_of(name) for name in config.accelerator}
    cases: List[Case] = []
    for path in paths:
        for file in _files(path):
            facts = {"target": target, "measured_on": connection.measured_on, "file": file, "sha256": digest_file(file), "size_bytes": file.stat().st_size, "gzip_bytes": gzip_size(file)}
            for runtime, (verdict, remark) in _verdicts(file, _runtimes(file, config.runtimes, connection)).items():
                case = partial(Case, **facts, runtime=runtime, verdict=verdict, remark=remark)
                cases += [case(threads=count, batch=batch) for count in threads for batch in config.batch]
                case = partial(case, verdict="ok", remark=None)  # what is known is known of the CPU
                cases += [case(threads=min(threads), batch=batch, accelerator=name) for name, knowing in accelerators.items() if runtime in knowing for batch in config.batch]
    require_used(config.accelerator, [case.accelerator for case in cases])
    return list(dict.fromkeys(cases))  # the same file may have been named twice


def require_used(accelerators: Sequence[str], used: Sequence[Optional[str]]) -> None:
    """Nothing, where each accelerator is used by something.

    Raises:
        UnsupportedError: one is not, so that it would be missing without a word.
    """
    for name in accelerators:
        if name not in used:
            raise UnsupportedError(f"accelerator {name} belongs to {' and '.join(runtimes_of(name))}, in which none of these files is measured", "give it a file for that runtime, or leave it out")


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

"""Have several files measured by turns on one target: pack the jobs, wait asleep, bring back one result per case."""
from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Tuple

from edgepress.errors import DeviceError, EdgepressError, JobError, ModelError
from edgepress.jobs import THREAD_VARIABLES, launcher_of, prepare_job, read_result
from edgepress.targets.base import RESULT_BYTES, Connection

START_SECONDS = 60.0  # of the time limit, for each case: a library's import on a slow board
BYTES_PER_PROCESS = 400 << 20  # reserved for one open file: what does not fit in half of the memory is measured in groups


@dataclass(frozen=True)
class Pace:
    """One round: how many blocks each case has, and how long one is."""

    blocks: int
    block_seconds: float
    block_runs: int  # fewest timed runs of a block
    case_seconds: float  # a case that has taken as long gets no further block


def measure_by_turns(jobs: Sequence[Dict[str, Any]], pace: Pace, *, seed: int, work: Path, connection: Connection, together: bool = False) -> List[Dict[str, Any]]:
    """One round: a fresh process per job, blocks of all of them in random order. What a case cannot do is in its result: status and reason.

    Args:
        jobs: benchmark jobs (see `worker.py`), with absolute paths.
        work: folder for the job's files; it must exist.
        together: all at the same time instead, for throughput.

    Raises:
        JobError: the process that gives the turns died, or the target is gone.
    """
    folder = Path(tempfile.mkdtemp(prefix=".turns-", dir=work))
    there = connection.make_folder(folder)
    try:
        cases, results = _cases(jobs, connection, folder=folder, there=there)
        if cases:
            numbers = list(cases)
            found = _run(list(cases.values()), pace, seed=seed, together=together, connection=connection, folder=folder, there=there)
            results.update(zip(numbers, found))
        return [results[number] for number in range(len(jobs))]
    finally:
        with contextlib.suppress(EdgepressError):  # the target may be the very thing that failed
            connection.remove(there)
        shutil.rmtree(folder, ignore_errors=True)


def _cases(jobs: Sequence[Dict[str, Any]], connection: Connection, *, folder: Path, there: str) -> Tuple[Dict[int, Dict[str, Any]], Dict[int, Dict[str, Any]]]:
    """By the job's number: what the worker is told about each case, and the results of those whose runtime is not there."""
    cases: Dict[int, Dict[str, Any]] = {}
    refused: Dict[int, Dict[str, Any]] = {}
    for number, job in enumerate(jobs):
        try:
            command = launcher_of(connection, job["runtime"], folder)
            prepared = prepare_job(job, work=folder, there=there, connection=connection)
        except (ModelError, JobError, DeviceError):
            raise
        except EdgepressError as error:
            refused[number] = {"status": "unsupported", "reason": str(error)}
            continue
        cases[number] = {"command": command, "job": prepared, "environment": {name: str(prepared["threads"]) for name in THREAD_VARIABLES}}
    return cases, refused


def _run(cases: List[Dict[str, Any]], pace: Pace, *, seed: int, together: bool, connection: Connection, folder: Path, there: str) -> List[Dict[str, Any]]:
    job = {"schema": 1, "job": "interleave", "cases": cases, "blocks": pace.blocks, "block_seconds": pace.block_seconds, "block_runs": pace.block_runs,
           "case_seconds": pace.case_seconds, "seed": seed, "together": together}
    connection.write(json.dumps(job, indent=1).encode(), f"{there}/job.json")
    command = [*cases[0]["command"], f"{there}/job.json", f"{there}/result.json"]
    seconds = 600 + len(cases) * (START_SECONDS + 10 * pace.case_seconds)
    done = connection.run(command, environment={}, timeout_seconds=seconds)
    result = read_result(connection, command, done, folder, max_bytes=len(cases) * RESULT_BYTES)
    return [{"host": result["host"], **one} for one in result["results"]]


def groups(count: int, memory_bytes: int | None) -> Iterator[range]:
    """Cases that are open at the same time: as many as half of the memory holds, two at least."""
    most = max(2, (memory_bytes or 4 << 30) // 2 // BYTES_PER_PROCESS)
    parts = -(-count // most)
    size = -(-count // parts) if parts else 0
    for start in range(0, count, size or 1):
        yield range(start, min(count, start + size))

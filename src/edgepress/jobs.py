"""Run one job of the worker in a fresh process on a target and bring back its result."""
from __future__ import annotations

import contextlib
import json
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

from edgepress.artifact import digest_file
from edgepress.errors import ArtifactError, DatasetError, DeviceError, GateError, JobError, MissingDependencyError, UnsupportedError
from edgepress.runtimes import load_runtime, runtimes_for
from edgepress.targets import connect
from edgepress.results import BadResultError, parse_result
from edgepress.targets.base import RESULT_BYTES, Completed, Connection, NotThereError
from edgepress.targets.local import interpreter as interpreter  # part of this module's contract
from edgepress.worker_pack import worker_bytes

# A runtime's threads are those it is told; NumPy's own would compete with them.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
OUTPUT_BYTES = 256 << 20  # raw answers
_FILES = ("model", "pixels", "tensors", "archive", "key")
_MENDABLE = {kind.__name__: kind for kind in (DatasetError, ArtifactError, GateError)}  # a photo or a bundle, not the process, is at fault
_SIGNAL_HINTS = {"SIGILL": "this runtime was built for a newer processor; try another version of it",
                 "SIGKILL": "most likely the machine ran out of memory",
                 "SIGSEGV": "the runtime crashed on this file; try another runtime or version (`edgepress runtimes`)",
                 "SIGABRT": "the runtime gave up on this file; try another runtime or version (`edgepress runtimes`)"}


def run_job(job: Dict[str, Any], *, work: Path, target: Union[str, Connection] = "local", timeout_seconds: float = 600) -> Dict[str, Any]:
    """Run a job in a fresh process and wait for it, asleep.

    Args:
        job: see `worker.py`. Paths are relative to `work`, or absolute. "schema" and "sha256" are added where absent, "threads" is 1 by default.
        work: folder for the job's files; "output" is written there. It must exist.
        target: an address, or a connection that is open (and stays open).

    Returns:
        The worker's result with status "ok", or "unsupported" with a reason.

    Raises:
        DatasetError: a photo that cannot be read.
        JobError: the process crashed, was stopped, or reports a failure; holds both streams.
        MissingDependencyError, UnsupportedError: the runtime is not installed.
    """
    work = Path(work)
    folder = Path(tempfile.mkdtemp(prefix=".job-", dir=work))
    try:
        with opened(target) as connection:
            return _run_there(job, connection, work=work, folder=folder, timeout_seconds=timeout_seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def opened(target: Union[str, Connection]) -> Iterator[Connection]:
    """The connection to an address, closed at the end; one that is open already is handed through."""
    if not isinstance(target, str):
        yield target
        return
    connection = connect(target)
    try:
        yield connection
    finally:
        connection.close()


def _run_there(job: Dict[str, Any], connection: Connection, *, work: Path, folder: Path, timeout_seconds: float) -> Dict[str, Any]:
    launcher = launcher_of(connection, job["runtime"], folder)
    there = connection.make_folder(folder)
    try:
        prepared = prepare_job(job, work=work, there=there, connection=connection)
        connection.write(json.dumps(prepared, indent=1).encode(), f"{there}/job.json")
        command = [*launcher, f"{there}/job.json", f"{there}/result.json"]
        environment = {name: str(prepared.get("threads", 1)) for name in THREAD_VARIABLES}
        done = connection.run(command, environment=environment, timeout_seconds=timeout_seconds)
        result = read_result(connection, command, done, folder)
        if result["status"] == "ok" and "output" in job:
            connection.pull(prepared["output"], work / job["output"], max_bytes=OUTPUT_BYTES)
            result["output"] = job["output"]
        return result
    finally:
        connection.remove(there)


def available_runtimes(model_format: str, *, connection: Optional[Connection] = None) -> Tuple[str, ...]:
    """Names of the runtimes of this machine (or of a target) that open files of a format, the preferred one first. Looks, but does not import them here."""
    there = connection is not None and connection.address != "local"
    return tuple(name for name in runtimes_for(model_format) if not (there and not load_runtime(name).PORTABLE) and _is_installed(name, connection))


def _is_installed(runtime: str, connection: Optional[Connection]) -> bool:
    try:
        interpreter(runtime) if connection is None else connection.interpreter(runtime)
    except (MissingDependencyError, UnsupportedError):
        return False
    return True


def launcher_of(connection: Connection, runtime: str, folder: Path) -> List[str]:
    """The start of the command line: worker.pyz, or this installation where the runtime needs the rest of edgepress."""
    python = connection.interpreter(runtime)
    if not load_runtime(runtime).PORTABLE:
        if connection.address != "local":
            raise UnsupportedError(f"runtime {runtime} runs on this machine only, not on {connection.address}", "leave --target out, or take another runtime")
        return [python, "-P", "-m", "edgepress.worker"]
    (folder / "worker.pyz").write_bytes(worker_bytes())
    return [python, connection.push(folder / "worker.pyz")]


def prepare_job(job: Dict[str, Any], *, work: Path, there: str, connection: Connection) -> Dict[str, Any]:
    """The job with every path as the target sees it, and with its digest."""
    prepared = {"schema": 1, "threads": 1, **job}
    for key in _FILES:
        if key in job:
            prepared[key] = connection.push(work / job[key])
    if "images" in job:
        prepared["images"] = [connection.push(work / name) for name in job["images"]]
    if "output" in job:
        prepared["output"] = f"{there}/output.npy"
    if "model" in job and job.get("sha256") is None:
        prepared["sha256"] = digest_file(work / job["model"])
    return prepared


def read_result(connection: Connection, command: List[str], done: Completed, folder: Path, *, max_bytes: int = RESULT_BYTES) -> Dict[str, Any]:
    """The result of a worker that has ended; `command` is its command line, the result's path last.

    Raises:
        DeviceError: it is damaged, or no result of ours.
        JobError and those of the job itself: see `run_job`.
    """
    result = _bring(connection, command[-1], folder / "result.json", max_bytes) if done.exit_code == 0 else None
    if result is None:
        what, hint = _death(done.exit_code)
        raise JobError(f"the worker {what} before it wrote a result", command=command, exit_code=done.exit_code, stdout=done.stdout, stderr=done.stderr, hint=hint)
    if result.get("error") in _MENDABLE:
        raise _MENDABLE[result["error"]](result["reason"] or "no reason given", result.get("hint"))
    if result["status"] == "failed":
        raise JobError(result["reason"], hint=result.get("hint"), command=command, exit_code=done.exit_code, stdout=done.stdout, stderr=done.stderr + "\n" + result.get("log", ""))
    result["stderr"] = done.stderr[-4000:]
    return result


def _bring(connection: Connection, path: str, to: Path, max_bytes: int) -> Optional[Dict[str, Any]]:
    """The result in a file there; None where the worker wrote none."""
    try:
        connection.pull(path, to, max_bytes=max_bytes)
        return parse_result(to.read_bytes())
    except NotThereError:
        return None
    except BadResultError as error:
        raise DeviceError(f"{connection.address} sent a result that cannot be one: {error}", "the worker there must be the one that was sent; look whether the device is what you think it is") from error


def _death(exit_code: int) -> Tuple[str, Optional[str]]:
    """How a process ended, in words, and what to do."""
    number = -exit_code if exit_code < 0 else exit_code - 128 if exit_code > 128 else 0  # a shell in between reports 128 + signal
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"ended with exit code {exit_code}", None
    return f"was ended by {name}", _SIGNAL_HINTS.get(name)

"""Run one job on one model file: JSON in, JSON out. `python worker.pyz JOB.json RESULT.json`; shipped to devices as worker.pyz.

Job:    {"schema": 1, "job": "info" | "predict" | "parity" | "benchmark" | "end_to_end" | "sustained" | "energy" | "health", "runtime", "model", "sha256", "threads", …}
Result: {"schema": 1, "job", "status": "ok" | "unsupported" | "failed", "reason", "log", "runtime": {"name", "version"}, "host", …}
Paths in a job are relative to the job's own folder, or absolute. The exit code is 0 if a result was written, whatever it says.
"""
from __future__ import annotations

import io
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from edgepress.artifact import digest_file, write_atomic
from edgepress.errors import EdgepressError, ModelError, UnsupportedError, nearest
from edgepress.host import anonymous_bytes, host_facts, peak_rss_bytes
from edgepress.modelspec import ModelSpec, from_json
from edgepress.runtimes import load_runtime

if TYPE_CHECKING:
    import numpy as np

    from edgepress.runtimes.base import Runtime, Session

SCHEMA = 1
_COMMON = {"schema", "job", "runtime", "model", "sha256", "threads", "accelerator", "spec"}
KEYS: Mapping[str, frozenset] = {
    "health": frozenset(_COMMON),
    "info": frozenset(_COMMON),
    "predict": frozenset(_COMMON | {"pixels", "images", "tensors", "output", "batch"}),
    "parity": frozenset(_COMMON | {"images", "pixels", "output", "seed"}),
    "benchmark": frozenset(_COMMON | {"min_runs", "min_seconds", "max_seconds", "warmup_seconds", "max_runs", "batch", "seed"}),
    "end_to_end": frozenset(_COMMON | {"images", "min_runs", "min_seconds", "max_seconds"}),
    "sustained": frozenset(_COMMON | {"seconds", "seed", "output"}),
    "energy": frozenset(_COMMON | {"seconds", "seed"}),
    "release": frozenset({"schema", "job", "runtime", "action", "apps", "name", "release", "archive", "key", "keep", "threads"}),
    "profile": frozenset(_COMMON | {"seed"}),
    "interleave": frozenset({"schema", "job", "cases", "blocks", "block_seconds", "block_runs", "case_seconds", "seed", "together"}),
}
_REQUIRED = {"health": ("runtime",), "release": ("action", "apps", "name"), "interleave": ("cases", "blocks", "block_seconds", "block_runs", "case_seconds", "seed")}
Talk = Callable[[str], List[str]]  # says where we are and waits for the next order


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """`worker.pyz JOB.json RESULT.json`."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if len(given) != 2:
        sys.stderr.write("usage: worker.pyz JOB.json RESULT.json\n")
        return 2
    if given[0] == "--serve":  # a child of an interleave job
        from edgepress.interleave import serve

        return serve(Path(given[1]))
    job_file, result_file = Path(given[0]), Path(given[1])
    result = run_file(job_file)
    write_atomic(result_file, (json.dumps(result, allow_nan=False, default=str) + "\n").encode())
    return 0


def run_file(job_file: Path, *, talk: Optional[Talk] = None) -> Dict[str, Any]:
    """The result of the job in a file; whatever goes wrong is in its status, reason and log. `talk`: a benchmark by turns (see interleave.py)."""
    result: Dict[str, Any] = {"schema": SCHEMA, "job": None, "status": "ok", "reason": None, "log": "", "runtime": {"name": None, "version": None},
                              "host": host_facts()}
    try:
        job = _read_job(job_file)
        result.update(job=job["job"], runtime={"name": job.get("runtime"), "version": None})
        _run_job(job, job_file.parent, result, talk)
    except UnsupportedError as error:
        result.update(status="unsupported", reason=str(error))
    except EdgepressError as error:
        result.update(status="failed", reason=error.message, hint=error.hint, error=_kind(error), log=traceback.format_exc())
    except Exception as error:  # the parent is told all of it; nothing is swallowed
        result.update(status="failed", reason=f"{type(error).__name__}: {error}", log=traceback.format_exc())
    return result


def _kind(error: EdgepressError) -> str:
    """Name of the class in `errors` that the error is one of: the parent knows those."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == EdgepressError.__module__)


def _read_job(job_file: Path) -> Dict[str, Any]:
    try:
        job = json.loads(job_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"job {job_file} cannot be read ({error})", "give a JSON file") from error
    if not isinstance(job, dict) or job.get("schema") != SCHEMA:
        raise ModelError(f"job {job_file} is not of schema {SCHEMA}", "the worker and the program that sent the job must be of one version")
    if job.get("job") not in KEYS:
        raise ModelError(f"job kind {job.get('job')!r} does not exist; {nearest(str(job.get('job')), KEYS)}")
    for key in job:
        if key not in KEYS[job["job"]]:
            raise ModelError(f"a {job['job']} job has the unknown key {key!r}; {nearest(key, KEYS[job['job']])}")
    for key in _REQUIRED.get(job["job"], ("runtime", "model", "sha256", "threads")):
        if job.get(key) is None:
            raise ModelError(f"a {job['job']} job needs {key!r}")
    return job


def _run_job(job: Dict[str, Any], folder: Path, result: Dict[str, Any], talk: Optional[Talk]) -> None:
    if job["job"] == "interleave":
        from edgepress.interleave import run_interleaved

        result.update(run_interleaved(job, folder))
        return
    if job["job"] == "release":
        from edgepress.releases import run_action

        result.update(run_action(job, folder))
        return
    runtime = load_runtime(job["runtime"])
    started = time.perf_counter()
    reason = runtime.health_check()
    result["import_ms"] = _ms_since(started)
    if reason:
        raise UnsupportedError(f"runtime {job['runtime']} does not work here: {reason}")
    result["runtime"]["version"] = runtime.version()
    if job["job"] == "benchmark":
        from edgepress import timing

        timing.prepare()  # so that the memory before loading is all that the benchmark itself takes
    if job["job"] != "health":
        if talk:
            talk("imported")
        session = _open(runtime, job, folder, result)
        if talk:
            _by_turns(session, job, result, talk)
        else:
            JOBS[job["job"]](session, job, folder, result)


def _open(runtime: Runtime, job: Mapping[str, Any], folder: Path, result: Dict[str, Any]) -> Session:
    """Open the model, after its bytes have proved to be the ones that were meant; a file the runtime refuses is unsupported by it."""
    path = folder / job["model"]
    found = digest_file(path)
    if found != job["sha256"]:
        raise ModelError(f"{path} has sha256 {found}, the job is about {job['sha256']}", "the file changed or was damaged on its way; start again")
    result["rss_before_load_bytes"], result["anonymous_before_bytes"] = peak_rss_bytes(), anonymous_bytes()
    started = time.perf_counter()
    try:
        session = runtime.open_model(str(path), threads=job["threads"], accelerator=job.get("accelerator"))
    except ModelError as error:
        raise UnsupportedError(error.message, error.hint) from error
    result["load_ms"] = _ms_since(started)
    result["rss_after_load_bytes"] = peak_rss_bytes()
    return session


def _ms_since(started: float) -> float:
    return round((time.perf_counter() - started) * 1e3, 4)


def _spec(job: Mapping[str, Any]) -> Optional[ModelSpec]:
    if job.get("spec") is None:
        return None
    return from_json(json.dumps({"schema": 1, **job["spec"]}), source="the job's spec")


def _info(session: Session, job: Mapping[str, Any], folder: Path, result: Dict[str, Any]) -> None:
    """Inputs, outputs, and what the runtime makes of the file."""
    result.update(inputs=[t.to_json() for t in session.inputs], outputs=[t.to_json() for t in session.outputs], details=session.details)


def _benchmark(session: Session, job: Mapping[str, Any], folder: Path, result: Dict[str, Any]) -> None:
    """Raw latencies and peak memory."""
    from edgepress import power
    from edgepress.timing import measure

    result["throttled"] = power.throttled()
    result.update(measure(session, _plan(job), spec=_spec(job)))
    result["throttled_after"] = power.throttled()
    result["rss_after_runs_bytes"] = peak_rss_bytes()
    _info(session, job, folder, result)


def _by_turns(session: Session, job: Mapping[str, Any], result: Dict[str, Any], talk: Talk) -> None:
    """A benchmark whose blocks are asked for one by one, while others measure in between."""
    from edgepress.timing import Plan, Stopwatch

    watch = Stopwatch(session, Plan(**{key: job[key] for key in ("max_seconds", "warmup_seconds", "max_runs", "batch", "seed") if key in job}), spec=_spec(job))
    order = talk("ready")
    while order[0] == "block":
        watch.block(float(order[1]), int(order[2]))
        order = talk("block")
    result.update(watch.record(), rss_after_runs_bytes=peak_rss_bytes(), anonymous_after_bytes=anonymous_bytes())
    _info(session, job, Path(), result)


def _plan(job: Mapping[str, Any]) -> Any:
    from edgepress.timing import Plan

    return Plan(**{key: job[key] for key in ("min_runs", "min_seconds", "max_seconds", "warmup_seconds", "batch", "seed") if key in job})


def _end_to_end(session: Session, job: Mapping[str, Any], folder: Path, result: Dict[str, Any]) -> None:
    """Raw times from the bytes of photos to scores, step by step."""
    from edgepress import power, timing_device
    from edgepress.preprocess import read_bytes

    spec = _spec(job)
    if spec is None or not job.get("images"):
        raise ModelError("end to end needs photos and a ModelSpec", "put a model.json beside the file")
    result["throttled"] = power.throttled()
    result.update(timing_device.end_to_end(session, spec, [read_bytes(folder / name) for name in job["images"]], _plan(job)))
    result["throttled_after"] = power.throttled()


def _sustained(session: Session, job: Mapping[str, Any], folder: Path, result: Dict[str, Any]) -> None:
    """Latency over time without a pause; the raw latencies are in the output file."""
    from edgepress import timing_device

    facts, raw = timing_device.sustained(session, seconds=job["seconds"], seed=job.get("seed", 0), spec=_spec(job))
    _save(raw, folder / job["output"])
    result.update(facts, output=job["output"])


def _energy(session: Session, job: Mapping[str, Any], folder: Path, result: Dict[str, Any]) -> None:
    """Joules per inference, or the reason why there are none."""
    from edgepress import timing_device

    result["energy"] = timing_device.energy(session, seconds=job["seconds"], seed=job.get("seed", 0), spec=_spec(job))


def _profile(session: Session, job: Mapping[str, Any], folder: Path, result: Dict[str, Any]) -> None:
    """Operators of the file and, where the runtime tells, how long each takes."""
    from edgepress.op_profile import profile

    result["profile"] = profile(session, str(folder / job["model"]), runtime=job["runtime"], threads=job["threads"], seed=job.get("seed", 0), spec=_spec(job))
    _info(session, job, folder, result)


def _predict(session: Session, job: Mapping[str, Any], folder: Path, result: Dict[str, Any]) -> None:
    """Scores of every row, float32 `[N, C]`, in an .npy file or (without "output") in the result itself."""
    import numpy as np

    started = time.perf_counter()
    rows = list(_scores(session, job, folder))
    scores = np.concatenate(rows) if rows else np.zeros((0, 0), np.float32)
    result.update(rows=len(scores), seconds=round(time.perf_counter() - started, 4))
    if "output" not in job:
        result["probabilities"] = [[float(p) if np.isfinite(p) else None for p in row] for row in scores]
        return
    _save(scores, folder / job["output"])
    result["output"] = job["output"]


def _save(array: np.ndarray, path: Path) -> None:
    import numpy as np

    data = io.BytesIO()
    np.save(data, array)
    write_atomic(path, data.getvalue())


def _parity(session: Session, job: Mapping[str, Any], folder: Path, result: Dict[str, Any]) -> None:
    """Digests of every step and raw answers: to photos (with the pixels that another machine made of them), or to seeded tensors."""
    import numpy as np

    from edgepress import fingerprint
    from edgepress.timing import random_inputs

    spec = _spec(job)
    if "images" in job:
        if spec is None:
            raise ModelError("images need a ModelSpec: nothing says how this file wants them", "put a model.json beside the file")
        pixels = np.load(folder / job["pixels"], allow_pickle=False)
        _check_pixels(pixels, spec)
        steps, answers = fingerprint.photo_answers(session, [folder / name for name in job["images"]], pixels, spec)
    else:
        steps, answers = fingerprint.tensor_answers(session, random_inputs(session.inputs, seed=job.get("seed", 0), spec=spec))
    _save(answers, folder / job["output"])
    result.update(steps=steps, versions=fingerprint.library_versions(), output=job["output"])
    _info(session, job, folder, result)


def _scores(session: Session, job: Mapping[str, Any], folder: Path) -> Iterator[np.ndarray]:
    """Scores of one batch after the other; the last batch of a file with a fixed batch is filled up and cut."""
    from edgepress.feeding import read_scores

    if len(session.inputs) != 1 or len(session.outputs) != 1:
        raise UnsupportedError(f"the file has {len(session.inputs)} inputs and {len(session.outputs)} outputs; accepted: one of each, as a classifier has")
    fixed = session.inputs[0].shape[0] if session.inputs[0].shape else 1
    batch = job.get("batch", 1) if fixed == -1 else fixed
    spec = _spec(job)
    count, feed = _source(session, job, folder, spec)
    for start in range(0, count, batch):
        array = feed(start, min(start + batch, count))
        real = len(array)
        if fixed != -1 and real < batch:
            array = _fill(array, batch)
        output = session.run([array])[0]
        yield read_scores(output, session.outputs[0], logits=spec is not None and spec.output == "logits")[:real]


def _fill(array: np.ndarray, batch: int) -> np.ndarray:
    import numpy as np

    return np.concatenate([array, np.repeat(array[-1:], batch - len(array), axis=0)])


def _source(session: Session, job: Mapping[str, Any], folder: Path, spec: Optional[ModelSpec]) -> Tuple[int, Callable[[int, int], np.ndarray]]:
    """(number of rows, function (start, stop) → the input array of those rows) of a job's pixels, images or tensors."""
    import numpy as np

    from edgepress.feeding import feed_pixels, feed_tensors

    info = session.inputs[0]
    given = [key for key in ("pixels", "images", "tensors") if key in job]
    if len(given) != 1:
        raise ModelError(f"a predict job has {given or 'none'} of pixels, images, tensors; accepted: exactly one")
    if given[0] == "tensors":
        rows = np.load(folder / job["tensors"], mmap_mode="r", allow_pickle=False)
        return len(rows), lambda start, stop: feed_tensors(np.asarray(rows[start:stop]), info)
    if spec is None:
        raise ModelError(f"{given[0]} need a ModelSpec: nothing says how this file wants them", "put a model.json beside the file, or give tensors")
    if given[0] == "pixels":
        pixels = np.load(folder / job["pixels"], mmap_mode="r", allow_pickle=False)
        _check_pixels(pixels, spec)
        return len(pixels), lambda start, stop: feed_pixels(np.asarray(pixels[start:stop]), info, spec)
    images: List[str] = job["images"]
    return len(images), lambda start, stop: feed_pixels(np.stack([_photo(folder / name, spec) for name in images[start:stop]]), info, spec)


def _check_pixels(pixels: np.ndarray, spec: ModelSpec) -> None:
    if pixels.dtype.name != "uint8" or pixels.ndim != 4 or pixels.shape[1:3] != spec.size:
        raise ModelError(f"the pixels are {pixels.dtype} {list(pixels.shape)}; accepted: uint8 [N, {spec.input_height}, {spec.input_width}, 3]")


def _photo(path: Path, spec: ModelSpec) -> np.ndarray:
    from edgepress.preprocess import load_pixels

    return load_pixels(path, spec)


JOBS: Mapping[str, Callable[[Any, Mapping[str, Any], Path, Dict[str, Any]], None]] = {
        "info": _info, "predict": _predict, "parity": _parity, "benchmark": _benchmark,
        "end_to_end": _end_to_end, "sustained": _sustained, "energy": _energy, "profile": _profile}

if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # runtimes may crash while they are torn down, after the result is safe

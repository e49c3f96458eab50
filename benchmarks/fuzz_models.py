"""Mutated model files through `benchmark` and `parity`: our process neither crashes nor hangs, and every file is classified.

    python benchmarks/fuzz_models.py [SEED_MODEL ...] [--count 1000] [--runtimes litert,onnxruntime,tflite_runtime] [--python tflite_runtime=PATH] [--out FILE.jsonl] [--json]

Each case is one mutated file in one runtime: it goes through the very functions behind `edgepress benchmark` and `edgepress device parity`. Only the place is special: a process that has imported the runtime
and is forked for each job, which runs the packed worker.pyz as any device does (a fresh interpreter each time would take an hour). A forked job may use 6 GB of memory and 20 seconds.
Resumable: finished cases in --out are not run again. Exit code 4 where our process failed, hung, or a file was left without a verdict.
"""
from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"
FORMATS = {"litert": ".tflite", "tflite_runtime": ".tflite", "onnxruntime": ".onnx"}
JOB_SECONDS, CASE_SECONDS, MEMORY_BYTES = 20.0, 90, 6 << 30
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF0)
# The forked place: reads "job result" lines, answers "exit code" lines. It runs in whatever Python has the runtime, so it is a text.
ZYGOTE = """
import os, resource, sys
sys.path.insert(0, sys.argv[1])
from edgepress import worker
from edgepress.runtimes import load_runtime
__import__(load_runtime(sys.argv[2]).MODULE + (".interpreter" if sys.argv[2] != "onnxruntime" else ""))
import numpy, PIL.Image, edgepress.timing, edgepress.fingerprint, edgepress.preprocess
from edgepress import interleave

class Forked:
    "The child of a benchmark by turns, forked like the rest instead of started anew; what interleave.py uses of Popen."
    def __init__(self, command, env, stdin, stdout, stderr):
        ours, theirs = [os.pipe() for _ in "12"]
        self.pid, self.code = os.fork(), None
        if self.pid == 0:
            os.dup2(ours[0], 0); os.dup2(theirs[1], 1); os.dup2(stderr.fileno(), 2)
            os.closerange(3, 256)
            sys.stdin = open(0)
            os._exit(interleave.serve(worker.Path(command[-1])))
        os.close(ours[0]); os.close(theirs[1])
        self.stdin, self.stdout = open(ours[1], "wb"), open(theirs[0], "rb")
    def poll(self):
        if self.code is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if found else None
        return self.code
    def wait(self):
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code
    def kill(self):
        os.kill(self.pid, 9)

class OnlyForks:
    Popen, PIPE = Forked, None

interleave.subprocess = OnlyForks
print("ready", flush=True)
for line in sys.stdin:
    job, result, seconds, memory = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if child == 0:
        os.setsid()
        out = os.open(job + ".log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0); os.dup2(out, 1); os.dup2(out, 2)
        resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os._exit(worker.main([job, result]))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def mutate(data: bytes, *, seed: int) -> bytes:
    """`data` with a few seeded changes of one kind: bits, bytes, words at their extremes, holes, copies, swaps, a missing or an added piece."""
    chance = random.Random(seed)
    changed = bytearray(data)

    def span(most: int) -> Tuple[int, int]:
        start = chance.randrange(len(changed))
        return start, min(len(changed), start + chance.randint(1, most))

    kind = chance.choice(("bits", "bytes", "words", "words", "zeros", "copy", "swap", "cut", "grow"))
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        start, stop = span(64)
        if kind == "bits":
            changed[start] ^= 1 << chance.randrange(8)
        elif kind == "bytes":
            changed[start] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        elif kind == "words":
            at = start // 4 * 4
            changed[at:at + 4] = chance.choice(EXTREMES).to_bytes(4, "little")
        elif kind == "zeros":
            changed[start:stop] = bytes(stop - start)
        elif kind in ("copy", "swap"):
            other = chance.randrange(max(1, len(changed) - (stop - start)))
            piece = bytes(changed[start:stop])
            if kind == "swap":
                changed[start:stop] = changed[other:other + stop - start]
            changed[other:other + len(piece)] = piece
        elif kind == "cut":
            changed = changed[:start] if chance.random() < 0.5 else changed[:start] + changed[stop:]
            changed = changed or bytearray(b"\0")
        else:
            changed[start:start] = chance.randbytes(stop - start)
    return bytes(changed)


class ForkedPlace:
    """A Connection to this machine whose jobs are forked from a process that has its runtime imported."""

    address, measured_on = "forked", "real"

    def __init__(self, runtime: str, python: str, folder: Path) -> None:
        from edgepress.targets.local import LocalConnection
        from edgepress.worker_pack import worker_bytes

        self.local, self.runtime, self.python, self.folder = LocalConnection(), runtime, python, folder
        (folder / "worker.pyz").write_bytes(worker_bytes())
        self.start()

    def start(self) -> None:
        """Start the process to fork from."""
        self.process = subprocess.Popen([self.python, "-I", "-c", ZYGOTE, str(self.folder / "worker.pyz"), self.runtime], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL)
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != "ready":
            raise SystemExit(f"{self.python} cannot import {self.runtime}")

    def interpreter(self, runtime: str) -> str:
        """Its Python, for its own runtime only."""
        from edgepress.errors import UnsupportedError

        if runtime != self.runtime:
            raise UnsupportedError(f"{runtime} is not here")
        return self.python

    def run(self, command: Sequence[str], *, environment: Mapping[str, str], timeout_seconds: float) -> Any:
        """Run the worker's job in a fork; at most JOB_SECONDS."""
        from edgepress.errors import JobError
        from edgepress.targets.base import Completed

        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\t".join([command[-2], command[-1], "0", str(MEMORY_BYTES)]) + "\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        late = _after(JOB_SECONDS, child)
        code = int(self.process.stdout.readline())
        log = Path(command[-2] + ".log").read_text(errors="replace") if os.path.exists(command[-2] + ".log") else ""
        if late():
            raise JobError(f"the command did not end within {JOB_SECONDS:g} s and was stopped", command=command, exit_code=None, stderr=log)
        return Completed(code, "", log)

    def probe(self) -> Dict[str, Any]:
        """Facts about this machine."""
        return {"cpus": 1}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.local, name)  # files stay where they are

    def close(self) -> None:
        """It stays: the next case uses it too."""

    def stop(self) -> None:
        """End the process to fork from."""
        self.process.kill()
        self.process.wait()


def _after(seconds: float, child: int) -> Any:
    """Kill a process when the time is over; the function that ends the watch and says whether it was killed."""
    import threading

    ended, killed = threading.Event(), []

    def watch() -> None:
        if not ended.wait(seconds):
            killed.append(True)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()

    def stop() -> bool:
        ended.set()
        thread.join()
        return bool(killed)
    return stop


class Hang(BaseException):
    """Our own process did not go on; nothing may catch it by accident."""


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise Hang in our own process after so many seconds."""
    def ring(*_: object) -> None:
        raise Hang()

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def through_benchmark(file: Path, place: ForkedPlace, work: Path) -> Tuple[str, str]:
    """(verdict, reason) of `edgepress benchmark` for the file."""
    from edgepress.recipe import BenchmarkConfig
    from edgepress.stages import benchmark

    config = BenchmarkConfig(runtimes=(place.runtime,), threads=(1,), effort="quick", min_runs=2, min_seconds=0.0, max_seconds=0.1, warmup_seconds=0.0)  # type: ignore[arg-type]
    out = Path(tempfile.mkdtemp(prefix="benchmark-", dir=work))
    benchmark.benchmark(out, model=file, config=config)
    record = json.loads((out / "measurements.json").read_text())[0]
    return record["status"], str(record["reason"] or "")


def through_parity(file: Path, place: ForkedPlace, work: Path) -> Tuple[str, str]:
    """(verdict, reason) of `edgepress device parity` for the file."""
    from edgepress.parity import check_parity

    report = check_parity(file, place, runtime=place.runtime)  # type: ignore[arg-type]
    return ("ok", "") if report.passed else ("differs", report.problems[0])


def classify(function: Any, file: Path, place: ForkedPlace, work: Path) -> Dict[str, Any]:
    """What one of our commands makes of a file: a verdict with a reason, or `ours` where our own process failed or hung."""
    from edgepress.errors import EdgepressError, JobError

    began = time.perf_counter()
    try:
        with time_limit(CASE_SECONDS):
            verdict, reason = function(file, place, work)
    except JobError as error:
        verdict, reason = "failed", error.reason
    except EdgepressError as error:
        verdict, reason = "refused", str(error)
    except Hang:
        verdict, reason = "ours", f"hung for {CASE_SECONDS} s"
    except Exception:
        verdict, reason = "ours", traceback.format_exc()
    if not reason and verdict != "ok":
        verdict, reason = "ours", f"{verdict} without a reason"
    return {"verdict": verdict, "reason": reason[-1500:] if verdict == "ours" else reason[:200], "seconds": round(time.perf_counter() - began, 3)}


_places: Dict[str, ForkedPlace] = {}


def run_case(case: Tuple[str, int, str, str]) -> Dict[str, Any]:
    """One mutated file in one runtime, in a pool's process."""
    from edgepress import jobs, parity
    from edgepress.progress import set_sink
    from edgepress.stages import benchmark

    runtime, number, source, python = case
    set_sink(lambda text, done: None)
    if runtime not in _places:
        _places[runtime] = ForkedPlace(runtime, python, Path(tempfile.mkdtemp(prefix="fuzz-")))
    place = _places[runtime]
    # `this machine` and the device are the same forked place, so that one job costs milliseconds; everything else is as it ships.
    jobs.connect = lambda target: place  # type: ignore[assignment]
    benchmark.hold = lambda target: contextlib.nullcontext(place)  # type: ignore[assignment]
    parity.available_runtimes = lambda *_, **__: (runtime,)  # type: ignore[assignment]
    with tempfile.TemporaryDirectory(prefix="case-", dir=place.folder) as work:
        file = Path(work) / f"mutated{FORMATS[runtime]}"
        file.write_bytes(mutate(Path(source).read_bytes(), seed=number))
        return {"runtime": runtime, "number": number, "source": Path(source).name,
                "benchmark": classify(through_benchmark, file, place, Path(work)), "parity": classify(through_parity, file, place, Path(work))}


def cases(runtimes: Sequence[str], count: int, seeds: Sequence[Path], pythons: Mapping[str, str]) -> List[Tuple[str, int, str, str]]:
    """Every case to run: the same numbers for each runtime, over the seed models of its format in turn."""
    listed = []
    for runtime in runtimes:
        fitting = [seed for seed in seeds if seed.suffix == FORMATS[runtime]]
        if not fitting:
            raise SystemExit(f"no seed model ends in {FORMATS[runtime]}, which {runtime} opens")
        listed += [(runtime, number, str(fitting[number % len(fitting)]), pythons[runtime]) for number in range(count)]
    return sorted(listed, key=lambda case: case[1])


def python_of(runtime: str, given: Mapping[str, str]) -> Optional[str]:
    """The Python that has a runtime, None where none does."""
    from edgepress.errors import EdgepressError
    from edgepress.targets.local import interpreter

    if runtime in given:
        return given[runtime]
    try:
        return interpreter(runtime)
    except EdgepressError:
        return None


def run_all(listed: Sequence[Tuple[str, int, str, str]], out: Optional[Path], *, workers: int) -> List[Dict[str, Any]]:
    """The result of every case; those in `out` are not run again."""
    done = [json.loads(line) for line in out.read_text().splitlines()] if out and out.exists() else []
    known = {(one["runtime"], one["number"]) for one in done}
    todo = [case for case in listed if case[:2] not in known]
    with ProcessPoolExecutor(workers) as pool, open(out or os.devnull, "a") as file:
        for number, future in enumerate(as_completed([pool.submit(run_case, case) for case in todo]), start=1):
            done.append(future.result())
            file.write(json.dumps(done[-1]) + "\n")
            file.flush()
            if number % 100 == 0:
                sys.stderr.write(f"{number} of {len(todo)}\n")
    wanted = {case[:2] for case in listed}
    return [one for one in done if (one["runtime"], one["number"]) in wanted]


def summary(results: Sequence[Mapping[str, Any]]) -> Dict[str, Any]:
    """Counts of every verdict by runtime and command, and what went wrong in our own process."""
    counts: Dict[str, Dict[str, int]] = {}
    for one in results:
        for command in ("benchmark", "parity"):
            counts.setdefault(f"{one['runtime']} {command}", collections.Counter())[one[command]["verdict"]] += 1  # type: ignore[index]
    ours = [{**{key: one[key] for key in ("runtime", "number", "source")}, "command": command, "reason": one[command]["reason"]}
            for one in results for command in ("benchmark", "parity") if one[command]["verdict"] == "ours"]
    return {"cases": len(results), "counts": {name: dict(sorted(found.items())) for name, found in sorted(counts.items())}, "ours": ours}


def main() -> int:
    """Run, print the counts, and say whether the bar holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="*", type=Path, help="model files to mutate (default: the small ones of the tests)")
    parser.add_argument("--count", type=int, default=1000, help="mutated files per runtime")
    parser.add_argument("--runtimes", default="litert,onnxruntime,tflite_runtime")
    parser.add_argument("--python", action="append", default=[], metavar="RUNTIME=PATH", help="Python that has a runtime")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON lines, one per case; read again to go on")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    asked = dict(text.partition("=")[::2] for text in given.python)
    pythons = {runtime: python_of(runtime, asked) for runtime in given.runtimes.split(",")}
    for runtime in (name for name, python in pythons.items() if python is None):
        sys.stderr.write(f"{runtime} is left out: it is not installed here (edgepress runtimes --install {runtime})\n")
    there = {name: python for name, python in pythons.items() if python}
    seeds = given.seeds or sorted(path for path in DATA.iterdir() if path.suffix in (".tflite", ".onnx"))
    began = time.perf_counter()
    found = summary(run_all(cases(list(there), given.count, seeds, there), given.out, workers=given.workers))
    print(json.dumps(found, indent=2) if given.json else "\n".join([f"{name:26} " + ", ".join(f"{verdict} {count}" for verdict, count in counts.items()) for name, counts in found["counts"].items()]
          + [f"{found['cases']} cases in {time.perf_counter() - began:.0f} s; failures of our own process: {len(found['ours'])}"] + [f"  {one}" for one in found["ours"][:20]]))
    return 4 if found["ours"] else 0


if __name__ == "__main__":
    sys.exit(main())

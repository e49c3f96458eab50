"""Measure several files by turns: one process per file, all asleep but the one whose turn it is. Standard library only; part of worker.pyz.

The worker that got an `interleave` job starts one child per case and speaks with it in lines over its own pipes:
    (start)            → {"state": "imported"}                 the runtime's library is loaded
    open               → {"state": "ready"}                    file opened, first run and warm-up done
    block SECONDS RUNS → {"state": "block"}                    at least that long and that many timed runs
    end                → {"state": "result", "result": {…}}    also in place of any other answer, where the case cannot be measured
Blocks of all cases make a round, in another random order each time, so that whatever disturbs the machine disturbs all of them. The end of a pipe ends a child.
"""
from __future__ import annotations

import json
import os
import random
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

OPEN_SECONDS = 300.0  # to import a library, or to open a file, run it once and warm up


def run_interleaved(job: Mapping[str, Any], folder: Path) -> Dict[str, Any]:
    """Results of all cases, in their order: what a benchmark job gives, with the number of runs of each block in "block_runs".

    Args:
        job: "cases": list of {"command": argv of a worker, "environment": {…}, "job": a benchmark job}; "blocks" (of each case); "block_seconds"; "block_runs" (fewest of a block); "case_seconds"
            (a case that has taken as long gets no further block: files too slow for all rounds); "seed"; "together": true lets all cases measure at the same time.
    """
    cases = job["cases"]
    children = [Child(case, folder, number) for number, case in enumerate(cases)]
    try:
        for child in children:  # libraries load side by side: nothing is timed yet that is compared
            child.wait(OPEN_SECONDS)
        for child in _shuffled(children, job["seed"]):
            child.ask("open", OPEN_SECONDS)
        order, patience = f"block {job['block_seconds']} {job['block_runs']}", OPEN_SECONDS + 100 * job["block_seconds"]
        for number in range(job["blocks"]):
            if job.get("together"):
                _all_at_once(children, order, patience)
                continue
            for child in _shuffled(children, job["seed"] * 1000 + number + 1):
                if not number or child.spent_seconds < job["case_seconds"]:
                    child.ask(order, patience)
        for child in children:
            child.ask("end", OPEN_SECONDS)
        return {"results": [child.result for child in children]}
    finally:
        for child in children:
            child.stop()


def _all_at_once(children: Sequence["Child"], order: str, seconds: float) -> None:
    for child in children:
        child.tell(order)
    for child in children:
        child.wait(seconds)


def _shuffled(children: Sequence["Child"], seed: int) -> List["Child"]:
    order = list(children)
    random.Random(seed).shuffle(order)
    return order


class Child:
    """One case's process. `result` is set when it is done or has failed; then it is asked nothing more."""

    def __init__(self, case: Mapping[str, Any], folder: Path, number: int) -> None:
        self.result: Optional[Dict[str, Any]] = None
        self.spent_seconds = 0.0  # in blocks
        self._buffer = b""
        self._said = folder / f"child-{number}.log"
        job_file = folder / f"child-{number}.json"
        job_file.write_text(json.dumps(case["job"]), encoding="utf-8")
        with open(self._said, "wb") as log:
            self._process = subprocess.Popen([*case["command"], "--serve", str(job_file)], env={**os.environ, **case.get("environment", {})},
                                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)

    def ask(self, line: str, seconds: float) -> None:
        """Give the child its turn and sleep until it has answered."""
        self.tell(line)
        asked = time.monotonic()
        self.wait(seconds)
        self.spent_seconds += time.monotonic() - asked if line.startswith("block") else 0.0

    def tell(self, line: str) -> None:
        """Say what is wanted next, without waiting."""
        assert self._process.stdin is not None
        if self.result is None:
            try:
                self._process.stdin.write(line.encode() + b"\n")
                self._process.stdin.flush()
            except BrokenPipeError:
                return  # it died: `wait` says how

    def wait(self, seconds: float) -> None:
        """Sleep until the child has said a line."""
        if self.result is not None:
            return
        line = self._line(time.monotonic() + seconds)
        if line is None:
            self.result = self._failure(f"it did not answer within {seconds:g} s and was stopped")
        elif not line:
            self.result = self._failure(_death(self._process.wait()))
        else:
            said = json.loads(line)
            if said["state"] == "result":
                self.result = said["result"]

    def _line(self, until: float) -> Optional[bytes]:
        """The next line; empty at the end of the pipe, None where it did not come in time."""
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            if not select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
                return None
            data = os.read(pipe, 1 << 16)
            if not data:
                return b""
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def _failure(self, reason: str) -> Dict[str, Any]:
        self.stop()
        return {"status": "failed", "reason": f"the worker {reason}", "log": self._said.read_text(encoding="utf-8", errors="replace")[-4000:]}

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                pipe.close()  # type: ignore[union-attr]
            except BrokenPipeError:
                continue  # words it no longer heard


def _death(exit_code: int) -> str:
    import signal

    try:
        return f"was ended by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"ended with exit code {exit_code} before it wrote a result"


def serve(job_file: Path) -> int:
    """The child: do what the lines on stdin say. Whatever a library prints to stdout goes to stderr."""
    from edgepress.worker import run_file

    answers = os.dup(1)
    os.dup2(2, 1)

    def say(**words: Any) -> None:
        view = memoryview(json.dumps(words, allow_nan=False, default=str).encode() + b"\n")
        while view:
            view = view[os.write(answers, view):]

    def talk(state: str) -> List[str]:
        say(state=state)
        order = sys.stdin.readline().split()
        if not order:
            os._exit(1)  # the parent is gone: nobody wants a result
        return order

    say(state="result", result=run_file(job_file, talk=talk))
    return 0

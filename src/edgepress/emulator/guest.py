"""First process of the counting machine: times inferences on a clock that ticks once per instruction, says so on the console, switches the machine off.

Runs inside the emulated machine, where worker.pyz brings edgepress's own measuring loop. Standard library only.
"""
from __future__ import annotations

import ctypes
import json
import os
import sys
import traceback
from typing import Callable

_POWER_OFF = 0x4321FEDC


def main() -> None:
    """Count for every file of the job, one line of JSON each."""
    libc = ctypes.CDLL(None)
    try:
        for kind, folder in ((b"devtmpfs", b"/dev"), (b"proc", b"/proc"), (b"sysfs", b"/sys")):  # without /sys LiteRT finds no processors and leaves XNNPACK out
            libc.mount(kind, folder, kind, 0, None)
        with open("/edgepress/job.json", encoding="utf-8") as file:
            job = json.load(file)
        sys.path.insert(0, "/edgepress/worker.pyz")
        import edgepress.timing as _  # with NumPy, once for all children

        for number, runtime in enumerate(job["runtimes"]):
            _say(job["nonce"], {"file": number, **_in_a_child(lambda: _count(f"/edgepress/{number}", runtime, job))})
        _say(job["nonce"], {"end": True})
    except BaseException:
        traceback.print_exc()  # now: afterwards the machine is off
    finally:
        libc.reboot(_POWER_OFF)


def _in_a_child(count: Callable[[], dict]) -> dict:
    """What `count` returns in a process of its own: each file finds the same memory, whatever ran before it, and a file that crashes its runtime ends only that."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            result = count()
        except Exception as error:
            traceback.print_exc()
            result = {"reason": f"{type(error).__name__}: {error}"}
        os.write(there, json.dumps(result).encode()[:65536])  # a pipe holds as much
        os._exit(0)
    _, status = os.waitpid(child, 0)
    os.close(there)
    with os.fdopen(here, "rb") as said:
        text = said.read()
    return json.loads(text) if text else {"reason": f"the runtime crashed on it (signal {os.WTERMSIG(status)})" if os.WIFSIGNALED(status) else "the runtime ended on it"}


def _count(path: str, runtime: str, job: dict) -> dict:
    from edgepress.errors import ModelError
    from edgepress.runtimes import load_runtime
    from edgepress.timing import Plan, random_inputs, timed_runs

    module = load_runtime(runtime)
    try:
        session = module.open_model(path, threads=1)
        pool = random_inputs(session.inputs, seed=0, spec=None, batch=1)[:1]  # one input: what varies is not to be measured
        timed_runs(session, pool, Plan(min_runs=job["warmup_runs"], min_seconds=0.0, max_seconds=3600.0))
        return {"instructions": timed_runs(session, pool, Plan(min_runs=job["runs"], min_seconds=0.0, max_seconds=3600.0)), "version": module.version(), "details": session.details}
    except ModelError as error:
        return {"reason": error.message}


def _say(nonce: str, record: dict) -> None:
    os.write(1, f"\nEDGEPRESS-COUNT {nonce} {json.dumps(record)}\n".encode())


main()

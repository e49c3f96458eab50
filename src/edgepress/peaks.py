"""What this machine can do at best, measured once: multiply-accumulates per second by type, bytes per second by memory level, seconds per operator. Kept below $EDGEPRESS_HOME.

The rates are those of the runtimes' own kernels on one large operator (`probe_models`) and of NumPy's matrix product, whichever is highest: reachable, so a file that is slower has a reason.
A processor's theoretical peak may be higher: on Zen 5, NumPy reaches 85–95 % of it. Everything is timed in a fresh process; of several runs the fastest counts.
`python -m edgepress.peaks THREADS` prints one measurement as JSON.
"""
from __future__ import annotations

import datetime
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from edgepress.artifact import write_atomic
from edgepress.errors import JobError
from edgepress.host import host_facts, interference, ticks, usable_cpus
from edgepress.progress import report_progress
from edgepress.runtimes import load_runtime

SCHEMA = 1
SECONDS = 0.3  # of each probe
BUSY = 0.1
TIMEOUT_SECONDS = 180
_FALLBACK_LEVELS = {"L1": 32 << 10, "L2": 512 << 10, "L3": 4 << 20}
_MEMORY_BYTES = 128 << 20  # beyond every cache
PROBES = {"litert": "tflite", "onnxruntime": "onnx"}


def machine_peaks(*, threads: int = 1, again: bool = False) -> Dict[str, Any]:
    """The peaks of this machine with a number of threads: from the cache, or measured now (a few seconds).

    Returns:
        macs_per_second {float32, int8} with the program that reached it, depthwise_macs_per_second and seconds_per_operator by runtime, bytes_per_second {L1, L2, L3, memory},
        level_bytes, cpu, threads, versions, measured (date).

    Raises:
        JobError: the measuring process failed.
    """
    file = _cache_file(threads)
    known = _read(file)
    if known and not again and not known.get("busy"):
        return known
    report_progress(f"measuring what this machine can do with {threads} thread{'s' if threads > 1 else ''}, once")
    peaks = best_of(_measure_in_child(threads), known)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, (json.dumps(peaks, indent=1) + "\n").encode())
    return peaks


def _read(file: Path) -> Optional[Dict[str, Any]]:
    """The kept peaks; None where there are none yet, or not of this version."""
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return known if isinstance(known, dict) and known.get("schema") == SCHEMA and known.get("macs_per_second") else None


def best_of(new: Dict[str, Any], known: Optional[Dict[str, Any]]) -> Dict[str, Any]:
    """The higher rate of two measurements everywhere: other programs only ever slow a machine down. Busy is what the quieter one was."""
    if known is None:
        return new
    rates = {kind: {name: max(rate, known["rates"].get(kind, {}).get(name, 0.0)) for name, rate in found.items()} for kind, found in new["rates"].items()}
    best = {kind: max(found.items(), key=lambda item: item[1]) for kind, found in rates.items() if found}
    merged = {key: {name: max(rate, known[key].get(name, 0.0)) for name, rate in new[key].items()} for key in ("bytes_per_second",)}
    return {**new, **merged, "rates": rates, "macs_per_second": {kind: rate for kind, (_, rate) in best.items()}, "reached_by": {kind: program for kind, (program, _) in best.items()},
            "depthwise_macs_per_second": {name: {kind: max(rate, known["depthwise_macs_per_second"].get(name, {}).get(kind, 0.0)) for kind, rate in found.items()} for name, found in new["depthwise_macs_per_second"].items()},
            "seconds_per_operator": {name: min(seconds, known["seconds_per_operator"].get(name, seconds)) for name, seconds in new["seconds_per_operator"].items()},
            "busy": min(new["busy"], known["busy"]) if new.get("busy") is not None and known.get("busy") is not None else None}


def _cache_file(threads: int) -> Path:
    """One file for each processor, number of threads and set of runtimes."""
    home = os.environ.get("EDGEPRESS_HOME")
    key = json.dumps([SCHEMA, host_facts()["cpu"], usable_cpus(), threads, _versions()], sort_keys=True)
    return (Path(home) if home else Path.home() / ".local" / "share" / "edgepress") / "peaks" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def _versions() -> Dict[str, str]:
    from edgepress.runtimes.base import distribution_version

    return {"numpy": np.__version__, **{name: distribution_version(load_runtime(name).DISTRIBUTION) for name in PROBES}}


def _measure_in_child(threads: int) -> Dict[str, Any]:
    """A fresh process, because a BLAS takes its number of threads from the environment when it is loaded."""
    environment = {**os.environ, **{name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}}
    command = [sys.executable, "-P", "-m", "edgepress.peaks", str(threads)]
    try:
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_SECONDS, check=False)
        return json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
        raise JobError(f"this machine's peaks could not be measured ({type(error).__name__})", command=command, stderr=str(getattr(error, "stderr", "") or getattr(locals().get("done"), "stderr", "")),
                       hint="is the machine very busy? try again") from error


# ---- in the child

def measure(threads: int) -> Dict[str, Any]:
    """All peaks, measured in this process; `busy` is the share of the processors that other programs used meanwhile, None where that was little."""
    before = ticks()
    rates: Dict[str, Dict[str, float]] = {"float32": {"numpy": _gemm_rate()}, "int8": {}}
    depthwise: Dict[str, Dict[str, float]] = {}
    dispatch: Dict[str, float] = {}
    for name in PROBES:
        for kind in ("float32", "int8"):
            seconds = _probe_seconds(name, "dense", kind, threads)
            if seconds:
                rates[kind][name] = _macs("dense") / seconds
            seconds = _probe_seconds(name, "depthwise", kind, threads)
            if seconds:
                depthwise.setdefault(name, {})[kind] = _macs("depthwise") / seconds
        seconds = _probe_seconds(name, "chain", "float32", threads)
        if seconds:
            dispatch[name] = seconds / _chain()
    best = {kind: max(found.items(), key=lambda item: item[1]) for kind, found in rates.items() if found}
    levels = cache_levels()
    bandwidths = _bandwidths(levels, threads)
    others = interference(before, ticks())["others_share"]
    return {"schema": SCHEMA, "busy": others if others is not None and others > BUSY else None, "cpu": host_facts()["cpu"], "cpus": usable_cpus(), "threads": threads, "measured": datetime.date.today().isoformat(), "versions": _versions(),
            "macs_per_second": {kind: rate for kind, (_, rate) in best.items()}, "reached_by": {kind: program for kind, (program, _) in best.items()}, "rates": rates,
            "depthwise_macs_per_second": depthwise, "seconds_per_operator": dispatch, "level_bytes": levels, "bytes_per_second": bandwidths}


def _macs(kind: str) -> int:
    from edgepress.probe_models import MACS

    return MACS[kind]


def _chain() -> int:
    from edgepress.probe_models import CHAIN

    return CHAIN


def fastest(run: Callable[[], Any], *, seconds: float = SECONDS) -> float:
    """Seconds of the fastest of the runs that fit into `seconds`, three at least."""
    run()
    best, end, runs = float("inf"), time.perf_counter() + seconds, 0
    while runs < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        best, runs = min(best, time.perf_counter() - start), runs + 1
    return best


def _gemm_rate(size: int = 1024) -> float:
    random = np.random.default_rng(0)
    left, right = (random.normal(size=(size, size)).astype(np.float32) for _ in range(2))
    return size**3 / fastest(lambda: left @ right)


def _probe_seconds(runtime: str, kind: str, dtype: str, threads: int) -> Optional[float]:
    """Seconds of one run of a probe, None where the runtime or what writes its files is not here."""
    from edgepress import probe_models

    module = load_runtime(runtime)
    try:
        data = getattr(probe_models, f"{PROBES[runtime]}_probe")(kind, integer=dtype == "int8")
    except ImportError:
        return None
    if module.health_check():
        return None
    with tempfile.TemporaryDirectory(prefix="edgepress-peaks-") as folder:
        file = Path(folder) / f"probe.{PROBES[runtime]}"
        file.write_bytes(data)
        session = module.open_model(str(file), threads=threads)
        info = session.inputs[0]
        random = np.random.default_rng(0)
        array = random.normal(size=info.shape).astype(info.dtype) if info.dtype == "float32" else random.integers(0, 100, info.shape).astype(info.dtype)
        seconds = fastest(lambda: session.run([array]))
        session.close()
    return seconds


def cache_levels() -> Dict[str, int]:
    """Bytes of the first core's caches, from /sys; usual sizes where it does not say."""
    found = dict(_FALLBACK_LEVELS)
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        except OSError:
            continue
        if kind != "Instruction" and size[-1:] in "KM" and size[:-1].isdigit():
            found[f"L{level}"] = int(size[:-1]) << (10 if size[-1] == "K" else 20)
    return found


def _bandwidths(levels: Dict[str, int], threads: int) -> Dict[str, float]:
    """Bytes per second that one core reads from each level, by dot products of vectors that half fill it. More threads: caches of their own, the memory shared (an estimate)."""
    sizes: List[Tuple[str, int]] = [*((name, size // 2) for name, size in sorted(levels.items())), ("memory", max(_MEMORY_BYTES, 3 * max(levels.values())))]
    one = {name: _read_rate(size) for name, size in sizes}
    return {name: rate * (min(threads, 2) if name == "memory" else threads) for name, rate in one.items()}


def _read_rate(size: int) -> float:
    """Dot products run over the same two vectors again and again inside one call, so that a call's own time does not count."""
    count = max(size // 8, 16)
    left, right = np.ones(count, np.float32), np.ones(count, np.float32)
    repeats = max(1, (16 << 20) // size)
    rows = np.broadcast_to(left, (repeats, 1, count))  # every row is the same memory
    columns = np.broadcast_to(right[:, None], (repeats, count, 1))
    return 8 * count * repeats / fastest(lambda: np.matmul(rows, columns))


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))

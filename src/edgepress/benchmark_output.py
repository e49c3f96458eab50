"""Read what Google's `benchmark_model` leaves behind: its protobuf result file and both of its text formats. All of it comes from a device and is not trusted.

Sources: google-ai-edge/LiteRT tflite/tools/benchmark/{benchmark_model.cc, benchmark_tflite_model.cc, proto/benchmark_result.proto}, litert/tools/benchmark_litert_model.h.
"""
from __future__ import annotations

import math
import re
import struct
from typing import Dict, Mapping

from edgepress.errors import DeviceError
from edgepress.protobuf import read_fields

MAX_BYTES = 1 << 20  # of a result file or of what the tool prints
_LARGEST = {"ms": 1e7, "kb": 1e9, "mb": 1e6, "runs": 1e7}  # by the last word of a metric's name; more is not a measurement
_AGREE = 0.02  # text rounds to six digits or to 0.01 ms, and the file holds 32-bit numbers
_ROUNDED_MS = 0.0051
# message → field number → name of the metric, in the units of the file
_LATENCY = {1: "avg_ms", 2: "min_ms", 3: "max_ms", 4: "stddev_ms", 5: "median_ms", 6: "p5_ms", 7: "p95_ms", 8: "init_ms", 9: "first_ms", 10: "warmup_ms"}
_MEMORY = {1: "init_footprint_kb", 2: "overall_footprint_kb", 3: "peak_mb"}
_MISC = {1: "model_size_mb", 2: "runs", 3: "warmup_runs"}
_INSIDE = {1: _LATENCY, 2: _MEMORY, 3: _MISC}
_NUMBER = r"([-+0-9.eE]+|nan|inf|-nan)"
_CLASSIC = re.compile(rf"Inference timings in us: Init: {_NUMBER}, First inference: {_NUMBER}, Warmup \(avg\): {_NUMBER}, Inference \(avg\): {_NUMBER}")
_COUNTED = re.compile(r"count=(\d+) (?:first=\S+ )?curr=\S+([^\n]*)")
_STATISTIC = re.compile(rf"\b(min|max|std|p5|median|p95)={_NUMBER}")
_BLOCK = re.compile(r"=+ BENCHMARK RESULTS =+(.*)", re.DOTALL)
_LINES = {"init_ms": r"Model initialization:", "first_ms": r"Warmup \(first\):", "warmup_ms": r"Warmup \(avg\):", "avg_ms": r"Inference \(avg\):", "min_ms": r"Inference \(min\):",
          "max_ms": r"Inference \(max\):", "stddev_ms": r"Inference \(std\):", "peak_mb": r"Peak memory:"}
_RUNS = re.compile(r"Inference \(avg\):\s+\S+ ms \((\d+) runs\)")
Metrics = Dict[str, float]


def parse_result(data: bytes) -> Metrics:
    """The metrics of a `--result_file_path` protobuf, by name; the unit is the end of the name.

    Raises:
        DeviceError: not such a file, or numbers that cannot be.
    """
    if len(data) > MAX_BYTES:
        raise DeviceError(f"benchmark_model's result file has {len(data)} bytes; accepted: up to {MAX_BYTES}", "run it again; is it really benchmark_model?")
    found: Metrics = {}
    try:
        for number, value in read_fields(memoryview(data)):
            names = _INSIDE.get(number, {})
            if names and isinstance(value, memoryview):
                found.update({names[inner]: float(v) for inner, v in read_fields(value) if inner in names and not isinstance(v, memoryview)})
    except (IndexError, ValueError, struct.error) as error:
        raise DeviceError(f"benchmark_model's result file is damaged ({error})", "run it again") from error
    return checked(found, source="benchmark_model's result file")


def parse_text(text: str) -> Metrics:
    """The metrics that the tool printed, in its older format (microseconds, one line) or its newer one (milliseconds, a block).

    Raises:
        DeviceError: neither is there, or numbers that cannot be.
    """
    text = text[-MAX_BYTES:]
    found = _classic(text) or _block(text)
    if not found:
        raise DeviceError("benchmark_model printed no result: neither a line 'Inference timings in us' nor a block 'BENCHMARK RESULTS'",
                          "run it by hand on the device; the end of what it printed: " + " ".join(text[-400:].split()))
    return checked(found, source="what benchmark_model printed")


def agree(file: Mapping[str, float], text: Mapping[str, float]) -> None:
    """Check that the result file is about the run that printed the text.

    Raises:
        DeviceError: their averages are not the same.
    """
    ours, theirs = file["avg_ms"], text["avg_ms"]
    if abs(ours - theirs) > max(_AGREE * theirs, _ROUNDED_MS):
        raise DeviceError(f"benchmark_model's result file says {ours:g} ms on average and its text {theirs:g} ms: they are not of one run", "run it again")


def checked(found: Metrics, *, source: str) -> Metrics:
    """The metrics, if they can be true.

    Raises:
        DeviceError: no average, or a number that is not finite, negative, or too large.
    """
    if "avg_ms" not in found:
        raise DeviceError(f"{source} holds no average time", "run it again, with more runs")
    for name, value in found.items():
        largest = _LARGEST[name.rpartition("_")[2]]
        if not math.isfinite(value) or not 0 <= value <= largest:
            raise DeviceError(f"{source}: {name} is {value:g}; accepted: 0 to {largest:g}", "run it again; is it really benchmark_model?")
    ordered = [found[name] for name in ("min_ms", "median_ms", "max_ms") if name in found]
    if ordered != sorted(ordered):
        raise DeviceError(f"{source}: minimum, median and maximum are {', '.join(f'{v:g}' for v in ordered)} ms, which is no order", "run it again")
    return found


def _classic(text: str) -> Metrics:
    timings = _CLASSIC.findall(text)
    if not timings:
        return {}
    init, first, warmup, average = (float(value) / 1e3 for value in timings[-1])
    found = {"init_ms": init, "first_ms": first, "warmup_ms": warmup, "avg_ms": average}
    counted = _COUNTED.findall(text)  # one line for the warm-up, then one for the timed runs
    if counted:
        runs, rest = counted[-1]
        found["runs"] = float(runs)
        found.update({("stddev" if name == "std" else name) + "_ms": float(value) / 1e3 for name, value in _STATISTIC.findall(rest)})
    return found


def _block(text: str) -> Metrics:
    blocks = _BLOCK.search(text)
    if not blocks:
        return {}
    found: Metrics = {}
    for name, label in _LINES.items():
        value = re.search(rf"{label}\s+{_NUMBER}", blocks[1])
        if value:
            found[name] = float(value[1])
    runs = _RUNS.search(blocks[1])
    return {**found, "runs": float(runs[1])} if runs else found

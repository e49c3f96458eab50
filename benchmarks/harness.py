"""How much does our measuring add? Our worker's median against a bare loop of the runtime itself, and the overhead of a session's run.

    python benchmarks/harness.py [FILE…] [--rounds 5] [--seconds 1] [--json]

Bar: a session's run at most 5 µs above the runtime's own calls (by the fastest runs; exit code 4 where it is missed). The loop's own share (two readings of
the clock) is measured in every benchmark and kept as timer_ns. Without files the tiny ones of the tests are taken: they show the overhead best.
The two take turns in fresh processes, so that a busy machine hits both; the ratio of each pair of turns is what counts.
"""
from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List

from edgepress.artifact import SUFFIXES
from edgepress.jobs import run_job

BARE = {
    "tflite": """
import sys, time, json
import numpy as np
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(model_path=sys.argv[1], num_threads=1)
interpreter.allocate_tensors()
inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
random = np.random.default_rng(0)
def number(d):
    kind = np.dtype(d["dtype"])
    return (random.uniform(-1, 1, d["shape"]) if kind.kind == "f" else random.integers(0, 10 if kind.itemsize > 2 else 100, d["shape"])).astype(kind)
values = [number(d) for d in inputs]
def run():
    for d, v in zip(inputs, values):
        interpreter.set_tensor(d["index"], v)
    interpreter.invoke()
    return [interpreter.get_tensor(d["index"]) for d in outputs]
""",
    "onnx": """
import sys, time, json
import numpy as np
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
random = np.random.default_rng(0)
kinds = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int8)": np.int8, "tensor(int64)": np.int64}
def shape_of(i):
    return [n if isinstance(n, int) else (1 if axis < 2 else 224) for axis, n in enumerate(i.shape)]
values = {i.name: random.uniform(0, 1, shape_of(i)).astype(kinds[i.type]) for i in session.get_inputs()}
def run():
    return session.run(None, values)
""",
}
LOOP = """
end = time.perf_counter() + 0.3
while time.perf_counter() < end:
    run()
latencies, end = [], time.perf_counter() + float(sys.argv[2])
while time.perf_counter() < end or len(latencies) < 50:
    start = time.perf_counter_ns()
    run()
    latencies.append((time.perf_counter_ns() - start) / 1e6)
print(json.dumps(latencies))
"""
TINY = [Path(__file__).resolve().parents[1] / "tests" / "data" / name for name in ("tiny_float.tflite", "tiny_int8.tflite", "tiny_float.onnx")]
BAR_US = 5.0
RUNTIME = {"tflite": "litert", "onnx": "onnxruntime"}


def bare(file: Path, seconds: float) -> List[float]:
    """Latencies in ms of the shortest honest program for this runtime, in a fresh process."""
    code = BARE[SUFFIXES[file.suffix]] + LOOP
    done = subprocess.run([sys.executable, "-c", code, str(file), str(seconds)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def ours(file: Path, seconds: float, work: Path) -> List[float]:
    """Latencies in ms of our worker."""
    result = run_job({"job": "benchmark", "runtime": RUNTIME[SUFFIXES[file.suffix]], "model": str(file.resolve()), "threads": 1,
                      "min_seconds": seconds, "max_seconds": 10 * seconds, "warmup_seconds": 0.3}, work=work)
    if result["status"] != "ok":
        raise SystemExit(f"{file}: {result['reason']}")
    return result["latencies_ms"]


def compare(file: Path, *, rounds: int, seconds: float) -> Dict[str, Any]:
    """Medians of both over all rounds, and the median of the per-round ratios of medians and of minima."""
    pairs = []
    with tempfile.TemporaryDirectory() as work:
        for number in range(rounds):
            order = [lambda: ours(file, seconds, Path(work)), lambda: bare(file, seconds)]
            first = order[number % 2]()
            second = order[1 - number % 2]()
            pairs.append((first, second) if number % 2 == 0 else (second, first))
    medians = [(statistics.median(a), statistics.median(b)) for a, b in pairs]
    return {"file": file.name, "ours_ms": statistics.median(a for a, _ in medians), "bare_ms": statistics.median(b for _, b in medians),
            "median_ratio": statistics.median(a / b for a, b in medians), "min_ratio": statistics.median(min(a) / min(b) for a, b in pairs),
            "overhead_us": 1e3 * statistics.median(min(a) - min(b) for a, b in pairs)}


def main() -> int:
    """Print a table; --json for programs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, default=TINY)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = [compare(file, rounds=given.rounds, seconds=given.seconds) for file in given.files]
    if given.json:
        print(json.dumps(rows, indent=2))
        return 0 if all(row["overhead_us"] <= BAR_US for row in rows) else 4
    print(f"{'file':40} {'ours ms':>9} {'bare ms':>9} {'median ratio':>13} {'min ratio':>10} {'overhead µs':>12}")
    for r in rows:
        print(f"{r['file'][-40:]:40} {r['ours_ms']:9.4f} {r['bare_ms']:9.4f} {r['median_ratio']:13.3f} {r['min_ratio']:10.3f} {r['overhead_us']:12.2f}")
    return 0 if all(row["overhead_us"] <= BAR_US for row in rows) else 4


if __name__ == "__main__":
    sys.exit(main())

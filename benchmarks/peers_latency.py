"""Do we measure what the runtimes' own loops measure? Our median against `litert-benchmark` and against a bare onnxruntime loop, in turns.

    python benchmarks/peers_latency.py [FILE …] [--rounds 10] [--seconds 1] [--json FILE]
    python benchmarks/peers_latency.py --weights mobilenet_v2_1.0_224_imagenet_no_top.h5      # makes MobileNetV2, float and int8, TFLite and ONNX, first

litert-benchmark comes with ai-edge-litert; the onnxruntime loop is that of onnxruntime.tools.onnxruntime_test (`sess.run([], feeds)`) with one thread and
every latency kept. Each round starts fresh processes of both in random order; what counts is the mean over rounds of the ratio of the medians.
Bar: within 3 % for each file. Exit code 4 where it is missed.
"""
from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List

from harness import BARE, LOOP, RUNTIME, ours

from edgepress.artifact import SUFFIXES
from edgepress.statistics import student_t_quantile

BAR = 0.03
TOOL = str(Path(sys.executable).with_name("litert-benchmark"))


def litert_benchmark(file: Path, seconds: float, *, expected_ms: float, work: Path) -> float:
    """Median in ms by Google's Python benchmark."""
    out = work / "litert.json"
    runs = max(50, int(1e3 * seconds / expected_ms))
    subprocess.run([TOOL, f"--model={file}", f"--num_runs={runs}", f"--warmup_runs={max(5, runs // 5)}", "--num_threads=1", f"--result_json={out}"], check=True, capture_output=True)
    return find_median(json.loads(out.read_text()))


def find_median(result: Any) -> float:
    """The number called median somewhere in a result."""
    for key, value in result.items():
        if "median" in key and isinstance(value, (int, float)):
            return float(value)
        if isinstance(value, dict):
            try:
                return find_median(value)
            except KeyError:
                continue
    raise KeyError("median")


def onnxruntime_loop(file: Path, seconds: float) -> float:
    """Median in ms of the bare loop."""
    done = subprocess.run([sys.executable, "-c", BARE["onnx"] + LOOP, str(file), str(seconds)], capture_output=True, text=True, check=True)
    return statistics.median(json.loads(done.stdout.splitlines()[-1]))


def compare(file: Path, *, rounds: int, seconds: float, work: Path) -> Dict[str, Any]:
    """Mean ratio ours / theirs over rounds, with its 95 % interval."""
    form = SUFFIXES[file.suffix]
    expected = statistics.median(ours(file, 0.2, work))

    def theirs() -> float:
        return litert_benchmark(file, seconds, expected_ms=expected, work=work) if form == "tflite" else onnxruntime_loop(file, seconds)

    pairs = []
    for number in range(rounds):
        turns = [("ours", lambda: statistics.median(ours(file, seconds, work))), ("theirs", theirs)]
        random.Random(number).shuffle(turns)
        found = {name: measure() for name, measure in turns}
        pairs.append((found["ours"], found["theirs"]))
    logs = [math.log(a / b) for a, b in pairs]
    center, half = statistics.mean(logs), student_t_quantile(0.975, rounds - 1) * statistics.stdev(logs) / math.sqrt(rounds)
    return {"file": str(file), "peer": "litert-benchmark" if form == "tflite" else "onnxruntime loop", "runtime": RUNTIME[form], "ours_ms": statistics.median(a for a, _ in pairs),
            "theirs_ms": statistics.median(b for _, b in pairs), "ratio": math.exp(center), "interval": [math.exp(center - half), math.exp(center + half)], "rounds": pairs}


def mobilenets(weights: Path, work: Path) -> List[Path]:
    """MobileNetV2 1.0 at 224 × 224 with ten classes: float and static int8 (calibrated on noise: only the time matters), as TFLite and ONNX."""
    from PIL import Image

    import numpy as np

    photos = work / "photos"
    for number in range(12):
        folder = photos / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (224, 224, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    command = str(Path(sys.executable).with_name("edgepress"))
    subprocess.run([sys.executable, "-c", KERAS, str(weights), str(work / "model.keras")], check=True, stdout=sys.stderr)
    subprocess.run([command, "convert", str(work / "model.keras"), "-o", str(work / "float"), "--normalization", "-1..1"], check=True, stdout=sys.stderr)
    files = [work / "float" / "model.tflite", work / "float" / "model.onnx"]
    for source in list(files):
        out = work / f"int8{source.suffix}"
        subprocess.run([command, "quantize", str(source), "--scheme", "static_wi8_ai8", "--calibration", str(photos), "-o", str(out)], check=True, stdout=sys.stderr)
        files.append(out)
    return files


KERAS = """
import sys
from edgepress.tf import import_tensorflow
keras = import_tensorflow()[1]
backbone = keras.applications.MobileNetV2(input_shape=(224, 224, 3), include_top=False, weights=sys.argv[1], pooling="avg")
outputs = keras.layers.Dense(10, activation="softmax", name="probabilities")(backbone.output)
keras.Model(backbone.input, outputs).save(sys.argv[2])
"""


def main() -> int:
    """Print a table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = given.files or (mobilenets(given.weights, Path(folder)) if given.weights else parser.error("give model files, or --weights"))
        rows = []
        for file in files:
            rows.append(compare(file, rounds=given.rounds, seconds=given.seconds, work=Path(folder)))
            row = rows[-1]
            print(f"{file.parent.name}/{file.name:20} {row['ours_ms']:.4f} ms, {row['peer']} {row['theirs_ms']:.4f} ms: ratio {row['ratio']:.4f} [{row['interval'][0]:.4f}, {row['interval'][1]:.4f}]", flush=True)
    if given.json:
        given.json.write_text(json.dumps({"bar": BAR, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return 0 if all(abs(row["ratio"] - 1) <= BAR for row in rows) else 4


if __name__ == "__main__":
    sys.exit(main())

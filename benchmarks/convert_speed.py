"""Seconds from a trained MobileNetV2 224 to its float TFLite and ONNX files, after the import of TensorFlow.

    python benchmarks/convert_speed.py [--weights FILE] [--json]

Bar: 8 s. Prints the time of each step of `edgepress convert` (load, tflite, onnx, and the check of both files against Keras).
"""
from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Optional

BAR_SECONDS = 8.0


def write_model(folder: Path, weights: Optional[Path]) -> None:
    """A MobileNetV2 1.0 224 with five classes as `edgepress finetune` leaves it: model.keras and model.json."""
    from edgepress.modelspec import NORMALIZATIONS, ModelSpec, to_json
    from edgepress.tf import import_tensorflow

    _, keras = import_tensorflow()
    base = keras.applications.MobileNetV2((224, 224, 3), include_top=False, pooling="avg", weights=str(weights) if weights else None)
    scores = keras.layers.Softmax(name="probabilities")(keras.layers.Dense(5, name="logits")(base.output))
    keras.Model(base.input, scores).save(folder / "model.keras")
    scale, offset = NORMALIZATIONS["-1..1"]
    spec = ModelSpec(labels=tuple("abcde"), input_height=224, input_width=224, scale=scale, offset=offset, backbone="mobilenet_v2_1.0_224")
    (folder / "model.json").write_text(to_json(spec), encoding="utf-8")


def main() -> None:
    """Measure once in this process and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="MobileNetV2 1.0 224 no-top weights (.h5); default: random")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    from edgepress.recipe import ConvertConfig
    from edgepress.stages.convert import convert

    work = Path(tempfile.mkdtemp(prefix="convert-speed-"))
    try:
        (work / "out").mkdir()
        write_model(work, arguments.weights)
        started, cpu_started = time.perf_counter(), time.process_time()
        convert(work / "out", model=work, config=ConvertConfig())
        total, cpu = time.perf_counter() - started, time.process_time() - cpu_started
        record = json.loads((work / "out" / "conversion.json").read_text(encoding="utf-8"))
    finally:
        shutil.rmtree(work)
    steps = {step: seconds for step, seconds in record["seconds"].items() if step != "import_tensorflow"}
    result = {"total_seconds": round(total, 2), "bar_seconds": BAR_SECONDS, "met": total <= BAR_SECONDS, "cpu_seconds": round(cpu, 2), "steps": steps,
              "max_abs_difference": {entry["file"]: entry["parity"]["max_abs_difference"] for entry in record["files"]}}
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(f"float TFLite + ONNX of MobileNetV2 224: {total:.2f} s after the import of TensorFlow (bar {BAR_SECONDS:g} s: {'met' if result['met'] else 'NOT met'})")
    print(f"  {result['cpu_seconds']:.2f} s of CPU time; much less than the wall time with few threads at work means that the machine was busy")
    for step, seconds in steps.items():
        print(f"  {step:<8}{seconds:7.2f} s")


if __name__ == "__main__":
    main()

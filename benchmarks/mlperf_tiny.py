"""MLPerf Tiny's reference files on its official accuracy inputs: does `evaluate` reproduce the figures that were published or measured by others?

    python benchmarks/mlperf_tiny.py --weights DIR --inputs DIR [--json FILE] [--runtime litert]

DIR of --weights holds the .tflite files of github.com/mlcommons/tiny (benchmark/training/*/trained_models), DIR of --inputs the folders ic01, vww01
and kws01 of github.com/eembc/energyrunner (datasets/). Each int8 file is also certified against its float file. Exit code 4 if a figure is not
reproduced. ad01 is skipped: its inputs are spectrograms made from sound that is not part of these folders.
"""
from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

from edgepress.modelspec import NORMALIZATIONS, ModelSpec, to_json
from edgepress.recipe import CertifyConfig, EvaluateConfig
from edgepress.report_text import percent, points
from edgepress.stages.certify import certify
from edgepress.stages.evaluate import evaluate

KEYWORDS = ("Down", "Go", "Left", "No", "Off", "On", "Right", "Stop", "Up", "Yes", "Silence", "Unknown")
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# The int8 keyword model's input scale and zero point: the official inputs are its stored numbers, x = (stored - 83) * scale.
KWS_SCALE, KWS_ZERO_POINT = 0.5847029089927673, 83


@dataclass(frozen=True)
class Case:
    """One reference file: how it is fed, the target of the benchmark, and the accuracy others measured on these inputs (percent)."""

    file: str
    inputs: str
    spec: ModelSpec
    expected: float
    target: float
    reference: Optional[str] = None  # its float file


def _image_spec(labels: tuple, size: int, normalization: str) -> ModelSpec:
    scale, offset = NORMALIZATIONS[normalization]
    return ModelSpec(labels=labels, input_height=size, input_width=size, scale=scale, offset=offset, normalization_inside=False)


IC = _image_spec(CIFAR, 32, "0..255")
VWW = _image_spec(("no person", "person"), 96, "0..1")
KWS = ModelSpec(labels=KEYWORDS, input_height=49, input_width=10, channels=1, scale=(KWS_SCALE,), offset=(-KWS_SCALE * KWS_ZERO_POINT,), normalization_inside=False)
CASES = (
    Case("pretrainedResnet.tflite", "ic01", IC, 85.5, 85.0),
    Case("pretrainedResnet_quant.tflite", "ic01", IC, 85.0, 85.0, "pretrainedResnet.tflite"),
    Case("vww_96_float.tflite", "vww01", VWW, 85.3, 80.0),
    Case("vww_96_int8.tflite", "vww01", VWW, 85.0, 80.0, "vww_96_float.tflite"),
    Case("kws_ref_model_float32.tflite", "kws01", KWS, 90.0, 90.0),
    Case("kws_ref_model.tflite", "kws01", KWS, 90.2, 90.0, "kws_ref_model_float32.tflite"),
)
SKIPPED = ({"file": "ad01_int8.tflite", "reason": "no accuracy inputs: spectrograms of sound that is not part of these folders"},)


def run_case(case: Case, weights: Path, inputs: Path, work: Path, *, runtime: str) -> Dict[str, Any]:
    """Evaluate one file, and certify it against its float file where it has one."""
    model = work / "models" / case.file
    model.parent.mkdir(exist_ok=True)
    shutil.copyfile(weights / case.file, model)
    model.with_name(model.name + ".model.json").write_text(to_json(case.spec), encoding="utf-8")
    out = work / case.file
    out.mkdir()
    evaluate(out, model=model, dataset=inputs / case.inputs / "y_labels.csv", config=EvaluateConfig(runtime=runtime))
    facts = json.loads((out / "evaluation.json").read_text())
    row = {"file": case.file, "inputs": case.inputs, "images": facts["images"], "runtime": facts["runtime"], "sha256": facts["sha256"], "accuracy": 100 * facts["accuracy"], "expected": case.expected,
           "target": case.target, "reproduced": abs(100 * facts["accuracy"] - case.expected) < 0.05, "ece": facts["ece"]}
    return {**row, "certificate": _certificate(out, work / case.reference, work) if case.reference else None}


def _certificate(model: Path, reference: Path, work: Path) -> Dict[str, Any]:
    out = work / f"certificate-{model.name}"
    out.mkdir()
    certify(out, model=model, reference=reference, config=CertifyConfig())
    found = json.loads((out / "certificate.json").read_text())
    return {key: found[key] for key in ("drop", "drop_interval", "drop_at_most", "agreement", "mcnemar_p", "certified", "reason")}


def table(rows: List[Dict[str, Any]]) -> str:
    """What was measured beside what was expected, as Markdown."""
    lines = ["| file | inputs | accuracy | expected | target | drop, points [95 %] | agreement | certified at 1 point |", "|---|---|---:|---:|---:|---:|---:|---|"]
    for row in rows:
        found = row["certificate"]
        pair = (f"{points(found['drop'])} [{points(found['drop_interval'][0])}, {points(found['drop_interval'][1])}] | {percent(found['agreement'])} | {found['certified']}" if found else "– | – | reference")
        lines.append(f"| {row['file']} | {row['inputs']}, {row['images']} | {row['accuracy']:.1f} %{'' if row['reproduced'] else ' (!)'} | {row['expected']:.1f} % | {row['target']:.0f} % | {pair} |")
    return "\n".join(lines)


def main() -> int:
    """Print the table; 4 if a figure is not reproduced."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the reference .tflite files")
    parser.add_argument("--inputs", type=Path, required=True, help="folder that holds ic01, vww01 and kws01")
    parser.add_argument("--runtime", default="litert", help="litert or tflite_runtime")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        rows = [run_case(case, options.weights, options.inputs, Path(work), runtime=options.runtime) for case in CASES]
    print(table(rows))
    for skipped in SKIPPED:
        print(f"skipped {skipped['file']}: {skipped['reason']}")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "skipped": list(SKIPPED)}, indent=2) + "\n", encoding="utf-8")
    return 0 if all(row["reproduced"] for row in rows) else 4


if __name__ == "__main__":
    sys.exit(main())

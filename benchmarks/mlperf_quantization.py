"""Our own int8 files of MLPerf Tiny's Keras models against the reference int8 files, on the official accuracy inputs.

    python benchmarks/mlperf_quantization.py --weights DIR --inputs DIR --cifar DIR --photos DIR [--json FILE]

DIR of --weights holds pretrainedResnet.h5, vww_96.h5 and the reference .tflite files of github.com/mlcommons/tiny, DIR of --inputs the folders
ic01 and vww01 of github.com/eembc/energyrunner. Calibration never sees those inputs: the CIFAR-10 network is calibrated on --cifar (class
folders of CIFAR-10 photos), visual wake words on --photos (any photographs: its own training photos are not at hand). Bar: 85 % and 80 %,
and not worse than the reference int8 file on the same images (exact McNemar, 5 %). Exit code 4 where it is missed.
"""
from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List

from edgepress.modelspec import NORMALIZATIONS, ModelSpec, to_json
from edgepress.recipe import CertifyConfig, ConvertConfig, EvaluateConfig, QuantizeConfig
from edgepress.stages.certify import certify
from edgepress.stages.convert import convert
from edgepress.stages.evaluate import evaluate
from edgepress.stages.quantize import quantize


@dataclass(frozen=True)
class Case:
    """A Keras model, its reference int8 file and how both see a photo."""

    keras: str
    reference: str
    inputs: str
    photos: str  # which option holds the calibration photos
    labels: tuple
    size: int
    normalization: str
    target: float


CASES = (Case("pretrainedResnet.h5", "pretrainedResnet_quant.tflite", "ic01", "cifar", ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"), 32, "0..255", 85.0),
         Case("vww_96.h5", "vww_96_int8.tflite", "vww01", "photos", ("no person", "person"), 96, "0..1", 80.0))


def run_case(case: Case, options: argparse.Namespace, work: Path) -> List[Dict[str, Any]]:
    """Convert and quantize in both formats; score against labels and against the reference int8 file."""
    folders = {name: work / case.inputs / name for name in ("float", "reference")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    labels = work / case.inputs / "labels.txt"
    labels.write_text("\n".join(case.labels) + "\n", encoding="utf-8")
    convert(folders["float"], model=options.weights / case.keras, config=ConvertConfig(normalization=case.normalization, labels=str(labels)))
    scale, offset = NORMALIZATIONS[case.normalization]
    reference = work / case.inputs / case.reference
    shutil.copyfile(options.weights / case.reference, reference)
    spec = ModelSpec(labels=case.labels, input_height=case.size, input_width=case.size, scale=scale, offset=offset, normalization_inside=False)
    reference.with_name(reference.name + ".model.json").write_text(to_json(spec), encoding="utf-8")
    inputs = options.inputs / case.inputs / "y_labels.csv"
    evaluate(folders["reference"], model=reference, dataset=inputs, config=EvaluateConfig())
    return [_quantized(case, options, work / case.inputs, form, inputs) for form in ("tflite", "onnx")]


def _quantized(case: Case, options: argparse.Namespace, work: Path, form: str, inputs: Path) -> Dict[str, Any]:
    out, scored, paired = (work / f"{name}.{form}" for name in ("quantize", "evaluate", "certify"))
    for folder in (out, scored, paired):
        folder.mkdir()
    quantize(out, model=work / "float" / f"model.{form}", dataset=getattr(options, case.photos), config=QuantizeConfig())
    evaluate(scored, model=out / f"model.{form}", dataset=inputs, config=EvaluateConfig())
    certify(paired, model=scored, reference=work / "reference", config=CertifyConfig())
    ours, theirs = (json.loads((folder / "evaluation.json").read_text()) for folder in (scored, work / "reference"))
    found = json.loads((paired / "certificate.json").read_text())
    worse = found["drop"] > 0 and found["mcnemar_p"] < 0.05
    return {"model": case.keras, "format": form, "images": ours["images"], "accuracy": 100 * ours["accuracy"], "reference_accuracy": 100 * theirs["accuracy"], "target": case.target,
            "drop": found["drop"], "drop_interval": found["drop_interval"], "mcnemar_p": found["mcnemar_p"], "size_bytes": (out / f"model.{form}").stat().st_size,
            "reference_bytes": (work / case.reference).stat().st_size, "met": bool(100 * ours["accuracy"] >= case.target and not worse)}


def main() -> int:
    """Print the table; 4 if the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, text in (("weights", "reference files and Keras models"), ("inputs", "folder that holds ic01 and vww01"), ("cifar", "CIFAR-10 photos"), ("photos", "any photographs")):
        parser.add_argument(f"--{name}", type=Path, required=True, help=text)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        rows = [row for case in CASES for row in run_case(case, options, Path(work))]
    print("| model | file | ours | reference int8 | target | drop, points [95 %] | McNemar p | bytes, ours / reference | bar |\n|---|---|---:|---:|---:|---:|---:|---:|---|")
    for row in rows:
        print(f"| {row['model']} | static_wi8_ai8.{row['format']}, {row['images']} images | {row['accuracy']:.1f} % | {row['reference_accuracy']:.1f} % | {row['target']:.0f} % | {row['drop']:+.1f} "
              f"[{row['drop_interval'][0]:+.1f}, {row['drop_interval'][1]:+.1f}] | {row['mcnemar_p']:.2f} | {row['size_bytes']:,} / {row['reference_bytes']:,} | {'met' if row['met'] else 'MISSED'} |")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n", encoding="utf-8")
    return 0 if all(row["met"] for row in rows) else 4


if __name__ == "__main__":
    sys.exit(main())

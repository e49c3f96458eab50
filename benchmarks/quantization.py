"""What static int8 costs: agreement with the float file and accuracy drop, for four backbones on photo folders, in both formats.

    python benchmarks/quantization.py --weights DIR --images DIR [DIR …] [--schemes static_wi8_ai8,…] [--json FILE] [--work DIR]

DIR of --weights holds ImageNet weights (see `edgepress backbones`), each DIR of --images class folders with train/ and test/. Every backbone
gets a classifier on frozen features (`finetune --strategy head`), is converted once and quantized with calibration photos of the training
split; each file is scored in its own runtime on the test photos, paired with the float file of its format. Bar: agreement ≥ 97.5 %, drop
≤ 1 point. Exit code 4 where it is missed. With --work, finished steps are reused.
"""
from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List

from edgepress.artifact import run_stage
from edgepress.imageset import source_digest
from edgepress.recipe import CertifyConfig, ConvertConfig, DatasetConfig, EvaluateConfig, FinetuneConfig, QuantizeConfig
from edgepress.stages import STAGES

BACKBONES = ("mobilenet_v2_1.0_224", "mobilenet_v2_0.35_224", "mobilenet_v1_0.25_224", "squeezenet_1.1_227")
MIN_AGREEMENT, MAX_DROP = 0.975, 1.0


@dataclass(frozen=True)
class Trained:
    """A converted float model with the photos it was trained on."""

    backbone: str
    images: str
    dataset: Path
    files: Path


def train(backbone: str, images: Path, work: Path) -> Trained:
    """Dataset, classifier on frozen features, float TFLite and ONNX."""
    dataset = run_stage(STAGES["dataset"], inputs={"images": images}, config=DatasetConfig(), work=work, digest=lambda p: source_digest(p, cache=work / ".cache"))
    model = run_stage(STAGES["finetune"], inputs={"dataset": dataset}, config=FinetuneConfig(backbone=backbone, strategy="head"), work=work)
    return Trained(backbone, images.name, dataset, run_stage(STAGES["convert"], inputs={"model": model}, config=ConvertConfig(), work=work))


def measure(trained: Trained, config: QuantizeConfig, form: str, work: Path) -> Dict[str, Any]:
    """One quantized file against the float file of its format."""
    source = trained.files / f"model.{form}"
    started = time.perf_counter()
    folder = run_stage(STAGES["quantize"], inputs={"model": source, "dataset": trained.dataset}, config=config, work=work)
    seconds = time.perf_counter() - started
    scored = [run_stage(STAGES["evaluate"], inputs={"model": file, "dataset": trained.dataset}, config=EvaluateConfig(), work=work) for file in (source, folder / f"model.{form}")]
    paired = run_stage(STAGES["certify"], inputs={"model": scored[1], "reference": scored[0]}, config=CertifyConfig(), work=work)
    found = json.loads((paired / "certificate.json").read_text())
    made = json.loads((folder / "quantization.json").read_text())
    accuracy = [json.loads((s / "evaluation.json").read_text())["accuracy"] for s in scored]
    return {"images": trained.images, "backbone": trained.backbone, "format": form, "scheme": config.scheme, "backend": made["backend"], "method": config.calibration_method,
            "float_accuracy": accuracy[0], "accuracy": accuracy[1], "agreement": found["agreement"], "drop": found["drop"], "drop_interval": found["drop_interval"],
            "kl_mean": found["kl"]["mean"], "test_images": found.get("images"), "size_bytes": made["size_bytes"], "float_bytes": made["source"]["size_bytes"],
            "integer_operators_percent": made["integer_operators_percent"], "fold_difference": (made.get("input_folding") or {}).get("largest_output_difference"),
            "quantize_seconds": seconds, "met": found["agreement"] >= MIN_AGREEMENT and found["drop"] <= MAX_DROP}


def rows(options: argparse.Namespace, work: Path) -> Iterator[Dict[str, Any]]:
    """Every backbone on every folder in every scheme and format."""
    os.environ["EDGEPRESS_WEIGHTS"] = str(options.weights)
    for images in options.images:
        for backbone in options.backbones.split(","):
            trained = train(backbone, images, work)
            for scheme in options.schemes.split(","):
                for form in options.formats.split(","):
                    config = QuantizeConfig(scheme=scheme, calibration_method=options.method, backend=options.backend if form == "tflite" else "auto")
                    yield measure(trained, config, form, work)


def line(row: Dict[str, Any]) -> str:
    """One row as Markdown."""
    low, high = row["drop_interval"]
    return (f"| {row['images']} | {row['backbone']} | {row['scheme']}.{row['format']} | {row['float_accuracy']:.1%} | {row['accuracy']:.1%} | {row['drop']:+.1f} [{low:+.1f}, {high:+.1f}] "
            f"| {row['agreement']:.1%} | {row['kl_mean']:.4f} | {row['float_bytes'] / row['size_bytes']:.2f} | {'met' if row['met'] else 'MISSED'} |")


def main() -> int:
    """Print the table; 4 if the bar is missed by a static file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder of ImageNet weights")
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="folders with train/ and test/")
    parser.add_argument("--backbones", default=",".join(BACKBONES))
    parser.add_argument("--schemes", default="static_wi8_ai8")
    parser.add_argument("--formats", default="tflite,onnx")
    parser.add_argument("--method", default="minmax", help="calibration method")
    parser.add_argument("--backend", default="auto", help="TFLite back-end")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--work", type=Path, help="keep finished steps here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print("| images | backbone | file | float | quantized | drop, points [95 %] | agreement | KL | times smaller | bar |\n|---|---|---|---:|---:|---:|---:|---:|---:|---|")
        found: List[Dict[str, Any]] = []
        for row in rows(options, options.work or Path(folder)):
            found.append(row)
            print(line(row), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"rows": found, "bar": {"agreement": MIN_AGREEMENT, "drop": MAX_DROP}}, indent=2) + "\n", encoding="utf-8")
    return 0 if all(row["met"] for row in found if row["scheme"].startswith("static")) else 4


if __name__ == "__main__":
    sys.exit(main())

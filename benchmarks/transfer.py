"""What transfer learning reaches: test accuracy and seconds per dataset, head only and fine-tuned.

    python benchmarks/transfer.py --weights DIR --images DIR [--rows flowers,cats_dogs,mnist_png,digits] [--json FILE] [--work DIR]

DIR of --weights holds ImageNet weights (see `edgepress backbones`), DIR of --images the folders `flowers`, `cats_dogs` and `mnist_png`, each
with train/ and test/. Every row is the stages dataset → finetune → convert (→ quantize) → evaluate with their defaults where the row names no
other; accuracy is that of the file in its own runtime on the test photos. `fit` is the part of finetune that makes the head: features of
every view, the choice of views and regularization, and the last fit. Exit code 4 where a bar is missed. With --work, finished steps are reused.
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
from typing import Any, Dict, Iterator, List, Mapping, Optional

from edgepress.artifact import run_stage
from edgepress.pipeline import digest_input
from edgepress.recipe import ConvertConfig, DatasetConfig, EvaluateConfig, FinetuneConfig, QuantizeConfig
from edgepress.stages import STAGES

PHASES_OF_FIT = ("features", "head", "refit")


@dataclass(frozen=True)
class Row:
    """One line of the table. `scheme` None: the float file."""

    name: str
    images: str
    config: FinetuneConfig
    bar: float
    scheme: Optional[str] = None


MOBILENET = FinetuneConfig(backbone="mobilenet_v2_1.0_224")
GLYPHS = FinetuneConfig(backbone="glyphs_32", epochs=10, learning_rate=0.02, layer_decay=1.0)
LONGER = FinetuneConfig(backbone="glyphs_32", epochs=20, patience=6, learning_rate=0.03, layer_decay=1.0)
HEAD = FinetuneConfig(backbone="mobilenet_v2_1.0_224", strategy="head")
ROWS = (
    Row("flowers head", "flowers", HEAD, 0.87), Row("flowers fine-tuned", "flowers", MOBILENET, 0.90),
    Row("cats_dogs head", "cats_dogs", HEAD, 0.97), Row("mnist_png int8", "mnist_png", LONGER, 0.982, "static_wi8_ai8"),
    Row("digits int8", "digits", GLYPHS, 0.982, "static_wi8_ai8"),
)


def run(name: str, inputs: Dict[str, Any], config: Any, work: Path) -> Path:
    """A stage on artifacts, or on photos, which are identified by their content."""
    return run_stage(STAGES[name], inputs=inputs, config=config, work=work, digest=lambda path: digest_input(path, cache=work / ".cache"))


def measure(row: Row, images: Path, work: Path) -> Dict[str, Any]:
    """Run the stages of a row; returns its figures."""
    started = time.monotonic()
    dataset = run("dataset", {"images": Path(row.images) if row.images == "digits" else images / row.images}, DatasetConfig(), work)
    trained = run("finetune", {"dataset": dataset}, row.config, work)
    file = run("convert", {"model": trained}, ConvertConfig(formats=("tflite",)), work)
    if row.scheme:
        file = run("quantize", {"model": file, "dataset": dataset}, QuantizeConfig(scheme=row.scheme), work)
    scored = run("evaluate", {"model": file, "dataset": dataset}, EvaluateConfig(), work)
    facts, training = json.loads((scored / "evaluation.json").read_text()), json.loads((trained / "training.json").read_text())
    tuned = training["finetune"]
    return {"row": row.name, "backbone": training["backbone"], "weights": training["weights"], "kept": training["kept"], "accuracy": facts["accuracy"],
            "interval": facts["accuracy_interval"], "images": facts["images"], "bar": row.bar, "met": facts["accuracy"] >= row.bar,
            "validation_head": training["probe"]["accuracy"], "validation_finetuned": tuned and tuned["accuracy"], "views": training["probe"]["views"],
            "trained_on": training["images"], "fit_seconds": round(sum(training["seconds"][p] for p in PHASES_OF_FIT), 1),
            "train_seconds": round(sum(training["seconds"].values()), 1), "seconds": round(time.monotonic() - started, 1)}


def measure_all(names: List[str], images: Path, work: Path) -> Iterator[Mapping[str, Any]]:
    """The rows whose dataset is among `names`, each printed as it is done."""
    print(f"{'row':20} {'backbone':22} {'accuracy':>8} {'bar':>6}  {'95 % interval':15} {'kept':9} {'fit s':>6} {'train s':>8}")
    for row in ROWS:
        if row.images in names:
            r = measure(row, images, work)
            low, high = r["interval"]
            print(f"{r['row']:20} {r['backbone']:22} {r['accuracy']:8.2%} {r['bar']:6.1%}  {low:6.1%}–{high:6.1%}  {r['kept']:9} {r['fit_seconds']:6.1f} "
                  f"{r['train_seconds']:8.1f}{'' if r['met'] else '  MISSED'}", flush=True)
            yield r


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--rows", default=",".join(dict.fromkeys(row.images for row in ROWS)))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    os.environ["EDGEPRESS_WEIGHTS"] = str(arguments.weights.resolve())
    with tempfile.TemporaryDirectory() as temporary:
        rows = list(measure_all(arguments.rows.split(","), arguments.images, arguments.work or Path(temporary)))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if all(r["met"] for r in rows) else 4


if __name__ == "__main__":
    sys.exit(main())

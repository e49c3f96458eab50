"""Runs and bundles for the page, made without training: tiny files, plain photos, a quantized ONNX file."""
from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, List, Sequence, Tuple

import numpy as np
from PIL import Image

from edgepress.artifact import digest_file, write_json
from edgepress.bundle_archive import FOLDER
from edgepress.modelspec import ModelSpec, to_json
from edgepress.preprocess import load_pixels
from edgepress.recipe import BundleConfig, QuantizeConfig
from edgepress.stages.bundle import bundle
from edgepress.stages.quantize import quantize

TINY = Path(__file__).resolve().parents[1] / "data"
LABELS = ("red", "green", "blue")
SPEC = ModelSpec(labels=LABELS, input_height=8, input_width=8, name="colours", resize="crop")
Variant = Tuple[str, str, Path]  # name, runtime, file


def make_photos(folder: Path, count: int = 9) -> List[Path]:
    """Photos of the three colours with some texture, wider than the model's input, of different sizes."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = random.integers(0, 40, (60 + 7 * number, 90, 3), dtype=np.uint8)
        pixels[..., number % 3] += 200
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return sorted(folder.iterdir())


def tiny_variants(folder: Path) -> List[Variant]:
    """The float and int8 files of both formats; the int8 ONNX one is quantized here."""
    np.save(folder / "calibration.npy", np.stack([load_pixels(photo, SPEC) for photo in make_photos(folder / "calibration")]))
    (folder / "float").mkdir()
    shutil.copy(TINY / "tiny_float.onnx", folder / "float" / "model.onnx")
    (folder / "float" / "model.json").write_text(to_json(SPEC), encoding="utf-8")
    (folder / "int8").mkdir()
    quantize(folder / "int8", model=folder / "float" / "model.onnx", dataset=folder / "calibration.npy", config=QuantizeConfig(scheme="static_wi8_ai8"))
    return [("float32.tflite", "litert", TINY / "tiny_float.tflite"), ("static_wi8_ai8.tflite", "litert", TINY / "tiny_int8.tflite"),
            ("float32.onnx", "onnxruntime", TINY / "tiny_float.onnx"), ("static_wi8_ai8.onnx", "onnxruntime", folder / "int8" / "model.onnx")]


def make_run(folder: Path, variants: Sequence[Variant], photos: Sequence[Path], spec: ModelSpec = SPEC) -> Path:
    """A run folder as `edgepress run` leaves it, as far as pages and bundles read it."""
    run = folder / "run"
    steps: List[Any] = []
    for variant, runtime, file in variants:
        made, evaluated = f"quantize-{variant}", f"evaluate-{variant}"
        for name in (made, evaluated):
            (run / name).mkdir(parents=True)
        source = Path(shutil.copy(file, run / made / f"model{file.suffix}"))
        (source.parent / "model.json").write_text(to_json(spec), encoding="utf-8")
        identity = {"file": str(source), "sha256": digest_file(source), "size_bytes": source.stat().st_size, "runtime": {"name": runtime, "version": "1"}}
        write_json(run / evaluated / "evaluation.json", {"schema": 1, "status": "ok", "reason": None, **identity, "images": len(photos), "accuracy": 1.0, "accuracy_interval": [0.7, 1.0],
                                                         "labels": list(spec.labels), "split": "test", "dataset": "photos"})
        targets = np.arange(len(photos)) % len(spec.labels)
        np.savez(run / evaluated / "predictions.npz", probabilities=np.eye(len(spec.labels), dtype=np.float32)[targets], targets=targets,
                 digests=np.array([digest_file(path) for path in photos]), paths=np.array([str(path) for path in photos]))
        steps.append({"id": f"evaluate:{variant}@{runtime}", "stage": "evaluate", "variant": variant, "runtime": runtime, "status": "ok", "reason": None, "seconds": 1.0,
                      "inputs": {"model": f"{made}/{source.name}"}, "artifact": evaluated})
    write_json(run / "run.json", {"schema": 1, "recipe": {"images": "photos"}, "steps": steps})
    return run


def make_bundle(run: Path, out: Path, choose: str) -> Path:
    """A bundle of one file of such a run."""
    out.mkdir()
    bundle(out, run=run, config=BundleConfig(choose=choose, golden=4))
    return out / FOLDER

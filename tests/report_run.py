"""Make the folder of a finished run without running one: figures from seeded answers, so that every part of the report has something to show."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from edgepress import accuracy
from edgepress.measurement import Measurement, Round, dump
from edgepress.predictions import Score, write_score

VARIANTS = {  # variant → (runtime, kB, ms with one thread, noise on the logits)
    "float32.tflite": ("litert", 8900, 4.8, 0.0), "float16.tflite": ("litert", 4500, 4.8, 0.02), "dynamic_wi8_afp32.tflite": ("litert", 2700, 11.5, 0.5),
    "weight_only_wi8_afp32.tflite": ("litert", 2690, 5.1, 0.5), "static_wi8_ai8.tflite": ("litert", 2700, 1.72, 0.25), "float32.onnx": ("onnxruntime", 8850, 4.4, 0.0),
    "static_wi8_ai8.onnx": ("onnxruntime", 2500, 1.79, 0.3), "static_wi8_ai16.tflite": ("litert", 2750, 70.0, 3.5)}


def make_run(folder: Path, *, labels: Sequence[str] = ("daisy", "dandelion", "roses", "sunflowers", "tulips"), images: int = 400, photos: Optional[List[Path]] = None,
             hardness: float = 3.2, seed: int = 0) -> Path:
    """A run folder of eight files, one refused by its runtime, one stage that failed, a dataset and a training record."""
    random = np.random.default_rng(seed)
    targets = np.sort(np.arange(images) % len(labels))
    logits = random.normal(0, 1, (images, len(labels))) + hardness * np.eye(len(labels))[targets]
    paths = [str(photos[i % len(photos)]) if photos else f"/nowhere/{i}.jpg" for i in range(images)]
    digests = tuple(f"{i:064x}" for i in range(images))
    steps: List[Dict[str, Any]] = []
    for stage, name, document in _trunk(labels, images):
        steps.append(_step(folder, stage, name, document))
    scores = {}
    for number, (variant, (runtime, kilobytes, _, noise)) in enumerate(VARIANTS.items()):
        changed = logits + random.normal(0, 1, logits.shape) * noise * 0.6
        powers = np.exp(changed - changed.max(axis=1, keepdims=True))
        probabilities = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
        facts = {"schema": 1, "status": "ok", "reason": None, "file": f"convert-1/{variant}", "sha256": f"{number:064x}", "size_bytes": kilobytes * 1000, "runtime": {"name": runtime, "version": "1.2.3"},
                 "threads": 2, "dataset": "dataset-1", "split": "test", "images": images, "classes": len(labels), "labels": list(labels), "host": HOST}
        scores[variant] = Score(facts, tuple(labels), probabilities, targets, digests, tuple(paths))
        out = folder / f"evaluate-{number}"
        out.mkdir(parents=True)
        write_score(out, scores[variant], {**facts, **accuracy.score(probabilities, targets, labels)})
        steps.append({"id": f"evaluate:{variant}@{runtime}", "stage": "evaluate", "variant": variant, "runtime": runtime, "inputs": {}, "artifact": out.name, "status": "ok", "reason": None, "seconds": 3.2})
    steps.append(_refused(folder, labels, images))
    for number, (variant, score) in enumerate(list(scores.items())[1:], start=1):
        steps.append(_certificate(folder, number, variant, score, scores["float32.tflite"]))
    steps.append({"id": "quantize:static_wi8_ai16.onnx", "stage": "quantize", "variant": "static_wi8_ai16.onnx", "runtime": None, "inputs": {}, "artifact": None, "status": "skipped",
                  "reason": "static_wi8_ai16 has no ONNX kernels on a CPU; accepted: static_wi8_ai8", "seconds": 0.0})
    steps.append(_benchmarks(folder, random))
    (folder / "run.json").write_text(json.dumps({"schema": 1, "recipe": {"images": "photos/flowers", "finetune": {"backbone": "mobilenet_v2_1.0_224"}, "certify": {"max_drop": 1.0}}, "steps": steps}))
    return folder


HOST = {"cpu": "Example CPU <9000>", "cpus": 2, "machine": "x86_64", "system": "Linux", "python": "3.11.2", "memory_bytes": 8_000_000_000, "cpu_flags": ["avx2", "avx512_vnni"], "governor": None}


def _step(folder: Path, stage: str, name: str, document: Any) -> Dict[str, Any]:
    artifact = folder / f"{stage}-1"
    artifact.mkdir(parents=True)
    (artifact / name).write_text(json.dumps(document))
    (artifact / "artifact.json").write_text(json.dumps({"schema": 1, "stage": stage, "versions": {"tensorflow": "2.21.0"}}))
    return {"id": stage, "stage": stage, "variant": None, "runtime": None, "inputs": {}, "artifact": artifact.name, "status": "ok", "reason": None, "seconds": 12.5}


def _trunk(labels: Sequence[str], images: int) -> Any:
    yield "dataset", "dataset.json", {"schema": 1, "images": 5 * images, "labels": list(labels), "counts": {"train": {label: 100 for label in labels}, "test": {label: images // len(labels) for label in labels}},
                                      "skipped": [{"path": "roses/broken.jpg", "reason": "the file is truncated"}], "warnings": ["3 near duplicates were kept together"]}
    history = [{"epoch": e, "loss": 0.6 / e, "validation_loss": 0.4 / e + 0.1, "validation_accuracy": 0.93 - 0.06 / e} for e in range(1, 9)]
    yield "finetune", "training.json", {"schema": 1, "backbone": "mobilenet_v2_1.0_224", "kept": "finetune", "why": "fine-tuned is better", "images": {"train": 425, "validation": 75},
                                        "probe": {"accuracy": 0.88, "loss": 0.35}, "finetune": {"accuracy": 0.92, "loss": 0.2, "epoch": 8, "history": history}, "seconds": {"probe": 8.0, "finetune": 60.0}}


def _refused(folder: Path, labels: Sequence[str], images: int) -> Dict[str, Any]:
    out = folder / "evaluate-refused"
    out.mkdir()
    facts = {"schema": 1, "status": "unsupported", "reason": "FULLY_CONNECTED version 12 is not known to tflite_runtime 2.14", "file": "x.tflite", "sha256": "f" * 64, "size_bytes": 2_700_000,
             "runtime": {"name": "tflite_runtime", "version": "2.14.0"}, "threads": 2, "labels": list(labels), "images": images, "split": "test", "dataset": "dataset-1"}
    write_score(out, Score(facts, tuple(labels)), facts)
    return {"id": "evaluate:dynamic_wi8_afp32.tflite@tflite_runtime", "stage": "evaluate", "variant": "dynamic_wi8_afp32.tflite", "runtime": "tflite_runtime", "inputs": {}, "artifact": out.name,
            "status": "ok", "reason": None, "seconds": 1.0}


def _certificate(folder: Path, number: int, variant: str, score: Score, reference: Score) -> Dict[str, Any]:
    from edgepress.recipe import CertifyConfig
    from edgepress.stages.certify import certify

    out = folder / f"certify-{number}"
    out.mkdir()
    certify(out, model=folder / f"evaluate-{number}", reference=folder / "evaluate-0", config=CertifyConfig())
    return {"id": f"certify:{variant}", "stage": "certify", "variant": variant, "runtime": score.facts["runtime"]["name"], "inputs": {"model": f"evaluate-{number}", "reference": "evaluate-0"},
            "artifact": out.name, "status": "ok", "reason": None, "seconds": 0.1}


def _benchmarks(folder: Path, random: np.random.Generator) -> Dict[str, Any]:
    records = []
    for number, (variant, (runtime, kilobytes, ms, _)) in enumerate(VARIANTS.items()):
        for threads in (1, 2):
            center = ms if threads == 1 else ms * 0.6
            rounds = tuple(Round(latencies_ms=tuple(float(v) for v in center * (1 + random.gamma(1.5, 0.02, 120))), import_ms=50.0, load_ms=3.0, first_run_ms=2 * center, warmup_runs=20,
                                 rss_before_load_bytes=30_000_000, rss_after_load_bytes=40_000_000, rss_after_runs_bytes=55_000_000 + kilobytes) for _ in range(2))
            records.append(Measurement(file=f"convert-1/{variant}", sha256=f"{number:064x}", format=variant.rpartition(".")[2], size_bytes=kilobytes * 1000, gzip_bytes=kilobytes * 900,
                                       runtime=runtime, runtime_version="1.2.3", threads=threads, host=HOST, input_shapes=((1, 224, 224, 3),), rounds=rounds,
                                       details={"delegate": "XNNPACK", "operators": {"CONV_2D": 30}}))
    records.append(Measurement(file="convert-1/dynamic_wi8_afp32.tflite", sha256="2".zfill(64), format="tflite", size_bytes=1, gzip_bytes=1, runtime="tflite_runtime", threads=1,
                               status="unsupported", reason="FULLY_CONNECTED version 12 is not known"))
    out = folder / "benchmark-1"
    out.mkdir()
    (out / "measurements.json").write_text(dump(records))
    return {"id": "benchmark", "stage": "benchmark", "variant": None, "runtime": None, "inputs": {}, "artifact": out.name, "status": "ok", "reason": None, "seconds": 60.0}

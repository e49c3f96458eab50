"""The bill of materials says what the run says, and is CycloneDX 1.6."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
from report_run import make_run

from edgepress import report_data
from edgepress.modelspec import ModelSpec
from edgepress.sbom import make_sbom

LABELS = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
SPEC = ModelSpec(labels=LABELS, input_height=224, input_width=224, name="flowers", backbone="mobilenet_v2_1.0_224", weights="imagenet", weights_license="Apache-2.0 (Keras Applications)", reject_threshold=0.4)
VARIANTS = ("static_wi8_ai8.tflite", "float32.onnx")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Tuple[Dict[str, Any], List[Dict[str, Any]]]:
    facts = report_data.read_run(make_run(tmp_path_factory.mktemp("run") / "flowers"))
    rows = [next(row for row in report_data.comparison_rows(facts) if row["variant"] == variant) for variant in VARIANTS]
    models = [{"file": name, "format": row["format"], "variant": row["variant"], "runtimes": [row["runtime"]], "certified": row.get("certified"), "tolerance": 0.05}
              for name, row in zip(("model.tflite", "models/float32.onnx"), rows)]
    return make_sbom(facts, models, rows, SPEC, worker_sha256="0" * 64), rows


def component(document: Dict[str, Any], ref: str) -> Dict[str, Any]:
    return next(part for part in document["components"] if part["bom-ref"] == ref)


def properties(part: Dict[str, Any]) -> Dict[str, str]:
    return {entry["name"]: entry["value"] for entry in part["properties"]}


def test_the_model_card_has_the_figures_of_the_run(made: Tuple[Dict[str, Any], List[Dict[str, Any]]]) -> None:
    document, rows = made
    model = component(document, "model.tflite")
    metrics = {metric["type"]: metric for metric in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]}
    assert float(metrics["accuracy"]["value"]) == pytest.approx(rows[0]["accuracy"], rel=1e-5) and "400 images" in metrics["accuracy"]["slice"]
    assert float(metrics["accuracy"]["confidenceInterval"]["lowerBound"]) == pytest.approx(rows[0]["accuracy_interval"][0], rel=1e-5)
    assert float(metrics["latency, median ms"]["value"]) > 0 and "recall drop of the worst class, percentage points" in metrics
    assert model["hashes"][0]["content"] == rows[0]["sha256"] and properties(model)["edgepress:quantization"] == "static_wi8_ai8"
    assert "unknown below a probability of 0.4" in model["modelCard"]["considerations"]["technicalLimitations"][0]
    assert component(document, "models/float32.onnx")["hashes"][0]["content"] == rows[1]["sha256"]


def test_dataset_and_backbone_are_named_with_counts_and_licence(made: Tuple[Dict[str, Any], List[Dict[str, Any]]]) -> None:
    document, _ = made
    counts = {entry["name"]: entry["value"] for entry in component(document, "dataset")["data"][0]["contents"]["properties"]}
    assert counts["edgepress:images:train:roses"] == "100" and counts["edgepress:images:test"] == "400" and counts["edgepress:skipped"] == "1"
    assert component(document, "backbone")["licenses"] == [{"license": {"name": "Apache-2.0 (Keras Applications)"}}]
    names = {part["name"] for part in document["components"] if part["type"] == "library"}
    assert {"ai-edge-litert", "onnxruntime", "numpy", "pillow"} <= names


def test_every_reference_is_there_and_nothing_tells_the_time(made: Tuple[Dict[str, Any], List[Dict[str, Any]]], tmp_path: Path) -> None:
    document, rows = made
    refs = {part["bom-ref"] for part in document["components"]} | {document["metadata"]["component"]["bom-ref"]}
    assert len(refs) == len(document["components"]) + 1
    for entry in document["dependencies"]:
        assert {entry["ref"], *entry["dependsOn"]} <= refs
    assert "timestamp" not in json.dumps(document)
    facts = report_data.read_run(make_run(tmp_path / "flowers"))
    models = [{"file": name, "format": row["format"], "variant": row["variant"], "runtimes": [row["runtime"]], "certified": row.get("certified"), "tolerance": 0.05}
              for name, row in zip(("model.tflite", "models/float32.onnx"), rows)]
    assert make_sbom(facts, models, rows, SPEC, worker_sha256="0" * 64) == document


def test_a_run_of_single_commands_has_no_dataset_and_no_backbone(made: Tuple[Dict[str, Any], List[Dict[str, Any]]], tmp_path: Path) -> None:
    _, rows = made
    empty = report_data.Run(tmp_path, {}, ())
    models = [{"file": "model.tflite", "format": "tflite", "variant": "float32.tflite", "runtimes": ["litert"], "certified": None, "tolerance": 0.005}]
    document = make_sbom(empty, models, rows[:1], ModelSpec(labels=LABELS, input_height=8, input_width=8), worker_sha256="0" * 64)
    assert {part["type"] for part in document["components"]} == {"machine-learning-model", "application", "library"}
    assert "datasets" not in document["components"][0]["modelCard"]["modelParameters"]


@pytest.mark.slow
def test_the_documents_fit_the_schema(made: Tuple[Dict[str, Any], List[Dict[str, Any]]], tmp_path: Path) -> None:
    """The schema as the CycloneDX library carries it, strict, in a virtual environment of its own ($EDGEPRESS_CYCLONEDX names a Python that has it)."""
    python = os.environ.get("EDGEPRESS_CYCLONEDX")
    if not python:
        venv.create(tmp_path / "venv", with_pip=True)
        python = str(tmp_path / "venv" / "bin" / "python")
        done = subprocess.run([python, "-m", "pip", "install", "--quiet", "cyclonedx-python-lib[json-validation]"], capture_output=True, text=True)
        if done.returncode:
            pytest.skip("the CycloneDX library cannot be installed here: " + done.stderr.strip()[-200:])
    (tmp_path / "sbom.json").write_text(json.dumps(made[0]))
    code = ("import sys; from cyclonedx.schema import SchemaVersion; from cyclonedx.validation.json import JsonStrictValidator\n"
            "problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read()); print(problem or 'fits')")
    done = subprocess.run([python, "-c", code, str(tmp_path / "sbom.json")], capture_output=True, text=True)
    assert done.stdout.strip() == "fits", done.stdout[-2000:] + done.stderr[-2000:]

"""`show`: what is inside files, without TensorFlow."""
from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgepress import metadata
from edgepress.errors import ArtifactError, ModelError
from edgepress.inspection import describe, format_description
from edgepress.modelspec import ModelSpec

DATA = Path(__file__).parent / "data"
SPEC = ModelSpec(labels=("red", "green", "blue"), input_height=8, input_width=8, name="colours", backbone="tiny_8")
NAMES = ("tiny_float.tflite", "tiny_int8.tflite", "tiny_float.onnx", "tiny_float.keras", "keras3.keras", "keras3.h5")


@pytest.mark.parametrize("name", NAMES)
def test_every_format_is_plain_json_and_text(name: str) -> None:
    facts = describe(DATA / name)
    assert json.loads(json.dumps(facts)) == facts
    text = format_description(facts)
    assert name in text and f"{(DATA / name).stat().st_size:,} bytes" in text and facts["parameters"] > 0
    assert facts["inputs"][0]["shape"][1:] == [8, 8, 3] and facts["gzip_bytes"] < facts["size_bytes"]


def test_no_tensorflow_is_imported() -> None:
    code = "import sys; from pathlib import Path; from edgepress.inspection import describe; [describe(Path(p)) for p in sys.argv[1:]]; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, *(str(DATA / name) for name in NAMES)]).returncode == 0


def test_counts_of_known_files() -> None:
    assert describe(DATA / "tiny_int8.tflite")["weight_bytes"] == {"int32": 40, "int8": 240}
    onnx = describe(DATA / "tiny_float.onnx")
    assert (onnx["opset"]["ai.onnx"], onnx["ir_version"], onnx["operators"]["Conv"]) == (15, 8, 1)
    keras = describe(DATA / "keras3.keras")
    assert (keras["layers"]["BatchNormalization"], keras["parameters"], keras["unsafe"]) == (2, 433, None)
    assert "scale 1, zero point 0" in format_description(describe(DATA / "tiny_int8.tflite"))


@pytest.fixture()
def artifact(tmp_path: Path) -> Path:
    folder = tmp_path / "convert-1"
    folder.mkdir()
    shutil.copy(DATA / "tiny_float.tflite", folder / "model.tflite")
    shutil.copy(DATA / "tiny_float.onnx", folder / "model.onnx")
    metadata.embed_spec(folder / "model.tflite", SPEC)
    files = {p.name: {"sha256": "", "size_bytes": p.stat().st_size} for p in folder.iterdir()}
    (folder / "artifact.json").write_text(json.dumps({
        "schema": 1, "stage": "convert", "stage_version": 1, "key": "k", "config": {"opset": 15}, "inputs": {}, "input_paths": {"model": "/runs/finetune"}, "versions": {"onnx": "1"}, "seconds": 3.5, "files": files}))
    return folder


def test_artifact_with_its_files_and_provenance(artifact: Path) -> None:
    facts = describe(artifact)
    assert facts["stage"] == "convert" and [Path(m["path"]).name for m in facts["models"]] == ["model.onnx", "model.tflite"]
    inside = facts["models"][1]
    assert inside["model_spec"]["found"] == "inside" and inside["model_spec"]["labels"] == list(SPEC.labels)
    text = format_description(facts)
    for part in ("made by     convert in 3.5 s from model /runs/finetune", "colours, backbone tiny_8", "red, green, blue", "raw RGB bytes, 8 x 8"):
        assert part in text
    assert describe(artifact / "model.tflite")["provenance"]["input_paths"] == {"model": "/runs/finetune"}


def test_damaged_file_does_not_hide_the_rest(artifact: Path) -> None:
    (artifact / "model.onnx").write_bytes(b"\xff" * (artifact / "model.onnx").stat().st_size)
    facts = describe(artifact)
    assert "damaged" in facts["models"][0]["error"] and facts["models"][1]["operators"]
    assert "damaged" in format_description(facts)
    (artifact / "model.onnx").write_bytes(b"short")
    with pytest.raises(ArtifactError):
        describe(artifact)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", [0.0, 0.02, 0.3, 0.8])
def test_truncated_files(tmp_path: Path, name: str, part: float) -> None:
    whole = (DATA / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[:int(len(whole) * part)])
    with pytest.raises(ModelError):
        describe(path)


def test_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for path in (tmp_path / "notes.txt", tmp_path / "absent.tflite", tmp_path):
        with pytest.raises(ModelError):
            describe(path)


def test_unsafe_keras_file_is_described_and_said_to_be_unsafe(tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "bad.keras"
    with zipfile.ZipFile(DATA / "tiny_float.keras") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b'"class_name": "GlobalAveragePooling2D"', b'"class_name": "Lambda"'))
    facts = describe(path)
    assert "Lambda" in facts["unsafe"] and "unsafe" in format_description(facts)


def test_a_bundle_is_shown_by_its_manifest(artifact: Path) -> None:
    """No record lies in it: it says nothing of the machine that packed it."""
    from edgepress.bundle_files import file_facts

    (artifact / "artifact.json").unlink()
    files = {path.name: file_facts(path) for path in sorted(artifact.iterdir())}
    (artifact / "manifest.json").write_text(json.dumps({"schema": 1, "model": "model.tflite", "runtimes": ["litert"], "variant": "float32.tflite", "why": "because", "files": files}))
    text = format_description(describe(artifact))
    assert "float32.tflite for litert. because" in text and "colours, backbone tiny_8" in text
    (artifact / "model.onnx").write_bytes(b"x")
    facts = describe(artifact)
    assert facts["models"] == [] and "NOT as it was packed" in format_description(facts)

"""The ModelSpec inside files."""
from __future__ import annotations

import io
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from edgepress import flatbuffer, metadata, metadata_format
from edgepress.errors import ModelError
from edgepress.modelspec import ModelSpec

DATA = Path(__file__).parent / "data"
SPEC = ModelSpec(labels=("rose", "日本", "a b"), input_height=8, input_width=8, name="tiny", weights_license="Apache-2.0")
FILES = pytest.mark.parametrize("name", ["tiny_float.tflite", "tiny_int8.tflite", "tiny_float.onnx"])


@pytest.fixture()
def file(tmp_path: Path, name: str) -> Path:
    return Path(shutil.copy(DATA / name, tmp_path / name))


@FILES
def test_round_trip_replaces_and_is_deterministic(file: Path) -> None:
    assert metadata.extract_spec(file) is None
    metadata.embed_spec(file, SPEC)
    first = file.read_bytes()
    assert metadata.extract_spec(file) == SPEC
    metadata.embed_spec(file, replace(SPEC, name="other", labels=("x", "y", "z")))
    assert metadata.extract_spec(file).name == "other"
    assert b"rose" not in file.read_bytes()
    metadata.embed_spec(file, SPEC)
    assert file.read_bytes() == first


@FILES
def test_file_still_runs(file: Path) -> None:
    import numpy as np

    from edgepress.runtimes import load_runtime

    metadata.embed_spec(file, SPEC)
    session = load_runtime("litert" if file.suffix == ".tflite" else "onnxruntime").open_model(str(file), threads=1)
    red = np.zeros((1, 8, 8, 3), np.uint8)
    red[..., 0] = 255
    assert session.run([red])[0].argmax() == 0
    session.close()


def test_survives_a_quantizer_that_rewrites_the_flatbuffer(tmp_path: Path) -> None:
    file = Path(shutil.copy(DATA / "tiny_float.tflite", tmp_path / "model.tflite"))
    metadata.embed_spec(file, SPEC)
    flatbuffer.save_model_t(flatbuffer.load_model_t(file), file)  # loses the zip, keeps the table
    assert metadata.extract_spec(file) is None
    metadata.embed_spec(file, SPEC)
    names = [entry.name for entry in flatbuffer.load_model_t(file).metadata]
    assert names.count(b"TFLITE_METADATA") == 1 and metadata.extract_spec(file) == SPEC


def test_other_tools_find_labels_and_table(tmp_path: Path) -> None:
    file = Path(shutil.copy(DATA / "tiny_float.tflite", tmp_path / "model.tflite"))
    metadata.embed_spec(file, SPEC)
    with zipfile.ZipFile(file) as archive:
        assert archive.read("labels.txt").decode().splitlines() == list(SPEC.labels)
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert metadata.associated_files(file) == ["labels.txt", "model.json"]
    model = flatbuffer.load_model_t(file)
    table = bytes(model.buffers[model.metadata[-1].buffer].data)
    assert table[4:8] == b"M001" and b"labels.txt" in table and b"1.0.0" in table


def test_normalization_for_callers_of_float_files() -> None:
    spec = replace(SPEC, normalization_inside=False, input_type="float32", scale=(1 / 127.5,) * 3, offset=(-1.0,) * 3)
    mean, std = metadata_format.normalization(spec)
    assert mean == pytest.approx([127.5] * 3) and std == pytest.approx([127.5] * 3)
    assert metadata_format.normalization(SPEC) == ([0.0], [1.0])


def test_onnx_checker_and_library_agree(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    file = Path(shutil.copy(DATA / "tiny_float.onnx", tmp_path / "model.onnx"))
    metadata.embed_spec(file, SPEC)
    model = onnx.load(str(file))
    onnx.checker.check_model(model)
    assert {entry.key: entry.value for entry in model.metadata_props}["labels"].splitlines() == list(SPEC.labels)


def test_extraction_needs_the_standard_library_alone(tmp_path: Path) -> None:
    code = ("import sys; from pathlib import Path; from edgepress.metadata import extract_spec; [extract_spec(Path(p)) for p in sys.argv[1:]];"
            "sys.exit(any(m in sys.modules for m in ('numpy', 'onnx', 'flatbuffers', 'ai_edge_litert', 'google.protobuf')))")
    assert subprocess.run([sys.executable, "-c", code, str(DATA / "tiny_float.tflite"), str(DATA / "tiny_float.onnx")]).returncode == 0


@pytest.mark.parametrize("keep", [1, 10, 100, 900, 1700])
def test_truncated_onnx(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "cut.onnx"
    file.write_bytes((DATA / "tiny_float.onnx").read_bytes()[:keep])
    for call in (metadata.extract_spec, lambda path: metadata.embed_spec(path, SPEC)):
        with pytest.raises(ModelError, match="truncated|damaged"):
            call(file)


def test_hostile_specs(tmp_path: Path) -> None:
    def with_member(text: bytes, method: int = zipfile.ZIP_STORED) -> Path:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            archive.writestr("model.json", text)
        path = tmp_path / "hostile.tflite"
        path.write_bytes((DATA / "tiny_float.tflite").read_bytes() + buffer.getvalue())
        return path
    for text in (b"{", b"[]", b'{"schema": 1, "labels": ["a"], "evil": 1}'):
        with pytest.raises(ModelError):
            metadata.extract_spec(with_member(text))
    with pytest.raises(ModelError, match="claims"):
        metadata.extract_spec(with_member(b" " * (metadata.MAX_SPEC_BYTES + 1), zipfile.ZIP_DEFLATED))


def test_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot carry"):
        metadata.embed_spec(tmp_path / "model.keras", SPEC)

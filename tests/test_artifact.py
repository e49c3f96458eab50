"""run_stage: cached, resumed, atomic; artifacts that are damaged are told apart from finished ones."""
from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgepress.artifact import RECORD, digest_file, model_file, read_record, run_stage, write_atomic
from edgepress.errors import ArtifactError, ModelError
from edgepress.stages import Input, Stage


@dataclass(frozen=True)
class Config:
    text: str = "x"


STAGE = Stage("toy", "Copy text.", Config, (Input("source", "a file"),))
CALLS = []


def copy(stage, out, inputs, config) -> None:
    CALLS.append(out)
    (out / "result.txt").write_text(inputs["source"].read_text() + config.text)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    CALLS.clear()
    path = tmp_path / "source.txt"
    path.write_text("hello ")
    return path


def test_a_finished_stage_is_not_run_twice(source: Path, tmp_path: Path) -> None:
    first = run_stage(STAGE, inputs={"source": source}, config=Config(), work=tmp_path / "run", call=copy)
    again = run_stage(STAGE, inputs={"source": source}, config=Config(), work=tmp_path / "run", call=copy)
    assert first == again and len(CALLS) == 1
    assert (first / "result.txt").read_text() == "hello x"


@pytest.mark.parametrize("change", ["input", "config", "version"])
def test_a_change_makes_another_artifact(source: Path, tmp_path: Path, change: str) -> None:
    first = run_stage(STAGE, inputs={"source": source}, config=Config(), work=tmp_path, call=copy)
    stage, config = STAGE, Config()
    if change == "input":
        source.write_text("bye ")
    elif change == "config":
        config = Config("y")
    else:
        stage = Stage("toy", "Copy text.", Config, STAGE.inputs, version=2)
    assert run_stage(stage, inputs={"source": source}, config=config, work=tmp_path, call=copy) != first
    assert len(CALLS) == 2


def test_out_is_replaced_by_the_same_stage_only(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_stage(STAGE, inputs={"source": source}, config=Config("1"), out=out, call=copy)
    run_stage(STAGE, inputs={"source": source}, config=Config("2"), out=out, call=copy)
    assert (out / "result.txt").read_text() == "hello 2"
    other = Stage("other", "Another.", Config, STAGE.inputs)
    with pytest.raises(ArtifactError, match="result of the toy stage"):
        run_stage(other, inputs={"source": source}, config=Config(), out=out, call=copy)


def test_a_folder_of_the_user_is_never_touched(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "diary.txt").write_text("precious")
    with pytest.raises(ArtifactError, match="not made by edgepress"):
        run_stage(STAGE, inputs={"source": source}, config=Config(), out=out, call=copy)
    assert (out / "diary.txt").read_text() == "precious"


def test_a_failing_stage_leaves_nothing(source: Path, tmp_path: Path) -> None:
    def fail(stage, out, inputs, config) -> None:
        (out / "half.txt").write_text("half")
        raise OSError(28, "No space left on device", str(out / "half.txt"))

    with pytest.raises(ArtifactError, match="disk is full"):
        run_stage(STAGE, inputs={"source": source}, config=Config(), work=tmp_path / "run", call=fail)
    assert list((tmp_path / "run").iterdir()) == []


def test_work_of_a_killed_process_is_swept(source: Path, tmp_path: Path) -> None:
    dead = next(pid for pid in range(2 ** 22 - 1, 1, -1) if not Path(f"/proc/{pid}").exists())
    leftover = tmp_path / f".toy-abc.part-{dead}"
    leftover.mkdir()
    (leftover / "half.txt").write_text("half")
    run_stage(STAGE, inputs={"source": source}, config=Config(), work=tmp_path, call=copy)
    assert not leftover.exists()


def test_a_damaged_artifact_is_made_again(source: Path, tmp_path: Path) -> None:
    folder = run_stage(STAGE, inputs={"source": source}, config=Config(), work=tmp_path, call=copy)
    (folder / "result.txt").write_text("cut")
    with pytest.raises(ArtifactError, match="is missing or is not the 7 bytes"):
        read_record(folder)
    assert run_stage(STAGE, inputs={"source": source}, config=Config(), work=tmp_path, call=copy) == folder
    assert (folder / "result.txt").read_text() == "hello x"


def test_an_artifact_whose_bytes_changed_is_made_again(source: Path, tmp_path: Path) -> None:
    folder = run_stage(STAGE, inputs={"source": source}, config=Config(), work=tmp_path, call=copy)
    (folder / "result.txt").write_text("HELLO X")  # as long as before
    run_stage(STAGE, inputs={"source": source}, config=Config(), work=tmp_path, call=copy)
    assert (folder / "result.txt").read_text() == "hello x"


def test_again_means_again(source: Path, tmp_path: Path) -> None:
    for _ in range(2):
        run_stage(STAGE, inputs={"source": source}, config=Config(), work=tmp_path, call=copy, again=True)
    assert len(CALLS) == 2


def test_the_record_says_what_made_it(source: Path, tmp_path: Path) -> None:
    folder = run_stage(STAGE, inputs={"source": source}, config=Config("z"), work=tmp_path, call=copy)
    record = json.loads((folder / RECORD).read_text())
    assert record["config"] == {"text": "z"} and record["inputs"] == {"source": digest_file(source)}
    assert record["files"]["result.txt"]["sha256"] == digest_file(folder / "result.txt")


def test_write_atomic_keeps_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, b"old")
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(OSError):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_model_file_names_the_choice(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no"):
        model_file(tmp_path)
    (tmp_path / "a.tflite").write_bytes(b"a")
    assert model_file(tmp_path) == tmp_path / "a.tflite"
    (tmp_path / "b.onnx").write_bytes(b"b")
    with pytest.raises(ModelError, match="holds 2 model files"):
        model_file(tmp_path)
    assert model_file(tmp_path, formats=("onnx",)).name == "b.onnx"
    with pytest.raises(ModelError, match="does not exist"):
        model_file(tmp_path / "none.tflite")

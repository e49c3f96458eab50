"""Suites: strict reading, every place of the matrix filled or explained, resumed cell by cell, judged against expected figures."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List

import pytest
from click.testing import CliRunner

from edgepress import suites
from edgepress.cli import cli
from edgepress.compare import compare
from edgepress.errors import ArtifactError, DeviceError, EdgepressError, GateError, RecipeError, UnsupportedError
from edgepress.result_sets import CELLS, read_results
from edgepress.suite_text import matrix
from edgepress.suites import load_suite, require_expected, require_reached, run_suite, with_options

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "tests" / "data"
TEXT = f"""
name = "small"
data = "{DATA}"
runtimes = ["litert", "onnxruntime"]
threads = [1]
[[file]]
label = "tiny float"
path = "tiny_float.tflite"
no_inputs = "no images of it"
[[file]]
label = "tiny onnx"
path = "tiny_float.onnx"
group = "other"
"""


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Efforts of a fraction of a second."""
    monkeypatch.setattr("edgepress.sitting.EFFORTS", {"quick": suites_effort(), "normal": suites_effort()})


def suites_effort() -> Any:
    from edgepress.sitting import Effort

    return Effort(rounds=2, min_runs=16, min_seconds=0.01, max_seconds=0.1)


@pytest.fixture
def suite_file(tmp_path: Path) -> Path:
    file = tmp_path / "small.toml"
    file.write_text(TEXT)
    return file


def test_every_place_is_filled_or_explained(suite_file: Path, tmp_path: Path) -> None:
    documents = run_suite(load_suite(suite_file), tmp_path / "out")
    assert [(d["label"], d["runtime"], d["kind"], d["status"]) for d in documents] == [
        ("tiny float", "litert", "latency", "ok"), ("tiny float", "litert", "accuracy", "unsupported"), ("tiny onnx", "onnxruntime", "latency", "ok")]
    assert len(list((tmp_path / "out" / CELLS).iterdir())) == 3
    text = matrix(documents)
    assert "(1) no images of it" in text and "tiny onnx" in text and " ± " in text and matrix(documents, markdown=True).startswith("| file |")


def test_only_what_is_missing_is_measured(suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: List[str] = []
    real = suites.measure_cases

    def counted(cases: Any, *args: Any, **rest: Any) -> Any:
        measured.extend(case.file.name for case in cases)
        return real(cases, *args, **rest)
    monkeypatch.setattr(suites, "measure_cases", counted)
    out = tmp_path / "out"
    run_suite(load_suite(suite_file), out)
    next((out / CELLS).glob("latency-tiny_onnx*")).unlink()
    broken = next((out / CELLS).glob("latency-tiny_float*"))
    before = broken.read_text()
    run_suite(load_suite(suite_file), out)
    assert measured == ["tiny_float.tflite", "tiny_float.onnx", "tiny_float.onnx"] and broken.read_text() == before
    broken.write_text('{"fingerprint": ')  # as a power cut leaves it
    run_suite(load_suite(suite_file), out)
    assert measured[3:] == ["tiny_float.tflite"]
    run_suite(load_suite(suite_file), out, again=True)
    assert len(measured) == 6


def test_a_stop_keeps_what_is_done(suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = suites.measure_cases, []

    def stops(*args: Any, **rest: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **rest)
    monkeypatch.setattr(suites, "measure_cases", stops)
    with pytest.raises(KeyboardInterrupt):
        run_suite(load_suite(suite_file), tmp_path / "out")
    assert [p.name.split("-")[1] for p in (tmp_path / "out" / CELLS).iterdir()] == ["tiny_float"]


def test_results_are_compared(suite_file: Path, tmp_path: Path) -> None:
    for name in ("old", "new"):
        run_suite(load_suite(suite_file), tmp_path / name)
    rows = compare(read_results(tmp_path / "old"), read_results(tmp_path / "new")).rows
    assert [(row.key.name, bool(row.figures)) for row in rows] == [("tiny float", True), ("tiny onnx", True), ("tiny float", False)]


@pytest.mark.parametrize(("change", "words"), [
    ({"name =": "nme ="}, "did you mean 'name'"), ({"threads = [1]": "threads = [0]"}, "minimum is 1"), ({'"litert"': '"litrt"'}, "did you mean 'litert'"), ({"tiny_float.onnx": "none.onnx"}, "is not there"),
    ({'label = "tiny onnx"': 'label = "tiny float"'}, "each label once"), ({'group = "other"': 'expected = 85.0'}, "no inputs"), ({"[[file]]": "[[fil]]"}, "names no files"), ({'name = "small"': "name = "}, "not valid TOML"),
])
def test_strict_reading(suite_file: Path, change: Dict[str, str], words: str) -> None:
    text = TEXT
    for old, new in change.items():
        text = text.replace(old, new)
    suite_file.write_text(text)
    with pytest.raises(RecipeError, match=words):
        load_suite(suite_file)


def test_a_lost_target_has_a_reason_in_every_cell_and_costs_the_others_nothing(suite_file: Path, tmp_path: Path) -> None:
    suite = with_options(load_suite(suite_file), {"target": ("ssh://pi@127.0.0.1:1", "local")})
    documents = run_suite(suite, tmp_path / "out")
    assert {d["status"] for d in documents if d["target"] != "local"} == {"failed"} and all(d["reason"] for d in documents if d["status"] == "failed")
    assert [d["status"] for d in documents if d["target"] == "local" and d["kind"] == "latency"] == ["ok", "ok"]
    with pytest.raises(DeviceError, match="filled none of its"):
        require_reached(documents)
    require_reached([d for d in documents if d["target"] == "local"])


def test_an_accelerator_that_nothing_uses_is_an_error(suite_file: Path, tmp_path: Path) -> None:
    suite_file.write_text(TEXT.replace('runtimes = ["litert", "onnxruntime"]', 'runtimes = ["onnxruntime"]\naccelerators = ["gpu"]'))
    with pytest.raises(UnsupportedError, match="gpu belongs to litert and keras"):
        run_suite(load_suite(suite_file), tmp_path / "out")


def test_the_data_folder_may_be_elsewhere(suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRESS_DATA", str(tmp_path))
    with pytest.raises(RecipeError, match="set EDGEPRESS_DATA=FOLDER"):
        load_suite(suite_file)


def test_options_that_go_with_a_suite(suite_file: Path) -> None:
    suite = with_options(load_suite(suite_file), {"threads": (1, 2), "runtimes": ("litert",)})
    assert suite.threads == (1, 2) and suite.runtimes == ("litert",)
    with pytest.raises(RecipeError, match="--min-runs does not go with a suite"):
        with_options(suite, {"min_runs": 3})


def test_a_folder_of_something_else_is_left_alone(suite_file: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(ArtifactError, match="is not the result of a suite"):
        run_suite(load_suite(suite_file), tmp_path / "out")


def accuracy(value: float, runtime: str = "litert", **facts: Any) -> Dict[str, Any]:
    return {"kind": "accuracy", "status": "ok", "label": "m", "runtime": runtime, "target": "local", "accuracy": {"accuracy": value, "images": 200}, "expected": 85.0, "minimum": 80.0, **facts}


def test_expected_figures() -> None:
    require_expected([accuracy(0.85), accuracy(0.865, "tflite_runtime")])  # exact in the first runtime; kernels of others round otherwise
    for bad in ([accuracy(0.86)], [accuracy(0.85), accuracy(0.79, "tflite_runtime")]):
        with pytest.raises(GateError):
            require_expected(bad)


def test_command(suite_file: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["benchmark", str(suite_file), "-o", str(tmp_path / "out")])
    assert done.exit_code == 0 and "tiny onnx" in done.stdout and (tmp_path / "out" / "matrix.md").exists()
    assert len(json.loads(CliRunner().invoke(cli, ["benchmark", str(suite_file), "-o", str(tmp_path / "out"), "--json"]).stdout)) == 3
    wrong = CliRunner().invoke(cli, ["benchmark", str(suite_file), str(DATA / "tiny_float.tflite")])
    assert isinstance(wrong.exception, EdgepressError) and "one suite, or model files" in str(wrong.exception)


@pytest.mark.data
@pytest.mark.parametrize("name", ["mlperf_tiny", "peers"])
def test_the_suites_that_come_along(name: str, shared_data: Any) -> None:
    shared_data("weights/mlperf_tiny/pretrainedResnet.tflite")
    suite = load_suite(ROOT / "benchmarks" / "suites" / f"{name}.toml")
    assert suite.name == name and len(suite.files) >= 5


@pytest.mark.data
def test_official_inputs_give_the_expected_accuracy(shared_data: Any, tmp_path: Path) -> None:
    shared_data("datasets/mlperf_tiny/ic01/y_labels.csv")
    suite = load_suite(ROOT / "benchmarks" / "suites" / "mlperf_tiny.toml")
    only = [f for f in suite.files if f.label == "ic int8"]
    documents = run_suite(with_options(suites.dataclasses.replace(suite, files=tuple(only)), {"runtimes": ("litert",), "threads": (1,)}), tmp_path / "out")
    require_expected(documents)
    assert documents[1]["accuracy"]["accuracy"] == pytest.approx(0.85) and documents[0]["status"] == "ok"

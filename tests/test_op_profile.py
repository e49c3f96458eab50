"""Operator by operator: times where the runtime tells, counts and delegation where it does not."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgepress.cli import cli
from edgepress.op_profile import by_operator
from edgepress.op_profiles import profile_files, profile_text
from edgepress.recipe import BenchmarkConfig

DATA = Path(__file__).parent / "data"


@pytest.mark.slow
def test_both_formats_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"\x00" * 64)
    onnx, tflite, broken = profile_files([DATA / "tiny_float.onnx", DATA / "tiny_int8.tflite", tmp_path / "broken.onnx"], BenchmarkConfig(threads=(1,), runtimes=()))
    assert onnx["runs"] == 50 and all(op["ms"] >= 0 and op["provider"] == "CPU" for op in onnx["operators"]) and sum(op["ms"] for op in onnx["operators"]) > 0
    assert tflite["operators"] and all(op["ms"] is None for op in tflite["operators"]) and "benchmark_model" in tflite["reason"]
    assert broken["status"] == "unsupported" and broken["reason"]
    text = profile_text([onnx, tflite, broken])
    assert "Conv" in text and "not delegated:" in text and "no times of tiny_int8.tflite" in text and "broken.onnx in onnxruntime: unsupported" in text


def test_only_the_last_runs_count() -> None:
    def event(dur: int, op: str = "Conv", name: str = "n") -> dict:
        return {"name": name, "dur": dur, "args": {"op_name": op, "provider": "CPUExecutionProvider"}}
    assert by_operator([event(9000), event(10), event(20), event(30), *[event(5, "Relu", "r")] * 3], runs=3) == [
        {"op": "Conv", "count": 1, "ms": 0.02, "provider": "CPU"}, {"op": "Relu", "count": 1, "ms": 0.005, "provider": "CPU"}]


def test_command() -> None:
    done = CliRunner().invoke(cli, ["benchmark", "--profile-ops", str(DATA / "tiny_float.onnx"), "--threads", "1", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)[0]["operators"]
    assert "writes no results" in str(CliRunner().invoke(cli, ["benchmark", "--profile-ops", str(DATA / "tiny_float.onnx"), "-o", "x"]).exception)

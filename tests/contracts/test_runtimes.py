"""What every runtime in the table must do, proven on the same tiny network in each format."""
from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

import numpy as np
import pytest

from edgepress.errors import EdgepressError, JobError, UnsupportedError
from edgepress.jobs import run_job
from edgepress.modelspec import ModelSpec
from edgepress.runtimes import RUNTIMES, load_runtime, runtimes_for
from edgepress.targets.local import interpreter

DATA = Path(__file__).resolve().parents[1] / "data"
TINY = {"tflite": "tiny_float.tflite", "onnx": "tiny_float.onnx", "keras": "tiny_float.keras"}
SPEC = ModelSpec(labels=("red", "green", "blue"), input_height=8, input_width=8)
TOLERANCE = 1e-4  # float32 sums in another order; what convert promises between formats


def spec_of(model_format: str) -> Dict[str, Any]:
    return dataclasses.asdict(dataclasses.replace(SPEC, normalization_inside=model_format != "keras", input_type="float32" if model_format == "keras" else "uint8"))


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.tensorflow] if name == "keras" else []) for name in RUNTIMES])
def runtime(request: pytest.FixtureRequest) -> str:
    try:
        interpreter(request.param)
    except EdgepressError as error:
        pytest.skip(str(error))
    return request.param


@pytest.fixture
def quick(runtime: str) -> None:
    """For what the other tests of Keras imply: TensorFlow takes seconds to start."""
    if runtime == "keras":
        pytest.skip("implied by the other tests of this runtime")


@pytest.fixture
def job(runtime: str) -> Dict[str, Any]:
    form = load_runtime(runtime).FORMATS[0]
    return {"runtime": runtime, "model": str(DATA / TINY[form]), "spec": spec_of(form)}


@pytest.mark.parametrize("name", RUNTIMES)
def test_module_satisfies_the_protocol(name: str) -> None:
    module = load_runtime(name)
    assert name == module.NAME and module.FORMATS and module.DISTRIBUTION and module.MODULE
    assert all(name in runtimes_for(form) for form in module.FORMATS)
    assert callable(module.health_check) and callable(module.version) and callable(module.open_model)


def test_importing_the_table_imports_no_runtime() -> None:
    code = ("import sys; from edgepress.runtimes import RUNTIMES, load_runtime; [load_runtime(n) for n in RUNTIMES];"
            "sys.exit(bool({'numpy', 'tensorflow', 'onnxruntime', 'ai_edge_litert', 'tflite_runtime'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_unknown_runtime_suggests_the_nearest() -> None:
    with pytest.raises(UnsupportedError, match="did you mean 'litert'"):
        load_runtime("litrt")


def test_healthy_with_a_version(quick: None, runtime: str, tmp_path: Path) -> None:
    result = run_job({"job": "health", "runtime": runtime}, work=tmp_path)
    assert result["status"] == "ok" and result["runtime"]["version"][0].isdigit()


def test_plain_photos_get_their_colour(job: Dict[str, Any], tmp_path: Path) -> None:
    pixels = np.zeros((5, 8, 8, 3), np.uint8)
    for index in range(5):
        pixels[index, ..., index % 3] = 255
    np.save(tmp_path / "pixels.npy", pixels)
    result = run_job({**job, "job": "predict", "pixels": "pixels.npy", "output": "answers.npy", "threads": 2, "batch": 2}, work=tmp_path)
    answers = np.load(tmp_path / "answers.npy")
    assert result["rows"] == 5 and answers.shape == (5, 3) and answers.dtype == np.float32
    np.testing.assert_allclose(answers[np.arange(5), np.arange(5) % 3], 0.9999, atol=TOLERANCE)


def test_info_tells_inputs_outputs_and_details(job: Dict[str, Any], tmp_path: Path) -> None:
    result = run_job({**job, "job": "info"}, work=tmp_path)
    assert result["inputs"][0]["shape"][1:] == [8, 8, 3] and result["outputs"][0]["shape"][1:] == [3]
    assert result["inputs"][0]["dtype"] == ("float32" if job["runtime"] == "keras" else "uint8")
    assert result["details"] and json.dumps(result["details"])


def test_benchmark_keeps_raw_values(job: Dict[str, Any], tmp_path: Path) -> None:
    result = run_job({**job, "job": "benchmark", "min_runs": 20, "min_seconds": 0.0, "warmup_seconds": 0.01}, work=tmp_path)
    assert len(result["latencies_ms"]) == 20 and min(result["latencies_ms"]) > 0
    assert result["rss_before_load_bytes"] <= result["rss_after_load_bytes"] <= result["rss_after_runs_bytes"]


def test_garbage_is_unsupported_with_the_reason(job: Dict[str, Any], tmp_path: Path) -> None:
    garbage = tmp_path / ("garbage" + Path(job["model"]).suffix)
    garbage.write_bytes(b"this is no model file, whatever its name says" * 20)
    result = run_job({**job, "job": "info", "model": str(garbage)}, work=tmp_path)
    assert result["status"] == "unsupported" and str(garbage) in result["reason"]


def test_a_truncated_file_is_not_run(quick: None, job: Dict[str, Any], tmp_path: Path) -> None:
    whole = Path(job["model"]).read_bytes()
    torn = tmp_path / ("torn" + Path(job["model"]).suffix)
    torn.write_bytes(whole[:len(whole) // 2])
    try:
        assert run_job({**job, "job": "info", "model": str(torn)}, work=tmp_path)["status"] == "unsupported"
    except JobError as error:  # tflite-runtime 2.14 does not verify files: it may crash, and must be seen to
        assert job["runtime"] == "tflite_runtime" and "SIG" in str(error)


def test_an_accelerator_that_is_not_there_is_unsupported(quick: None, job: Dict[str, Any], tmp_path: Path) -> None:
    result = run_job({**job, "job": "info", "accelerator": "warp_drive"}, work=tmp_path)
    assert result["status"] == "unsupported" and "warp_drive" in result["reason"]

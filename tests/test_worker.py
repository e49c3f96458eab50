"""The worker itself: its job file, its packing, and that it keeps to what devices have."""
from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, Dict

import numpy as np
import pytest

from edgepress import worker
from edgepress.worker_pack import MODULES, worker_bytes

SOURCE = Path(worker.__file__).resolve().parent
DATA = Path(__file__).resolve().parent / "data"
ON_DEVICES = {"numpy", "PIL", "ai_edge_litert", "tflite_runtime", "onnxruntime", "cryptography", "picamera2"} | set(sys.stdlib_module_names)
NEWER_THAN_3_9 = {"tomllib", "zoneinfo._common"}


def job(**changes: Any) -> Dict[str, Any]:
    model = DATA / "tiny_int8.tflite"
    return {"schema": 1, "job": "info", "runtime": "litert", "model": str(model), "sha256": hashlib.sha256(model.read_bytes()).hexdigest(), "threads": 1, **changes}


def run(folder: Path, given: Any) -> Dict[str, Any]:
    (folder / "job.json").write_text(json.dumps(given))
    return worker.run_file(folder / "job.json")


def predict(folder: Path, rows: np.ndarray, **changes: Any) -> Dict[str, Any]:
    np.save(folder / "rows.npy", rows)
    return run(folder, job(job="predict", **changes))


@pytest.mark.parametrize(("given", "words"), [
    ({"schema": 2}, "not of schema 1"),
    ([1], "not of schema 1"),
    (job(job="pedict"), "did you mean 'predict'"),
    (job(thread=2), "unknown key 'thread'"),
    (job(threads=None), "needs 'threads'"),
    (job(runtime="litrt"), "did you mean 'litert'"),
    (job(job="predict"), "exactly one"),
    (job(job="predict", pixels="rows.npy"), "need a ModelSpec"),
])
def test_wrong_jobs_are_explained(tmp_path: Path, given: Any, words: str) -> None:
    result = run(tmp_path, given)
    assert result["status"] in ("failed", "unsupported") and words in result["reason"]


def test_a_job_that_is_not_there(tmp_path: Path) -> None:
    assert "cannot be read" in worker.run_file(tmp_path / "none.json")["reason"]


def test_without_an_output_file_the_answers_are_in_the_result(tmp_path: Path) -> None:
    rows = np.zeros((2, 8, 8, 3), np.uint8)
    rows[0, ..., 0] = rows[1, ..., 2] = 255
    answers = predict(tmp_path, rows, tensors="rows.npy")["probabilities"]
    assert [int(np.argmax(row)) for row in answers] == [0, 2]


def test_rows_of_another_size_are_refused(tmp_path: Path) -> None:
    result = predict(tmp_path, np.zeros((2, 7, 8, 3), np.uint8), tensors="rows.npy")
    assert result["status"] == "failed" and "168 numbers" in result["reason"]


def test_no_rows_are_no_answers(tmp_path: Path) -> None:
    assert predict(tmp_path, np.zeros((0, 8, 8, 3), np.uint8), tensors="rows.npy")["rows"] == 0


def test_pickled_arrays_are_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    result = run(tmp_path, job(job="predict", tensors="rows.npy"))
    assert result["status"] == "failed" and "Python objects" in result["reason"]


def test_pixels_of_another_size_are_refused(tmp_path: Path) -> None:
    spec = {"labels": ["a", "b", "c"], "input_height": 8, "input_width": 8}
    assert "uint8 [N, 8, 8, 3]" in predict(tmp_path, np.zeros((1, 9, 8, 3), np.uint8), pixels="rows.npy", spec=spec)["reason"]


def test_exit_codes(tmp_path: Path) -> None:
    pyz = tmp_path / "worker.pyz"
    pyz.write_bytes(worker_bytes())
    assert subprocess.run([sys.executable, str(pyz)], capture_output=True).returncode == 2
    done = subprocess.run([sys.executable, str(pyz), str(tmp_path / "none.json"), str(tmp_path / "result.json")], capture_output=True)
    assert done.returncode == 0 and json.loads((tmp_path / "result.json").read_text())["status"] == "failed"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["result.json", "worker.pyz"]


def test_same_sources_same_bytes(tmp_path: Path) -> None:
    data = worker_bytes()
    assert data == worker_bytes() and data.startswith(b"#!/usr/bin/env python3\n")
    (tmp_path / "worker.pyz").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "worker.pyz") as archive:
        assert len(set(archive.namelist())) == len(archive.namelist()) == len(MODULES) + 1
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def modules_of(path: Path) -> set:
    """Every module a file imports, inside functions too, TYPE_CHECKING blocks left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    typing_only = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) for inner in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"edgepress.{a.name}" for a in node.names} if node.module == "edgepress" else {node.module}
    return found


@pytest.mark.parametrize("name", MODULES)
def test_packed_modules_need_only_what_devices_have(name: str) -> None:
    packed = {"edgepress." + m.replace("/__init__", "").replace("/", ".") for m in MODULES} | {"edgepress.__version__"}
    for module in modules_of(SOURCE / f"{name}.py"):
        inside = module.startswith("edgepress.")
        assert module in packed if inside else module.split(".")[0] in ON_DEVICES and module not in NEWER_THAN_3_9, f"{name} imports {module}"


def find_python_3_9() -> str:
    """A working Python 3.9, or skip."""
    import shutil

    candidates = [shutil.which("python3.9"), *map(str, sorted(Path.home().glob(".pyenv/versions/3.9.*/bin/python")))]
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "-c", "import sys; sys.exit(sys.version_info[:2] != (3, 9))"], capture_output=True).returncode == 0:
            return candidate
    pytest.skip("there is no Python 3.9 here")


def test_the_oldest_python_runs_it_as_far_as_it_can(tmp_path: Path) -> None:
    """Without NumPy and a runtime it can still read its job, describe the host and say what is missing."""
    (tmp_path / "worker.pyz").write_bytes(worker_bytes())
    (tmp_path / "job.json").write_text(json.dumps(job(runtime="onnxruntime")))
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'worker.pyz')!r}); import " + ", ".join(
        "edgepress." + m.replace("/__init__", "").replace("/", ".") for m in MODULES if m not in ("__init__", "preprocess", "feeding", "timing", "timing_device", "fingerprint", "bundle_live"))
    python = find_python_3_9()
    assert subprocess.run([python, "-I", "-c", code], capture_output=True, text=True).stderr == ""
    subprocess.run([python, "-I", "-S", str(tmp_path / "worker.pyz"), str(tmp_path / "job.json"), str(tmp_path / "result.json")], check=True)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["status"] == "unsupported" and "cannot be imported" in result["reason"] and result["host"]["python"].startswith("3.9")

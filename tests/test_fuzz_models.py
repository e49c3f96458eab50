"""Sixty mutated model files through benchmark and parity: each gets a verdict, and our own process is never at fault. The full thousand: benchmarks/fuzz_models.py."""
from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "fuzz_models.py"


@pytest.fixture(scope="module")
def fuzz() -> Any:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("fuzz_models", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_models"] = module  # its processes import it by name
    spec.loader.exec_module(module)
    return module


def test_mutations_are_seeded_and_change_something(fuzz: Any) -> None:
    data = (fuzz.DATA / "tiny_int8.tflite").read_bytes()
    made = [fuzz.mutate(data, seed=seed) for seed in range(200)]
    assert made == [fuzz.mutate(data, seed=seed) for seed in range(200)] and sum(one != data for one in made) > 180
    assert any(len(one) < len(data) for one in made) and any(len(one) > len(data) for one in made) and fuzz.mutate(b"x", seed=3) is not None


@pytest.mark.slow
def test_sixty_mutated_files_are_classified(tmp_path: Path, fuzz: Any) -> None:
    out = tmp_path / "cases.jsonl"
    command = [sys.executable, str(SCRIPT), "--count", "30", "--runtimes", "litert,onnxruntime", "--out", str(out), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["cases"] == 60 and found["ours"] == [] and {sum(counts.values()) for counts in found["counts"].values()} == {30}
    assert all(counts.get("ok") and len(counts) > 1 for counts in found["counts"].values()), found  # some run, some do not
    lines = out.read_text()
    assert subprocess.run(command, capture_output=True).returncode == 0 and out.read_text() == lines  # nothing is run twice


@pytest.mark.slow
def test_failures_of_our_own_are_seen(fuzz: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise IndexError("ours")

    def hanging(*_: Any) -> Any:
        while True:
            pass

    monkeypatch.setattr(fuzz, "CASE_SECONDS", 1)
    assert fuzz.classify(broken, tmp_path, None, tmp_path)["verdict"] == "ours"
    assert fuzz.classify(hanging, tmp_path, None, tmp_path)["reason"].startswith("hung")
    assert fuzz.classify(lambda *_: ("unsupported", ""), tmp_path, None, tmp_path)["verdict"] == "ours"
    assert fuzz.summary([{"runtime": "x", "number": 1, "source": "s", "benchmark": {"verdict": "ours", "reason": "r"}, "parity": {"verdict": "ok", "reason": ""}}])["ours"]

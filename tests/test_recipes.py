"""The embedded recipe end to end through the command line, and that a second run and a kill cost nothing."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMMAND = str(Path(sys.executable).with_name("edgepress"))
RECIPE = ROOT / "models" / "digits" / "recipe.toml"
pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of the digits recipe that was killed twice on its way."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    words = [COMMAND, "run", str(RECIPE), "-o", str(out), "--min-seconds", "0.2", "--min-runs", "20"]
    for seconds in (4, 14):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    result = subprocess.run(words, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "static_wi8_ai8.tflite" in result.stdout and "report: " in result.stdout
    return out


def artifacts(out: Path) -> dict:
    return {p.name: p.stat().st_mtime_ns for p in out.iterdir() if (p / "artifact.json").is_file() and not p.is_symlink()}


def report(out: Path) -> dict:
    return json.loads((out / "report" / "report.json").read_text())


def test_the_int8_file_is_as_good_as_expected(finished: Path) -> None:
    expected = json.loads((RECIPE.parent / "expected.json").read_text())["static_wi8_ai8_accuracy_at_least"]
    rows = {row["variant"]: row for row in report(finished)["rows"]}
    assert rows["static_wi8_ai8.tflite"]["accuracy"] >= expected
    assert rows["static_wi8_ai8.onnx"]["accuracy"] >= expected
    assert all(row["status"] == "ok" for row in rows.values()) and len(rows) == 10
    assert rows["static_wi8_ai8.tflite"]["size_bytes"] < rows["float32.tflite"]["size_bytes"] / 3


def test_nothing_half_written_is_left(finished: Path) -> None:
    assert not [p for p in finished.iterdir() if ".part-" in p.name]
    steps = json.loads((finished / "run.json").read_text())["steps"]
    assert all(step["status"] == "ok" for step in steps)


def test_the_second_time_nothing_is_done_again(finished: Path) -> None:
    before = artifacts(finished)
    started = time.monotonic()
    subprocess.run([COMMAND, "run", str(RECIPE), "-o", str(finished), "--min-seconds", "0.2", "--min-runs", "20"], check=True, capture_output=True)
    assert artifacts(finished) == before
    assert time.monotonic() - started < 10  # 1 to 2 s on a quiet machine


def test_the_bundle_answers_for_a_test_photo(finished: Path) -> None:
    bundle = finished / "bundle"
    assert subprocess.run([sys.executable, str(bundle / "selftest.py")], capture_output=True).returncode == 0
    photo = sorted((bundle / "golden").iterdir())[0]
    answers = json.loads(subprocess.run([COMMAND, "predict", str(photo), "--model", str(bundle), "--json"], check=True, capture_output=True, text=True).stdout)
    assert len(answers) == 1 and answers[0]["top"]

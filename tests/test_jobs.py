"""Jobs in fresh processes: what comes back, and what is said when the process dies."""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest

from edgepress import jobs
from edgepress.errors import DatasetError, DeviceError, JobError, MissingDependencyError, UnsupportedError
from edgepress.jobs import available_runtimes, run_job
from edgepress.runtimes import litert
from edgepress.targets import connect
from edgepress.targets.local import LocalConnection, interpreter, runtime_folder

DATA = Path(__file__).resolve().parent / "data"
JOB: Dict[str, Any] = {"job": "info", "runtime": "litert", "model": str(DATA / "tiny_int8.tflite")}


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put Python code in the worker's place."""
    def use(code: str) -> None:
        monkeypatch.setattr(jobs, "launcher_of", lambda *_: [sys.executable, "-c", code])
    return use


@pytest.mark.parametrize(("signal", "words"), [("SIGSEGV", "crashed on this file"), ("SIGILL", "newer processor"), ("SIGKILL", "out of memory")])
def test_a_killed_worker_is_named_by_its_signal(child: Any, tmp_path: Path, signal: str, words: str) -> None:
    child(f"import os, signal, sys; print('last words', flush=True); print('a warning', file=sys.stderr, flush=True); os.kill(os.getpid(), signal.{signal})")
    with pytest.raises(JobError, match=signal) as caught:
        run_job(JOB, work=tmp_path)
    assert "last words" in str(caught.value) and "a warning" in str(caught.value) and words in str(caught.value)


def test_a_worker_that_writes_nothing_is_no_success(child: Any, tmp_path: Path) -> None:
    child("pass")
    with pytest.raises(JobError, match="before it wrote a result"):
        run_job(JOB, work=tmp_path)


def test_half_a_result_is_no_result(child: Any, tmp_path: Path) -> None:
    child("import sys; open(sys.argv[2], 'w').write('{\"status\": \"o')")
    with pytest.raises(DeviceError, match="a result that cannot be one"):
        run_job(JOB, work=tmp_path)


def test_a_worker_that_hangs_is_stopped(child: Any, tmp_path: Path) -> None:
    child("import time; time.sleep(60)")
    with pytest.raises(JobError, match="did not end within 0.3 s"):
        run_job(JOB, work=tmp_path, timeout_seconds=0.3)


def test_nothing_but_the_output_stays_in_the_work_folder(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.full((2, 8, 8, 3), 7, np.uint8))
    run_job({**JOB, "job": "predict", "tensors": "rows.npy", "output": "answers.npy"}, work=tmp_path)
    with pytest.raises(JobError):
        run_job({**JOB, "unknown_key": 1}, work=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["answers.npy", "rows.npy"]


def test_a_file_that_changed_is_not_run(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="the job is about 0000"):
        run_job({**JOB, "sha256": "0000"}, work=tmp_path)


def test_a_failure_brings_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="Traceback"):
        run_job({**JOB, "job": "predict"}, work=tmp_path)


def test_a_bad_photo_is_the_photos_fault(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    spec = {"labels": ["red", "green", "blue"], "input_height": 8, "input_width": 8}
    with pytest.raises(DatasetError, match="bad.jpg"):
        run_job({**JOB, "job": "predict", "images": ["bad.jpg"], "spec": spec}, work=tmp_path)


def test_missing_runtimes_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEPRESS_HOME", str(tmp_path))
    with pytest.raises(UnsupportedError, match="edgepress runtimes --install tflite_runtime"):
        interpreter("tflite_runtime")
    monkeypatch.setattr(litert, "MODULE", "no_such_module_anywhere")
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgepress\[litert\]'"):
        interpreter("litert")
    assert available_runtimes("tflite") == ()


def test_the_separate_environment_is_used_once_it_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEPRESS_HOME", str(tmp_path))
    python = runtime_folder("tflite_runtime") / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    assert interpreter("tflite_runtime") == str(python) and available_runtimes("tflite") == ("litert", "tflite_runtime")


def test_threads_are_pinned_and_packages_kept_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: List[Dict[str, str]] = []
    monkeypatch.setattr(LocalConnection, "run", lambda self, command, *, environment, timeout_seconds: seen.append(dict(environment)) or jobs.Completed(1, "", ""))
    with pytest.raises(JobError):
        run_job({**JOB, "threads": 3}, work=tmp_path)
    assert seen[0]["OMP_NUM_THREADS"] == seen[0]["OPENBLAS_NUM_THREADS"] == "3"
    monkeypatch.undo()
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    done = LocalConnection().run([sys.executable, "-c", "import os; print(os.environ.get('PYTHONPATH'))"], environment={}, timeout_seconds=20)
    assert done.stdout.strip() == "None"


def test_unknown_target() -> None:
    with pytest.raises(UnsupportedError, match="target 'mars://rover' does not exist"):
        connect("mars://rover")


def test_a_command_that_cannot_start_says_so(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="cannot be started"):
        LocalConnection().run([str(tmp_path / "nothing")], environment={}, timeout_seconds=1)

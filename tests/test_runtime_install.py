"""The list of runtimes, and installing the one with its own environment."""
from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from edgepress import runtime_install
from edgepress.errors import JobError, UnsupportedError
from edgepress.runtime_install import check_runtime, find_python, install_runtime
from edgepress.targets.local import runtime_folder


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("EDGEPRESS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_working_runtime() -> None:
    pytest.importorskip("ai_edge_litert")
    version, reason, remedy = check_runtime("litert")
    assert version and reason is None and remedy is None


def test_a_missing_runtime_has_a_remedy() -> None:
    assert check_runtime("tflite_runtime") == (None, "not installed", "edgepress runtimes --install tflite_runtime")


def test_a_broken_environment_is_found_out() -> None:
    """An interpreter alone is not enough: the check opens a file."""
    python = runtime_folder("tflite_runtime") / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    version, reason, _ = check_runtime("tflite_runtime")
    assert version is None and "cannot be imported" in (reason or "")


def test_rows_name_every_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_install, "check_runtime", lambda name: ("1.0", None, None) if name == "litert" else (None, "not installed", "do this"))
    rows = runtime_install.runtime_rows()
    assert [(r["name"], r["works"]) for r in rows] == [("litert", "yes"), ("tflite_runtime", "no"), ("onnxruntime", "no"), ("keras", "no")]


def test_only_what_needs_its_own_environment_is_installed() -> None:
    with pytest.raises(UnsupportedError, match=r"pip install 'edgepress\[litert\]'"):
        install_runtime("litert")
    with pytest.raises(UnsupportedError, match="does not exist"):
        install_runtime("tflite")


def test_without_a_suitable_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_install, "_version", lambda python: "3.13")
    with pytest.raises(UnsupportedError, match="no wheel for Python"):
        find_python()


@pytest.mark.slow
def test_a_failed_installation_shows_pips_words_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, home: Path, tmp_path: Path) -> None:
    """pip's own failure, without a network: no index, and a folder of wheels that is empty."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(JobError, match="No matching distribution found for tflite-runtime"):
        install_runtime("tflite_runtime")
    assert list((home / "runtimes").iterdir()) == []


def test_a_home_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEPRESS_HOME", os.fspath(tmp_path / "file"))
    with pytest.raises(UnsupportedError, match="set EDGEPRESS_HOME"):
        install_runtime("tflite_runtime")

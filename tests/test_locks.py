"""Locked requirements: what the committed files say, and that pip installs from them with nothing but the wheels they name."""
from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgepress import locks
from edgepress.errors import ArtifactError, EdgepressError, JobError, UnsupportedError

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.mark.parametrize("lock", locks.locked(), ids="-".join)
def test_each_lock_is_whole(lock: tuple) -> None:
    read = locks.read_lock(*lock)
    lines = [line for line in read.text.splitlines() if not line.startswith("#")]
    assert sum(len(pin.sha256) + 1 for pin in read.pins) == len(lines)  # nothing that is not a pin with hashes
    assert "/" not in "".join(lines) and read.pins[0].name == locks.DISTRIBUTIONS[lock[0]]
    names = {pin.name for pin in read.pins}
    assert {"numpy", "pillow"} <= names or read.system == ("python3-numpy", "python3-pil")
    numpy = [pin.version for pin in read.pins if pin.name == "numpy"]
    assert lock[0] != "tflite_runtime" or all(version.startswith("1.") for version in numpy)
    assert locks.wheel_matrix()[lock[0]][read.version][lock[2]]["cp" + lock[1].replace(".", "")]


def test_what_exists_and_what_does_not() -> None:
    assert ("tflite_runtime", "3.11", "armv7l") in locks.locked()
    assert not any(runtime == "tflite_runtime" and python in ("3.12", "3.13") for runtime, python, _ in locks.locked())
    assert not any(runtime != "tflite_runtime" and machine == "armv7l" for runtime, _, machine in locks.locked())
    assert locks.read_lock("litert", "3.13.5", "aarch64").python == "3.13"


@pytest.mark.parametrize("asked, said", [(("tflite_runtime", "3.13", "aarch64"), "use another runtime: litert, onnxruntime"), (("litert", "3.11", "armv7l"), "tflite_runtime"),
                                         (("tensorrt", "3.11", "aarch64"), "accepted: litert"), (("litert", "../x", "aarch64"), "no wheels for Python")])
def test_a_combination_without_wheels_says_what_there_is(asked: tuple, said: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        locks.lock_text(*asked)
    assert said in str(caught.value)


def wheel(folder: Path, name: str, *, content: str = "x = 1\n") -> str:
    """A tiny wheel of pure Python; its sha256."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
    info = f"{name.replace('-', '_')}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in ((f"{name.replace('-', '_')}.py", content), (f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"),
                           (f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"), (f"{info}/RECORD", "")):
            archive.writestr(file, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip finds instead of the index, with a lock over two of them."""
    found = tmp_path / "index"
    digests = {name: wheel(found, name) for name in ("ai-edge-litert", "numpy")}
    folder = tmp_path / "locks"
    folder.mkdir()
    pins = "".join(f"{name}==1.0 \\\n    --hash=sha256:{digest}\n" for name, digest in digests.items())
    (folder / "litert-py3.11-aarch64.txt").write_text(f"# glibc: 2.28\n{pins}")
    monkeypatch.setattr(locks, "LOCKS", folder)
    for key, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(found), "PIP_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(key, value)
    return found


@pytest.mark.slow
def test_wheels_are_downloaded_once_and_checked(index: Path, tmp_path: Path) -> None:
    to = tmp_path / "wheels"
    first = locks.download_wheels("litert", "3.11", "aarch64", to)
    assert [path.name for path in first] == ["ai_edge_litert-1.0-py3-none-any.whl", "numpy-1.0-py3-none-any.whl"] and sorted(to.iterdir()) == sorted(first)
    for path in index.iterdir():
        path.unlink()
    assert locks.download_wheels("litert", "3.11", "aarch64", to) == first  # nothing left to download from


def test_a_wheel_with_another_hash_is_refused(index: Path, tmp_path: Path) -> None:
    wheel(index, "numpy", content="evil = True\n")
    with pytest.raises(JobError, match="HASHES|hash"):
        locks.download_wheels("litert", "3.11", "aarch64", tmp_path / "wheels")
    assert not list((tmp_path / "wheels").iterdir())


def test_a_foreign_wheel_of_the_same_name_is_not_overwritten(index: Path, tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "numpy", content="mine = True\n")
    before = (tmp_path / "wheels" / "numpy-1.0-py3-none-any.whl").read_bytes()
    with pytest.raises(ArtifactError, match="sha256 differs"):
        locks.download_wheels("litert", "3.11", "aarch64", tmp_path / "wheels")
    assert (tmp_path / "wheels" / "numpy-1.0-py3-none-any.whl").read_bytes() == before


def test_a_place_that_cannot_hold_them_is_an_error(index: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for to in (tmp_path / "file", Path("/proc/wheels")):
        with pytest.raises(ArtifactError, match="cannot hold the wheels"):
            locks.download_wheels("litert", "3.11", "aarch64", to)
    assert (tmp_path / "file").read_text() == "mine"


def test_the_wheelhouse_has_its_requirements(index: Path, tmp_path: Path) -> None:
    files = locks.write_wheelhouse("litert", "3.11", "aarch64", tmp_path / "wheels")
    assert (tmp_path / "wheels" / "requirements.txt").read_text() == locks.lock_text("litert", "3.11", "aarch64") and len(files) == 2


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64" or ("tflite_runtime", HERE, "x86_64") not in locks.locked(), reason="needs CPython 3.9 to 3.11 on x86_64")
def test_a_lock_installs_offline_with_hashes(tmp_path: Path) -> None:
    """The smallest one (about 25 MB), from the real index into a fresh venv, installed with the command that `device check` prints."""
    try:
        locks.write_wheelhouse("tflite_runtime", HERE, "x86_64", tmp_path / "wheels")
    except JobError as error:
        if os.environ.get("EDGEPRESS_REQUIRE_EMULATOR") or not re.search("Connection|Temporary failure|timed out|No matching", str(error)):
            raise
        pytest.skip("the package index cannot be reached")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    done = subprocess.run(["env/bin/pip", "install", "--no-index", "--find-links", "wheels", "--require-hashes", "-r", "wheels/requirements.txt"], cwd=tmp_path,
                          env={**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    code = "from tflite_runtime.interpreter import Interpreter; import numpy, PIL; print(numpy.__version__)"
    done = subprocess.run([str(tmp_path / "env" / "bin" / "python"), "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("1.")


def test_errors_are_ours() -> None:
    with pytest.raises(EdgepressError):
        locks.download_wheels("litert", "3.8", "aarch64", Path("never-made"))
    assert not Path("never-made").exists()

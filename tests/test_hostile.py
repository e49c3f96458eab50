"""Files that want to run code or to write elsewhere: archives, model files, bundles and runs of somebody else, each through the commands that would open it.

Every vector's payload would leave a mark in a small world of its own (its home, its temporary folder, the folders around it); after each command that world is
compared byte by byte with what it was: 0 executions, 0 writes.
"""
from __future__ import annotations

import base64
import io
import json
import marshal
import os
import pickle
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import pytest

from edgepress import bundle_programs
from edgepress.artifact import digest_file
from edgepress.bundle_archive import opened_bundle
from edgepress.errors import EdgepressError
from edgepress.modelspec import ModelSpec, to_json

DATA = Path(__file__).resolve().parent / "data"
LABELS = ("red", "green", "blue")


class World:
    """A folder that stands for a whole machine."""

    def __init__(self, root: Path) -> None:
        self.root, self.work = root, root / "home" / "work"
        for name in ("home/work", "tmp", "outside"):
            (root / name).mkdir(parents=True)
        (root / "outside" / "secret").write_bytes(bytes(range(8)) * 100)
        self.mark = root / "outside" / "ran"

    def state(self) -> Dict[str, Any]:
        found = {}
        for path in sorted(self.root.rglob("*")):
            kind = path.lstat()
            if ".keras" in path.parts:
                continue  # Keras writes its own default settings there when it is imported
            found[str(path.relative_to(self.root))] = (stat.S_IFMT(kind.st_mode), path.read_bytes() if path.is_file() and not path.is_symlink() else None)
        return found

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        """`edgepress …`, or a script, here; nothing may have changed afterwards but what the command is there to make."""
        before = self.state()
        command = [sys.executable, "-m", "edgepress", *arguments] if not arguments[0].endswith(".py") else [sys.executable, *arguments]
        environment = {**os.environ, "HOME": str(self.root / "home"), "TMPDIR": str(self.root / "tmp"), "EDGEPRESS_HOME": str(self.root / "home" / ".edgepress"), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=self.work, env=environment, capture_output=True, text=True, timeout=60)
        assert not self.mark.exists(), f"{arguments} ran the payload"
        assert self.state() == before, f"{arguments} left something"
        assert "Traceback" not in done.stderr and "bug of edgepress" not in done.stderr, done.stderr
        return done


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def payload(world: World) -> Any:
    """An object whose unpickling writes the mark."""
    class Evil:
        def __reduce__(self) -> Tuple[Any, ...]:
            return exec, (f"open({str(world.mark)!r}, 'w')",)
    return Evil()


# ---- archives

def _zip(*entries: Tuple[Any, bytes]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for entry, data in entries:
                archive.writestr(entry, data)
    return write


def _link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return entry


def _tar(*members: Tuple[str, bytes, str]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with tarfile.open(path, "w:gz") as archive:
            for name, kind, target in members:
                member = tarfile.TarInfo(name)
                member.type, member.linkname = kind, target
                archive.addfile(member)
    return write


ARCHIVES = {
    "zip slip": _zip(("manifest.json", b"{}"), ("../../outside/ran", b"x")), "absolute": _zip(("/tmp/edgepress-evil", b"x")), "backslashes": _zip(("..\\..\\outside\\ran", b"x")),
    "zip link": _zip((_link("golden"), b"../../outside"), ("golden/ran", b"x")), "tar link": _tar(("golden", tarfile.SYMTYPE, "../../outside"), ("golden/ran", tarfile.REGTYPE, "")),
    "tar hard link": _tar(("manifest.json", tarfile.LNKTYPE, "/etc/passwd")), "device": _tar(("model.tflite", tarfile.CHRTYPE, "")), "bomb": _zip(("model.tflite", bytes(64 << 20))),
    "no bundle": _zip(("hello", b"world")), "garbage": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_hostile_archives(name: str, world: World) -> None:
    ARCHIVES[name](world.work / "bundle.zip")
    before = world.state()
    with pytest.raises(EdgepressError), opened_bundle(world.work / "bundle.zip"):
        pass
    assert world.state() == before


@pytest.mark.parametrize("name", ["zip slip", "tar link"])
def test_hostile_archives_through_the_command(name: str, world: World) -> None:
    ARCHIVES[name](world.work / "bundle.zip")
    done = world.run("verify", "bundle.zip")
    assert done.returncode == 1 and done.stderr.startswith("Error: bundle.zip holds")


# ---- model files

@pytest.mark.slow
@pytest.mark.parametrize("location", ["../../outside/secret", "ABSOLUTE", "link", "hard", "plain"])
def test_onnx_files_with_weights_elsewhere_reach_no_runtime(location: str, world: World) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(DATA / "tiny_float.onnx"))
    tensor = next(t for t in model.graph.initializer if t.raw_data)
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    secret = world.root / "outside" / "secret"
    place = {"ABSOLUTE": str(secret)}.get(location, location)
    for key, value in (("location", place), ("offset", "0"), ("length", str(size))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    (world.work / "m.onnx").write_bytes(model.SerializeToString())
    (world.work / "model.json").write_text(to_json(ModelSpec(labels=LABELS, input_height=8, input_width=8)))
    if location == "link":
        (world.work / "link").symlink_to(secret)
    elif location == "hard":
        os.link(secret, world.work / "hard")
    elif location == "plain":
        shutil.copy(secret, world.work / "plain")
    from PIL import Image

    Image.new("RGB", (9, 9)).save(world.work / "a.png")
    done = world.run("predict", "a.png", "--model", "m.onnx")
    assert done.returncode == 1 and "in other files" in done.stderr
    if location in ("hard", "plain"):
        (world.work / ".edgepress").mkdir()  # where quantize works
        done = world.run("quantize", "m.onnx", "--scheme", "weight_only_wi8_afp32", "-o", "q.onnx")
        assert done.returncode == 1 and "in other files" in done.stderr
        assert world.run("show", "m.onnx").returncode == 0  # it looks at the file's own bytes


def _keras_file(path: Path, world: World) -> None:
    """A .keras file with a Lambda layer whose code writes the mark when it is built or called."""
    code = compile(f"lambda x: open({str(world.mark)!r}, 'w')", "evil", "eval").co_consts[0]
    packed = base64.b64encode(marshal.dumps(code)).decode()
    layers = [{"class_name": "InputLayer", "name": "in", "inbound_nodes": [], "config": {"name": "in", "batch_input_shape": [None, 8, 8, 3], "dtype": "float32"}},
              {"class_name": "Lambda", "name": "evil", "inbound_nodes": [[["in", 0, 0, {}]]], "config": {"name": "evil", "function": [packed, None, None], "function_type": "lambda"}}]
    config = {"class_name": "Functional", "config": {"name": "m", "layers": layers, "input_layers": [["in", 0, 0]], "output_layers": [["evil", 0, 0]]}}
    h5py = pytest.importorskip("h5py")
    weights = io.BytesIO()
    h5py.File(weights, "w").close()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("metadata.json", json.dumps({"keras_version": "2.15.0"}))
        archive.writestr("model.weights.h5", weights.getvalue())


@pytest.mark.parametrize("arguments", [("show", "m.keras"), ("convert", "m.keras", "-o", "out")], ids=lambda a: a[0])
def test_keras_files_with_code_in_them(arguments: Tuple[str, ...], world: World) -> None:
    _keras_file(world.work / "m.keras", world)
    done = world.run(*arguments)
    assert "Lambda" in done.stdout + done.stderr and (done.returncode == 1 or arguments[0] == "show")


# ---- bundles and runs

def make_bundle(world: World) -> Path:
    """A small bundle of hand-written files, whole and harmless."""
    from edgepress.bundle_texts import write_programs
    from edgepress.worker_pack import worker_bytes

    folder = world.work / "bundle"
    (folder / "golden").mkdir(parents=True)
    shutil.copy(DATA / "tiny_float.tflite", folder / "model.tflite")
    (folder / "model.json").write_text(to_json(ModelSpec(labels=LABELS, input_height=8, input_width=8)))
    (folder / "worker.pyz").write_bytes(worker_bytes())
    write_programs(folder)
    from PIL import Image

    Image.new("RGB", (9, 9), (255, 0, 0)).save(folder / "golden" / "00.png")
    (folder / "golden.json").write_text(json.dumps({"schema": 1, "tolerance": 0.5, "images": [{"file": "golden/00.png", "probabilities": [1.0, 0.0, 0.0]}]}))
    write_manifest(folder)
    return folder


def write_manifest(folder: Path, **changes: Any) -> None:
    files = {path.relative_to(folder).as_posix(): {"sha256": digest_file(path), "size_bytes": path.stat().st_size} for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "manifest.json"}
    (folder / "manifest.json").write_text(json.dumps({"schema": 1, "model": "model.tflite", "runtimes": ["litert"], "files": files, **changes}))


def _with(**changes: Any) -> Callable[[Path, World], None]:
    return lambda folder, world: write_manifest(folder, **changes)


def _golden(document: Any) -> Callable[[Path, World], None]:
    def apply(folder: Path, world: World) -> None:
        (folder / "golden.json").write_text(document if isinstance(document, str) else json.dumps(document))
        write_manifest(folder)
    return apply


def _keras_bundle(folder: Path, world: World) -> None:
    _keras_file(folder / "model.keras", world)
    write_manifest(folder, model="model.keras", runtimes=["keras"])


def _pipe(name: str) -> Callable[[Path, World], None]:
    def apply(folder: Path, world: World) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)
    return apply


def _text(name: str, text: str, listed: bool = True) -> Callable[[Path, World], None]:
    def apply(folder: Path, world: World) -> None:
        (folder / name).write_text(text)
        if listed:
            write_manifest(folder)
    return apply


BUNDLES: Dict[str, Callable[[Path, World], None]] = {
    "model elsewhere": _with(model="../../../outside/secret"), "file elsewhere": lambda folder, world: write_manifest(folder, files={"../../../outside/secret": {"sha256": "0", "size_bytes": 1}, "model.tflite": {"sha256": "0"}}),
    "runtime that is a module": _with(runtimes=["os"]), "runtimes that are no list": _with(runtimes="litert"), "model that is code": _keras_bundle, "manifest that is a list": _text("manifest.json", "[]", False),
    "manifest of depth": _text("manifest.json", "[" * 100_000, False), "manifest with other types": _with(files={"model.tflite": 1}), "golden photo elsewhere": _golden({"tolerance": 1, "images": [{"file": "/etc/passwd", "probabilities": [1]}]}),
    "golden of depth": _golden("[" * 100_000), "golden without photos": _golden({"tolerance": 1, "images": []}), "golden of other types": _golden({"tolerance": "x", "images": [{"file": "golden/00.png", "probabilities": "abc"}]}),
    "spec of depth": _text("model.json", "[" * 100_000), "spec of a terabyte": _text("model.json", to_json(ModelSpec(labels=LABELS, input_height=8, input_width=8)).replace('"input_height": 8', '"input_height": 99999999999')),
    "pipe for a model": _pipe("model.tflite"), "pipe for a manifest": _pipe("manifest.json"), "pipe for golden": _pipe("golden.json"), "unlisted model": lambda folder, world: (folder / "model.tflite").write_bytes(b"TFL3" * 100) and None,
    "photo that is no photo": lambda folder, world: ((folder / "golden" / "00.png").write_bytes(pickle.dumps(payload(world))), write_manifest(folder)) and None,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BUNDLES)
def test_hostile_bundles(name: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Checked and run in this process's parent role: an error in words, at once, and the world as it was."""
    folder = make_bundle(world)
    BUNDLES[name](folder, world)
    before = world.state()
    for program, arguments in ((bundle_programs.selftest_main, []), (bundle_programs.run_main, [str(DATA / "tiny_float.tflite")])):
        def call(place: Path) -> int:
            try:
                return program(place, arguments)
            except SystemExit as end:  # argparse
                return int(end.code or 0)
        assert bundle_programs.run_command(call, folder) != 0, capsys.readouterr().out
    assert world.state() == before and not world.mark.exists()
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_whole_bundle_of_somebody_else_works_and_cannot_steer_the_terminal(world: World) -> None:
    folder = make_bundle(world)
    assert world.run(str(folder / "selftest.py")).returncode == 0
    (folder / "model.json").write_text(to_json(ModelSpec(labels=("\x1b[2J\x07red", "green", "blue"), input_height=8, input_width=8)))
    write_manifest(folder)
    done = world.run(str(folder / "run.py"), str(folder / "golden" / "00.png"))
    assert done.returncode == 0 and "red" in done.stdout and "\x1b" not in done.stdout and "\x07" not in done.stdout
    (folder / "extra.py").write_text("x")
    assert "does not belong" in world.run("verify", str(folder)).stderr


@pytest.mark.parametrize("command", ["verify", pytest.param("predict", marks=pytest.mark.tensorflow)])
def test_a_bundle_whose_model_is_code_through_the_commands(command: str, world: World) -> None:
    folder = make_bundle(world)
    _keras_bundle(folder, world)
    arguments: List[str] = {"verify": ["bundle"], "predict": ["bundle/golden/00.png", "--model", "bundle"]}[command]
    done = world.run(command, *arguments)
    assert (done.returncode == 0) if command == "verify" else (done.returncode == 1 and "Lambda" in done.stderr)  # its bytes are whole: what it would do is another question


def test_answers_of_a_run_that_are_pickles(world: World) -> None:
    """predictions.npz of a run that somebody sent: arrays of objects run code where they are allowed."""
    spec = __import__("importlib.util").util.spec_from_file_location("bundle_tests", DATA.parent / "stages" / "test_bundle.py")
    module = __import__("importlib.util").util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run = module.make_run(world.work)
    for file in run.glob("*/predictions.npz"):
        arrays = dict(np.load(file))
        np.savez(file, **{**arrays, "paths": np.array([payload(world)] * 12, dtype=object)})
    world.mark.unlink(missing_ok=True)
    before = world.state()
    from edgepress.recipe import BundleConfig
    from edgepress.stages.bundle import bundle

    out = world.root / "tmp" / "out"
    out.mkdir()
    with pytest.raises((EdgepressError, ValueError)):
        bundle(out, run=run, config=BundleConfig())
    shutil.rmtree(out)
    assert world.state() == before

"""`edgepress bundle`, `verify` and `keygen`: where the bundle lies, what it replaces, and that no bit of it can change unseen."""
from __future__ import annotations

import functools
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgepress import verify as signatures
from edgepress.bundle_archive import export_bundle, opened_bundle, verify_bundle
from edgepress.bundle_command import pack
from edgepress.cli import cli
from edgepress.errors import ArtifactError, EdgepressError, ModelError
from edgepress.extract import extract
from edgepress.recipe import BundleConfig
from edgepress.signing import make_key

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command is not installed")
CONFIG = BundleConfig(golden=3)


def _bundle_tests() -> Any:
    """tests/stages/test_bundle.py as a module: its hand-made run is this file's too."""
    spec = importlib.util.spec_from_file_location("bundle_tests", Path(__file__).parent / "stages" / "test_bundle.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _bundle_tests().make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    make_key(folder / "mine.pem")
    return folder


@pytest.fixture(scope="module")
def signed(run: Path, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("signed") / "bundle"
    pack(run, out, config=CONFIG, key=keys / "mine.pem")
    return out


def contents(folder: Path) -> dict:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_zip_has_the_same_bytes_each_time_and_holds_the_folder(run: Path, tmp_path: Path) -> None:
    for name in ("one.zip", "two.zip", "folder"):
        pack(run, tmp_path / name, config=CONFIG, key=None)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    extract(tmp_path / "one.zip", tmp_path / "unpacked")
    assert contents(tmp_path / "unpacked") == contents(tmp_path / "folder") and "artifact.json" not in contents(tmp_path / "folder")
    assert sorted(os.listdir(tmp_path)) == ["folder", "one.zip", "two.zip", "unpacked"]
    done = subprocess.run([sys.executable, str(tmp_path / "unpacked" / "selftest.py")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_key_of_a_bundle_knows_its_programs(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle made by an older edgepress is not taken for this one's."""
    pack(run, tmp_path / "one", config=CONFIG, key=None)
    monkeypatch.setattr("edgepress.worker_pack._MAIN", "pass\n")
    made = len(list(run.glob("bundle-*")))
    with pytest.raises(EdgepressError):  # this worker answers nothing
        pack(run, tmp_path / "two", config=CONFIG, key=None)
    assert len(list(run.glob("bundle-*"))) == made and not (tmp_path / "two").exists()


def test_a_signed_bundle_is_verified_and_keeps_working(signed: Path, keys: Path, tmp_path: Path) -> None:
    found = verify_bundle(signed, key=keys / "mine.pub.pem")
    assert found["signed"] and len(found["signed_by"]) == 64
    done = subprocess.run([sys.executable, str(signed / "selftest.py"), "--key", str(keys / "mine.pub.pem"), "--json"], capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["signed_by"] == found["signed_by"]
    copied = Path(shutil.copytree(signed, tmp_path / "copied"))
    (copied / "model.sig").write_text((copied / "model.sig").read_text().replace('"keyid":""', '"keyid":"x"'))
    done = subprocess.run([sys.executable, str(copied / "selftest.py"), "--key", str(keys / "mine.pub.pem")], capture_output=True, text=True)
    assert done.returncode == 1 and "keyid" in done.stdout


@pytest.mark.slow
def test_every_flipped_bit_of_a_signed_bundle_is_noticed(signed: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all bytes of all files, then over the zip's own bytes."""
    monkeypatch.setattr(signatures, "check_signature", functools.lru_cache(None)(signatures.check_signature))  # openssl is asked once about the same bytes
    chance = random.Random(3)
    folder = Path(shutil.copytree(signed, tmp_path / "folder"))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for number in range(120):
        path = files[number % len(files)] if number % 2 else chance.choices(files, [f.stat().st_size for f in files])[0]
        whole = path.read_bytes()
        _flip(path, whole, chance)
        with pytest.raises(ArtifactError):
            verify_bundle(folder, key=keys / "mine.pub.pem")
        path.write_bytes(whole)
    assert verify_bundle(folder, key=keys / "mine.pub.pem")
    (tmp_path / "zip").mkdir()
    export_bundle(signed, tmp_path / "zip" / "bundle.zip", key=None)
    archive = tmp_path / "zip" / "bundle.zip"
    whole = archive.read_bytes()
    for _ in range(50):
        _flip(archive, whole, chance)
        with pytest.raises(ArtifactError):
            verify_bundle(archive, key=keys / "mine.pub.pem")
    directory = whole.rindex(b"PK\x01\x02")
    for at in range(directory, len(whole)):  # every byte of the last entry and of the end record: dates, modes, comments
        data = bytearray(whole)
        data[at] ^= 1 << chance.randrange(8)
        archive.write_bytes(bytes(data))
        with pytest.raises(ArtifactError):
            verify_bundle(archive, key=None)


def _flip(path: Path, whole: bytes, chance: random.Random) -> None:
    data = bytearray(whole)
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(data))


def test_a_bundle_is_replaced_and_nothing_else_is(run: Path, signed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    pack(run, out, config=CONFIG, key=None)  # an empty folder
    pack(run, out, config=BundleConfig(golden=2), key=None)
    assert len(json.loads((out / "golden.json").read_text())["images"]) == 5
    (out / "notes.txt").write_text("mine")
    for place, words in ((out, "not a whole bundle"), (tmp_path / "file.zip", "not a whole bundle"), (tmp_path / "folder.zip", "not a whole bundle"), (tmp_path / "link", "not a whole bundle")):
        if place.name == "file.zip":
            place.write_text("mine")
        elif place.name == "folder.zip":
            place.mkdir()
        elif place.name == "link":
            place.symlink_to(signed)
        with pytest.raises(ArtifactError, match=words):
            pack(run, place, config=CONFIG, key=None)
    assert (out / "notes.txt").read_text() == "mine" and (tmp_path / "file.zip").read_text() == "mine" and (tmp_path / "link").is_symlink()


def test_a_wrong_key_is_said_before_anything_is_made(run: Path, tmp_path: Path) -> None:
    made = len(list(run.glob("bundle-*")))
    with pytest.raises(EdgepressError, match="none.pem does not exist"):
        pack(run, tmp_path / "out", config=BundleConfig(golden=1), key=tmp_path / "none.pem")
    assert not (tmp_path / "out").exists() and len(list(run.glob("bundle-*"))) == made


def test_the_commands_say_what_they_did(run: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(cli, ["keygen", str(tmp_path / "me.pem")])
    assert done.exit_code == 0 and "me.pub.pem: public" in done.output
    done = runner.invoke(cli, ["bundle", str(run), "-o", str(tmp_path / "b.zip"), "--sign", str(tmp_path / "me.pem"), "--golden", "3"])
    assert done.exit_code == 0 and "static_wi8_ai8.tflite for litert" in done.output and done.output.endswith("b.zip\n"), done.output
    assert "give --key" in runner.invoke(cli, ["verify", str(tmp_path / "b.zip")]).output
    done = runner.invoke(cli, ["verify", str(tmp_path / "b.zip"), "--key", str(tmp_path / "me.pub.pem"), "--json"])
    assert done.exit_code == 0 and json.loads(done.output)["signed_by"]
    pack(run, tmp_path / "plain", config=CONFIG, key=None)
    assert "not signed" in runner.invoke(cli, ["verify", str(tmp_path / "plain")]).output
    for arguments, words in ((["verify", str(tmp_path / "plain"), "--key", str(tmp_path / "me.pub.pem")], "model.sig cannot be read"), (["verify", str(tmp_path)], "is no bundle"), (["verify", str(tmp_path / "none")], "does not exist")):
        done = runner.invoke(cli, arguments)
        assert isinstance(done.exception, ArtifactError) and words in str(done.exception)
    assert json.loads(runner.invoke(cli, ["bundle", str(run), "-o", str(tmp_path / "plain"), "--json"]).output)["model"] == "model.tflite"


def test_a_zip_of_somebody_else_is_opened_but_not_called_ours(signed: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents(signed).items():
            archive.writestr(name, data)
    with opened_bundle(tmp_path / "b.zip") as folder:
        assert contents(folder) == contents(signed)
    with pytest.raises(ArtifactError, match="unpack it and verify the folder"):
        verify_bundle(tmp_path / "b.zip", key=None)


def test_no_command_loads_a_model_that_the_manifest_does_not_list(signed: Path, tmp_path: Path) -> None:
    from edgepress.artifact import model_file

    folder = Path(shutil.copytree(signed, tmp_path / "copied"))
    assert model_file(folder) == folder / "model.tflite" == model_file(folder / "model.tflite")
    shutil.copy(folder / "model.tflite", folder / "other.tflite")
    assert model_file(folder) == folder / "model.tflite"
    with pytest.raises(ModelError, match="not in the manifest"):
        model_file(folder / "other.tflite")
    (folder / "model.tflite").write_bytes((folder / "model.tflite").read_bytes() + b"\0")
    for path in (folder, folder / "model.tflite"):
        with pytest.raises(ModelError, match="not in the manifest"):
            model_file(path)
    shutil.copy(signed / "model.tflite", tmp_path / "outside.tflite")
    manifest = json.loads((signed / "manifest.json").read_text())
    manifest["files"]["../outside.tflite"] = manifest["files"][manifest["model"]]
    (folder / "manifest.json").write_text(json.dumps({**manifest, "model": "../outside.tflite"}))
    with pytest.raises(ModelError, match="not in the manifest"):
        model_file(folder)

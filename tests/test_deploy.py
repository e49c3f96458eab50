"""A deploy ends with the new release proven and current, or with the old one as it was: whatever is wrong with the bundle, and wherever it is killed."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
from click.testing import CliRunner
from stages.test_bundle import make_run
from test_parity import Elsewhere

from edgepress import bundle_files, deploy as deploying, releases
from edgepress.artifact import digest_file, write_json
from edgepress.bundle_files import MANIFEST, check_files
from edgepress.bundle_archive import write_zip
from edgepress.cli import cli
from edgepress.deploy import deploy, predict_there, rollback
from edgepress.errors import ArtifactError, DeviceError, GateError, JobError, UnsupportedError
from edgepress.recipe import BundleConfig
from edgepress.stages.bundle import bundle

pytestmark = pytest.mark.slow

NAME = "colours"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> List[Path]:
    """Three bundles of one run, with 2, 3 and 4 golden photos."""
    folder = tmp_path_factory.mktemp("bundles")
    run = make_run(folder)
    made = [folder / f"made{count}" for count in (2, 3, 4)]
    for count, out in enumerate(made, start=2):
        out.mkdir()
        bundle(out, run=run, config=BundleConfig(golden=count))
    return [out / "bundle" for out in made]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this machine keeps apps."""
    monkeypatch.setenv("EDGEPRESS_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "apps" / NAME


def current(app: Path) -> str:
    return os.path.basename(os.readlink(app / "current"))


def changed(source: Path, to: Path, **files: str) -> Path:
    """A bundle with other files, listed as if it had been packed so."""
    shutil.copytree(source, to)
    manifest = json.loads((to / MANIFEST).read_text())
    for name, text in files.items():
        name = name.replace("__", ".")
        (to / name).write_text(text)
        manifest["files"][name] = bundle_files.file_facts(to / name)
    write_json(to / MANIFEST, manifest)
    return to


def program(folder: Path) -> str:
    return next(name for name in releases.PROGRAMS if (folder / name).is_file())


def test_each_release_runs_in_its_own_python(bundles: List[Path], home: Path, tmp_path: Path) -> None:
    """litert and onnxruntime usually have an environment each: going back goes back to its Python, too."""
    first, second = (deploy(bundle, Elsewhere()).release for bundle in bundles[:2])
    own = tmp_path / "python"
    own.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/used\nexec {sys.executable} "$@"\n')
    own.chmod(0o755)
    (home / "pythons" / first).write_text(f"{own}\n")
    assert rollback(Elsewhere())["release"] == first and "current" in (tmp_path / "used").read_text()
    assert deploy(bundles[1], Elsewhere()).release == second == current(home)
    (home / "pythons" / first).write_text("/gone/bin/python\n")
    with pytest.raises(GateError, match="does not run any more"):
        rollback(Elsewhere())
    assert current(home) == second


def test_models_beside_the_main_one_are_tested_too(bundles: List[Path], home: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    made = tmp_path / "made"
    made.mkdir()
    bundle(made, run=run, config=BundleConfig(golden=2, also=("float32.onnx",)))
    source = made / "bundle"
    assert deploy(source, Elsewhere()).unchecked == {}
    other = json.loads((source / MANIFEST).read_text())["models"][1]["file"]
    golden = json.loads((source / bundle_files.GOLDEN).read_text())
    golden["others"][other]["probabilities"].reverse()
    wrong = changed(source, tmp_path / "wrong", **{bundle_files.GOLDEN.replace(".", "__"): json.dumps(golden)})
    with pytest.raises(GateError, match=f"the self-test failed on the device: {other}"):
        deploy(wrong, Elsewhere())
    assert current(home) == digest_file(source / MANIFEST)
    foreign = changed(source, tmp_path / "foreign")
    manifest = json.loads((foreign / MANIFEST).read_text())
    manifest["models"][1]["runtimes"] = ["tflite_runtime"]
    write_json(foreign / MANIFEST, manifest)
    done = deploy(foreign, Elsewhere())
    assert list(done.unchecked) == [other] and f"not tested there: {other}: " in deploying.format_deployed(done)


def test_deploy_again_and_back(bundles: List[Path], home: Path, tmp_path: Path) -> None:
    first = deploy(bundles[0], Elsewhere(), target="pi")
    assert first.name == NAME and first.previous is None and first.parity["passed"] and first.release == digest_file(bundles[0] / MANIFEST) == current(home)
    assert check_files(home / "current") == [] and "litert" in deploying.format_deployed(first)
    write_zip(bundles[1], tmp_path / "b.zip")
    second = deploy(tmp_path / "b.zip", Elsewhere())
    assert second.previous == first.release and current(home) == second.release == digest_file(bundles[1] / MANIFEST)
    again = deploy(bundles[1], Elsewhere())
    assert again.previous is None and current(home) == second.release and json.loads((home / "history.json").read_text()) == [first.release, second.release]
    back = rollback(Elsewhere())
    assert back["release"] == first.release == current(home) and back["previous"] == second.release
    with pytest.raises(ArtifactError, match="has no release before"):
        rollback(Elsewhere(), NAME)


def test_the_deployed_app_answers(bundles: List[Path], home: Path) -> None:
    deployed = deploy(bundles[0], Elsewhere())
    photo = sorted((bundles[0] / "golden").iterdir())[1]
    done = subprocess.run([deployed.launcher, str(photo)], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0 and "green" in done.stdout
    answer = predict_there((photo,), Elsewhere())[0]
    assert answer["label"] == "green" and answer["photo"] == str(photo)
    with pytest.raises(ArtifactError, match="does not exist"):
        predict_there((home / "none.jpg",), Elsewhere())
    with pytest.raises(JobError, match="did not answer"):
        predict_there((photo,), Elsewhere(), name="other")


def test_old_releases_go(bundles: List[Path], home: Path) -> None:
    for one in bundles:
        deployed = deploy(one, Elsewhere(), keep=2)
    kept = {path.name for path in (home / "releases").iterdir()}
    assert kept == {digest_file(one / MANIFEST) for one in bundles[1:]} and current(home) == deployed.release
    assert rollback(Elsewhere())["release"] == digest_file(bundles[1] / MANIFEST)


def test_a_damaged_bundle_is_not_sent(bundles: List[Path], home: Path, tmp_path: Path) -> None:
    shutil.copytree(bundles[0], tmp_path / "b")
    (tmp_path / "b" / "labels.txt").write_text("x")
    place = Elsewhere()
    with pytest.raises(ArtifactError, match="not as it was packed: labels.txt is damaged"):
        deploy(tmp_path / "b", place)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ArtifactError, match="is no bundle"):
        deploy(tmp_path / "nothing", place)
    (tmp_path / "b.zip").write_bytes(b"PK no zip")
    with pytest.raises(ArtifactError, match="no zip or tar file"):
        deploy(tmp_path / "b.zip", place)
    assert place.jobs == 0 and not home.exists()


@pytest.mark.parametrize("name", ["../x", "", "A", "a b", "a/b", "." * 3, "a" * 65])
def test_names_that_are_no_folder(bundles: List[Path], home: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match="cannot be a folder|has 0 apps"):
        deploy(bundles[0], Elsewhere(), name) if name else rollback(Elsewhere())


def test_a_failing_selftest_leaves_the_old_release(bundles: List[Path], home: Path, tmp_path: Path) -> None:
    old = deploy(bundles[0], Elsewhere()).release
    golden = json.loads((bundles[1] / "golden.json").read_text())
    for image in golden["images"]:
        image["probabilities"].reverse()
    bad = changed(bundles[1], tmp_path / "bad", golden__json=json.dumps(golden))
    with pytest.raises(GateError, match="self-test failed on the device"):
        deploy(bad, Elsewhere())
    assert current(home) == old and os.listdir(home / "releases") == [old] and not (home / ".incoming").exists()


def test_a_device_that_answers_otherwise_keeps_its_old_release(bundles: List[Path], home: Path) -> None:
    old = deploy(bundles[0], Elsewhere()).release
    with pytest.raises(GateError, match="so the old release stays current"):
        deploy(bundles[1], Elsewhere(lambda result, rows: rows[:, ::-1].copy()))
    assert current(home) == old and os.listdir(home / "releases") == [old]


@pytest.mark.parametrize("before", [True, False], ids=["update", "first"])
def test_a_program_that_does_not_run_is_undone(bundles: List[Path], home: Path, tmp_path: Path, before: bool) -> None:
    old = deploy(bundles[0], Elsewhere()).release if before else None
    bad = changed(bundles[1], tmp_path / "bad", **{program(bundles[1]).replace(".", "__"): "raise SystemExit('no camera')"})
    with pytest.raises(GateError, match="no camera"):
        deploy(bad, Elsewhere())
    assert (current(home) == old) if before else not (home / "current").is_symlink()
    assert os.listdir(home / "releases") == ([old] if before else []) and json.loads((home / "history.json").read_text()) == ([old] if before else [])


def test_an_archive_that_was_changed_on_its_way_is_refused(bundles: List[Path], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = changed(bundles[1], tmp_path / "other", labels__txt="x\n")
    monkeypatch.setattr(deploying, "write_zip", lambda folder, archive: write_zip(other, archive))
    with pytest.raises(ArtifactError, match="what arrived is not the bundle that was sent"):
        deploy(bundles[0], Elsewhere())
    assert not list(home.glob("releases/*")) and not (home / "current").is_symlink()


def test_a_release_that_was_damaged_there_is_made_again(bundles: List[Path], home: Path) -> None:
    release = deploy(bundles[0], Elsewhere()).release
    (home / "releases" / release / "labels.txt").write_text("x")
    assert deploy(bundles[0], Elsewhere()).release == release and check_files(home / "current") == []
    second = deploy(bundles[1], Elsewhere()).release
    (home / "releases" / release / "labels.txt").write_text("x")
    with pytest.raises(ArtifactError, match="is damaged: labels.txt"):
        rollback(Elsewhere())
    assert current(home) == second


def test_signatures_are_verified_on_the_device(bundles: List[Path], home: Path, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl command")
    from edgepress.signing import make_key, sign_folder

    public = make_key(tmp_path / "mine.pem")
    other = make_key(tmp_path / "other.pem")
    with pytest.raises(ArtifactError, match="not verified"):
        deploy(bundles[0], Elsewhere(), key=public)
    shutil.copytree(bundles[0], tmp_path / "signed")
    sign_folder(tmp_path / "signed", tmp_path / "mine.pem")
    with pytest.raises(ArtifactError, match="not verified"):
        deploy(tmp_path / "signed", Elsewhere(), key=other)
    with pytest.raises(ArtifactError, match="accepted: a public key"):
        deploy(tmp_path / "signed", Elsewhere(), key=tmp_path / "none.pem")
    assert not list(home.glob("releases/*"))
    signed = deploy(tmp_path / "signed", Elsewhere(), key=public)
    assert signed.signed and "signature verified there" in deploying.format_deployed(signed)


def test_a_device_without_the_runtime_is_told(bundles: List[Path], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interpreter(runtime: str) -> str:
        raise UnsupportedError(f"{runtime} is not there")

    place = Elsewhere()
    monkeypatch.setattr(place, "interpreter", interpreter, raising=False)
    with pytest.raises(UnsupportedError, match="has none of litert, tflite_runtime"):
        deploy(bundles[0], place)


def test_two_deploys_of_one_app_do_not_meet(bundles: List[Path], home: Path) -> None:
    home.mkdir(parents=True)
    with releases._locked(home), pytest.raises(ArtifactError, match="another deploy of colours"):
        deploy(bundles[0], Elsewhere())


def test_actions_of_apps_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no app 'x' is deployed here; none is"):
        releases.run_action({"action": "rollback", "apps": str(tmp_path), "name": "x"}, tmp_path)
    with pytest.raises(ArtifactError, match="did you mean 'stage'"):
        releases.run_action({"action": "stag", "apps": str(tmp_path), "name": "x"}, tmp_path)
    with pytest.raises(ArtifactError, match="is no sha256"):
        releases.run_action({"action": "stage", "apps": str(tmp_path), "name": "x", "release": "../../y"}, tmp_path)
    with pytest.raises(ArtifactError, match="is not staged"):
        releases.run_action({"action": "activate", "apps": str(tmp_path), "name": "x", "release": "../../y"}, tmp_path)


FILE_SYSTEM_CALLS = ("rename", "replace", "symlink", "unlink", "mkdir", "rmdir", "sync", "fsync", "chmod")


def run_and_die(app: Path, job: Dict[str, Any], folder: Path, *, at: int) -> Tuple[bool, int]:
    """Run stage and activate in a forked process that is killed before its file-system call number `at`; (whether it ended by itself, calls)."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def counted(call: Any) -> Any:
            def inner(*args: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                if count == at:
                    os._exit(9)
                return call(*args, **options)
            return inner

        for name in FILE_SYSTEM_CALLS:
            setattr(os, name, counted(getattr(os, name)))
        releases._selftest = lambda *_: {}  # type: ignore[assignment]
        releases._try = lambda *_: None  # type: ignore[assignment]
        try:
            releases.run_action({**job, "action": "stage"}, folder)
            releases.run_action({**job, "action": "activate"}, folder)
            os.write(write, str(count).encode())
            os._exit(0)
        except BaseException:
            os._exit(1)
    os.close(write)
    _, status = os.waitpid(child, 0)
    text = os.read(read, 20)
    os.close(read)
    assert os.waitstatus_to_exitcode(status) in (0, 9)
    return os.waitstatus_to_exitcode(status) == 0, int(text or 0)


def test_killed_at_any_point_a_whole_release_is_current(bundles: List[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sync", lambda: None)  # seconds each on a busy machine; still a point at which it is killed
    jobs = []
    for number, one in enumerate(bundles[:2]):
        write_zip(one, tmp_path / f"{number}.zip")
        jobs.append({"apps": str(tmp_path / "apps"), "name": "app", "release": digest_file(one / MANIFEST), "archive": f"{number}.zip", "keep": 3})
    monkeypatch.setattr(releases, "_selftest", lambda *_: {})
    monkeypatch.setattr(releases, "_try", lambda *_: None)
    app, pristine = tmp_path / "apps" / "app", tmp_path / "pristine"
    for action in ("stage", "activate"):
        releases.run_action({**jobs[0], "action": action}, tmp_path)
    shutil.copytree(app, pristine, symlinks=True)
    seen, at, ended, began = {jobs[0]["release"]: 0, jobs[1]["release"]: 0}, 0, False, time.monotonic()
    while not ended:
        at += 1
        shutil.rmtree(app)
        shutil.copytree(pristine, app, symlinks=True)
        ended, calls = run_and_die(app, jobs[1], tmp_path, at=at)
        now = current(app)
        seen[now] += 1
        assert check_files(app / "current") == [] and digest_file(app / "current" / MANIFEST) == now
        for action in ("stage", "activate"):  # and the next deploy ends well
            releases.run_action({**jobs[1], "action": action}, tmp_path)
        assert current(app) == jobs[1]["release"] and not list(app.glob(".*part*")) and not (app / ".incoming").exists()
        assert releases.run_action({"action": "rollback", **{key: jobs[1][key] for key in ("apps", "name")}}, tmp_path)["release"] == jobs[0]["release"]
    assert at == calls + 1 and at > 30 and min(seen.values()) > 0, (at, seen)
    assert time.monotonic() - began < 60


def test_the_commands(bundles: List[Path], home: Path) -> None:
    def edgepress(*words: object) -> Any:
        return CliRunner().invoke(cli, list(map(str, words)))

    deployed = edgepress("deploy", bundles[0], "--target", "local", "--json")
    assert deployed.exit_code == 0 and json.loads(deployed.stdout)["release"] == current(home)
    photo = sorted((bundles[0] / "golden").iterdir())[1]
    assert "green" in edgepress("predict", photo, "--target", "local", "--app", NAME).stdout == edgepress("predict", photo, "--model", bundles[0]).stdout
    assert edgepress("predict", photo).exit_code == 2
    edgepress("deploy", bundles[1], "--target", "local")
    assert "is current again" in edgepress("device", "rollback", "local").stdout and current(home) == json.loads(deployed.stdout)["release"]
    gone = edgepress("device", "rollback", "local", "other")
    assert isinstance(gone.exception, ArtifactError) and "no app 'other' is deployed here" in str(gone.exception) and NAME in str(gone.exception)


def test_a_connection_that_ends_leaves_its_own_error(bundles: List[Path], home: Path) -> None:
    place = Elsewhere()
    run = place.run

    def ending(command: Any, **options: Any) -> Any:
        if place.jobs >= 1:
            raise DeviceError("elsewhere is gone")
        return run(command, **options)

    place.run = ending  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match="elsewhere is gone"):
        deploy(bundles[0], place)
    assert not (home / "current").is_symlink()
    assert deploy(bundles[0], Elsewhere()).release == current(home)

"""Third-party code for browsers: exact versions with integrity hashes, through npm alone, and a plain error where it is not there."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from pages import make_bundle

from edgepress.browser import packages
from edgepress.browser.qr import qr_text
from edgepress.browser.static import write_web_app
from edgepress.cli import cli
from edgepress.errors import ArtifactError, JobError, MissingDependencyError, UnsupportedError
from edgepress.targets import connect

SOURCE = Path(packages.__file__).parents[1] / "data" / "web_packages"


def test_the_lock_file_pins_bytes_and_names_no_registry() -> None:
    wanted = json.loads((SOURCE / "package.json").read_text())["dependencies"]
    locked = json.loads((SOURCE / "package-lock.json").read_text())["packages"]
    assert packages.versions() == {"onnxruntime-web": wanted["onnxruntime-web"], "litert-web": wanted["@litertjs/core"]}
    assert all(entry["integrity"].startswith("sha512-") and "resolved" not in entry for name, entry in locked.items() if name)
    for name in ("package.json", "package-lock.json"):
        assert (SOURCE.parents[3] / "device" / "browser" / name).read_bytes() == (SOURCE / name).read_bytes()


def test_without_the_packages_the_error_says_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRESS_HOME", str(tmp_path))
    for command in (["device", "serve", "bundle"], ["device", "webapp", "bundle", "-o", str(tmp_path / "app")]):
        result = CliRunner().invoke(cli, command)
        assert isinstance(result.exception, UnsupportedError) and result.exception.hint == "install them with: edgepress device serve --install"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("npm", [None, "fails", "gives other files"])
def test_a_failed_installation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, npm: str | None) -> None:
    monkeypatch.setenv("EDGEPRESS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    if npm:
        script = tmp_path / "bin" / "npm"
        script.write_text("#!/bin/sh\necho no such registry >&2\nexit 1\n" if npm == "fails" else "#!/bin/sh\nexit 0\n")
        script.chmod(0o755)
    with pytest.raises((UnsupportedError, JobError)) as caught:
        packages.install_packages()
    assert {None: "npm is not installed", "fails": "no such registry", "gives other files": "not laid out|cannot be made"}[npm].split("|")[-1 if npm == "gives other files" else 0] in str(caught.value)
    assert [path for path in tmp_path.joinpath("home").rglob("*") if path.is_file()] == []


def test_a_changed_package_is_noticed(web_packages: Path) -> None:
    file = web_packages / "litert" / "wasm_utils.js"
    data = file.read_bytes()
    try:
        file.write_bytes(data + b" ")
        with pytest.raises(ArtifactError, match="not the file that was installed"):
            packages.installed_files()
    finally:
        file.write_bytes(data)
    assert b"Microsoft" in packages.installed_files()["LICENSES.txt"].read_bytes()


@pytest.mark.slow
def test_a_web_app_is_deterministic_and_leaves_what_is_there(run: Path, web_packages: Path, tmp_path: Path) -> None:
    folder = make_bundle(run, tmp_path / "bundle", "float32.onnx")
    apps = [tmp_path / name for name in ("one", "two")]
    for app in apps:
        write_web_app(folder, app)
    files = [{path.relative_to(app): path.read_bytes() for path in app.rglob("*") if path.is_file()} for app in apps]
    assert files[0] == files[1] and not (apps[0] / "packages" / "litert").exists()
    with pytest.raises(ArtifactError, match="is there already"):
        write_web_app(folder, apps[0])
    with pytest.raises(ArtifactError, match="neither a bundle nor a run"):
        write_web_app(tmp_path / "one" / "photos", tmp_path / "three")
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "one", "two"}
    assert not any(str(tmp_path).encode() in data for data in files[0].values())


def test_a_browser_cannot_be_sent_commands() -> None:
    with pytest.raises(UnsupportedError, match="edgepress device serve"):
        connect("browser://phone")


def test_the_code_holds_the_address() -> None:
    pytest.importorskip("segno")
    short, long = qr_text("http://10.0.0.1:1/a/"), qr_text("http://192.168.100.100:54321/2TNt1dB4B-8_jXqa9ql3bQ/")
    assert len(short.splitlines()) < len(long.splitlines()) <= 40 and max(map(len, long.splitlines())) < 600


def test_without_segno_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"edgepress\[web\]"):
        qr_text("http://127.0.0.1/")

"""A bundle from a run made by hand of the tiny files: what is chosen, what is packed, and that it works and notices damage elsewhere."""
from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import pytest
from PIL import Image

from edgepress import measurement
from edgepress.artifact import digest_file, write_json
from edgepress.bundle_files import check_files, compare_answers, rank
from edgepress.errors import ArtifactError, GateError, ModelError, RecipeError
from edgepress.modelspec import ModelSpec, to_json
from edgepress.recipe import BundleConfig
from edgepress.stages.bundle import bundle

BARE = sys.executable if sys.prefix == sys.base_prefix else str(Path(sys.base_prefix) / "bin" / "python3")  # a Python without our packages, where the tests run in a virtual environment
TINY = Path(__file__).resolve().parents[1] / "data"
LABELS = ("rød", "green", "青")
SPEC = ModelSpec(labels=LABELS, input_height=8, input_width=8, name="colours", backbone="tiny", weights="by hand", weights_license="none needed")
# variant, runtime, file, certified (None: the reference), latency in ms
VARIANTS: Tuple[Tuple[str, str, str, Any, float], ...] = (
    ("float32.tflite", "litert", "tiny_float.tflite", None, 3.0),
    ("static_wi8_ai8.tflite", "litert", "tiny_int8.tflite", True, 1.0),
    ("float32.onnx", "onnxruntime", "tiny_float.onnx", True, 2.0),
)


def make_photos(folder: Path, count: int = 12) -> List[Path]:
    """Plain photos of the three colours, wider than the model's input and of different sizes."""
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.zeros((20 + number, 40, 3), np.uint8)
        pixels[..., number % 3] = 255
        Image.fromarray(pixels).save(folder / f"photo {number:02}.png")
    return sorted(folder.iterdir())


def make_run(folder: Path, *, certified: Optional[Dict[str, Any]] = None) -> Path:
    """A run folder as `edgepress run` leaves it; `certified` changes verdicts by variant."""
    run, photos = folder / "run", make_photos(folder / "photos")
    steps, records = [], []
    for variant, runtime, name, verdict, latency in VARIANTS:
        verdict = (certified or {}).get(variant, verdict)
        made, evaluated, judged = (f"{stage}-{variant}" for stage in ("quantize", "evaluate", "certify"))
        source = run / made / f"model{Path(name).suffix}"
        source.parent.mkdir(parents=True)
        shutil.copy(TINY / name, source)
        (source.parent / "model.json").write_text(to_json(SPEC), encoding="utf-8")
        sha256, size = digest_file(source), source.stat().st_size
        steps.append({"id": f"evaluate:{variant}@{runtime}", "stage": "evaluate", "variant": variant, "runtime": runtime, "status": "ok", "reason": None,
                      "inputs": {"model": f"{made}/{source.name}"}, "artifact": evaluated})
        (run / evaluated).mkdir()
        identity = {"file": str(source), "sha256": sha256, "size_bytes": size, "runtime": {"name": runtime, "version": "1"}}
        write_json(run / evaluated / "evaluation.json", {"schema": 1, "status": "ok", "reason": None, **identity, "images": len(photos), "accuracy": 1.0,
                                                         "accuracy_interval": [0.76, 1.0], "labels": list(LABELS), "split": "test", "dataset": "photos"})
        targets = np.arange(len(photos)) % 3
        np.savez(run / evaluated / "predictions.npz", probabilities=np.eye(3, dtype=np.float32)[targets], targets=targets,
                 digests=np.array([digest_file(path) for path in photos]), paths=np.array([str(path) for path in photos]))
        if verdict is not None:
            steps.append({"id": f"certify:{variant}@{runtime}", "stage": "certify", "variant": variant, "runtime": runtime, "status": "ok", "reason": None,
                          "inputs": {"model": evaluated, "reference": "evaluate-float32.tflite"}, "artifact": judged})
            (run / judged).mkdir()
            write_json(run / judged / "certificate.json", {"schema": 1, **identity, "reference": {**identity, "file": "/home/somebody/secret/model.tflite", "target": "ssh://pi@secret"}, "target": "ssh://pi@secret", "dataset": "/home/somebody/secret",
                                                           "certified": verdict, "drop": 0.5, "drop_at_most": 1.5, "max_drop": 1.0, "reason": "in words"})
        rounds = (measurement.Round(latencies_ms=tuple(latency + i / 1000 for i in range(60)), import_ms=1, load_ms=1, first_run_ms=1, warmup_runs=3),)
        records.append(measurement.Measurement(file=str(source), sha256=sha256, format=variant.rpartition(".")[2], size_bytes=size, gzip_bytes=size, runtime=runtime, threads=1, rounds=rounds))
    steps.append({"id": "benchmark", "stage": "benchmark", "variant": None, "runtime": None, "status": "ok", "reason": None, "inputs": {}, "artifact": "benchmark"})
    (run / "benchmark").mkdir()
    (run / "benchmark" / measurement.FILE).write_text(measurement.dump(records))
    write_json(run / "run.json", {"schema": 1, "recipe": {"images": "photos/colours"}, "steps": [{"seconds": 1.0, **step} for step in steps]})
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def packed(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(run, tmp_path_factory.mktemp("packed") / "bundle")


@pytest.fixture()
def copied(packed: Path, tmp_path: Path) -> Path:
    """The bundle on another machine: a copy in a folder with a space in its name."""
    return Path(shutil.copytree(packed, tmp_path / "a bundle"))


def pack(run: Path, out: Path, **options: Any) -> Path:
    out.mkdir()
    bundle(out, run=run, config=BundleConfig(**{"golden": 4, **options}))
    return out / "bundle"


def call(folder: Path, script: str, *arguments: str, cwd: Optional[Path] = None) -> subprocess.CompletedProcess:
    """Run a script of the bundle with the standard library alone (-I -S: no site-packages): edgepress comes from worker.pyz."""
    return subprocess.run([sys.executable, "-I", "-S", str(folder / script), *arguments], capture_output=True, text=True, cwd=cwd or folder.parent)


def test_the_fastest_certified_file_is_packed_with_its_reason(packed: Path) -> None:
    manifest = json.loads((packed / "manifest.json").read_text())
    assert manifest["variant"] == "static_wi8_ai8.tflite" and manifest["runtimes"][0] == "litert"
    assert digest_file(packed / "model.tflite") == digest_file(TINY / "tiny_int8.tflite")
    assert "1 ms" in manifest["why"] or "1.0" in manifest["why"]
    assert (packed / "labels.txt").read_text(encoding="utf-8").splitlines() == list(LABELS)


def test_manifest_lists_every_file_and_nothing_names_this_machine(packed: Path, run: Path) -> None:
    listed = set(json.loads((packed / "manifest.json").read_text())["files"])
    assert listed == {path.relative_to(packed).as_posix() for path in packed.rglob("*") if path.is_file()} - {"manifest.json"}
    assert check_files(packed) == [] and "artifact.json" not in listed
    for path in packed.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            for secret in ("/home/somebody", "pi@secret", str(run.parent), str(Path(__file__).parents[2]), socket.gethostname(), os.path.expanduser("~") + "/"):
                assert len(secret) < 4 or secret.encode() not in data, (path, secret)


def test_same_run_same_bytes(run: Path, packed: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(run, tmp_path / "moved"))
    again = pack(moved, tmp_path / "again")
    assert {p.relative_to(again): p.read_bytes() for p in again.rglob("*") if p.is_file()} == {p.relative_to(packed): p.read_bytes() for p in packed.rglob("*") if p.is_file()}


def test_golden_photos_show_every_class_and_what_decoders_get_wrong(packed: Path) -> None:
    golden = json.loads((packed / "golden.json").read_text(encoding="utf-8"))
    plain = [image for image in golden["images"] if image["kind"] == "plain"]
    assert {image["label"] for image in plain} == set(LABELS) and len(plain) == 4
    for image in plain:
        assert LABELS[int(np.argmax(image["probabilities"]))] == image["label"]
        width, height = Image.open(packed / image["file"]).size
        assert min(width, height) <= 10 and width != height  # small, and the resize is still tested
    hard = {image["kind"]: Image.open(packed / image["file"]) for image in golden["images"] if image["kind"] != "plain"}
    assert set(hard) == {"exif", "grey", "alpha"} and hard["exif"].format == "JPEG"
    assert hard["exif"].getexif()[0x0112] == 6 and hard["grey"].mode == "L" and hard["alpha"].mode == "RGBA" and hard["alpha"].getextrema()[3] == (0, 255)


def test_selftest_passes_elsewhere(copied: Path) -> None:
    done = call(copied, "selftest.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "byte for byte" in done.stdout and "expected answers in litert" in done.stdout
    report = json.loads(call(copied, "selftest.py", "--json").stdout)
    assert report["passed"] is True and report["problems"] == [] and report["runtime"]["name"] == "litert"


def test_run_names_the_colours_and_writes_json(copied: Path, run: Path) -> None:
    photos = sorted((run.parent / "photos").iterdir())[:3]
    done = call(copied, "run.py", *map(str, photos), "--json")
    assert done.returncode == 0, done.stderr
    assert [(answer["label"], answer["top"][0]["label"]) for answer in json.loads(done.stdout)] == [(label, label) for label in LABELS]
    line = call(copied, "run.py", photos[1].name, "--top", "1", cwd=photos[1].parent).stdout.strip()
    assert line.startswith("photo 01.png: green ") and line.endswith("%")


@pytest.mark.slow
def test_run_takes_folders_and_goes_on_past_a_bad_photo(copied: Path, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, photo in enumerate(sorted((run.parent / "photos").iterdir())[:3]):
        shutil.copy(photo, folder / f"{number}.png")
    (folder / "1b.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("not a photo")
    done = call(copied, "run.py", str(folder), "--json")
    assert done.returncode == 1 and "1b.png cannot be used: it is not an image" in done.stderr
    assert [Path(answer["photo"]).name for answer in json.loads(done.stdout)] == ["0.png", "1.png", "1b.png", "2.png"]
    empty = call(copied, "run.py", str(copied / "requirements"))
    assert empty.returncode == 1 and "no image files" in empty.stderr
    for arguments, words in (((), "give photos"), (("--camera", "x.png"), "give photos"), (("none.png",), "none.png does not exist"), (("--top", "0", "x"), "number from 1 up"), (("--camera", "--interval", "nan"), "seconds")):
        bad = call(copied, "run.py", *arguments)
        assert bad.returncode in (1, 2) and words in bad.stderr and "Traceback" not in bad.stderr


CAMERA = """
import numpy as np
class Picamera2:
    # A stand-in: of the formats only BGR888 hands out arrays in the order R, G, B (raspberrypi/picamera2#1148).
    def create_video_configuration(self, main): return main
    def configure(self, main): self.main = main
    def start(self): pass
    def stop(self): open({stopped!r}, "w").close()
    def capture_array(self, name):
        frame = np.zeros((self.main["size"][1], self.main["size"][0], 3), np.uint8)
        frame[..., {{"BGR888": 0, "RGB888": 2}}[self.main["format"]]] = 255
        return frame
"""


def test_the_camera_loop_sees_red_as_red(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "picamera2.py").write_text(CAMERA.format(stopped=str(tmp_path / "stopped")))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        done = subprocess.run([sys.executable, str(copied / "run.py"), "--camera", "--count", "3", "--interval", "0", "--json"], capture_output=True, text=True, cwd=tmp_path,
                              env={**os.environ, "PYTHONPATH": str(tmp_path / "site"), "NOTIFY_SOCKET": str(tmp_path / "notify")})
        told = [systemd.recv(100).decode() for _ in range(4)]
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and [answer["label"] for answer in answers] == ["rød"] * 3 and answers[2]["photo"] == "frame 3", done.stderr
    assert told == ["READY=1"] + ["WATCHDOG=1"] * 3 and (tmp_path / "stopped").exists()


def test_without_a_camera_or_libraries_it_says_what_to_install(copied: Path, run: Path) -> None:
    done = call(copied, "run.py", "--camera")
    assert done.returncode == 1 and "apt install python3-picamera2" in done.stderr and "Traceback" not in done.stderr
    bare = subprocess.run([sys.executable, "-c", f"import sys; sys.executable = {BARE!r}; sys.argv = ['run.py', {str(next((run.parent / 'photos').iterdir()))!r}]; import runpy; runpy.run_path({str(copied / 'run.py')!r}, run_name='__main__')"],
                          capture_output=True, text=True)
    assert bare.returncode == 1 and "--require-hashes -r" in bare.stderr and "Traceback" not in bare.stderr


def test_a_model_that_kills_its_runtime_is_one_line(copied: Path, run: Path) -> None:
    """The parent survives whatever the child dies of."""
    with zipfile.ZipFile(copied / "worker.pyz", "a") as archive, pytest.warns(UserWarning):
        archive.writestr("edgepress/bundle_live.py", "import os, signal\ndef main(*given): os.kill(os.getpid(), signal.SIGSEGV)\n")
    _list_again(copied, "worker.pyz")
    done = call(copied, "run.py", str(next((run.parent / "photos").iterdir())))
    assert done.returncode == 1 and "was ended by SIGSEGV" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("name", "says"), [("model.tflite", "model.tflite is damaged"), ("worker.pyz", "worker.pyz is damaged"), ("golden/00.png", "golden/00.png is damaged"),
                                            ("labels.txt", "labels.txt is damaged"), ("run.py", "run.py is damaged"), ("golden.json", "golden.json is damaged")])
def test_one_flipped_bit_fails_the_selftest(copied: Path, name: str, says: str) -> None:
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(bytes(data))
    done = call(copied, "selftest.py")
    assert done.returncode == 1 and says in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_run_refuses_a_damaged_model(copied: Path, run: Path) -> None:
    data = bytearray((copied / "model.tflite").read_bytes())
    data[-100] ^= 1
    (copied / "model.tflite").write_bytes(bytes(data))
    done = call(copied, "run.py", str(next((run.parent / "photos").iterdir())))
    assert done.returncode == 1 and done.stdout == "" and "sha256" in done.stderr and "not loaded" in done.stderr


@pytest.mark.parametrize("change", ["missing", "extra", "link", "no manifest"])
def test_other_changes_fail_the_selftest(copied: Path, change: str) -> None:
    if change == "missing":
        (copied / "labels.txt").unlink()
    elif change == "extra":
        (copied / "golden" / "more.py").write_text("")
    elif change == "link":
        shutil.move(copied / "labels.txt", copied.parent / "labels.txt")
        (copied / "labels.txt").symlink_to(copied.parent / "labels.txt")
    else:
        (copied / "manifest.json").unlink()
    done = call(copied, "selftest.py")
    assert done.returncode == 1 and "Traceback" not in done.stderr and (done.stdout or done.stderr)


def _list_again(folder: Path, name: str) -> None:
    """Make the manifest agree with a changed file."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"][name] = {"sha256": digest_file(folder / name), "size_bytes": (folder / name).stat().st_size}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_model_that_answers_otherwise_fails_even_with_a_right_manifest(copied: Path) -> None:
    golden = json.loads((copied / "golden.json").read_text(encoding="utf-8"))
    for image in golden["images"]:
        image["probabilities"] = image["probabilities"][1:] + image["probabilities"][:1]
    (copied / "golden.json").write_text(json.dumps(golden))
    _list_again(copied, "golden.json")
    done = call(copied, "selftest.py")
    assert done.returncode == 1 and "the top class is number" in done.stdout


@pytest.mark.parametrize(("answers", "says"), [
    ([[0.9, 0.1], [0.2, 0.8]], None), ([[0.88, 0.12], [0.2, 0.8]], None), ([[0.6, 0.4], [0.2, 0.8]], "off by 0.3"), ([[0.4, 0.6], [0.2, 0.8]], "top class"),
    ([[None, 0.1], [0.2, 0.8]], "not finite"), ([[0.9, 0.1], [0.9, 0.1]], "same answer to every photo"), ([[0.9, 0.1]], "1 answers"), ([[0.9], [0.1]], "1 numbers")])
def test_compare_answers(answers: list, says: Optional[str]) -> None:
    problems = compare_answers(answers, [[0.9, 0.1], [0.2, 0.8]], names=["a", "b"], tolerance=0.05)
    assert (problems == []) if says is None else (len(problems) == 1 and says in problems[0])


def test_near_ties_may_change_places() -> None:
    assert compare_answers([[0.49, 0.51]], [[0.51, 0.49]], names=["a"], tolerance=0.05) == []
    assert "top class" in compare_answers([[0.4, 0.6]], [[0.6, 0.4]], names=["a"], tolerance=0.05)[0]


def test_rank_rejects_what_the_model_is_not_sure_of_and_what_is_no_answer() -> None:
    spec = replace(SPEC, reject_threshold=0.7)
    assert rank([0.1, 0.6, 0.3], spec, top=1) == {"label": "unknown", "probability": 0.6, "top": [{"label": "green", "probability": 0.6}]}
    assert rank([0.1, 0.8, 0.1], spec, top=2)["label"] == "green"
    for answer, words in (([0.5, 0.5], "3 labels"), ([0.1, None, 0.2], "not finite"), ([0.1, float("nan"), 0.2], "not finite")):
        with pytest.raises(ModelError, match=words):
            rank(answer, spec, top=1)


def test_unknown_is_printed_below_the_threshold(run: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(run, tmp_path / "run"))
    for path in mine.glob("*/model.json"):
        path.write_text(to_json(replace(SPEC, reject_threshold=0.999999)), encoding="utf-8")
    folder = pack(mine, tmp_path / "bundle")
    (tmp_path / "grey.png").write_bytes(b"")
    Image.new("RGB", (30, 20), (120, 120, 120)).save(tmp_path / "grey.png")
    assert call(folder, "run.py", str(tmp_path / "grey.png")).stdout.startswith(f"{tmp_path / 'grey.png'}: unknown (")


def test_nothing_certified_is_a_gate_error_with_ways_on(tmp_path: Path) -> None:
    run = make_run(tmp_path, certified={"static_wi8_ai8.tflite": "unresolved", "float32.onnx": False})
    with pytest.raises(GateError) as caught:
        pack(run, tmp_path / "bundle")
    assert "static_wi8_ai8.tflite@litert lost 0.5 points" in caught.value.message
    assert "--choose static_wi8_ai8.tflite" in str(caught.value.hint) and "--max-drop 1.5" in str(caught.value.hint)
    assert caught.value.exit_code == 4


def test_a_file_can_be_chosen_by_name_and_its_verdict_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path, certified={"float32.onnx": False})
    out = pack(run, tmp_path / "bundle", choose="float32.onnx")
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["model"] == "model.onnx" and "NOT certified" in manifest["why"] and "NOT certified" in (out / "README.md").read_text(encoding="utf-8")
    assert json.loads((out / "certificate.json").read_text())["certified"] is False
    assert call(out, "selftest.py").returncode == 0


def test_the_reference_can_be_chosen(run: Path, tmp_path: Path) -> None:
    out = pack(run, tmp_path / "bundle", choose="float32.tflite")
    assert json.loads((out / "certificate.json").read_text())["certified"] is None
    assert call(out, "selftest.py").returncode == 0


def test_an_unknown_name_is_an_error_with_the_nearest(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'static_wi8_ai8.tflite'"):
        pack(run, tmp_path / "bundle", choose="static_wi8_ai8.tfl")


def test_a_model_that_changed_since_it_was_certified_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run / "quantize-static_wi8_ai8.tflite" / "model.tflite").write_bytes((TINY / "tiny_float.tflite").read_bytes())
    with pytest.raises(ArtifactError, match="its bytes changed"):
        pack(run, tmp_path / "bundle")


def test_photos_that_went_away_are_an_error(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    shutil.rmtree(tmp_path / "photos")
    with pytest.raises(ArtifactError, match="none of the 12 test photos"):
        pack(run, tmp_path / "bundle")


def test_a_runtime_that_answers_wrongly_is_not_offered(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepress.profiles.verdict", lambda runtime, facts: ("refused", "known") if runtime == "tflite_runtime" else ("ok", None))
    assert json.loads((pack(run, tmp_path / "bundle") / "manifest.json").read_text())["runtimes"] == ["litert"]


def test_no_runtime_says_what_to_install(copied: Path, run: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["runtimes"] = ["tflite_runtime"]
    (copied / "manifest.json").write_text(json.dumps(manifest))
    done = call(copied, "run.py", str(next((run.parent / "photos").iterdir())))
    assert done.returncode == 1 and "pip install" in done.stderr and "tflite_runtime" in done.stderr


@pytest.mark.slow
def test_more_models_are_packed_and_tested(run: Path, tmp_path: Path) -> None:
    folder = pack(run, tmp_path / "bundle", also=("float32.onnx", "static_wi8_ai8.tflite"))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [entry["file"] for entry in manifest["models"]] == ["model.tflite", "models/float32.onnx"]
    done = call(folder, "selftest.py")
    assert done.returncode == 0 and done.stdout.count("answers ok") == 2 and "onnxruntime" in done.stdout, done.stdout + done.stderr
    answer = json.loads(call(folder, "run.py", str(next((run.parent / "photos").iterdir())), "--json", "--model", "models/float32.onnx").stdout)
    assert answer[0]["runtime"]["name"] == "onnxruntime"
    golden = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    golden["others"]["models/float32.onnx"]["probabilities"][0].reverse()
    (folder / "golden.json").write_text(json.dumps(golden))
    _list_again(folder, "golden.json")
    assert "FAILED  golden/00.png" in call(folder, "selftest.py", "--model", "models/float32.onnx").stdout


def test_requirements_are_locked_for_each_runtime_and_fit_this_machine(packed: Path) -> None:
    names = sorted(path.name for path in (packed / "requirements").iterdir())
    assert {"litert-py3.13-aarch64.txt", "tflite_runtime-py3.11-armv7l.txt"} <= set(names) and not any("onnx" in name for name in names)
    assert "--hash=sha256:" in (packed / "requirements" / "litert-py3.13-aarch64.txt").read_text()


def test_wheels_are_packed_for_the_places_asked_for(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(runtime: str, python: str, machine: str, to: Path) -> None:  # the network is the edge
        to.mkdir(exist_ok=True)
        (to / f"{runtime}-{python}-{machine}.whl").write_bytes(b"wheel")

    monkeypatch.setattr("edgepress.locks.download_wheels", download)
    folder = pack(run, tmp_path / "bundle", offline=("3.13-aarch64", "3.11-armv7l"))
    assert sorted(path.name for path in (folder / "wheels").iterdir()) == ["litert-3.13-aarch64.whl", "tflite_runtime-3.11-armv7l.whl"]
    assert "--no-index --find-links wheels --require-hashes" in (folder / "README.md").read_text(encoding="utf-8") and "wheels/litert-3.13-aarch64.whl" in json.loads((folder / "manifest.json").read_text())["files"]
    with pytest.raises(RecipeError, match="3.13-aarch64"):
        pack(run, tmp_path / "no", offline=("3.13-riscv64",))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_service_is_valid_and_tightly_shut(copied: Path) -> None:
    unit = next((copied / "service").glob("*.service"))
    checked = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True)
    assert checked.returncode == 0 and checked.stderr == ""  # it ends with 0 for unknown keys too, and says so on stderr
    rated = subprocess.run(["systemd-analyze", "security", "--offline=true", str(unit)], capture_output=True, text=True)
    exposure = float(rated.stdout.split("exposure level for")[1].split(":")[1].split()[0])
    assert exposure <= 1.5
    unit.write_text(unit.read_text().replace("DynamicUser", "DynamikUser"))
    assert subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True).stderr  # so a mistake would be seen


def test_nothing_beside_the_programs_is_imported(copied: Path, run: Path, tmp_path: Path) -> None:
    """A file slipped into a folder of photos or into the bundle does not run, whatever it is called."""
    photos = Path(shutil.copytree(run.parent / "photos", tmp_path / "photos"))
    for place in (copied, photos):
        for name in ("json", "argparse", "hashlib", "numpy", "PIL", "edgepress", "ai_edge_litert", "sitecustomize", "usercustomize"):
            (place / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    for script, arguments in (("selftest.py", ()), ("verify.py", (".", "--key", "none"))):
        subprocess.run([sys.executable, str(copied / script), *arguments], capture_output=True, cwd=copied)
        assert not (tmp_path / "ran").exists(), script
    done = subprocess.run([sys.executable, str(copied / "run.py"), str(photos)], capture_output=True, text=True, cwd=photos)
    assert done.returncode == 0 and not (tmp_path / "ran").exists()

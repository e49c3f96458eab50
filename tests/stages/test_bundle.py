"""A bundle from a run made by hand of the tiny files: what is chosen, what is packed, and that it works and notices damage elsewhere."""
from __future__ import annotations

import json
import shutil
import subprocess
import sys
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
            write_json(run / judged / "certificate.json", {"schema": 1, **identity, "reference": {**identity, "file": "/home/somebody/secret/model.tflite"}, "dataset": "/home/somebody/secret",
                                                           "certified": verdict, "drop": 0.5, "drop_at_most": 1.5, "max_drop": 1.0, "reason": "in words"})
        rounds = (measurement.Round(latencies_ms=tuple(latency + i / 1000 for i in range(60)), import_ms=1, load_ms=1, first_run_ms=1, warmup_runs=3),)
        records.append(measurement.Measurement(file=str(source), sha256=sha256, format=variant.rpartition(".")[2], size_bytes=size, gzip_bytes=size, runtime=runtime, threads=1, rounds=rounds))
    steps.append({"id": "benchmark", "stage": "benchmark", "variant": None, "runtime": None, "status": "ok", "reason": None, "inputs": {}, "artifact": "benchmark"})
    (run / "benchmark").mkdir()
    (run / "benchmark" / measurement.FILE).write_text(measurement.dump(records))
    write_json(run / "run.json", {"schema": 1, "recipe": {"images": "photos"}, "steps": [{"seconds": 1.0, **step} for step in steps]})
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
    return out


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
    assert check_files(packed) == []
    for path in packed.rglob("*"):
        if path.is_file() and path.suffix != ".pyz":
            assert b"/home/somebody" not in path.read_bytes() and str(run.parent).encode() not in path.read_bytes(), path


def test_same_run_same_bytes(run: Path, packed: Path, tmp_path: Path) -> None:
    again = pack(run, tmp_path / "again")
    assert {p.relative_to(again): p.read_bytes() for p in again.rglob("*") if p.is_file()} == {p.relative_to(packed): p.read_bytes() for p in packed.rglob("*") if p.is_file()}


def test_golden_photos_show_every_class_and_keep_their_shape(packed: Path) -> None:
    golden = json.loads((packed / "golden.json").read_text(encoding="utf-8"))
    assert {image["label"] for image in golden["images"]} == set(LABELS) and len(golden["images"]) == 4
    for image in golden["images"]:
        assert LABELS[int(np.argmax(image["probabilities"]))] == image["label"]
        width, height = Image.open(packed / image["file"]).size
        assert min(width, height) <= 10 and width != height  # small, and the resize is still tested


def test_selftest_passes_elsewhere(copied: Path) -> None:
    done = call(copied, "selftest.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "byte for byte" in done.stdout and "expected answers in litert" in done.stdout
    report = json.loads(call(copied, "selftest.py", "--json").stdout)
    assert report["passed"] is True and report["problems"] == [] and report["runtime"]["name"] == "litert"


def test_artifact_record_may_lie_in_the_bundle(copied: Path) -> None:
    (copied / "artifact.json").write_text("{}")
    assert call(copied, "selftest.py").returncode == 0


def test_predict_names_the_colours_and_writes_json(copied: Path, run: Path) -> None:
    photos = sorted((run.parent / "photos").iterdir())[:3]
    done = call(copied, "predict.py", *map(str, photos), "--json")
    assert done.returncode == 0, done.stderr
    assert [(answer["label"], answer["top"][0]["label"]) for answer in json.loads(done.stdout)] == [(label, label) for label in LABELS]
    line = call(copied, "predict.py", photos[1].name, "--top", "1", cwd=photos[1].parent).stdout.strip()
    assert line.startswith("photo 01.png: green ") and line.endswith("%")


@pytest.mark.parametrize(("name", "says"), [("model.tflite", "model.tflite is damaged"), ("worker.pyz", "worker.pyz is damaged"), ("golden/00.png", "golden/00.png is damaged"),
                                            ("labels.txt", "labels.txt is damaged"), ("predict.py", "predict.py is damaged")])
def test_one_flipped_bit_fails_the_selftest(copied: Path, name: str, says: str) -> None:
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(bytes(data))
    done = call(copied, "selftest.py")
    assert done.returncode == 1 and says in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_predict_refuses_a_damaged_model(copied: Path, run: Path) -> None:
    data = bytearray((copied / "model.tflite").read_bytes())
    data[-100] ^= 1
    (copied / "model.tflite").write_bytes(bytes(data))
    done = call(copied, "predict.py", str(next((run.parent / "photos").iterdir())))
    assert done.returncode == 1 and done.stdout == "" and "sha256" in done.stderr


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


def test_a_model_that_answers_otherwise_fails_even_with_a_right_manifest(copied: Path) -> None:
    golden = json.loads((copied / "golden.json").read_text(encoding="utf-8"))
    for image in golden["images"]:
        image["probabilities"] = image["probabilities"][1:] + image["probabilities"][:1]
    (copied / "golden.json").write_text(json.dumps(golden))
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["files"]["golden.json"] = {"sha256": digest_file(copied / "golden.json"), "size_bytes": (copied / "golden.json").stat().st_size}
    (copied / "manifest.json").write_text(json.dumps(manifest))
    done = call(copied, "selftest.py")
    assert done.returncode == 1 and "the top class is number" in done.stdout


@pytest.mark.parametrize(("answers", "says"), [
    ([[0.9, 0.1], [0.2, 0.8]], None), ([[0.88, 0.12], [0.2, 0.8]], None), ([[0.6, 0.4], [0.2, 0.8]], "off by 0.3"), ([[0.4, 0.6], [0.2, 0.8]], "top class"),
    ([[None, 0.1], [0.2, 0.8]], "not finite"), ([[0.9, 0.1], [0.9, 0.1]], "same answer to every photo"), ([[0.9, 0.1]], "1 answers"), ([[0.9], [0.1]], "1 numbers")])
def test_compare_answers(answers: list, says: Optional[str]) -> None:
    problems = compare_answers(answers, [[0.9, 0.1], [0.2, 0.8]], names=["a", "b"], tolerance=0.05)
    assert (problems == []) if says is None else (len(problems) == 1 and says in problems[0])


def test_rank_rejects_what_the_model_is_not_sure_of_and_what_is_no_answer() -> None:
    spec = replace(SPEC, reject_threshold=0.7)
    assert rank([0.1, 0.6, 0.3], spec, top=1) == {"label": "unknown", "probability": 0.6, "top": [{"label": "green", "probability": 0.6}]}
    assert rank([0.1, 0.8, 0.1], spec, top=2)["label"] == "green"
    for answer in ([0.5, 0.5], [0.1, None, 0.2]):
        with pytest.raises(ModelError, match="3 labels"):
            rank(answer, spec, top=1)


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
    done = call(copied, "predict.py", str(next((run.parent / "photos").iterdir())))
    assert done.returncode == 1 and "python -m pip install" in done.stderr

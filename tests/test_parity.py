"""A target that decodes, resizes or computes otherwise is caught, and told where: with real files, and answers that are changed on their way back."""
from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Sequence

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from stages.test_bundle import make_run

from edgepress import device_use, parity, parity_report
from edgepress.artifact import digest_file, write_json
from edgepress.bundle_archive import write_zip
from edgepress.cli import cli
from edgepress.errors import ArtifactError, DatasetError, DeviceError, ModelError, RecipeError, UnsupportedError
from edgepress.modelspec import ModelSpec, to_json
from edgepress.parity import check_parity, format_report, gate
from edgepress.parity_photos import KINDS, hard_photos
from edgepress.parity_report import Answers, Limit
from edgepress.preprocess import decode
from edgepress.recipe import BundleConfig
from edgepress.stages.bundle import bundle
from edgepress.targets.base import Completed
from edgepress.targets.local import LocalConnection

pytestmark = pytest.mark.slow

DATA = Path(__file__).resolve().parent / "data"
SPEC = ModelSpec(labels=("red", "green", "blue"), input_height=8, input_width=8)
Edit = Callable[[Dict[str, Any], np.ndarray], Optional[np.ndarray]]


class Elsewhere(LocalConnection):
    """Another place, whose answers are changed: `edit` gets the result and the rows."""

    address = "elsewhere"

    def __init__(self, edit: Optional[Edit] = None, *, measured_on: str = "real") -> None:
        self.edit, self.measured_on, self.jobs = edit, measured_on, 0

    def run(self, command: Sequence[str], *, environment: Mapping[str, str], timeout_seconds: float) -> Completed:
        self.jobs += 1
        done = super().run(command, environment=environment, timeout_seconds=timeout_seconds)
        folder = Path(command[-1]).parent
        if self.edit is not None and (folder / "output.npy").is_file():
            result, rows = json.loads((folder / "result.json").read_text()), np.load(folder / "output.npy")
            changed = self.edit(result, rows)
            np.save(folder / "output.npy", rows if changed is None else changed)
            (folder / "result.json").write_text(json.dumps(result))
        return done


@pytest.fixture(autouse=True)
def any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name is a registered device's."""
    monkeypatch.setattr("edgepress.devices.resolve", lambda target: target)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny int8 classifier of photos."""
    folder = tmp_path_factory.mktemp("model")
    shutil.copy(DATA / "tiny_int8.tflite", folder / "tiny.tflite")
    (folder / "tiny.tflite.model.json").write_text(to_json(SPEC))
    return folder / "tiny.tflite"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with golden photos."""
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "made").mkdir()
    bundle(folder / "made", run=make_run(folder), config=BundleConfig(golden=3))
    return folder / "made" / "bundle"


@pytest.mark.parametrize("name", ["tiny_float.tflite", "tiny_int8.tflite", "tiny_float.onnx"])
def test_the_same_machine_passes_on_hard_photos_and_on_tensors(tmp_path: Path, name: str) -> None:
    report = check_parity(DATA / name, Elsewhere())
    assert report.passed and report.largest_difference == 0 and {case["inputs"] for case in report.cases} == {"same"}
    shutil.copy(DATA / name, tmp_path / name)
    (tmp_path / f"{name}.model.json").write_text(to_json(SPEC))
    report = check_parity(tmp_path / name, Elsewhere())
    assert report.passed and [case["name"] for case in report.cases] == list(KINDS) and report.target == "elsewhere"
    assert {(case["decoding"], case["pixels"]) for case in report.cases} == {("same", "same")} and json.loads(json.dumps(report.to_json()))["passed"] is True


def test_a_bundle_brings_its_golden_photos(packed: Path, tmp_path: Path) -> None:
    report = check_parity(packed, Elsewhere())
    assert report.passed and len(report.cases) == len(list((packed / "golden").iterdir())) + len(KINDS) - 3  # the bundle brings an EXIF, a grey and a transparent one
    assert len({case["name"] for case in report.cases}) == len(report.cases)
    write_zip(packed, tmp_path / "b.zip")
    zipped = check_parity(tmp_path / "b.zip", Elsewhere())
    assert zipped.passed and zipped.cases == report.cases


def test_hard_photos_are_what_they_are_called(tmp_path: Path) -> None:
    made = {path.name: Image.open(path) for path in hard_photos(tmp_path)}
    assert made["exif_rotated.jpg"].getexif()[0x0112] == 6 and made["exif_rotated.jpg"].height > made["exif_rotated.jpg"].width < decode(tmp_path / "exif_rotated.jpg").width
    modes = {name: image.mode for name, image in made.items()}
    assert modes["grey.png"] == "L" and modes["alpha.png"] == "RGBA" and modes["palette.png"] == "P" and modes["cmyk.jpg"] == "CMYK" and modes["sixteen_bit.png"].startswith("I")
    assert min(made["large.jpg"].size) > 900


def _step(key: str, value: Any, **more: Any) -> Edit:
    def edit(result: Dict[str, Any], rows: np.ndarray) -> None:
        result["steps"][1].update({key: value}, **more)
    return edit


@pytest.mark.parametrize(("edit", "words"), [
    (_step("decoded_sha256", "0", pixels_sha256="1", pixels_max_difference=40), "grey.png: decoding differs: pixels are off by up to 40 of 255 levels"),
    (_step("pixels_sha256", "1", pixels_max_difference=12), "grey.png: resizing differs: pixels are off by up to 12 of 255 levels"),
    (_step("error", "it is damaged"), "grey.png: decoding: it cannot be decoded there: it is damaged"),
], ids=["decode", "resize", "undecodable"])
def test_a_difference_in_pixels_is_located(model: Path, edit: Edit, words: str) -> None:
    report = check_parity(model, Elsewhere(edit))
    assert not report.passed and report.problems == [words] and f"FAILED  {words}" in format_report(report)


def test_a_decoder_that_rounds_otherwise_is_a_note(model: Path) -> None:
    report = check_parity(model, Elsewhere(_step("decoded_sha256", "0", pixels_sha256="1", pixels_max_difference=1)))
    assert report.passed and "grey.png: decoding differs: pixels are off by up to 1 of 255 levels" in report.notes


def _rows(change: Callable[[np.ndarray], Any]) -> Edit:
    def edit(result: Dict[str, Any], rows: np.ndarray) -> None:
        change(rows)
    return edit


def _swap(rows: np.ndarray) -> None:
    rows[0] = rows[0, ::-1]


@pytest.mark.parametrize(("change", "words"), [
    (lambda rows: rows.__setitem__(2, np.nan), "not finite"),
    (lambda rows: rows.__setitem__(slice(None), rows[0]), "the same answer to everything"),
    (_swap, "exif_rotated.jpg: inference: the top class is"),
    (lambda rows: rows.__setitem__((3, 0), rows[3, 0] + 0.02), "sixteen_bit.png: inference: a number of the answer is off by 0.02; accepted: 0.00391"),
], ids=["nan", "constant", "top", "off"])
def test_wrong_answers_are_told(model: Path, change: Any, words: str) -> None:
    report = check_parity(model, Elsewhere(_rows(change)))
    assert not report.passed and any(words in problem for problem in report.problems), report.problems


def test_one_step_of_stored_integers_is_accepted_and_two_are_not() -> None:
    def answers(rows: Any) -> Answers:
        rows = np.float32(rows) / 256
        return Answers(rows, rows, [{"inputs_sha256": "a"}] * 2, {"runtime": {"name": "litert", "version": "1"}, "versions": {}, "delegate": None, "outputs": []})

    limit = Limit(np.full(3, 1.001 / 256), np.full(3, 1 / 256), "1 step")
    about: Dict[str, Any] = {"names": ["a", "b"], "labels": (), "limit": limit, "file": "x", "sha256": "", "target": "t", "measured_on": "real", "reference": "r"}
    here = answers([[200, 50, 6], [10, 240, 6]])
    assert parity_report.compare(here, answers([[199, 51, 6], [10, 240, 6]]), **about).passed
    report = parity_report.compare(here, answers([[198, 52, 6], [10, 240, 6]]), **about)
    assert report.problems == ["a: inference: a number of the answer is off by 2 steps of the stored integers; accepted: 1 step"]


def test_the_limit_knows_integers_floats_and_other_versions() -> None:
    def answers(version: str, outputs: Any) -> Answers:
        return Answers(np.zeros((1, 3), np.float32), np.zeros((1, 3), np.float32), [{}], {"runtime": {"name": "litert", "version": version}, "outputs": outputs})

    stored, real = [{"shape": [1, 3], "scale": 0.5}], [{"shape": [1, 3], "scale": None}]
    assert parity_report.limit_of(DATA / "tiny_int8.tflite", answers("1", stored), answers("1", stored)).values == pytest.approx([0.5005] * 3)
    assert parity_report.limit_of(DATA / "tiny_float.tflite", answers("1", real), answers("1", real)).values == pytest.approx([1e-4] * 3)
    other = parity_report.limit_of(DATA / "tiny_float.tflite", answers("1", real), answers("2", real))
    assert other.values == pytest.approx([0.005] * 3) and "litert 2 there against litert 1" in other.text


@pytest.mark.parametrize(("here", "there"), [((2, 3), (2, 4)), ((2, 3), (1, 3)), ((2, 0), (2, 0))])
def test_answers_that_do_not_fit_together_are_a_problem(here: Any, there: Any) -> None:
    facts = {"runtime": {"name": "litert", "version": "1"}, "versions": {}, "delegate": None, "outputs": []}
    ours, theirs = (Answers(np.zeros(shape, np.float32), np.zeros(shape, np.float32), [{"inputs_sha256": "a"}] * shape[0], facts) for shape in (here, there))
    limit = parity_report.limit_of(DATA / "tiny_float.tflite", ours, theirs)
    report = parity_report.compare(ours, theirs, names=["a", "b"], labels=(), limit=limit, file="x", sha256="", target="t", measured_on="real", reference="r")
    assert not report.passed and "nothing to compare" in format_report(report)


def test_classes_as_good_as_equal_may_swap() -> None:
    about: Dict[str, Any] = {"names": ["a"], "labels": ("x", "y"), "limit": Limit(np.full(2, 0.01), None, ""), "file": "x", "sha256": "", "target": "t", "measured_on": "real", "reference": "r"}
    facts = {"runtime": {}, "versions": {}, "delegate": None}
    here, there = (Answers(np.float32([row]), np.float32([row]), [{"inputs_sha256": "a"}], facts) for row in ([0.501, 0.499], [0.499, 0.501]))
    report = parity_report.compare(here, there, **about)
    assert report.passed and "as good as equal" in report.notes[0]


def test_without_the_runtime_here_the_bundles_answers_are_expected(packed: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "available_runtimes", lambda *_, **__: ())
    report = check_parity(packed, Elsewhere())
    assert report.passed and report.reference == "the bundle's expected answers" and report.cases[0]["difference"] is not None and report.cases[-1]["difference"] is None
    assert any("the top class" in problem for problem in check_parity(packed, Elsewhere(_rows(lambda rows: rows.__setitem__(slice(None), rows[:, ::-1])))).problems)
    with pytest.raises(UnsupportedError, match="litert is not installed on this machine"):
        check_parity(model, Elsewhere())


def test_a_missing_delegate_and_other_libraries_are_noted(model: Path) -> None:
    def edit(result: Dict[str, Any], rows: np.ndarray) -> None:
        result["details"]["delegate"] = None
        result["versions"]["pillow"] = "1.0"

    report = check_parity(model, Elsewhere(edit))
    assert report.passed and "XNNPACK was not created there" in report.notes[0] and "pillow 1.0 there" in report.notes[1] and "delegate there: none" in format_report(report)


@pytest.mark.parametrize("edit", [lambda result, rows: rows[:-1], lambda result, rows: rows.astype(np.float64), lambda result, rows: result.__setitem__("steps", []), lambda result, rows: result.__setitem__("steps", "x")],
                         ids=["rows", "type", "steps", "no list"])
def test_answers_of_another_shape_are_refused(model: Path, edit: Edit) -> None:
    with pytest.raises(DeviceError, match="accepted: float32, 2 rows a case"):
        check_parity(model, Elsewhere(lambda result, rows: edit(result, rows)))


def test_what_cannot_be_compared_is_an_error(packed: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        check_parity(model, Elsewhere(), images=[tmp_path / "none.jpg"])
    shutil.copytree(packed, tmp_path / "b")
    (tmp_path / "b" / "golden.json").write_text("{}")
    with pytest.raises(ArtifactError, match="golden.json is damaged"):
        check_parity(tmp_path / "b", Elsewhere())
    with pytest.raises(ModelError, match="not what the bundle's manifest lists"):
        check_parity(tmp_path / "b" / "model.tflite", Elsewhere())
    (tmp_path / "bad.tflite").write_bytes(b"no model")
    with pytest.raises(ModelError, match="not a TFLite file"):
        check_parity(tmp_path / "bad.tflite", Elsewhere())


def test_no_number_of_a_place_that_answers_otherwise(model: Path, tmp_path: Path) -> None:
    assert gate(model, "litert", Elsewhere(), work=tmp_path) is None
    assert "answers otherwise there" in str(gate(model, "litert", Elsewhere(_rows(_swap)), work=tmp_path))
    emulated = Elsewhere(measured_on="emulated")
    assert "edgepress device instructions" in str(gate(model, "litert", emulated, work=tmp_path)) and emulated.jobs == 0
    assert "cannot be compared with this machine's" in str(gate(model, "tflite_runtime", Elsewhere(), work=tmp_path))  # which is not installed: nothing is proven


def test_a_comparison_measures_no_place_that_must_not_be(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import contextlib

    from edgepress import comparing, op_profiles
    from edgepress.recipe import BenchmarkConfig

    for module in (comparing, op_profiles):
        monkeypatch.setattr(module, "hold", lambda name: contextlib.nullcontext(Elsewhere(measured_on="emulated")))
    config = BenchmarkConfig(target=("pi",), threads=(1,), runtimes=("litert",))
    with pytest.raises(ModelError, match="no latency worth printing"):
        comparing.self_check(model, config)
    with pytest.raises(UnsupportedError, match="nothing was measured of tiny.tflite in litert.*no latency worth printing"):
        comparing.compare_paths([model, model], gates=[], config=config)
    assert {p["status"] for p in op_profiles.profile_files([model], config)} == {"unsupported"}
    for measure in (lambda c: comparing.self_check(model, c), lambda c: op_profiles.profile_files([model], c)):
        with pytest.raises(RecipeError, match="accepted: without"):
            measure(BenchmarkConfig(accelerator=("cuda",)))


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Dict[str, Elsewhere]:
    """Places by name, in the place of registered devices."""
    import contextlib

    known: Dict[str, Elsewhere] = {}
    monkeypatch.setattr(device_use, "hold", lambda name: contextlib.nullcontext(known[name]))
    return known


def test_the_command_ends_with_4_where_a_device_differs(model: Path, places: Dict[str, Elsewhere]) -> None:
    from edgepress.errors import GateError

    places.update(good=Elsewhere(), bad=Elsewhere(_rows(_swap)))
    assert CliRunner().invoke(cli, ["device", "parity", "good", str(model)]).exit_code == 0
    done = CliRunner().invoke(cli, ["device", "parity", "good,bad", str(model), "--json"])
    assert isinstance(done.exception, GateError) and done.exception.exit_code == 4 and "on bad than here: exif_rotated.jpg" in str(done.exception)
    assert [report["passed"] for report in json.loads(done.stdout)] == [True, False]


def test_benchmark_prints_nothing_of_a_place_that_answers_otherwise(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import contextlib

    from edgepress.measurement import read_measurements
    from edgepress.recipe import BenchmarkConfig
    from edgepress.stages import benchmark

    class Lost:
        def __enter__(self) -> Any:
            raise DeviceError("nobody answers")

        def __exit__(self, *_: Any) -> None:
            pass

    known = {"good": Elsewhere(), "bad": Elsewhere(_rows(_swap)), "emulated": Elsewhere(measured_on="emulated"), "local": LocalConnection()}
    monkeypatch.setattr(benchmark, "hold", lambda name: contextlib.nullcontext(known[name]) if name in known else Lost())
    with pytest.raises(DeviceError, match="nobody answers"):
        benchmark.benchmark(tmp_path, model=model, config=BenchmarkConfig(target=("lost",)))
    benchmark.benchmark(tmp_path, model=model, config=BenchmarkConfig(target=("local", "good", "bad", "emulated", "lost"), threads=(1,), runtimes=("litert",), min_seconds=0.0, min_runs=2, max_seconds=0.2))
    records = {record.target: record for record in read_measurements(tmp_path)}
    assert all(records[name].status == "ok" and records[name].latencies_ms for name in ("local", "good")) and records["good"].measured_on == "real"
    assert records["lost"].status == "failed" and "nobody answers" in str(records["lost"].reason)
    assert {records[name].status for name in ("bad", "emulated")} == {"unsupported"} and not records["bad"].rounds and records["emulated"].measured_on == "emulated"
    assert "answers otherwise" in str(records["bad"].reason) and "emulated device" in str(records["emulated"].reason)


def test_evaluate_says_where_it_ran(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import contextlib

    from edgepress import scoring
    from edgepress.recipe import EvaluateConfig
    from edgepress.stages.evaluate import evaluate

    for label, color in (("red", (250, 0, 0)), ("green", (0, 250, 0)), ("blue", (0, 0, 250))):
        (tmp_path / "photos" / label).mkdir(parents=True)
        Image.new("RGB", (9, 9), color).save(tmp_path / "photos" / label / "1.png")
    place = Elsewhere(measured_on="emulated")
    monkeypatch.setattr(scoring, "hold", lambda name: contextlib.nullcontext(place))
    (tmp_path / "out").mkdir()
    evaluate(tmp_path / "out", model=model, dataset=tmp_path / "photos", config=EvaluateConfig(target="pi"))
    facts = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert facts["accuracy"] == 1.0 and facts["target"] == "pi" and facts["measured_on"] == "emulated" and place.jobs == 1
    assert facts["sha256"] == digest_file(model)
    write_json(tmp_path / "x.json", facts)  # it is plain JSON


def test_several_targets_are_used_at_the_same_time() -> None:
    import threading

    meeting = threading.Barrier(3, timeout=10)
    assert device_use.on_each(("a", "b", "a", "c"), lambda name: (meeting.wait(), name.upper())[1]) == ({"a": "A", "b": "B", "c": "C"}, None)
    assert device_use.split_targets(" pi, ,local ") == ("pi", "local")
    with pytest.raises(RecipeError, match="names no target"):
        device_use.split_targets(" , ")


def test_a_target_that_is_lost_costs_the_others_nothing(model: Path, tmp_path: Path) -> None:
    def work(name: str) -> str:
        if name in ("b", "d"):
            raise DeviceError(f"{name} is gone", "look at its cable")
        return name.upper()

    found, failure = device_use.on_each(("a", "b", "c", "d"), work)
    assert found == {"a": "A", "c": "C"} and str(failure) == "b is gone (and d: d is gone); look at its cable"
    done = CliRunner().invoke(cli, ["device", "parity", "local,ssh://pi@127.0.0.1:1", str(model)])
    assert "parity: passed" in done.output and "127.0.0.1" in str(done.exception)

"""Bounds are what they say, their parts add up, peaks are kept and only rise, sizes are bounded by entropy, published figures stand beside and are never mixed in."""
from __future__ import annotations

import dataclasses
import json
import lzma
import zlib
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
from click.testing import CliRunner

from edgepress import anchors, model_size, peaks
from edgepress.counters import Op, count_file
from edgepress.errors import JobError, ModelError, UnsupportedError
from edgepress.limits import Limit, bandwidth, explain, find_limits, node_group, sizes, utilization, weights
from edgepress.limits_text import format_limits
from edgepress.measurement import Measurement, Round, dump

TINY = Path(__file__).resolve().parent / "data"
RATES: Dict[str, Any] = {"schema": peaks.SCHEMA, "cpu": "?", "threads": 1, "busy": None, "macs_per_second": {"float32": 1e9, "int8": 4e9}, "rates": {"float32": {"numpy": 1e9}, "int8": {"litert": 4e9}},
                         "reached_by": {"float32": "numpy", "int8": "litert"}, "depthwise_macs_per_second": {"litert": {"float32": 2.5e8, "int8": 2.5e8}}, "seconds_per_operator": {"litert": 1e-7, "onnxruntime": 1e-6},
                         "level_bytes": {"L1": 1000, "L2": 10_000}, "bytes_per_second": {"L1": 1e10, "L2": 1e9, "memory": 1e8}}


@pytest.fixture()
def known_peaks(monkeypatch: pytest.MonkeyPatch) -> Dict[str, Any]:
    from edgepress.host import host_facts

    rates = {**RATES, "cpu": host_facts()["cpu"]}
    monkeypatch.setattr(peaks, "machine_peaks", lambda **options: rates)
    return rates


# ---- bounds

def test_the_level_that_holds_the_bytes_decides() -> None:
    assert [bandwidth(size, RATES) for size in (1000, 1001, 10_001)] == [1e10, 1e9, 1e8]


@pytest.mark.parametrize("shape, dtype, share", [((64, 32, 27), "float32", 1.0), ((64, 24, 27), "float32", 0.75), ((64, 32, 27), "int8", 27 / 28), ((1, 16, 8), "float32", 1.0), ((5, 16, 4), "int8", 5 / 8)])
def test_tiles_that_are_not_full(shape: tuple, dtype: str, share: float) -> None:
    assert utilization(Op("x", "CONV_2D", "convolution", dtype, macs=1, shape=shape), dtype) == pytest.approx(share)
    assert utilization(Op("x", "DEPTHWISE_CONV_2D", "depthwise", dtype, macs=1, shape=shape), dtype) == 1.0


def test_bounds_of_a_file_by_hand(known_peaks: Dict[str, Any]) -> None:
    """tiny_float.tflite: 3,480 MACs at 1e9 a second; every operator's bytes from the level that holds them."""
    [limit] = find_limits([TINY / "tiny_float.tflite"])
    assert limit.compute_ms == pytest.approx(3480 / 1e9 * 1e3)
    counts = count_file(TINY / "tiny_float.tflite")
    expected = sum(max(op.macs / 1e9, op.bytes / bandwidth(op.bytes, RATES)) for op in counts.ops)
    assert limit.roofline_ms == pytest.approx(1e3 * expected) and limit.compute_ms <= limit.roofline_ms <= limit.reachable_ms
    assert limit.status == "ok" and limit.measured_ms and limit.median_ms >= limit.measured_ms
    assert limit.share == pytest.approx(limit.roofline_ms / limit.measured_ms)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny_float.tflite", "tiny_int8.tflite", "tiny_float.onnx"])
def test_the_parts_of_the_gap_add_up(known_peaks: Dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("edgepress.limits.SHOWN", 0.0)
    [limit] = find_limits([TINY / name])
    assert limit.roofline_ms + sum(part["ms"] for part in limit.gap) == pytest.approx(limit.measured_ms, rel=1e-6)
    assert {part["how"] for part in limit.gap} <= {"estimated", "measured", "the rest"}
    assert any("decoding and resizing" in note for note in limit.notes)
    if name.endswith("onnx"):
        assert {"transposes and copies", "between the nodes: dispatch, inputs and outputs"} <= {part["what"] for part in limit.gap}


def test_what_stands_out_is_said() -> None:
    counts = count_file(TINY / "tiny_float.tflite")
    bounds = [{"compute": 1e-6, "roofline": 1e-6, "reachable": 1e-6, "kernel": 1e-6, "memory": 0.0, "dispatch": 0.0} for _ in counts.ops]
    base = Limit(file="m", runtime="litert", threads=1, counts=counts.summary(), compute_ms=1.0, roofline_ms=1.0, reachable_ms=1.0, measured_ms=10.0, median_ms=10.0)

    def notes(rates: Dict[str, Any] = RATES, **changes: Any) -> str:
        return "\n".join(explain(dataclasses.replace(base, **changes), counts, bounds, None, rates)[1])
    assert "only 10% of the roofline" in notes() and "roofline" not in notes(measured_ms=2.0)
    assert "only" not in notes(roofline_ms=0.001, measured_ms=0.5)  # so small that handing it over is the work
    assert "faster than its bound" in notes(measured_ms=0.5) and "other programs used 40%" in notes({**RATES, "busy": 0.4})
    assert "outside the delegate: CUSTOM:Foo 2" in notes(details={"operators": {"CONV_2D": 1}, "delegate": "XNNPACK", "not_delegated": {"CUSTOM:Foo": 2}})
    assert "no operator runs in XNNPACK" in notes(details={"operators": {"CONV_2D": 1}, "delegate": None, "not_delegated": {"CONV_2D": 1}})


def test_nodes_of_onnxruntime_have_groups() -> None:
    assert [node_group(kind) for kind in ("FusedConv", "QLinearConv", "QGemm", "DynamicQuantizeMatMul", "QuantizeLinear", "ReorderOutput", "Softmax", "QLinearAdd")] == \
        ["convolution", "convolution", "dense", "dense", "conversion", "movement", "elementwise", "elementwise"]


@pytest.mark.slow
def test_measurements_at_hand_are_used(known_peaks: Dict[str, Any], tmp_path: Path) -> None:
    from edgepress.artifact import digest_file

    file = TINY / "tiny_int8.tflite"
    record = Measurement(file=str(file), sha256=digest_file(file), format="tflite", size_bytes=1, gzip_bytes=1, runtime="litert", threads=1, host={"cpu": known_peaks["cpu"]},
                         rounds=(Round((7.0, 9.0, 8.0), 1.0, 1.0, 1.0, 1),))
    [limit] = find_limits([file], measurements=[record])
    assert (limit.measured_ms, limit.median_ms) == (7.0, 8.0)
    for other in ({"sha256": "0" * 64}, {"target": "pi"}, {"host": {"cpu": "another"}}):
        [limit] = find_limits([file], measurements=[dataclasses.replace(record, **other)])
        assert limit.measured_ms < 7.0, other


def test_a_file_that_does_not_run_has_bounds_and_a_reason(known_peaks: Dict[str, Any]) -> None:
    [limit] = find_limits([TINY / "tiny_float.onnx"], runtime="litert")
    assert limit.status != "ok" and limit.reason and limit.measured_ms is None and limit.share is None and limit.roofline_ms > 0
    assert limit.reason in format_limits([limit])


# ---- peaks

@pytest.mark.slow
def test_peaks_of_this_machine_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRESS_HOME", str(tmp_path))
    monkeypatch.setattr(peaks, "SECONDS", 0.02)
    measured = peaks.machine_peaks()
    assert measured["macs_per_second"]["float32"] > 1e8 and measured["macs_per_second"]["int8"] > 1e8
    assert measured["cpu"] and measured["rates"]["float32"].keys() >= {"numpy", "litert", "onnxruntime"}
    assert set(measured["bytes_per_second"]) == {*measured["level_bytes"], "memory"} and min(measured["bytes_per_second"].values()) > 1e8
    assert 0 < measured["seconds_per_operator"]["litert"] < 1e-4
    [file] = (tmp_path / "peaks").iterdir()
    kept = {**json.loads(file.read_text()), "busy": None, "versions": {"marked": "1"}}
    file.write_text(json.dumps(kept))
    assert peaks.machine_peaks()["versions"] == {"marked": "1"}  # read, not measured
    file.write_text("half a fi")
    monkeypatch.setattr(peaks, "_measure_in_child", lambda threads: RATES)
    assert peaks.machine_peaks() == RATES and json.loads(file.read_text()) == RATES


def test_peaks_only_rise() -> None:
    slow = {**RATES, "busy": 0.6, "rates": {"float32": {"numpy": 5e8, "litert": 2e9}, "int8": {"litert": 1e9}}, "bytes_per_second": {"L1": 2e10, "L2": 1, "memory": 1}, "seconds_per_operator": {"litert": 1.0},
            "depthwise_macs_per_second": {"litert": {"float32": 1.0, "int8": 9e9}}}
    both = peaks.best_of(slow, RATES)
    assert both["macs_per_second"] == {"float32": 2e9, "int8": 4e9} and both["reached_by"] == {"float32": "litert", "int8": "litert"}
    assert both["bytes_per_second"] == {"L1": 2e10, "L2": 1e9, "memory": 1e8} and both["seconds_per_operator"] == {"litert": 1e-7}
    assert both["depthwise_macs_per_second"] == {"litert": {"float32": 2.5e8, "int8": 9e9}} and both["busy"] is None
    assert peaks.best_of(slow, {**RATES, "busy": 0.2})["busy"] == 0.2 and peaks.best_of(slow, None) == slow


def test_peaks_of_a_busy_machine_are_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRESS_HOME", str(tmp_path))
    results = [{**RATES, "busy": 0.5}, RATES]
    monkeypatch.setattr(peaks, "_measure_in_child", lambda threads: results.pop(0))
    assert peaks.machine_peaks()["busy"] == 0.5
    assert peaks.machine_peaks()["busy"] is None
    assert peaks.machine_peaks()["busy"] is None and not results


def test_a_process_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRESS_HOME", str(tmp_path))
    monkeypatch.setattr(peaks.sys, "executable", "/bin/false")
    with pytest.raises(JobError, match="could not be measured"):
        peaks.machine_peaks()
    assert not (tmp_path / "peaks").exists()


# ---- sizes

def test_entropy_is_below_what_compressors_of_single_values_reach() -> None:
    random = np.random.default_rng(0)
    dense = np.clip(np.rint(random.normal(0, 30, 200_000)), -127, 127).astype(np.int8)
    sparse = np.where(random.random(200_000) < 0.5, 0, dense).astype(np.int8)
    for values in (dense, sparse):
        bound = model_size.entropy_bytes([values])
        packed = min(len(zlib.compress(values.tobytes(), 9)), len(lzma.compress(values.tobytes())))
        assert bound <= packed <= 1.1 * bound
    assert model_size.entropy_bytes([sparse]) < 0.8 * model_size.entropy_bytes([dense])
    assert model_size.entropy_bytes([np.zeros(1000, np.int8)]) == 0 and model_size.entropy_bytes([]) == 0
    assert model_size.entropy_bytes([np.arange(256, dtype=np.uint8)]) == 256
    floats = random.normal(0, 1, 100_000).astype(np.float32)
    assert 0.8 * floats.nbytes < model_size.entropy_bytes([floats]) <= len(lzma.compress(floats.tobytes()))  # byte by byte: the exponents are alike


@pytest.mark.parametrize("name", ["tiny_float.tflite", "tiny_int8.tflite", "tiny_float.onnx"])
def test_sizes_of_a_file(name: str) -> None:
    file = TINY / name
    found = sizes(file, count_file(file))
    assert found["file"] == file.stat().st_size and found["gzip"] == len(zlib.compress(file.read_bytes(), 9, 31)) and 0 < found["xz"] < found["file"]
    assert found["weights"] == sum(a.nbytes for a in weights(file)) and 0 < found["entropy"] <= found["weights"]
    assert found["entropy"] < found["entropy_bound"] < found["file"]
    assert found["zstd"] is None or 0 < found["zstd"] < found["file"]


def test_everything_but_the_weights(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    array = random.integers(-128, 128, 5000).astype(np.int8)
    (tmp_path / "file").write_bytes(b"head" * 50 + array.tobytes() + b"tail" * 50)
    assert model_size.rest_bytes(tmp_path / "file", [array]) < 300 and model_size.rest_bytes(tmp_path / "file", [array + np.int8(1)]) > 5000


def test_weights_are_the_files_own(tmp_path: Path) -> None:
    kernel = next(a for a in weights(TINY / "tiny_int8.tflite") if a.size == 216)
    assert kernel.dtype == np.int8 and np.abs(kernel.astype(int)).max() == 127


# ---- published figures

def test_every_anchor_has_its_source() -> None:
    found = anchors.load_anchors()
    assert len(found) > 40 and all(a.ms > 0 and a.url.startswith("https://") and a.date and a.threads >= 1 and a.device for a in found)
    known = anchors._document()["models"]
    assert {a.model for a in found} <= set(known)


@pytest.mark.parametrize("macs, model", [(300_774_272, "mobilenet_v2_1.0_224"), (299_500_672, "mobilenet_v2_1.0_224"), (568_740_352, "mobilenet_v1_1.0_224"), (3_857_973_248, "resnet50_224"),
                                         (4_089_000_000, "resnet50_224"), (280_000_000, None), (3480, None)])
def test_networks_are_recognized_by_their_work(macs: int, model: str) -> None:
    assert anchors.recognize({"macs": macs}) == model


COUNTS = {"macs": 300_774_272, "dtype": "int8"}
PI4 = {"board": "Raspberry Pi 4 Model B Rev 1.4", "bits": 64, "governor": "ondemand"}


def test_a_file_as_fast_as_published_has_one_line() -> None:
    lines = anchors.describe(COUNTS, ms=18.0, threads=4, host=PI4, details={"delegate": "XNNPACK", "not_delegated": {}})
    assert len(lines) == 1 and "17 ms on Raspberry Pi 4" in lines[0] and "here 1.06 times that" in lines[0] and "github.com/google/XNNPACK" in lines[0]


def test_a_slow_file_gets_its_causes_checked() -> None:
    lines = anchors.describe(COUNTS, ms=60.0, threads=1, host={**PI4, "bits": 32}, details={"delegate": None, "not_delegated": {"CONV_2D": 50}}, caveats=("throttling",))
    assert "here 3.53 times that" in lines[0]
    said = {line.strip().partition("?")[0]: line for line in lines[1:]}
    for what in ("a 32-bit system", "another number of threads", "no XNNPACK", "heavy operators outside XNNPACK", "a frequency governor that saves power", "throttling by heat or by the power supply"):
        assert "? yes: " in said[what], what
    quiet = anchors.describe(COUNTS, ms=60.0, threads=4, host={**PI4, "governor": "performance"}, details={"delegate": "XNNPACK", "not_delegated": {"CAST": 1}})
    said = {line.strip().partition("?")[0]: line for line in quiet[1:]}
    assert said["a 32-bit system"].endswith("? no") and said["no XNNPACK"].endswith("? no") and said["heavy operators outside XNNPACK"].endswith("? no") and "not known" in said["other programs at work"]


def test_other_boards_and_unknown_networks() -> None:
    [line] = anchors.describe(COUNTS, ms=3.0, threads=1, host={"board": None}, details={})
    assert "published for other machines" in line and "Raspberry Pi 5" in line and "none for this one" in line
    assert anchors.describe({"macs": 1, "dtype": "int8"}, ms=3.0, threads=1, host=PI4, details={}) == []


def test_a_devices_own_bench_is_held_against_what_was_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepress.counters.count_file", lambda path: type("Counts", (), {"summary": lambda self: COUNTS})())

    def part(threads: int, ms: float, valid: bool = True) -> Dict[str, Any]:
        return {"threads": threads, "status": "ok", "rounds": [{"valid": valid, "governor": "powersave", "latencies_ms": [ms, ms], "details": {"delegate": None, "not_delegated": {"CONV_2D": 9}}}]}
    document = {"file": str(tmp_path / "model.tflite"), "device": PI4, "inference": [part(1, 80.0), part(4, 40.0)]}
    lines = anchors.bench_lines(document)
    assert "17 ms on Raspberry Pi 4" in lines[0] and "here 2.35 times that" in lines[0] and any("no XNNPACK? yes" in line for line in lines) and any("governor that saves power? yes" in line for line in lines)
    assert anchors.bench_lines({**document, "inference": [part(1, 80.0, valid=False)]}) == [] and anchors.bench_lines({**document, "file": "model.keras"}) == []


# ---- the command

@pytest.mark.slow
def test_the_command(known_peaks: Dict[str, Any], tmp_path: Path) -> None:
    from edgepress.cli import cli

    files: List[str] = [str(TINY / "tiny_int8.tflite"), str(TINY / "tiny_float.onnx")]
    text = CliRunner().invoke(cli, ["limits", *files, "--ops"])
    assert text.exit_code == 0 and "of roofline" in text.output and "CONV_2D" in text.output and "limited by" in text.output
    (tmp_path / "measurements.json").write_text(dump([]))
    done = CliRunner().invoke(cli, ["limits", *files, "--json", "--measurements", str(tmp_path / "measurements.json")])
    document = json.loads(done.stdout)
    assert [entry["runtime"] for entry in document] == ["litert", "onnxruntime"] and all(0 < entry["share_of_roofline"] for entry in document)
    with pytest.raises(ModelError, match="does not exist"):
        CliRunner().invoke(cli, ["limits", "nowhere.onnx"], catch_exceptions=False)
    with pytest.raises(UnsupportedError, match="nothing was measured"):
        CliRunner().invoke(cli, ["limits", files[1], "--runtime", "litert"], catch_exceptions=False)

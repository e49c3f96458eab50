"""benchmark_model on a device: what it prints and writes is read, distrusted and turned into records; a stand-in program really runs the tiny files."""
from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Mapping, Sequence

import pytest

from edgepress import android_facts, benchmark_output
from edgepress.android_benchmark import Plan, opened_model, run_benchmark_model
from edgepress.artifact import digest_file
from edgepress.errors import ArtifactError, DeviceError, ModelError, UnsupportedError
from edgepress.measurement import dump, read_measurements
from edgepress.recipe import BundleConfig
from edgepress.stages.bundle import bundle
from edgepress.targets.base import Completed
from edgepress.targets.local import LocalConnection

pytestmark = pytest.mark.slow

HERE = Path(__file__).resolve().parent
MODEL = HERE / "data" / "tiny_int8.tflite"
QUICK = Plan(rounds=2, min_runs=5, min_seconds=0.0, cool_down_seconds=0.0)
CLASSIC = """INFO: STARTING!
count=3 curr=1500 first=1500
count=50 first=1213 curr=1190 min=1180 max=1400 avg=1201.5 std=31 p5=1181 median=1195 p95=1290
INFO: Inference timings in us: Init: 5120, First inference: 1501, Warmup (avg): 1402.3, Inference (avg): 1201.5
"""
BLOCK = """
========== BENCHMARK RESULTS ==========
Model initialization: 12.40 ms
Warmup (first):       2.31 ms
Warmup (avg):         2.00 ms (3 runs)
Inference (avg):      1.25 ms (800 runs)
Inference (min):      1.20 ms
Inference (max):      1.90 ms
Inference (std):      0.03
Throughput:           120.00 MB/s

Memory Usage:
Init footprint:       3.00 MB
Overall footprint:    4.50 MB
Peak memory:          9.25 MB
======================================
"""
BATTERY = "Current Battery Service state:\n  AC powered: false\n  USB powered: true\n  level: 85\n  scale: 100\n  temperature: 305\n"
THERMAL = """IsStatusOverride: false
Thermal Status: {status}
Cached temperatures:
\tTemperature{{mValue=99.0, mType=0, mName=OLD, mStatus=0}}
Current temperatures from HAL:
\tTemperature{{mValue=41.5, mType=0, mName=CPU0, mStatus=0}}
\tTemperature{{mValue=-274.0, mType=5, mName=usbc-therm, mStatus=0}}
\tTemperature{{mValue=33.2, mType=3, mName=skin, mStatus=0}}
Current cooling devices from HAL:
\tCoolingDevice{{mValue=100, mType=2, mName=fan}}
"""


# ---- what the tool prints and writes

def message(*fields: Any) -> bytes:
    data = b""
    for number, value in fields:
        if isinstance(value, bytes):
            data += bytes([number << 3 | 2, len(value)]) + value
        elif isinstance(value, float):
            data += bytes([number << 3 | 5]) + struct.pack("<f", value)
        else:
            data += bytes([number << 3, value])
    return data


def result(**changes: float) -> bytes:
    latency = {1: 1.2015, 2: 1.18, 3: 1.4, 4: 0.031, 5: 1.195, 6: 1.181, 7: 1.29, 8: 5.12, 9: 1.5, 10: 1.4, **{int(k[1:]): v for k, v in changes.items()}}
    return message((1, message(*((n, float(v)) for n, v in latency.items()))), (2, message((1, 100), (2, 101), (3, 9.25))), (3, message((1, 0.5), (2, 50), (3, 3))))


def test_classic_text() -> None:
    assert benchmark_output.parse_text(CLASSIC) == pytest.approx({"init_ms": 5.12, "first_ms": 1.501, "warmup_ms": 1.4023, "avg_ms": 1.2015, "runs": 50, "min_ms": 1.18, "max_ms": 1.4, "stddev_ms": 0.031,
                                                    "p5_ms": 1.181, "median_ms": 1.195, "p95_ms": 1.29})


def test_block_text() -> None:
    assert benchmark_output.parse_text(BLOCK) == {"init_ms": 12.4, "first_ms": 2.31, "warmup_ms": 2.0, "avg_ms": 1.25, "runs": 800, "min_ms": 1.2, "max_ms": 1.9, "stddev_ms": 0.03, "peak_mb": 9.25}


def test_result_file() -> None:
    found = benchmark_output.parse_result(result())
    assert found["median_ms"] == pytest.approx(1.195) and found["p95_ms"] == pytest.approx(1.29) and found["init_ms"] == pytest.approx(5.12)
    assert found["peak_mb"] == 9.25 and found["runs"] == 50 and found["overall_footprint_kb"] == 101
    benchmark_output.agree(found, benchmark_output.parse_text(CLASSIC))
    with pytest.raises(DeviceError, match="not of one run"):
        benchmark_output.agree(found, benchmark_output.parse_text(BLOCK))


@pytest.mark.parametrize("data, message", [
    (b"", "no average"), (result(n1=float("nan")), "finite|is nan"), (result(n5=1e30), "accepted"), (result(n2=-1.0), "accepted"), (result(n5=9.0), "no order"),
    (result()[:20], "damaged"), (b"\xff" * 12, "damaged"), (b"\x0f\x00", "damaged"), (b"\x00" * (benchmark_output.MAX_BYTES + 1), "accepted: up to")])
def test_impossible_result_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        benchmark_output.parse_result(data)


@pytest.mark.parametrize("text", ["", "Killed\n", CLASSIC.replace("(avg): 1201.5", "(avg): nan"), CLASSIC.replace("(avg): 1201.5", "(avg): -3"), BLOCK.replace("1.25 ms", "many ms")])
def test_text_without_a_result_is_refused(text: str) -> None:
    with pytest.raises(DeviceError):
        benchmark_output.parse_text(text)


def test_every_mutation_of_a_result_file_is_read_or_refused() -> None:
    """2,000 damaged files: numbers within limits, or a DeviceError; nothing else."""
    import random

    generator, data = random.Random(0), result()
    for _ in range(2000):
        damaged = bytearray(data)
        for _ in range(generator.randint(1, 4)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        try:
            assert all(0 <= value <= 1e9 for value in benchmark_output.parse_result(bytes(damaged[:generator.randint(1, len(data))])).values())
        except DeviceError:
            pass


# ---- what a phone says about itself

def test_cores_are_grouped_by_speed() -> None:
    cores = android_facts.parse_cores("0 1800000\n1 1800000\n4 2400000\n7 3000000\nrubbish\n")
    assert [(c.name, c.cpus, c.mask) for c in cores] == [("all", (0, 1, 4, 7), None), ("little", (0, 1), "3"), ("middle", (4,), "10"), ("big", (7,), "80")]
    assert [c.name for c in android_facts.parse_cores("0 1800000\n1 1800000\n")] == ["all"]
    with pytest.raises(UnsupportedError, match="all of one kind"):
        android_facts.choose_cores(android_facts.parse_cores("0 5\n"), "big")


def test_battery_and_heat() -> None:
    assert android_facts.parse_battery(BATTERY) == {"charge_percent": 85, "temperature_c": 30.5, "powered_by": "usb"}
    hot = android_facts.parse_thermal(THERMAL.format(status=3))
    assert hot == {"status": 3, "status_name": "severe", "temperatures_c": {"CPU0": 41.5, "skin": 33.2}}  # -274 is "no sensor", the cached one is old
    assert android_facts.is_throttled({"thermal": hot, "battery": None}) and android_facts.hottest_c({"thermal": hot, "battery": None}) == 41.5
    assert android_facts.parse_battery("") is None and android_facts.parse_thermal("can't find service") is None


def test_a_program_for_another_processor_is_refused() -> None:
    arm = b"\x7fELF" + bytes(14) + (183).to_bytes(2, "little")
    assert android_facts.machine_of(arm) == "aarch64" and android_facts.machine_of(b"#!/bin/sh") is None
    if os.uname().machine != "aarch64":
        with pytest.raises(DeviceError, match="built for aarch64, the device is"):
            android_facts.check_machine(arm, LocalConnection(), file="benchmark_model")


# ---- the whole way, with the stand-in

class Phone(LocalConnection):
    """This machine with Android's commands beside it."""

    address = "adb://stand-in"

    def __init__(self, folder: Path, *, statuses: Sequence[int] = (0,), measured_on: str = "real") -> None:
        self.measured_on, self.calls = measured_on, []
        folder.mkdir()
        (folder / "status").write_text("\n".join(map(str, statuses)))
        script = f'''#!/bin/sh
case "$1" in battery) cat <<'X'
{BATTERY}X
;; thermalservice) s=$(head -n1 {folder}/status); [ $(wc -l < {folder}/status) -gt 0 ] && sed -i 1d {folder}/status
cat <<X
{THERMAL.format(status="$s")}X
;; esac
'''
        for name, text in (("dumpsys", script), ("getprop", "#!/bin/sh\necho \"Pixel $1\"\n")):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        self.path = f"{folder}{os.pathsep}{os.environ['PATH']}"

    def run(self, command: Sequence[str], *, environment: Mapping[str, str], timeout_seconds: float) -> Completed:
        self.calls.append(list(command))
        done = subprocess.run(["env", f"PATH={self.path}", *command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_seconds, check=False)
        return Completed(done.returncode, done.stdout, done.stderr)


def stand_in(folder: Path, *, style: str = "classic", broken: str = "", python: str = sys.executable) -> Path:
    path = folder / "benchmark_model"
    path.write_text(f"#!{python}\n{(HERE / 'stand_ins' / 'benchmark_model.py').read_text()}\n\nsys.exit(main({style!r}, {broken!r}))\n")
    return path


def test_a_file_becomes_records(tmp_path: Path) -> None:
    phone, runner = Phone(tmp_path / "bin"), stand_in(tmp_path)
    records = run_benchmark_model(phone, runner, MODEL, plan=Plan(threads=(1, 2), rounds=2, min_runs=5, min_seconds=0.0))
    assert [(r.runtime, r.threads, r.status, r.measured_on, r.target) for r in records] == [("benchmark_model", n, "ok", "real", "adb://stand-in") for n in (1, 2)]
    first = records[0]
    assert first.details["runner"] == {"name": "benchmark_model", "sha256": digest_file(runner), "size_bytes": runner.stat().st_size}
    assert first.details["parity"]["passed"] and first.details["parity"]["largest_difference"] == 0 and first.details["delegate"] == "XNNPACK"
    assert len(first.rounds) == 2 and first.latencies_ms == [p["median_ms"] for p in first.details["processes"]] and "median of its timed runs" in first.timed
    assert first.details["processes"][0]["runs"] >= 5 and first.rounds[0].temperature_c == 41.5 and first.host["model"] == "Pixel ro.product.model"
    assert first.sha256 == digest_file(MODEL) and first.load_ms > 0
    (tmp_path / "measurements.json").write_text(dump(records))
    assert read_measurements(tmp_path / "measurements.json") == records
    assert not [name for name in os.listdir(tmp_path) if name.startswith("benchmark-model-")]


def test_cores_are_pinned_with_taskset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phone = Phone(tmp_path / "bin")
    monkeypatch.setattr(android_facts, "list_cores", lambda connection: android_facts.parse_cores("0 100\n1 200\n"))
    [record] = run_benchmark_model(phone, stand_in(tmp_path), MODEL, plan=Plan(cores=("little",), rounds=1, min_runs=3, min_seconds=0.0))
    assert record.status == "ok" and record.details["cores"] == {"name": "little", "cpus": [0], "mask": "1"}
    assert any(call[:2] == ["taskset", "1"] for call in phone.calls)


def test_the_newer_tool_is_read_and_its_parity_is_said_to_be_unknown(tmp_path: Path) -> None:
    [record] = run_benchmark_model(Phone(tmp_path / "bin"), stand_in(tmp_path, style="block", broken="no_file"), MODEL, plan=QUICK)
    assert record.status == "ok" and "mean of its timed runs" in record.timed and record.details["processes"][0]["avg_ms"] == record.latencies_ms[0]
    assert record.details["parity"]["checked"] is False and "--output_filepath" in record.details["parity"]["reason"]


def test_no_figure_where_the_device_answers_otherwise(tmp_path: Path) -> None:
    [record] = run_benchmark_model(Phone(tmp_path / "bin"), stand_in(tmp_path, broken="wrong"), MODEL, plan=QUICK)
    assert record.status == "failed" and "answers otherwise" in record.reason and not record.rounds and not record.details["processes"]


@pytest.mark.parametrize("broken, reason", [("stale", "not of one run"), ("dies", "exit code 7")])
def test_a_run_that_cannot_be_trusted_fails(tmp_path: Path, broken: str, reason: str) -> None:
    [record] = run_benchmark_model(Phone(tmp_path / "bin"), stand_in(tmp_path, broken=broken), MODEL, plan=QUICK)
    assert record.status == "failed" and reason in record.reason and not record.rounds


def test_the_gpu_is_reported_only_where_the_tool_applied_it(tmp_path: Path) -> None:
    gpu = Plan(accelerator="gpu", rounds=1, min_runs=3, min_seconds=0.0)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    [with_gpu] = run_benchmark_model(Phone(tmp_path / "bin"), stand_in(tmp_path / "a"), MODEL, plan=gpu)
    [without] = run_benchmark_model(Phone(tmp_path / "bin2"), stand_in(tmp_path / "b", broken="no_gpu"), MODEL, plan=gpu)
    assert with_gpu.status == "ok" and with_gpu.accelerator == "gpu" and with_gpu.details["delegate"] == "GPU (completely)"
    assert without.status == "failed" and "CPU would have been measured" in without.reason


def test_throttled_rounds_are_kept_as_invalid_and_repeated(tmp_path: Path) -> None:
    # one line is taken by each reading: before and after every process
    [record] = run_benchmark_model(Phone(tmp_path / "bin", statuses=(0, 3, 0, 0, 0)), stand_in(tmp_path), MODEL, plan=Plan(rounds=1, min_runs=3, min_seconds=0.0, cool_down_seconds=0.0))
    assert record.status == "ok" and len(record.rounds) == 1 and [one["reason"] for one in record.details["invalid_runs"]] == ["thermal status severe"]
    [always] = run_benchmark_model(Phone(tmp_path / "bin2", statuses=(3,) * 20), stand_in(tmp_path), MODEL, plan=Plan(rounds=1, min_runs=3, min_seconds=0.0, cool_down_seconds=0.0))
    assert always.status == "failed" and "throttled in 3 runs" in always.reason


def test_an_emulated_device_is_compared_but_not_timed(tmp_path: Path) -> None:
    [record] = run_benchmark_model(Phone(tmp_path / "bin", measured_on="emulated"), stand_in(tmp_path), MODEL, plan=QUICK)
    assert record.status == "unsupported" and record.measured_on == "emulated" and "milliseconds mean nothing; its answers agree: 4 inputs, largest difference 0 " in record.reason and record.details["parity"]["passed"]


def test_golden_photos_of_a_bundle_are_the_check(tmp_path: Path) -> None:
    from stages.test_bundle import make_run

    made = tmp_path / "made"
    made.mkdir()
    bundle(made, run=make_run(tmp_path), config=BundleConfig(choose="static_wi8_ai8.tflite"))
    folder = made / "bundle"
    [record] = run_benchmark_model(Phone(tmp_path / "bin"), stand_in(tmp_path), folder / "model.tflite", plan=QUICK, bundle=folder)
    assert record.status == "ok" and record.details["parity"]["passed"] and "golden photos" in record.details["parity"]["source"]
    with opened_model(folder) as (model, found), opened_model(MODEL) as alone:
        assert (model, found) == (folder / "model.tflite", folder) and alone == (MODEL, None)
    with pytest.raises(ArtifactError, match="does not exist"), opened_model(tmp_path / "nothing.zip"):
        pass


@pytest.mark.parametrize("change, error, message", [
    ({"runner": Path("nowhere/benchmark_model")}, DeviceError, "does not exist"), ({"model": HERE / "data" / "tiny_float.onnx"}, ModelError, "no .tflite file"),
    ({"runner_sha256": "0" * 64}, DeviceError, "was asked for"), ({"plan": Plan(accelerator="gpo")}, UnsupportedError, "did you mean 'gpu'")])
def test_wrong_input_is_refused_before_anything_is_pushed(tmp_path: Path, change: Dict[str, Any], error: type, message: str) -> None:
    phone = Phone(tmp_path / "bin")
    given = {"runner": stand_in(tmp_path), "model": MODEL, **change}
    with pytest.raises(error, match=message):
        run_benchmark_model(phone, given.pop("runner"), given.pop("model"), **given)
    assert not phone.calls


def test_the_command(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from edgepress.cli import cli

    done = CliRunner().invoke(cli, ["device", "bench", "local", str(MODEL), "--runner", str(stand_in(tmp_path)), "--min-seconds", "0", "--threads", "1,2", "-o", str(tmp_path / "m.json")])
    assert done.exit_code == 0 and "benchmark_model" in done.output, done.output
    assert [r.threads for r in read_measurements(tmp_path / "m.json")] == [1, 2]


@pytest.mark.device
def test_on_the_emulated_device_over_adb(tmp_path: Path, emulated_pi: Any) -> None:
    from edgepress.targets import connect

    connection = connect(emulated_pi.adb_address)
    try:
        [record] = run_benchmark_model(connection, stand_in(tmp_path, python="/usr/bin/python3"), MODEL, plan=QUICK)
    finally:
        connection.close()
    assert record.measured_on == "emulated" and record.status == "unsupported" and record.details["parity"]["passed"], record
    assert record.details["parity"]["largest_difference"] == 0  # int8 in LiteRT is bit for bit the same on both processors

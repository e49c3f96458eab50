"""A device's figures: what its firmware says, which rounds count, what is shown. vcgencmd is a stand-in script; the worker and the files are real."""
from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
from click.testing import CliRunner
from test_parity import SPEC, Elsewhere, _rows, _swap

from edgepress import device_bench, power
from edgepress.cli import cli
from edgepress.device_bench import Plan, chart, disturbance, format_bench, measure_device, sustained_facts
from edgepress.errors import GateError, UnsupportedError
from edgepress.modelspec import to_json

pytestmark = pytest.mark.slow

DATA = Path(__file__).resolve().parent / "data"
# Three of the rails that `vcgencmd pmic_read_adc` of a Raspberry Pi 5 prints, and two lines without a partner.
RAILS = """\
     3V7_WL_SW_A current(0)=0.01073552A
        VDD_CORE_A current(7)=2.00000000A
     3V7_WL_SW_V volt(8)=3.70000000V
        VDD_CORE_V volt(15)=0.75000000V
           EXT5V_V volt(24)=5.13410000V
            BATT_V volt(25)=0.00000000V
"""
FAST = Plan(threads=(1,), rounds=2, min_runs=3, min_seconds=0.02, max_seconds=0.3, cool_down_seconds=7.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny float classifier of photos."""
    folder = tmp_path_factory.mktemp("model")
    shutil.copy(DATA / "tiny_float.tflite", folder / "tiny.tflite")
    (folder / "tiny.tflite.model.json").write_text(to_json(SPEC))
    return folder / "tiny.tflite"


@pytest.fixture
def vcgencmd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a script in the place of vcgencmd: a function from its text to nothing."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def install(script: str) -> None:
        (tmp_path / "bin" / "vcgencmd").write_text("#!/bin/sh\n" + script)
        (tmp_path / "bin" / "vcgencmd").chmod(0o755)
    return install


def test_the_firmwares_bits_in_words() -> None:
    assert power.throttle_words(0x50005) == ["under-voltage", "throttled"] and power.throttle_words(None) == power.throttle_words(0) == []
    assert power.throttled_between(0x0, 0x0) == power.throttled_between(0x50000, 0x50000) == power.throttled_between(None, 0x5) == []
    assert power.throttled_between(0x0, 0x20000) == ["the clock is capped"]  # it came and went between the two readings
    assert power.throttled_between(0x80008, 0x80000) == ["soft temperature limit"]  # it was so at the start
    assert power.throttled_between(0x10000, 0x50004) == ["throttled"]


def test_rails_with_current_and_voltage_count() -> None:
    assert power.parse_rails(RAILS) == pytest.approx({"3V7_WL_SW": 0.0397214, "VDD_CORE": 1.5}, abs=1e-6)
    assert power.parse_rails("VDD_CPU_V=0.9V\nVDD_CPU_A=0.5A\n") == pytest.approx({"VDD_CPU": 0.45}) and power.parse_rails("error=1 error_msg=\"Command not registered\"") == {}


def test_the_command_is_asked(vcgencmd: Any, tmp_path: Path) -> None:
    (tmp_path / "rails").write_text(RAILS)
    vcgencmd(f'case $1 in get_throttled) echo "throttled=0x50004";; pmic_read_adc) cat {tmp_path}/rails;; esac')
    assert power.throttled() == 0x50004 and power.watts() == pytest.approx(1.5397, abs=1e-3)
    vcgencmd("echo VCHI initialization failed; exit 255")
    assert power.throttled() is None and power.watts() is None


def test_without_the_command_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert power.throttled() is None and power.watts() is None


def test_energy_is_what_work_adds() -> None:
    facts = power.energy_facts([2.0, 2.2, 1.8], [5.0, 5.0], runs=100, seconds=10.0)
    assert facts["joules_per_inference"] == pytest.approx((5.0 - 2.0) * 10 / 100) and "idle" in facts["method"].replace("at rest", "idle") and facts["scope"]


@pytest.mark.parametrize(("change", "reason"), [
    ({}, None),
    ({"throttled": 0, "throttled_after": 0x40000}, "the firmware reports throttled"),
    ({"state_after": {"clock_mhz": 1500.0}}, "the clock fell from 1800 to 1500 MHz"),
    ({"state_after": {"clock_mhz": 1700.0}}, None),
    ({"state_after": {"clock_mhz": None}}, None),
])
def test_what_disturbs_a_round(change: Dict[str, Any], reason: Any) -> None:
    assert disturbance({"throttled": None, "throttled_after": None, "state": {"clock_mhz": 1800.0}, "state_after": {"clock_mhz": 1800.0}, **change}) == reason


def test_everything_about_a_file_on_a_device(model: Path, tmp_path: Path) -> None:
    document = measure_device(model, Elsewhere(), Plan(**{**vars(FAST), "threads": (1, 2), "sustained_minutes": 0.03, "energy_seconds": 0.2}), target="pi", raw=tmp_path / "raw.npy")
    assert document["parity"]["passed"] and document["target"] == "pi" and document["measured_on"] == "real"
    assert [part["threads"] for part in document["inference"]] == [1, 2] and all(len(part["rounds"]) == 2 and part["status"] == "ok" for part in document["inference"])
    end = document["end_to_end"]["rounds"][0]
    assert end["photos"] == 7 and len(end["latencies_ms"]) == len(end["decode_ms"]) >= 3
    assert end["latencies_ms"][0] == pytest.approx(end["decode_ms"][0] + end["resize_ms"][0] + end["inference_ms"][0], abs=1e-3)
    rows = np.load(tmp_path / "raw.npy")
    assert rows.shape[1] == 2 and (np.diff(rows[:, 0]) >= 0).all() and len(rows) == document["sustained"]["raw_kept"] <= document["sustained"]["runs"] == sum(w["runs"] for w in document["sustained"]["windows"])
    assert "no power sensor" in document["energy"]["reason"]
    text = format_bench(json.loads(json.dumps(document)))
    assert "inference, 2 threads" in text and "photo to answer" in text and "█" in text and "energy: not measured" in text


def test_throttled_rounds_are_repeated_after_a_pause(model: Path, vcgencmd: Any, tmp_path: Path) -> None:
    # The first round of each kind sees the bit appear; every later reading is the same as the one before.
    vcgencmd(f'n=$(cat {tmp_path}/n 2>/dev/null || echo 0); echo $((n+1)) > {tmp_path}/n; if [ $n -eq 0 ]; then echo throttled=0x0; else echo throttled=0x40000; fi')
    pauses: List[float] = []
    document = measure_device(model, Elsewhere(), FAST, sleep=pauses.append)
    part = document["inference"][0]
    assert [one["valid"] for one in part["rounds"]] == [False, True, True] and part["status"] == "ok" and pauses == [7.0]
    assert part["rounds"][0]["reason"] == "the firmware reports throttled" and part["rounds"][0]["latencies_ms"]
    assert len(device_bench.latencies(part)) == sum(len(one["latencies_ms"]) for one in part["rounds"][1:])
    assert "1 disturbed rounds left out" in format_bench(document) and "throttled=0x0" in format_bench(document)


def test_a_device_that_never_cools_gives_no_figure(model: Path, vcgencmd: Any) -> None:
    vcgencmd("echo throttled=0x4")
    pauses: List[float] = []
    document = measure_device(model, Elsewhere(), Plan(**{**vars(FAST), "repeats": 1}), sleep=pauses.append)
    part = document["inference"][0]
    assert part["status"] == "failed" and len(part["rounds"]) == 2 and "2 rounds were disturbed" in part["reason"] and pauses == [7.0] * 2
    assert "failed: 2 rounds were disturbed" in format_bench(document)


def test_energy_of_a_board_with_sensors(model: Path, vcgencmd: Any, tmp_path: Path) -> None:
    (tmp_path / "rails").write_text(RAILS)
    vcgencmd(f"cat {tmp_path}/rails")
    energy = measure_device(model, Elsewhere(), Plan(**{**vars(FAST), "energy_seconds": 0.5}))["energy"]
    assert energy["runs"] > 0 and len(energy["idle_watts"]) >= 2 and energy["joules_per_inference"] == pytest.approx(0.0, abs=1e-9)  # the stand-in's power never changes


def test_nothing_is_measured_where_nothing_may_be(model: Path) -> None:
    place = Elsewhere(measured_on="emulated")
    with pytest.raises(UnsupportedError, match="edgepress device instructions"):
        measure_device(model, place, FAST)
    assert place.jobs == 0
    place = Elsewhere(_rows(_swap))
    with pytest.raises(GateError, match="so nothing is measured"):
        measure_device(model, place, FAST)
    assert place.jobs == 1


def test_the_chart_of_a_board_that_gets_hot() -> None:
    windows = [{"at_seconds": float(i), "runs": 10, "median_ms": 5.0 if i < 60 else 8.0, "p90_ms": 9.0, "max_ms": 9.0, "clock_mhz": 1800.0 if i < 60 else 1100.0, "temperature_c": 50 + i / 3,
                "throttled": 0 if i < 60 else 0x8} for i in range(100)]
    facts = sustained_facts(windows)
    assert facts["slowdown"] == pytest.approx(1.6) and facts["throttling"] == ["soft temperature limit"]
    lines = chart({"windows": windows, "runs": 1000, "seconds": 100.0, "threads": 4, **facts})
    assert len(lines) <= device_bench.CHART_ROWS + 2 and lines[-2].count("█") == device_bench.CHART_WIDTH > lines[1].count("█") and "1100 MHz" in lines[-2] and "soft temperature limit" in lines[-2]
    assert "1.60 times the latency" in lines[-1]


def test_the_command_writes_its_document(model: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["device", "bench", "local", str(model), "--threads", "1", "--min-seconds", "0.02", "--sustained", "0.01", "-o", str(tmp_path / "bench.json")], catch_exceptions=False)
    assert done.exit_code == 0 and "photo to answer" in done.output
    document = json.loads((tmp_path / "bench.json").read_text())
    assert document["sustained"]["raw"] == str(tmp_path / "bench.npy") and (tmp_path / "bench.npy").is_file() and document["plan"]["threads"] == [1]

"""Statistics on reading, self-criticism and the strict file format of measurements."""
from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from edgepress import measurement
from edgepress.errors import ArtifactError
from edgepress.measurement import Measurement, Round, from_json, quantile, read_measurements, to_json
from edgepress.measurement_table import table

STEADY = tuple(1 + 0.0001 * i for i in range(60))


def a_round(latencies: tuple = STEADY, **facts: Any) -> Round:
    return Round(latencies_ms=tuple(latencies), import_ms=50.0, load_ms=3.0, first_run_ms=2.0, warmup_runs=9,
                 **{"rss_before_load_bytes": 10_000, "rss_after_load_bytes": 12_000, "rss_after_runs_bytes": 15_000, "inputs_bytes": 1_000, **facts})


def a_measurement(*rounds: Round, **facts: Any) -> Measurement:
    return Measurement(**{"file": "runs/x/model.tflite", "sha256": "0" * 64, "format": "tflite", "size_bytes": 2000, "gzip_bytes": 1000, "runtime": "litert",
                          "threads": 1, "settings": {"min_runs": 50, "max_seconds": 10.0}, "host": {"cpus": 2}, "details": {"delegate": "XNNPACK", "operators": {"ADD": 1}},
                          "rounds": rounds or (a_round(), a_round()), **facts})


def test_quantiles_are_observed_values() -> None:
    values = list(range(1, 101))
    random.Random(0).shuffle(values)
    assert (quantile(values, 0.5), quantile(values, 0.9), quantile(values, 0.99), quantile(values, 1.0)) == (50, 90, 99, 100)
    assert quantile([7], 0.5) == 7


def test_high_quantiles_need_enough_runs() -> None:
    assert a_measurement(a_round(STEADY[:43])).p90_ms is None and a_measurement(a_round(STEADY[:44])).p90_ms is not None
    assert a_measurement(a_round((1.0,) * 458)).p99_ms is None and a_measurement(a_round((1.0,) * 459)).p99_ms == 1.0


def test_statistics_of_all_rounds() -> None:
    m = a_measurement(a_round((1.0, 2.0, 3.0)), a_round((4.0, 5.0)))
    assert (m.min_ms, m.median_ms, m.load_ms, m.peak_rss_bytes, m.model_rss_bytes) == (1.0, 3.0, 3.0, 15_000, 4_000)


@pytest.mark.parametrize(("code", "doubtful"), [
    ("too_few_runs", a_measurement(a_round(STEADY[:20]), a_round(STEADY[:20]))),
    ("spread", a_measurement(a_round(tuple(1 + 0.01 * i for i in range(60))))),
    ("drift", a_measurement(a_round(), a_round(tuple(1.1 * v for v in STEADY)))),
    ("busy", a_measurement(a_round(others_share=0.3))),
    ("busy", a_measurement(a_round(load_average=1.5))),
    ("stolen", a_measurement(a_round(stolen_share=0.05))),
    ("governor", a_measurement(host={"cpus": 2, "governor": "powersave"})),
    ("throttling", a_measurement(a_round(temperature_after_c=85.0))),
    ("frequency", a_measurement(a_round(clock_mhz=2000.0, clock_after_mhz=1500.0))),
    ("two_levels", a_measurement(a_round(tuple(v + 0.08 * (i % 4 == 0) for i, v in enumerate(STEADY))))),
    ("timer", a_measurement(a_round(tuple(v / 1000 for v in STEADY), timer_ns=70))),
    ("capped", a_measurement(settings={"min_runs": 50, "min_seconds": 2.0, "max_runs": 120})),
    ("known_slow", a_measurement(remark="such files are slow here")),
    ("no_delegate", a_measurement(details={"delegate": None, "operators": {"CONV_2D": 1}})),
])
def test_it_criticizes_itself(code: str, doubtful: Measurement) -> None:
    assert [w.code for w in doubtful.warnings] == [code]
    assert doubtful.warnings[0].message and doubtful.warnings[0].hint


def test_a_clean_measurement_has_no_warnings() -> None:
    assert a_measurement(a_round(load_average=0.3, others_share=0.02, temperature_c=50.0), host={"cpus": 2, "governor": "performance"}).warnings == []


def test_round_trip(tmp_path: Path) -> None:
    records = [a_measurement(input_shapes=((1, 8, 8, 3),)), a_measurement(status="unsupported", reason="no", rounds=())]
    (tmp_path / measurement.FILE).write_text(measurement.dump(records))
    assert read_measurements(tmp_path) == records
    assert json.loads(json.dumps(records[0].summary()))["median_ms"] == records[0].median_ms


@pytest.mark.parametrize(("change", "words"), [
    ({"schema": 2}, "schema 1"),
    ({"treads": 1}, "did you mean 'threads'"),
    ({"status": "fine"}, "status is 'fine'"),
    ({"rounds": [{"latencies_ms": []}]}, "positive numbers"),
    ({"rounds": [{"latencies_ms": [1.0, "2"]}]}, "positive numbers"),
    ({"rounds": [{"latencies_ms": [float("nan")]}]}, "positive numbers"),
    ({"rounds": [{"latencies_ms": [1.0]}]}, "not complete"),
    ({"rounds": 7}, "accepted: a list"),
    ({"rounds": [{"latencies_ms": [1.0, 2.0], "block_runs": [1]}]}, "add up to its 2 latencies"),
])
def test_strict_reading(change: dict, words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        from_json({**json.loads(to_json(a_measurement())), **change})


def test_what_is_no_list_of_measurements(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_measurements(tmp_path)
    (tmp_path / measurement.FILE).write_text("{}")
    with pytest.raises(ArtifactError, match="not a list"):
        read_measurements(tmp_path)


def test_table_tells_equal_names_apart_and_gives_reasons() -> None:
    text = table([a_measurement(file="a/model.tflite"), a_measurement(file="b/model.tflite", status="failed", reason="it crashed", rounds=()),
                  a_measurement(a_round(others_share=0.4), file="c/other.onnx", format="onnx")])
    assert "a/model.tflite" in text and "failed: it crashed" in text and "warning: c/other.onnx in litert: other processes used 40%" in text

"""Two results side by side: what differs, what cannot be told, what is missing; gates, Markdown, JUnit, exit codes."""
from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any, Dict, Optional
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner
from report_run import make_run

from edgepress import comparing
from edgepress.cli import cli
from edgepress.compare import compare
from edgepress.compare_text import junit, markdown, plain
from edgepress.errors import ArtifactError, GateError, RecipeError, UnsupportedError
from edgepress.gates import parse_gate
from edgepress.measurement import FILE, Measurement, Round, dump
from edgepress.recipe import BenchmarkConfig
from edgepress.result_sets import Accuracy, Key, Results, of_measurements, read_results

DATA = Path(__file__).parent / "data"
HOST = {"cpu": "a processor", "cpus": 2}
QUICK = BenchmarkConfig(effort="quick", threads=(1,), runtimes=("litert",), min_runs=24, min_seconds=0.02, max_seconds=0.5, warmup_seconds=0.01)


def a_measurement(file: str = "a/model.tflite", *, ms: float = 2.0, seed: int = 0, threads: int = 1, noise: float = 0.01, **facts: Any) -> Measurement:
    dice = np.random.default_rng(seed)
    rounds = tuple(Round(latencies_ms=tuple(float(v) for v in ms * np.exp(dice.normal(0, noise, 64) + dice.normal(0, 0.004))), block_runs=(8,) * 8, import_ms=1.0, load_ms=3.0, first_run_ms=2.0,
                         warmup_runs=1, rss_before_load_bytes=30_000_000, rss_after_load_bytes=31_000_000, rss_after_runs_bytes=40_000_000) for _ in range(4))
    return Measurement(**{"file": file, "sha256": "0" * 64, "format": "tflite", "size_bytes": 2000, "gzip_bytes": 1000, "runtime": "litert", "threads": threads, "host": HOST,
                          "input_shapes": ((1, 8, 8, 3),), "rounds": rounds, "sitting": f"s{seed}", "timed": "inputs handed over, inference, outputs read; batch 1", **facts})


def results(*records: Measurement, source: str = "old", accuracy: Optional[Dict[Key, Accuracy]] = None) -> Results:
    return dataclasses.replace(of_measurements(list(records), source=source), accuracies=accuracy or {})


def outcome(old: Results, new: Results, gate: str, **rest: Any) -> str:
    (check,) = compare(old, new, gates=[parse_gate(gate)], **rest).checks
    return check.outcome


def test_slower_faster_and_nobody_knows() -> None:
    old = results(a_measurement())
    for ms, verdict, outcomes in ((2.2, "slower", "failed"), (1.8, "faster", "met"), (2.004, "can't tell", "met")):
        new = results(a_measurement(ms=ms, seed=1), source="new")
        assert compare(old, new).rows[0].figures["latency"].verdict == verdict
        assert outcome(old, new, "latency>+5%") == outcomes


def test_a_gate_is_not_failed_by_noise() -> None:
    """6 % slower by the medians, but rounds scatter by 8 %: not sure enough to stop a release; --strict stops it."""
    wild = [dataclasses.replace(r, latencies_ms=tuple(v * f for v in r.latencies_ms)) for r, f in zip(a_measurement(seed=2, ms=2.12).rounds, (0.92, 1.0, 1.08, 1.0))]
    old, new = results(a_measurement()), results(a_measurement(seed=2, rounds=tuple(wild)))
    comparison = compare(old, new, gates=[parse_gate("latency>+5%")])
    assert comparison.checks[0].outcome == "unresolved"
    comparing.require_met(comparison)
    with pytest.raises(GateError, match="cannot be told"):
        comparing.require_met(comparison, strict=True)


@pytest.mark.parametrize(("gate", "expected"), [("latency>1ms", "failed"), ("latency>3ms", "met"), ("latency>+1ms", "met"), ("size>1kB", "failed"), ("size>+1%", "met"), ("memory>39MB", "failed"),
                                                ("memory>+5%", "met"), ("load>+50%", "met"), ("p90>+20%", "met"), ("first_run>9ms", "met")])
def test_every_metric_has_its_gate(gate: str, expected: str) -> None:
    assert outcome(results(a_measurement()), results(a_measurement(seed=1)), gate) == expected


def test_accuracy_is_paired_where_the_answers_are_there() -> None:
    key = Key("m", "litert", None, "local")
    old, new = "1" * 450 + "0" * 50, "0" * 20 + "1" * 430 + "0" * 50
    paired = compare(Results("o", {}, {key: Accuracy(0.9, 500, old, "x")}), Results("n", {}, {key: Accuracy(0.86, 500, new, "x")}), gates=[parse_gate("accuracy<-0.5")])
    apart = compare(Results("o", {}, {key: Accuracy(0.9, 500)}), Results("n", {}, {key: Accuracy(0.86, 500)}), gates=[parse_gate("accuracy<-0.5")])
    assert (paired.checks[0].outcome, apart.checks[0].outcome) == ("failed", "unresolved")
    a, b = paired.rows[0].figures["accuracy"], apart.rows[0].figures["accuracy"]
    assert a.value == b.value == pytest.approx(-4) and a.high - a.low < 0.6 * (b.high - b.low) and a.verdict == "worse"


def test_what_is_gone_fails_a_gate_and_has_its_reason() -> None:
    old = results(a_measurement(), a_measurement("b/model.tflite", seed=3))
    new = results(a_measurement(seed=1), a_measurement("b/model.tflite", status="failed", reason="it crashed", rounds=()))
    comparison = compare(old, new, gates=[parse_gate("latency>+5%")])
    assert [c.outcome for c in comparison.checks] == ["met", "failed"] and "it crashed" in comparison.checks[1].text
    assert compare(new, old).rows[1].note == "new"


def test_machines_are_not_mixed_unless_asked_for() -> None:
    old, new = results(a_measurement()), results(a_measurement(seed=1, host={"cpu": "another", "cpus": 64}), source="new")
    with pytest.raises(UnsupportedError, match="different machines.*--across-machines"):
        compare(old, new)
    assert "different machines" in compare(old, new, across_machines=True).warnings[0]


def test_nothing_in_common_is_said() -> None:
    with pytest.raises(UnsupportedError, match="nothing in common"):
        compare(results(a_measurement(), a_measurement("b/x.tflite")), results(a_measurement("c/y.tflite"), a_measurement("c/z.tflite")))


def test_a_single_file_may_change_its_name_and_a_gate_about_nothing_warns() -> None:
    comparison = compare(results(a_measurement("old.tflite")), results(a_measurement("new.tflite", seed=1)), gates=[parse_gate("accuracy<-1")])
    assert comparison.rows[0].figures and not comparison.checks and "accuracy<-1 was not judged" in comparison.warnings[0]


def test_many_gates_raise_no_more_false_alarms_than_one() -> None:
    """Thirty equal files: intervals of gates are widened, so a limit at no change at all is seldom thought to be missed."""
    old = results(*[a_measurement(f"{i}/m.tflite", seed=i) for i in range(30)])
    alarms = sum(bool(compare(old, results(*[a_measurement(f"{i}/m.tflite", seed=1000 * k + i) for i in range(30)]), gates=[parse_gate("latency>+0%")]).failed) for k in range(1, 9))
    assert alarms <= 1


def test_texts() -> None:
    comparison = compare(results(a_measurement("a|b.tflite")), results(a_measurement("a|b.tflite", ms=3.0, seed=1), source="new"), gates=[parse_gate("latency>+5%"), parse_gate("size>+5%")])
    assert "slower" in plain(comparison) and "gate latency>+5%: FAILED" in plain(comparison)
    text = markdown(comparison)
    assert "1 of 2 checks failed" in text and "a\\|b.tflite" in text and "**FAILED**" in text
    suite = ElementTree.fromstring(junit(comparison))[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("2", "1", "0") and suite[0].find("failure") is not None and suite[1].find("failure") is None
    quiet = ElementTree.fromstring(junit(compare(results(a_measurement()), results(a_measurement(seed=1)))))[0]
    assert quiet.get("failures") == "0" and len(quiet) == 1


def test_runs_and_their_accuracies(tmp_path: Path) -> None:
    old, new = make_run(tmp_path / "old"), make_run(tmp_path / "new", seed=1)
    found = read_results(old)
    assert {key.name for key in found.latencies} == {key.name for key in found.accuracies} and any("version 12" in reason for reason in found.holes.values())
    assert all(a.right and a.images_id for a in found.accuracies.values())
    names = {row.key.name for row in compare(found, read_results(new)).rows if "latency" in row.figures}
    assert "static_wi8_ai8.tflite" in names


@pytest.mark.slow
def test_two_model_files_are_measured_by_turns(tmp_path: Path) -> None:
    comparison = comparing.compare_paths([DATA / "tiny_float.tflite", DATA / "tiny_int8.tflite"], gates=["size>+1%"], config=QUICK)
    assert comparison.rows[0].figures["latency"].old > 0 and comparison.checks[0].outcome == "met"
    same = comparing.compare_paths([DATA / "tiny_float.tflite", DATA / "tiny_float.tflite"], gates=[], config=QUICK)
    assert len(same.rows) == 1 and same.rows[0].figures["size"].verdict == "same"


@pytest.mark.slow
def test_a_self_check_measures_one_file_twice() -> None:
    one, other, ratio = comparing.self_check(DATA / "tiny_float.tflite", QUICK)
    assert one.sitting == other.sitting and one.rounds != other.rounds and ratio.paired
    assert "against itself" in comparing.self_check_text(one, other, ratio)


@pytest.mark.parametrize(("paths", "error"), [(("a",), RecipeError), (("nowhere", "nowhere"), ArtifactError), ((str(DATA / "tiny_float.tflite"), str(DATA)), RecipeError)])
def test_wrong_paths(paths: tuple, error: type) -> None:
    with pytest.raises(error):
        comparing.compare_paths([Path(p) for p in paths], gates=[], config=QUICK)


def test_command(tmp_path: Path) -> None:
    for name, ms, seed in (("old", 2.0, 0), ("new", 3.0, 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / FILE).write_text(dump([a_measurement(ms=ms, seed=seed)]))
    words = ["compare", str(tmp_path / "old"), str(tmp_path / "new"), "--fail-on", "latency>+5%", "size>+1%", "--markdown", str(tmp_path / "x" / "c.md"), "--junit", str(tmp_path / "c.xml"), "--json"]
    done = CliRunner().invoke(cli, words)
    assert isinstance(done.exception, GateError) and done.exception.exit_code == 4
    document = json.loads(done.stdout)
    assert document["failed"] and [c["outcome"] for c in document["checks"]] == ["failed", "met"]
    assert "FAILED" in (tmp_path / "x" / "c.md").read_text() and ElementTree.parse(tmp_path / "c.xml")
    assert CliRunner().invoke(cli, words[:3]).exit_code == 0


@pytest.mark.slow
def test_a_thousand_measurements_in_two_seconds(tmp_path: Path) -> None:
    """The bar on a quiet machine; four times that here, where others may be at work."""
    for name, offset in (("old", 0), ("new", 5000)):
        one = a_measurement(seed=offset)
        (tmp_path / name).mkdir()
        (tmp_path / name / FILE).write_text(dump([dataclasses.replace(one, file=f"{i}/m.tflite") for i in range(1000)]))
    started = time.process_time()
    comparison = comparing.compare_paths([tmp_path / "old", tmp_path / "new"], gates=["latency>+5%"], config=QUICK)
    assert len(comparison.checks) == 1000 and time.process_time() - started < 8

"""What a phone sends is not trusted: every part is checked, identities are ours, and answers are judged again."""
from __future__ import annotations

import copy
import json
import threading
from pathlib import Path
from typing import Any, Callable, Dict

import pytest

from edgepress import measurement
from edgepress.browser.results import Results
from edgepress.errors import ArtifactError

APP = {"models": [{"file": "models/float32.onnx", "sha256": "ab" * 32, "format": "onnx", "size_bytes": 1000, "gzip_bytes": 900, "tolerance": 0.01, "expected": [[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]}],
       "photos": [{"name": "00.png", "kind": "golden"}, {"name": "01.png", "kind": "golden"}, {"name": "hard.png", "kind": "hard"}]}
MEASUREMENT: Dict[str, Any] = {
    "schema": 1, "file": "x", "sha256": "ab" * 32, "format": "onnx", "size_bytes": 1, "gzip_bytes": 1, "runtime": "onnxruntime-web", "threads": 2, "target": "browser://firefox", "measured_on": "real",
    "accelerator": None, "runtime_version": "1.2.3", "status": "ok", "reason": None, "remark": None, "timed": "x", "input_shapes": [[1, 8, 8, 3]], "settings": {"min_runs": 50},
    "host": {"user_agent": "Mozilla\x1b[31m", "cpus": 8, "headless": False}, "details": {}, "rounds": [{"latencies_ms": [1.0] * 60, "import_ms": 10, "load_ms": 5.5, "first_run_ms": 2, "warmup_runs": 9}]}
RESULT = {"schema": 1, "results": [{"measurement": MEASUREMENT, "answers": [[0.9, 0.1], [0.2, 0.8]]}]}


def changed(change: Callable[[Dict[str, Any]], Any]) -> Dict[str, Any]:
    """The good result with one thing made otherwise."""
    result = copy.deepcopy(RESULT)
    change(result)
    return result


def record(**values: Any) -> Callable[[Dict[str, Any]], Any]:
    return lambda result: result["results"][0]["measurement"].update(values)


def round_(**values: Any) -> Callable[[Dict[str, Any]], Any]:
    return lambda result: result["results"][0]["measurement"]["rounds"][0].update(values)


def test_a_result_becomes_a_measurement_with_our_own_identity(tmp_path: Path) -> None:
    results = Results(APP, tmp_path / "out" / measurement.FILE)
    [found] = results.accept(RESULT)
    assert (found.file, found.size_bytes, found.gzip_bytes, found.threads, found.target) == ("float32.onnx", 1000, 900, 2, "browser://firefox")
    assert found.host["user_agent"] == "Mozilla [31m" and found.median_ms == 1.0 and "batch 1" in found.timed
    assert measurement.read_measurements(tmp_path / "out") == [found]


def test_several_phones_and_earlier_files_lose_nothing(tmp_path: Path) -> None:
    Results(APP, tmp_path / measurement.FILE).accept(RESULT)
    results = Results(APP, tmp_path / measurement.FILE)
    threads = [threading.Thread(target=results.accept, args=(RESULT,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(measurement.read_measurements(tmp_path)) == 9


@pytest.mark.parametrize(("change", "says"), [
    (lambda r: r.update(schema=2), "schema"), (lambda r: r.update(more=1), "schema"), (lambda r: r.update(results={}), "schema"), (lambda r: r.update(results=[]), "0 entries"),
    (lambda r: r.update(results=r["results"] * 201), "201 entries"), (lambda r: r.update(results=[1]), "other parts"), (lambda r: r["results"][0].update(more=1), "other parts"),
    (record(sha256="cd" * 32), "did not hand out"), (record(sha256=[]), "did not hand out"), (record(runtime="onnxruntime"), "runtime is 'onnxruntime'"), (record(target="browser://Evil Name"), "target"),
    (record(target="local"), "target"), (record(measured_on="phone"), "measured_on"), (record(accelerator="npu"), "accelerator"), (record(threads=0), "threads"), (record(threads="2"), "threads"),
    (record(threads=True), "threads"), (record(runtime_version="1; rm"), "runtime_version"), (record(status="great"), "status"), (record(rounds=[]), "rounds"), (record(status="failed"), "rounds"),
    (record(unknown=1), "unknown key"), (record(input_shapes=[["a"]]), "input_shapes"), (record(input_shapes=5), "laid out"), (record(settings=[]), "settings"), (record(rounds=[5]), "laid out|latencies"),
    (round_(latencies_ms=[]), "latencies_ms"), (round_(latencies_ms=[0]), "latencies_ms"), (round_(latencies_ms=[float("nan")]), "latencies_ms"), (round_(latencies_ms=[10 ** 400]), "laid out|latencies"),
    (round_(latencies_ms=[1] * 5001), "5001 latencies"), (round_(latencies_ms=["1"]), "latencies_ms"), (round_(load_ms=-1), "load_ms"), (round_(load_ms="x"), "load_ms"), (round_(import_ms=float("inf")), "import_ms"),
    (round_(warmup_runs=1.5), "warmup_runs"), (round_(warmup_runs=10 ** 400), "laid out|warmup_runs")])
def test_anything_else_is_refused_and_nothing_is_written(tmp_path: Path, change: Callable[[Dict[str, Any]], Any], says: str) -> None:
    with pytest.raises(ArtifactError, match=says):
        Results(APP, tmp_path / measurement.FILE).accept(changed(change))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", [None, [], "x", 5, {}, {"schema": 1}])
def test_what_is_no_document_is_refused(tmp_path: Path, data: Any) -> None:
    with pytest.raises(ArtifactError, match="schema 1"):
        Results(APP, tmp_path / measurement.FILE).accept(data)


@pytest.mark.parametrize(("answers", "says"), [([[0.1, 0.9], [0.2, 0.8]], "the top class is number 1"), ([[0.85, 0.15], [0.2, 0.8]], "off by 0.05"), ([[0.9, 0.1]], "one list"), (None, "one list"),
                                               ([["x", 0.1], [0.2, 0.8]], "one list"), ([[0.9], [0.2]], "2 answers of 1 numbers"), ([[0.9, 0.1], [0.9, 0.1]], "same answer")])
def test_figures_without_the_right_answers_are_dropped(tmp_path: Path, answers: Any, says: str) -> None:
    [found] = Results(APP, tmp_path / measurement.FILE).accept(changed(lambda r: r["results"][0].update(answers=answers)))
    assert found.status == "failed" and found.rounds == () and says in str(found.reason)


def test_a_file_that_does_not_run_is_a_record_too(tmp_path: Path) -> None:
    [found] = Results(APP, tmp_path / measurement.FILE).accept(changed(record(status="unsupported", reason="no\x07 WebGPU", rounds=[])))
    assert (found.status, found.reason) == ("unsupported", "no  WebGPU")


def test_headless_is_emulated_whatever_the_page_says(tmp_path: Path) -> None:
    [found] = Results(APP, tmp_path / measurement.FILE).accept(changed(record(host={"headless": True})))
    assert found.measured_on == "emulated"


def test_what_is_kept_of_free_parts_is_bounded(tmp_path: Path) -> None:
    deep: Any = "end"
    for _ in range(30):
        deep = {"deeper": deep}
    [found] = Results(APP, tmp_path / measurement.FILE).accept(changed(record(details={"deep": deep, **{f"k{i}": "y" * 9000 for i in range(500)}})))
    assert len(json.dumps(found.details)) < 20_000


def test_a_session_takes_so_many_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepress.browser.results.MOST_KEPT", 2)
    results = Results(APP, tmp_path / measurement.FILE)
    results.accept(RESULT)
    results.accept(RESULT)
    with pytest.raises(ArtifactError, match="no more are taken"):
        results.accept(RESULT)
    assert len(measurement.read_measurements(tmp_path)) == 2


def test_a_foreign_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / measurement.FILE).write_text("my notes")
    with pytest.raises(ArtifactError):
        Results(APP, tmp_path / measurement.FILE)
    assert (tmp_path / measurement.FILE).read_text() == "my notes"

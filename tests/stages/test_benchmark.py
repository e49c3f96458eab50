"""The benchmark stage on tiny files: a record for every combination, whatever happened to it."""
from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any, List

import pytest

from edgepress import turns
from edgepress.errors import ModelError, UnsupportedError
from edgepress.measurement import Measurement, read_measurements
from edgepress.measurement_table import table
from edgepress.ratios import latency_ratio
from edgepress.recipe import BenchmarkConfig
from edgepress.stages import benchmark as stage
from edgepress.sitting import EFFORTS
from edgepress.stages.benchmark import benchmark, gzip_size

pytestmark = pytest.mark.slow

DATA = Path(__file__).resolve().parents[1] / "data"
QUICK = BenchmarkConfig(threads=(1,), runtimes=("litert",), min_runs=10, min_seconds=0.02, max_seconds=1.0, warmup_seconds=0.01, effort="quick")


def measure(out: Path, *files: Path, config: BenchmarkConfig = QUICK) -> List[Measurement]:
    out.mkdir()
    benchmark(out, model=list(files), config=config)
    assert [p.name for p in out.iterdir()] == ["measurements.json"]
    return read_measurements(out)


def test_every_file_runtime_and_thread_count_has_a_record(tmp_path: Path) -> None:
    config = BenchmarkConfig(threads=(1, 2), runtimes=("litert", "onnxruntime"), min_runs=10, min_seconds=0.02, max_seconds=1.0, warmup_seconds=0.01, effort="quick")
    records = measure(tmp_path / "out", DATA / "tiny_int8.tflite", DATA / "tiny_float.onnx", config=config)
    assert [(Path(m.file).name, m.runtime, m.threads) for m in records] == [
        ("tiny_int8.tflite", "litert", 1), ("tiny_int8.tflite", "litert", 2), ("tiny_float.onnx", "onnxruntime", 1), ("tiny_float.onnx", "onnxruntime", 2)]
    for m in records:
        assert m.status == "ok" and len(m.rounds) >= EFFORTS["quick"].rounds and len(m.latencies_ms) >= 10 and m.runtime_version
        assert m.input_shapes == ((1, 8, 8, 3),) and m.host["cpus"] and m.details["operators"] and m.settings["min_runs"] == 10
        assert m.size_bytes == Path(m.file).stat().st_size and 0 < m.gzip_bytes < m.size_bytes


def test_what_does_not_run_has_a_reason_and_spoils_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "garbage.tflite").write_bytes(b"garbage" * 50)
    shutil.copy(DATA / "tiny_float.tflite", tmp_path / "crashes.tflite")
    real = turns._cases

    def cases(jobs: Any, connection: Any, **places: Any) -> Any:
        able, refused = real(jobs, connection, **places)
        for case in able.values():
            if "crashes" in case["job"]["model"]:
                case["command"] = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"]
        return able, refused
    monkeypatch.setattr(turns, "_cases", cases)
    bad, crashed, good = measure(tmp_path / "out", tmp_path / "garbage.tflite", tmp_path / "crashes.tflite", DATA / "tiny_float.tflite")
    assert (bad.status, crashed.status, good.status) == ("unsupported", "failed", "ok")
    assert "does not open" in bad.reason and "SIGSEGV" in crashed.reason and not bad.rounds


def test_a_runtime_that_is_not_installed_or_of_another_format_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRESS_HOME", str(tmp_path / "home"))
    config = BenchmarkConfig(threads=(1,), runtimes=("tflite_runtime",), min_runs=2, min_seconds=0.0)
    absent, foreign = measure(tmp_path / "out", DATA / "tiny_int8.tflite", DATA / "tiny_float.onnx", config=config)
    assert absent.status == "unsupported" and "edgepress runtimes --install tflite_runtime" in absent.reason
    assert foreign.status == "unsupported" and "does not open .onnx" in foreign.reason


def test_what_the_profiles_know_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = {"tiny_float.tflite": ("refused", "it answers wrongly there"), "tiny_int8.tflite": ("marked", "it is slow there")}
    monkeypatch.setattr(stage.profiles, "file_facts", lambda file: file.name)
    monkeypatch.setattr(stage.profiles, "verdict", lambda runtime, name: verdicts[name])
    refused, marked = measure(tmp_path / "out", DATA / "tiny_float.tflite", DATA / "tiny_int8.tflite")
    assert refused.status == "unsupported" and refused.reason == "it answers wrongly there" and not refused.rounds
    assert marked.status == "ok" and marked.remark == "it is slow there"


def test_files_of_one_sitting_are_measured_by_turns(tmp_path: Path) -> None:
    one, other = measure(tmp_path / "out", DATA / "tiny_int8.tflite", DATA / "tiny_float.tflite")
    assert one.sitting and one.sitting == other.sitting and one.started
    for m in (one, other):
        assert all(len(r.block_runs) == m.settings["blocks"] and sum(r.block_runs) == len(r.latencies_ms) and r.timer_ns for r in m.rounds)
        assert m.arena_bytes is not None and m.load_rss_bytes is not None
    assert latency_ratio(one, other).paired


def test_a_batch_needs_an_open_dimension(tmp_path: Path) -> None:
    config = dataclasses.replace(QUICK, batch=(1, 3), runtimes=())
    single, refused = measure(tmp_path / "out", DATA / "tiny_float.tflite", config=dataclasses.replace(config, runtimes=("litert",)))
    assert single.status == "ok" and refused.status == "unsupported" and "open first dimension" in str(refused.reason)


def test_too_slow_for_its_time_is_said(tmp_path: Path) -> None:
    config = BenchmarkConfig(threads=(1,), runtimes=("litert",), min_runs=5000, min_seconds=0.0, max_seconds=0.002, warmup_seconds=0.0)
    (record,) = measure(tmp_path / "out", DATA / "tiny_int8.tflite", config=config)
    assert "too_few_runs" in [w.code for w in record.warnings]


def test_folders_mean_all_their_files_and_a_file_counts_once(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for name in ("tiny_int8.tflite", "tiny_float.tflite"):
        shutil.copy(DATA / name, folder)
    (folder / "notes.txt").write_text("not a model")
    records = measure(tmp_path / "out", folder, folder / "tiny_int8.tflite")
    assert [Path(m.file).name for m in records] == ["tiny_float.tflite", "tiny_int8.tflite"]


def test_wrong_paths_and_names(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        benchmark(tmp_path, model=[tmp_path / "none.tflite"], config=QUICK)
    with pytest.raises(ModelError, match="holds no"):
        benchmark(tmp_path, model=tmp_path, config=QUICK)
    with pytest.raises(UnsupportedError, match="did you mean 'litert'"):
        benchmark(tmp_path, model=DATA / "tiny_int8.tflite", config=BenchmarkConfig(runtimes=("litrt",)))  # type: ignore[arg-type]


def test_gzip_size_is_that_of_gzip(tmp_path: Path) -> None:
    import gzip

    data = bytes(range(256)) * 1000
    (tmp_path / "file").write_bytes(data)
    assert gzip_size(tmp_path / "file") == len(gzip.compress(data, 9))


@pytest.mark.data
def test_real_files_of_all_kinds(tmp_path: Path, shared_data: Any) -> None:
    """Sound, text and detection models, with their several inputs and outputs, run without a word about them."""
    files = [shared_data("weights/tflite/" + name) for name in ("movie_review_nl_classifier.tflite", "yamnet_audio_classifier_with_metadata.tflite", "coco_ssd_mobilenet_v1_1.0_quant_2018_06_29.tflite")]
    assert [m.status for m in measure(tmp_path / "out", *files)] == ["ok"] * 3


def test_throughput_of_several_processes_at_once(tmp_path: Path) -> None:
    (record,) = measure(tmp_path / "out", DATA / "tiny_int8.tflite", config=dataclasses.replace(QUICK, processes=(1, 2)))
    assert set(record.throughput) == {"1", "2"} and all(len(values) == record.settings["blocks"] and min(values) > 0 for values in record.throughput.values())
    assert record.summary()["throughput_per_second"]["2"] > 0 and "with 2 processes" in table([record])


def test_an_accelerator_is_a_row_of_its_own_beside_the_cpu(tmp_path: Path) -> None:
    for name in ("tiny_float.onnx", "tiny_float.tflite"):
        shutil.copy(DATA / name, tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    config = dataclasses.replace(QUICK, runtimes=(), threads=(1, 2), accelerator=("migraphx",))
    benchmark(out, model=sorted(tmp_path.glob("tiny*")), config=config)
    records = read_measurements(out)
    assert [(m.engine, m.threads, m.status) for m in records if m.runtime == "onnxruntime"] == [
        ("onnxruntime", 1, "ok"), ("onnxruntime", 2, "ok"), ("onnxruntime with migraphx", 1, "unsupported")]
    assert all(m.accelerator is None for m in records if m.format == "tflite")  # which it is not for
    assert "no MIGraphXExecutionProvider" in records[2].reason and "onnxruntime with migraphx" in table(records)


@pytest.mark.parametrize("name, problem", [("cudaa", "did you mean 'cuda'"), ("cuda", "belongs to onnxruntime, in which none of these files is measured"), ("gpu:0", "accepted: key=value")])
def test_an_accelerator_that_cannot_be_meant_is_an_error(name: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=problem):
        benchmark(tmp_path, model=DATA / "tiny_float.tflite", config=dataclasses.replace(QUICK, accelerator=(name,)))
    assert not list(tmp_path.iterdir())

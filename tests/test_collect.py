"""Results of single commands become a run, wherever the commands put them; nothing else does."""
from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Dict

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from report_run import HOST  # noqa: E402

from edgepress import accuracy, report_data, report_text  # noqa: E402
from edgepress.collect import collect_run  # noqa: E402
from edgepress.errors import ArtifactError  # noqa: E402
from edgepress.measurement import Measurement, Round, dump  # noqa: E402
from edgepress.predictions import Score, write_score  # noqa: E402
from edgepress.recipe import CertifyConfig  # noqa: E402
from edgepress.stages.certify import certify  # noqa: E402

LABELS = ("cat", "dog")
TARGETS = np.arange(400) % 2
FLOAT, INT8 = "a" * 64, "b" * 64


def record(folder: Path, stage: str, *, started: float, config: Any = None, files: Any = None, inputs: Any = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "artifact.json").write_text(json.dumps({"schema": 1, "stage": stage, "key": "k", "config": config or {}, "inputs": {}, "input_paths": inputs or {}, "versions": {},
                                                      "started": started, "seconds": 1.0, "files": files or {}}))
    return folder


def evaluated(folder: Path, sha256: str, wrong: int, *, started: float = 3.0) -> Path:
    record(folder, "evaluate", started=started, inputs={"model": str(folder).removesuffix(".evaluate")})
    answers = np.eye(2, dtype=np.float32)[TARGETS] * 0.8 + 0.1
    answers[:wrong] = answers[:wrong, ::-1]
    facts: Dict[str, Any] = {"schema": 1, "status": "ok", "reason": None, "file": str(folder).removesuffix(".evaluate"), "sha256": sha256, "size_bytes": 1000, "runtime": {"name": "litert", "version": "1"},
                             "threads": 2, "dataset": "dataset", "split": "test", "images": len(TARGETS), "labels": list(LABELS), "host": HOST}
    score = Score(facts, LABELS, answers, TARGETS, tuple(map(str, TARGETS)), tuple("p" for _ in TARGETS))
    write_score(folder, score, {**facts, **accuracy.score(answers, TARGETS, LABELS)})
    return folder


def tour(work: Path, *, lost: int) -> None:
    """What the README's tour leaves behind, with the float model inside its artifact and everything else where no -o puts it."""
    record(work / "float", "convert", started=1.0, files={})
    (work / "float/model.tflite").write_bytes(b"1")
    record(work / "float", "convert", started=1.0, files={"model.tflite": {"sha256": FLOAT, "size_bytes": 1}})
    record(work / ".edgepress/quantize-1", "quantize", started=2.0, config={"scheme": "static_wi8_ai8"})
    (work / ".edgepress/quantize-1/model.tflite").write_bytes(b"2")
    record(work / ".edgepress/quantize-1", "quantize", started=2.0, config={"scheme": "static_wi8_ai8"}, files={"model.tflite": {"sha256": INT8, "size_bytes": 1}})
    float_result = evaluated(work / "float/model.tflite.evaluate", FLOAT, 4)
    int8_result = evaluated(work / "int8.tflite.evaluate", INT8, 4 + lost)
    made = record(work / "int8.tflite.certify", "certify", started=4.0, inputs={"model": str(work / "int8.tflite"), "reference": str(work / "float/model.tflite")})
    certify(made, model=int8_result, reference=float_result, config=CertifyConfig(max_drop=2.0))
    rounds = [tuple(Round(latencies_ms=tuple(ms + i % 7 * 0.001 for i in range(100)), import_ms=1, load_ms=1, first_run_ms=1, warmup_runs=1, rss_before_load_bytes=1, rss_after_load_bytes=1,
                          rss_after_runs_bytes=1) for _ in range(2)) for ms in (4.0, 2.0)]
    timed = record(work / "int8.tflite.benchmark", "benchmark", started=5.0)
    (timed / "measurements.json").write_text(dump([Measurement(file="x/model.tflite", sha256=sha, format="tflite", size_bytes=1, gzip_bytes=1, runtime="litert", runtime_version="1", threads=1, host=HOST,
                                                               input_shapes=((1, 8, 8, 3),), rounds=r) for sha, r in zip((FLOAT, INT8), rounds)]))


def gathered(work: Path) -> Dict[str, Any]:
    collect_run(work)
    return report_data.gather(report_data.read_run(work), title=None)


def test_results_beside_a_file_in_a_folder_are_found(tmp_path: Path) -> None:
    tour(tmp_path, lost=0)
    evaluated(tmp_path / ".edgepress/evaluate-old", INT8, 200, started=0.5)  # an older result of the same bytes
    (tmp_path / "link").symlink_to(tmp_path / "float")
    evaluated(tmp_path / "other/x.tflite.evaluate", "c" * 64, 9)
    (tmp_path / "other/run.json").write_text("{}")  # the folder of another run
    report = gathered(tmp_path)
    assert [(r["variant"], r["is_reference"], r.get("certified"), round(r["accuracy"], 2)) for r in report["rows"]] == [
        ("float32.tflite", True, None, 0.99), ("static_wi8_ai8.tflite", False, True, 0.99)]
    assert report["headline"]["text"] == "Ship static_wi8_ai8.tflite, run by litert."
    assert report["rows"][1]["sources"]["evaluation"] == "int8.tflite.evaluate/evaluation.json" and "2.00×" in report_text.plain_table(report)


@pytest.mark.parametrize("lost, said", [(2, "Ship static_wi8_ai8.tflite"), (7, "up to"), (80, "lost too much against the float file")])
def test_a_float_file_that_was_only_certified_against(tmp_path: Path, lost: int, said: str) -> None:
    import shutil

    tour(tmp_path, lost=lost)
    shutil.rmtree(tmp_path / "float/model.tflite.evaluate")
    report = gathered(tmp_path)
    assert len(report["rows"]) == 1 and "2.00×" in report_text.plain_table(report)
    assert said in " ".join([report["headline"]["text"], report["headline"]["why"]]) and "No file was scored" not in report["headline"]["why"]


@pytest.mark.parametrize("text", [None, "[]", "{}", '{"steps": 3, "schema": 1, "recipe": {}}', '{"name": "somebody else"}'])
def test_not_the_folder_of_a_run(tmp_path: Path, text: str) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(ArtifactError, match="not the folder of a run|not written by edgepress") as caught:
        collect_run(tmp_path)
    assert caught.value.hint


def test_nothing_evaluated_yet(tmp_path: Path) -> None:
    record(tmp_path / "dataset", "dataset", started=1.0)
    with pytest.raises(ArtifactError, match="no evaluated file"):
        collect_run(tmp_path)

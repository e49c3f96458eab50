"""Recipes become steps; a variant that fails is written down and the run goes on; children bring errors home."""
from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from edgepress import pipeline
from edgepress.child import StageChild
from edgepress.errors import DatasetError, JobError, ModelError, UnsupportedError
from edgepress.pipeline import Ref, Runner, plan
from edgepress.recipe import ConvertConfig, DatasetConfig, PruneConfig, Recipe
from edgepress.stages import STAGES

BOTH = {"tflite": ("litert",), "onnx": ("onnxruntime",)}


def test_every_variant_is_evaluated_and_certified_against_the_first_float_file() -> None:
    steps = plan(Recipe(images="photos", schemes=("static_wi8_ai8",)), runtimes=BOTH)
    ids = [s.id for s in steps]
    assert ids[:3] == ["dataset", "finetune", "convert"] and ids[-1] == "benchmark"
    assert [i for i in ids if i.startswith("evaluate")] == [f"evaluate:{v}@{r}" for v, r in (
        ("float32.tflite", "litert"), ("static_wi8_ai8.tflite", "litert"), ("float32.onnx", "onnxruntime"), ("static_wi8_ai8.onnx", "onnxruntime"))]
    references = {s.inputs["reference"] for s in steps if s.stage == "certify"}
    assert references == {Ref("evaluate:float32.tflite@litert")}
    assert not any(s.variant == "float32.tflite" for s in steps if s.stage == "certify")


def test_pruning_stands_between_training_and_conversion() -> None:
    steps = {s.id: s for s in plan(Recipe(images="photos", prune=PruneConfig()), runtimes=BOTH)}
    assert steps["convert"].inputs["model"] == Ref("prune")


def test_only_the_formats_asked_for() -> None:
    steps = plan(Recipe(images="photos", convert=ConvertConfig(formats=("onnx",))), runtimes=BOTH)
    assert not any("tflite" in s.id for s in steps)


class FakeStages:
    """Stands in for run_stage: makes a folder per step, or raises what the step's scheme is told to raise."""

    def __init__(self, failures: dict) -> None:
        self.failures = failures

    def __call__(self, stage, *, inputs, config, work, digest, context=None, call=None):
        error = self.failures.get(getattr(config, "scheme", None) or stage.name)
        if error:
            raise error
        name = f"{stage.name}-{getattr(config, 'scheme', '') or ''}{getattr(config, 'runtime', '') or ''}{inputs.get('model') and Path(str(inputs['model'])).parent.name if not isinstance(inputs.get('model'), list) else ''}"
        (work / name).mkdir(exist_ok=True)
        return work / name


def run_with(monkeypatch, tmp_path: Path, failures: dict):
    monkeypatch.setattr(pipeline, "run_stage", FakeStages(failures))
    recipe = Recipe(images="photos", schemes=("float16", "static_wi8_ai8"), convert=ConvertConfig(formats=("tflite",)))
    runner = Runner(recipe, tmp_path / "run", on_step=lambda *a: None)
    try:
        runner.run(plan(recipe, runtimes=BOTH))
    finally:
        steps = {s["id"]: s for s in json.loads((tmp_path / "run" / "run.json").read_text())["steps"]}
    return steps


def test_a_variant_that_cannot_be_made_is_written_down(monkeypatch, tmp_path: Path) -> None:
    steps = run_with(monkeypatch, tmp_path, {"float16": UnsupportedError("no halves here")})
    assert steps["quantize:float16.tflite"]["status"] == "skipped" and steps["quantize:float16.tflite"]["reason"] == "no halves here"
    assert steps["evaluate:float16.tflite@litert"]["status"] == "skipped"
    assert steps["evaluate:static_wi8_ai8.tflite@litert"]["status"] == "ok"
    assert len(steps["benchmark"]["inputs"]["model"]) == 2


def test_a_failing_trunk_ends_the_run_and_is_written_down(monkeypatch, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        run_with(monkeypatch, tmp_path, {"convert": ModelError("broken")})
    steps = json.loads((tmp_path / "run" / "run.json").read_text())["steps"]
    assert [s["status"] for s in steps] == ["ok", "ok", "failed"]


def test_a_child_brings_the_error_home_with_its_class_and_hint(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with StageChild() as child, pytest.raises(DatasetError) as caught:
        child.call(STAGES["dataset"], tmp_path / "out", {"images": tmp_path / "photos"}, DatasetConfig())
    assert str(tmp_path / "photos") in str(caught.value)


def test_a_child_that_is_killed_is_a_job_error_with_the_signal(tmp_path: Path) -> None:
    with StageChild() as child:
        child.start()
        os.kill(child._process.pid, signal.SIGKILL)
        with pytest.raises(JobError, match="SIGKILL") as caught:
            child.call(STAGES["dataset"], tmp_path, {"images": tmp_path}, DatasetConfig())
    assert "memory" in caught.value.hint


def test_the_digest_of_a_run_ignores_how_long_it_took(tmp_path: Path) -> None:
    step = {"stage": "dataset", "variant": None, "runtime": None, "artifact": "dataset-1", "status": "ok", "seconds": 1.0}
    for name, seconds in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"schema": 1, "recipe": {}, "steps": [{**step, "seconds": seconds}]}))
    assert pipeline.run_digest(tmp_path / "a") == pipeline.run_digest(tmp_path / "b")


def test_recipes_replace_nothing_that_was_not_named() -> None:
    recipe = Recipe(images="x")
    assert replace(recipe, schemes=("float32",)).finetune == recipe.finetune


def test_a_run_killed_at_its_very_start_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    runner = Runner(Recipe(images="photos"), out, on_step=lambda *a: None)
    runner._claim_folder()
    assert json.loads((out / "run.json").read_text())["steps"] == []
    (out / "run.json").rename(out / ".run.json.1.part-2")  # as if killed before its rename
    runner._claim_folder()
    (out / ".cache").mkdir()
    runner._claim_folder()  # ours by its run.json
    assert (out / "run.json").is_file()

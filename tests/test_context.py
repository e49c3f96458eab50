"""What is outside a stage's inputs and config and changes its result is part of its key."""
from __future__ import annotations

from pathlib import Path

import pytest

from edgepress.context import stage_context
from edgepress.errors import ModelError, RecipeError
from edgepress.recipe import BenchmarkConfig, ConvertConfig, FinetuneConfig, QuantizeConfig


def test_another_weights_file_is_another_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRESS_WEIGHTS", str(tmp_path))
    file = tmp_path / "mobilenet_v2_0.35_224_imagenet_no_top.h5"
    file.write_bytes(b"one")
    config = FinetuneConfig(backbone="mobilenet_v2_0.35_224")
    first = stage_context("finetune", config)
    file.write_bytes(b"two")
    assert first and stage_context("finetune", config) != first
    assert stage_context("finetune", FinetuneConfig(weights="none")) is None


def test_weights_that_are_not_there_are_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEPRESS_WEIGHTS", raising=False)
    with pytest.raises(ModelError, match="nowhere.h5"):
        stage_context("finetune", FinetuneConfig(weights="nowhere.h5"))
    with pytest.raises(RecipeError, match="does not exist"):
        stage_context("finetune", FinetuneConfig(backbone="mobilenet_v9_224"))


def test_labels_and_machine_count(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("a\n")
    config = ConvertConfig(labels=str(labels))
    first = stage_context("convert", config)
    labels.write_text("b\n")
    assert stage_context("convert", config) != first
    assert stage_context("quantize", QuantizeConfig()) and stage_context("quantize", QuantizeConfig(profile="litert")) is None
    assert stage_context("benchmark", BenchmarkConfig())[0]["cpus"] >= 1

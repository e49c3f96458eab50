"""What finished stages say."""
from __future__ import annotations

from pathlib import Path

from edgepress.summaries import summarize


def test_pruning_says_what_it_cost_on_validation_images() -> None:
    said = summarize("prune", {"method": "tfmot", "before": {"validation_accuracy": 0.91}, "after": {"validation_accuracy": 0.885}}, Path("pruned"))
    assert said == "method: tfmot\nbefore pruning: 91.00% right on validation images\nafter pruning: 88.50% right on validation images\npruned"
    assert summarize("prune", {"before": {"validation_accuracy": None}, "after": {"validation_accuracy": None}}, Path("pruned")) == "pruned"


def test_finetuning_says_both_accuracies_where_both_were_trained() -> None:
    assert summarize("finetune", {"kept": "head", "probe": {"accuracy": 0.9}, "finetune": None}, Path("m")) == "kept: head\nhead alone: 90.00% right on validation images\nm"

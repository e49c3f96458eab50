"""Score one file from disk on labelled images, in the runtime that will execute it."""
from __future__ import annotations

from pathlib import Path

from edgepress import accuracy, scoring
from edgepress.predictions import write_score
from edgepress.recipe import EvaluateConfig


def evaluate(out: Path, *, model: Path, dataset: Path, config: EvaluateConfig) -> None:
    """Write evaluation.json and predictions.npz.

    Where the runtime cannot run the file, evaluation.json says `status: unsupported` with the reason and holds no figures.

    Args:
        model: a .tflite, .onnx, .keras or .h5 file, or a folder that holds one.
        dataset: dataset artifact, class folders, a CSV of path,label, or a CSV of raw tensors (file.bin,classes,label).

    Raises:
        ModelError: labels of file and images do not fit together.
        UnsupportedError: the runtime does not open this format, or none does.
        JobError: the process that runs the file died.
    """
    score = scoring.score_file(model, dataset, config=config, cache=out.parent / ".cache", work=out)
    facts = {"schema": 1, **score.facts, "classes": len(score.labels), "labels": list(score.labels)}
    if score.probabilities is not None:
        facts.update(accuracy.score(score.probabilities, score.targets, score.labels))
    write_score(out, score, facts)

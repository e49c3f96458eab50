"""Say what a file lost against its float reference, on the same images, and whether that is within the budget."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np

from edgepress import accuracy, scoring
from edgepress.artifact import digest_file, write_json
from edgepress.errors import ArtifactError, DatasetError, ModelError, RecipeError
from edgepress.predictions import EVALUATION, PREDICTIONS, Score, read_score
from edgepress.recipe import CertifyConfig, EvaluateConfig

CERTIFICATE = "certificate.json"


def certify(out: Path, *, model: Path, reference: Path, dataset: Optional[Path] = None, config: CertifyConfig) -> None:
    """Write certificate.json and predictions.npz (probabilities of both, targets, digests).

    Args:
        model: a model file, or the artifact of an `evaluate` stage whose predictions are then used as they are.
        reference: the same, for the float file.
        dataset: the labelled images; needed where `model` or `reference` is a file.

    Raises:
        RecipeError: a file without a dataset, or a budget that cannot be.
        DatasetError: the two were evaluated on different images.
        ModelError: the two have different labels.
        UnsupportedError: a runtime could not run one of them.
    """
    if not 0 <= config.max_drop <= 100 or not 0.5 < config.confidence < 1:
        raise RecipeError(f"max_drop {config.max_drop} points at confidence {config.confidence} cannot be certified",
                          "give --max-drop between 0 and 100 and --confidence between 0.5 and 1")
    ours, theirs = (_obtain(path, dataset, config, out) for path in (model, reference))
    _check_pair(ours, theirs)
    compared = accuracy.compare(ours.probabilities, theirs.probabilities, ours.targets, ours.labels, max_drop=config.max_drop, confidence=config.confidence)
    for side in ("lost", "gained"):
        compared[side] = [_flip(index, ours, theirs) for index in compared[side]]
    warnings = _warnings(ours, theirs, compared)
    write_json(out / CERTIFICATE, {"schema": 1, **_identity(ours), "reference": _identity(theirs), "images": len(ours.targets), "split": ours.facts["split"],
                                   "dataset": ours.facts["dataset"], "units": {"drop": "percentage points", "accuracy": "share 0-1", "kl": "nats"},
                                   **compared, "warnings": warnings})
    np.savez_compressed(out / PREDICTIONS, probabilities=ours.probabilities, reference_probabilities=theirs.probabilities,
                        targets=ours.targets, digests=np.array(ours.digests), paths=np.array(ours.paths))


def write_beside(artifact: Path, file: Path) -> Path:
    """Write the certificate of a finished `certify` artifact beside the file it is about, as `<file>.certificate.json`.

    Raises:
        ArtifactError: the file's bytes are not the ones that were certified.
    """
    certificate = json.loads((artifact / CERTIFICATE).read_text(encoding="utf-8"))
    if digest_file(file) != certificate["sha256"]:
        raise ArtifactError(f"{file} is not the file that was certified: its sha256 is not {certificate['sha256'][:12]}…", "certify it again")
    target = file.with_name(file.name + ".certificate.json")
    write_json(target, {**certificate, "file": file.name})
    return target


def _obtain(path: Path, dataset: Optional[Path], config: CertifyConfig, out: Path) -> Score:
    if (path / EVALUATION).is_file():
        score = read_score(path)
    elif dataset is None:
        raise RecipeError(f"certify needs labelled images to run {path}", "name them with --images, or give the folders of two `edgepress evaluate` results")
    else:
        score = scoring.score_file(path, dataset, config=EvaluateConfig(runtime=config.runtime, threads=config.threads, target=config.target), cache=out.parent / ".cache", work=out)
    score.require()
    return score


def _check_pair(ours: Score, theirs: Score) -> None:
    if ours.labels != theirs.labels:
        first = next((f"{a!r} and {b!r}" for a, b in zip(ours.labels, theirs.labels) if a != b), f"{len(ours.labels)} and {len(theirs.labels)} classes")
        raise ModelError(f"{ours.name} and {theirs.name} have different labels ({first})", "certify a file against the float file it was made from")
    if ours.digests != theirs.digests or not np.array_equal(ours.targets, theirs.targets):
        raise DatasetError(f"{ours.name} ({len(ours.digests)} images) and {theirs.name} ({len(theirs.digests)} images) were evaluated on different images",
                           "evaluate both on the same dataset and split")


def _identity(score: Score) -> Dict[str, Any]:
    return {key: score.facts[key] for key in ("file", "sha256", "size_bytes", "runtime", "target", "measured_on") if key in score.facts}


def _flip(index: int, ours: Score, theirs: Score) -> Dict[str, Any]:
    """One image whose answer became wrong or right; digests let anybody find it again."""
    answer, before = ours.probabilities[index], theirs.probabilities[index]
    return {"index": index, "digest": ours.digests[index], "target": ours.labels[ours.targets[index]],
            "reference": ours.labels[before.argmax()], "reference_probability": round(float(before.max()), 6),
            "prediction": ours.labels[answer.argmax()], "probability": round(float(answer.max()), 6)}


def _warnings(ours: Score, theirs: Score, compared: Dict[str, Any]) -> List[str]:
    """What a reader of the certificate should know and might not ask."""
    warnings = []
    if ours.facts["sha256"] == theirs.facts["sha256"]:
        warnings.append("file and reference are the same bytes: this compares two runtimes, not two files" if ours.facts["runtime"] != theirs.facts["runtime"]
                        else "file and reference are the same bytes in the same runtime")
    if ours.facts["split"] != "test":
        warnings.append(f"the images are the {ours.facts['split']} split: choices were made on it, so the drop may be larger on new images")
    chance = 1 / len(ours.labels)
    if compared["reference_accuracy"] < chance + 0.1 * (1 - chance):
        warnings.append(f"the reference itself is right on only {compared['reference_accuracy']:.1%} of the images: check its preprocessing and labels first")
    worst = compared["worst_class"]
    if worst and worst["interval"][0] > compared["max_drop"]:
        warnings.append(f"class {worst['label']!r} lost {worst['drop']:.1f} points, more than the budget even at the near end of its corrected interval")
    return warnings

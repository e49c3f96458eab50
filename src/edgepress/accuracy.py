"""What probabilities are worth against labels, alone and paired with a reference's: plain dicts for JSON."""
from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from edgepress import statistics

RULE = ("Every image is paired with itself. The drop is (lost − gained) / images, where lost images are right in the reference and wrong in the file, "
        "gained ones the other way round. certified is true where the one-sided upper bound of the drop at the stated confidence (drop_at_most) is no larger than "
        "max_drop, false where the lower bound (drop_at_least) is larger, unresolved where these images cannot tell. The bounds are Tango's (1998) score "
        "bounds; drop_at_most is never below the smallest drop this many images can rule out, 1 − (1 − confidence)^(1/images), and drop_at_least never above "
        "the exact (Clopper–Pearson) bound of the share of lost images. drop_interval is two-sided.")
RANGE_TOLERANCE, SUM_TOLERANCE = 1e-3, 0.05  # of probabilities that a quantized softmax rounded


def score(probabilities: np.ndarray, targets: np.ndarray, labels: Sequence[str]) -> Dict[str, Any]:
    """Accuracy, top-5, per-class recall, confusion matrix (rows: true class) and calibration.

    Args:
        probabilities: float [N, C]; ties go to the first class.
        targets: int [N], each 0…C-1.
    """
    predicted, count = probabilities.argmax(axis=1), len(targets)
    confusion = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(confusion, (targets, predicted), 1)
    correct = int(np.trace(confusion))
    own = probabilities[np.arange(count), targets]
    top5 = (probabilities > own[:, None]).sum(axis=1) < 5  # ties count as a hit, as they do for top-1 half of the time
    return {
        "images": count, "correct": correct, "accuracy": correct / count, "accuracy_interval": list(statistics.wilson_interval(correct, count)),
        "top5": float(top5.mean()),
        "per_class": [_class_row(confusion, index, label) for index, label in enumerate(labels)],
        "confusion": confusion.tolist(),
        "ece": statistics.expected_calibration_error(probabilities, targets),
        "nll": float(-np.log(np.clip(own.astype(np.float64), 1e-7, None)).mean()),
        "mean_confidence": float(probabilities.max(axis=1).astype(np.float64).mean()),
    }


def _class_row(confusion: np.ndarray, index: int, label: str) -> Dict[str, Any]:
    images, right, said = int(confusion[index].sum()), int(confusion[index, index]), int(confusion[:, index].sum())
    return {"label": label, "images": images, "correct": right, "recall": right / images if images else None,
            "recall_interval": list(statistics.wilson_interval(right, images)) if images else None, "precision": right / said if said else None}


def compare(probabilities: np.ndarray, reference: np.ndarray, targets: np.ndarray, labels: Sequence[str], *, max_drop: float,
            confidence: float = 0.95) -> Dict[str, Any]:
    """What a file lost against its reference on the same images; drops in percentage points.

    Args:
        probabilities: float [N, C] of the file.
        reference: float [N, C] of the reference.
        targets: int [N].
        max_drop: largest accepted drop in percentage points.
    """
    ours, theirs, count = probabilities.argmax(axis=1), reference.argmax(axis=1), len(targets)
    right, was_right = ours == targets, theirs == targets
    lost, gained = np.flatnonzero(was_right & ~right), np.flatnonzero(right & ~was_right)
    agree = int((ours == theirs).sum())
    kl = statistics.kl_divergences(reference, probabilities)
    difference = np.abs(probabilities.astype(np.float64) - reference)
    classes = _class_drops(lost, gained, targets, labels, confidence=confidence)
    return {
        **judge(len(lost), len(gained), count, max_drop=max_drop, confidence=confidence),
        "accuracy": float(right.mean()), "reference_accuracy": float(was_right.mean()),
        "mcnemar_p": statistics.mcnemar_exact(len(lost), len(gained)),
        "agreement": agree / count, "agreement_interval": list(statistics.wilson_interval(agree, count)),
        "flips": {"lost": len(lost), "gained": len(gained), "wrong_both_ways": int((~right & ~was_right & (ours != theirs)).sum())},
        "lost": lost.tolist(), "gained": gained.tolist(),
        "kl": {"mean": float(kl.mean()), "p99": float(np.quantile(kl, 0.99)), "max": float(kl.max())},
        "parity": {"max_abs_difference": float(difference.max()), "mean_abs_difference": float(difference.mean())},
        "worst_class": max(classes, key=lambda row: (row["drop"], -row["images"]), default=None),
        "per_class": classes,
    }


def judge(lost: int, gained: int, count: int, *, max_drop: float, confidence: float) -> Dict[str, Any]:
    """The verdict and the figures it rests on, in percentage points, with a sentence for people."""
    limit = max_drop / 100
    verdict = statistics.drop_verdict(lost, gained, count, max_drop=limit, confidence=confidence)
    at_least, at_most = (100 * b for b in statistics.drop_bounds(lost, gained, count, confidence=confidence))
    needed = statistics.images_for_verdict(lost, gained, count, max_drop=limit, confidence=confidence)
    facts = {
        "certified": "unresolved" if verdict is None else verdict, "max_drop": max_drop, "confidence": confidence,
        "drop": 100 * (lost - gained) / count,
        "drop_interval": [100 * b for b in statistics.paired_drop_interval(lost, gained, count, confidence=confidence)],
        "drop_at_least": at_least, "drop_at_most": at_most,
        "smallest_resolvable_drop": 100 * statistics.smallest_resolvable_drop(count, confidence=confidence), "images_needed": needed,
    }
    return {**facts, "reason": _sentence(facts, lost, gained, count), "rule": RULE}


def _sentence(facts: Dict[str, Any], lost: int, gained: int, count: int) -> str:
    seen = f"{lost} of {count} images were lost and {gained} gained: a {'drop' if lost >= gained else 'gain'} of {_points(abs(facts['drop']))}"
    sure, limit = f"with {facts['confidence']:.0%} confidence", _points(facts["max_drop"])
    if facts["certified"] is True:
        return f"{seen}; {sure} at most {_points(facts['drop_at_most'])}, which is within {limit}"
    if facts["certified"] is False:
        return f"{seen}; {sure} more than {_points(facts['drop_at_least'], down=True)}, which is over {limit}"
    return f"{seen}; {sure} at most {_points(facts['drop_at_most'])}, so {limit} can be neither promised nor ruled out. {_need(facts, lost, gained, count)}"


def _need(facts: Dict[str, Any], lost: int, gained: int, count: int) -> str:
    smallest = f"{count} images resolve no drop smaller than {_points(facts['smallest_resolvable_drop'])}"
    if facts["images_needed"] is None:
        return f"{smallest}; at a drop this close to the limit no number of images would tell"
    if lost + gained == 0:
        return f"{smallest}; {facts['images_needed']:,} would be needed if none flips"
    return f"With flips as frequent as these about {facts['images_needed']:,} images would be needed"


def _points(value: float, *, down: bool = False) -> str:
    """A drop in words, rounded to the side that claims less."""
    scaled = np.floor(value * 100 + 1e-9) if down else np.ceil(value * 100 - 1e-9)
    text = f"{scaled / 100 + 0.0:.2f}".rstrip("0").rstrip(".")  # + 0.0: no minus before a zero
    return f"{text} point" + ("" if text == "1" else "s")


def _class_drops(lost: np.ndarray, gained: np.ndarray, targets: np.ndarray, labels: Sequence[str], *, confidence: float) -> List[Dict[str, Any]]:
    """Recall drop of each class that has images: intervals that hold for all classes at once (Bonferroni), p-values after Holm."""
    sizes = np.bincount(targets, minlength=len(labels))
    losses, gains = (np.bincount(targets[i], minlength=len(labels)) for i in (lost, gained))
    present = np.flatnonzero(sizes)
    each = 1 - (1 - confidence) / max(1, len(present))
    adjusted = statistics.holm([statistics.mcnemar_exact(int(losses[c]), int(gains[c])) for c in present])
    rows = []
    for c, p in zip(present, adjusted):
        low, high = statistics.paired_drop_interval(int(losses[c]), int(gains[c]), int(sizes[c]), confidence=each)
        rows.append({"label": labels[c], "images": int(sizes[c]), "lost": int(losses[c]), "gained": int(gains[c]),
                     "drop": 100 * float(losses[c] - gains[c]) / float(sizes[c]), "interval": [100 * low, 100 * high], "p": p})
    return rows


def check_answers(answers: Any, *, classes: int) -> Optional[str]:
    """What is wrong with the answers of a model, or None: not [N, classes], or not finite."""
    shape = np.shape(answers)
    if len(shape) != 2 or shape[1] != classes:
        return f"the model answers with {shape[-1] if len(shape) == 2 else shape} numbers per image, but there are {classes} classes"
    if not np.isfinite(answers).all():
        return "the model answers with numbers that are not finite"
    return None


def in_range(answers: np.ndarray) -> bool:
    """Whether every number could be a probability."""
    return not answers.size or bool(answers.min() >= -RANGE_TOLERANCE and answers.max() <= 1 + RANGE_TOLERANCE)


def check_probabilities(answers: np.ndarray) -> Optional[str]:
    """Why finite answers [N, C] are not probabilities, or None.

    A softmax rounded to 8 bits passes: each of its C numbers is off by at most 1/512, so a thousand of them sum to 1 only roughly.
    """
    sums = answers.sum(axis=1, dtype=np.float64)
    off = np.abs(sums - 1).max(initial=0) > max(SUM_TOLERANCE, answers.shape[1] / 512)
    if in_range(answers) and not off:
        return None
    return f"its answers run from {answers.min():.3g} to {answers.max():.3g}" + (f" and do not sum to 1 (but {sums.min():.3g} to {sums.max():.3g})" if off else "") + ": they are no probabilities"

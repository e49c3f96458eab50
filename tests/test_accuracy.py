"""Metrics by hand and against scikit-learn; verdicts in words."""
from __future__ import annotations

import numpy as np
import pytest

from edgepress import accuracy

LABELS = ("red", "green", "blue")


def one_hot(answers, classes=3, top=0.9):
    rest = (1 - top) / (classes - 1)
    return np.where(np.eye(classes)[list(answers)] > 0, top, rest).astype(np.float32)


def test_score_by_hand():
    result = accuracy.score(one_hot([0, 0, 1, 2, 2]), np.array([0, 1, 1, 2, 2]), LABELS)
    assert result["accuracy"] == 0.8 and result["correct"] == 4 and result["images"] == 5
    assert result["confusion"] == [[1, 0, 0], [1, 1, 0], [0, 0, 2]]  # rows are the true classes
    green = result["per_class"][1]
    assert (green["recall"], green["precision"], green["images"]) == (0.5, 1.0, 2)
    assert green["recall_interval"][0] < 0.5 < green["recall_interval"][1]
    assert result["nll"] == pytest.approx(-(4 * np.log(0.9) + np.log(0.05)) / 5, abs=1e-6)
    assert result["top5"] == 1.0  # there are only three classes


def test_score_matches_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    probabilities, targets = random.dirichlet(np.ones(9), 400).astype(np.float32), random.integers(0, 9, 400)
    result = accuracy.score(probabilities, targets, [str(i) for i in range(9)])
    assert result["top5"] == pytest.approx(metrics.top_k_accuracy_score(targets, probabilities, k=5))
    assert result["confusion"] == metrics.confusion_matrix(targets, probabilities.argmax(1)).tolist()
    assert result["nll"] == pytest.approx(metrics.log_loss(targets, probabilities.astype(float) / probabilities.sum(1, keepdims=True)), rel=1e-5)


def test_a_class_without_images_has_no_recall():
    row = accuracy.score(one_hot([0, 0]), np.array([0, 0]), LABELS)["per_class"][2]
    assert row["images"] == 0 and row["recall"] is None and row["recall_interval"] is None and row["precision"] is None


def pair(images, lost, gained):
    """Answers of a file and its reference on images of class 0 … 2 in turn: `lost` first images get wrong, `gained` last ones right."""
    targets = np.arange(images) % 3
    reference, ours = targets.copy(), targets.copy()
    ours[:lost] = (targets[:lost] + 1) % 3
    reference[images - gained:] = (targets[images - gained:] + 1) % 3
    return one_hot(ours), one_hot(reference), targets


def test_compare_counts_flips_both_ways():
    ours, reference, targets = pair(300, 6, 2)
    result = accuracy.compare(ours, reference, targets, LABELS, max_drop=1.0)
    assert result["lost"] == [0, 1, 2, 3, 4, 5] and result["gained"] == [298, 299]
    assert result["drop"] == pytest.approx(4 / 3) and result["agreement"] == pytest.approx(292 / 300)
    assert result["accuracy"] == pytest.approx(294 / 300) and result["reference_accuracy"] == pytest.approx(298 / 300)
    assert result["mcnemar_p"] == pytest.approx(2 * (1 + 8 + 28) / 2 ** 8)
    assert result["parity"]["max_abs_difference"] == pytest.approx(0.85, abs=1e-6)
    assert result["drop_interval"][0] < result["drop"] < result["drop_interval"][1]


def test_the_same_answers_have_no_distance():
    ours, _, targets = pair(30, 0, 0)
    result = accuracy.compare(ours, ours, targets, LABELS, max_drop=1.0)
    assert result["kl"] == {"mean": 0.0, "p99": 0.0, "max": 0.0} and result["parity"]["max_abs_difference"] == 0
    assert result["agreement"] == 1 and result["mcnemar_p"] == 1 and result["drop"] == 0


@pytest.mark.parametrize(("images", "lost", "gained", "certified", "words"), [
    (1000, 2, 1, True, "at most 0.52 points, which is within 1 point"),
    (300, 0, 0, True, "0 of 300 images were lost and 0 gained: a drop of 0 points"),
    (1000, 0, 5, True, "a gain of 0.5 points"),
    (200, 0, 0, "unresolved", "200 images resolve no drop smaller than 1.49 points; 299 would be needed if none flips"),
    (200, 2, 0, "unresolved", "no number of images would tell"),
    (400, 3, 2, "unresolved", "With flips as frequent as these about"),
    (300, 15, 2, False, "which is over 1 point"),
])
def test_verdict(images, lost, gained, certified, words):
    ours, reference, targets = pair(images, lost, gained)
    result = accuracy.compare(ours, reference, targets, LABELS, max_drop=1.0)
    assert result["certified"] is certified or result["certified"] == certified == "unresolved"
    assert words in result["reason"]


def test_worst_class_is_the_one_that_lost_most_with_an_interval_that_allows_for_the_choice():
    targets = np.repeat([0, 1, 2], 100)
    ours = targets.copy()
    ours[100:108] = 2
    result = accuracy.compare(one_hot(ours), one_hot(targets), targets, LABELS, max_drop=1.0)
    worst = result["worst_class"]
    assert (worst["label"], worst["drop"], worst["lost"]) == ("green", 8.0, 8)
    from edgepress.statistics import mcnemar_exact, paired_drop_interval
    low, high = paired_drop_interval(8, 0, 100)
    assert worst["interval"][0] < 100 * low and worst["interval"][1] > 100 * high  # wider than for a class named beforehand
    assert worst["p"] == pytest.approx(3 * mcnemar_exact(8, 0))


@pytest.mark.parametrize(("answer", "words"), [(np.zeros((4, 2)), "2 numbers per image, but there are 3 classes"), (np.zeros((4, 3, 1)), "classes"),
                                               (np.array([[np.nan, 0, 1]]), "not finite"), (np.ones((1, 3)) / 3, None)])
def test_answers_are_checked(answer, words):
    problem = accuracy.check_answers(answer, classes=3)
    assert problem is None if words is None else words in problem


def rounded_softmax(classes):
    """Unsure answers as a TFLite int8 softmax stores them: multiples of 1/256."""
    powers = np.exp(np.random.default_rng(0).normal(0, 1.5, (50, classes)))
    return np.minimum(np.rint(256 * powers / powers.sum(1, keepdims=True)), 255) / 256


@pytest.mark.parametrize(("answer", "words"), [
    (np.array([[-3.2, 7.5, 0.1]]), "run from -3.2 to 7.5 and do not sum to 1"), (np.array([[0.9, 0.8, 0.1]]), "do not sum to 1 (but 1.8 to 1.8)"),
    (np.array([[1.4, -0.4, 0.0]]), "run from -0.4 to 1.4: they are"), (np.array([[0.2, 0.8, 0.0], [0.2, 0.2, 0.2]]), "0.6 to 1"),
    (np.array([[-5e-4, 1.0005, 0.0]]), None), (rounded_softmax(3), None), (rounded_softmax(10), None), (rounded_softmax(1000), None)])
def test_answers_that_are_no_probabilities_are_told_with_their_range(answer, words):
    problem = accuracy.check_probabilities(answer)
    assert problem is None if words is None else words in problem

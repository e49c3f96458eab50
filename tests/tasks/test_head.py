"""The convex head: right answers, chosen regularization, folded standardization, honest temperature."""
from __future__ import annotations

import time

import numpy as np
import pytest

from edgepress.tasks import head as heads


def clouds(count: int, *, seed: int, width: int = 8, classes: int = 3, noise: float = 1.0) -> tuple:
    """Points around one center per class, on scales that differ a thousandfold between features."""
    centers = np.random.default_rng(99).normal(size=(classes, width))
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, count)
    return ((centers[targets] + noise * rng.normal(size=(count, width))) * np.logspace(-1.5, 1.5, width) + 5).astype(np.float16), targets


def test_agrees_with_scikit_learn_on_standardized_features() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    x, y = clouds(400, seed=1)
    x = x.astype(np.float32)
    ours = heads.refit_head(x, y, strength=0.03, classes=3, weights=np.ones(3))
    z = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-3)
    theirs = linear.LogisticRegression(C=1 / (0.03 * len(y)), max_iter=2000, tol=1e-8).fit(z, y)
    np.testing.assert_allclose(ours.probabilities(x), theirs.predict_proba(z), atol=2e-3)  # both stop near the one optimum


def test_the_strength_is_chosen_on_validation() -> None:
    x, y = clouds(60, seed=1, width=40, noise=2.5)
    v, vy = clouds(500, seed=2, width=40, noise=2.5)
    probe = heads.choose_head(x, y, v, vy, classes=3, weights=np.ones(3))
    losses = {step["strength"]: step["loss"] for step in probe.path}
    assert probe.loss <= min(losses.values()) + 1 / len(v) and probe.strength == max(s for s, loss in losses.items() if loss <= min(losses.values()) + 1 / len(v))
    assert probe.strength > min(heads.STRENGTHS), "sixty noisy points need a strong penalty"
    assert probe.accuracy == pytest.approx((probe.head.probabilities(v).argmax(axis=1) == vy).mean())


def test_a_dead_feature_weighs_nothing_and_breaks_nothing() -> None:
    x, y = clouds(100, seed=1)
    x[:, 3] = 7.0
    head = heads.refit_head(x, y, strength=0.01, classes=3, weights=np.ones(3))
    assert np.isfinite(head.kernel).all() and np.abs(head.kernel[3]).max() < 1e-4


def test_balanced_weights_lift_the_rare_class() -> None:
    x, y = clouds(3000, seed=1, noise=3.0)
    kept = np.flatnonzero((y != 2) | (np.arange(len(y)) % 20 == 0))
    x, y = x[kept], y[kept]
    v, vy = clouds(600, seed=2, noise=3.0)
    recalls = []
    for balanced in (False, True):
        weights = heads.class_weights(y, 3, balanced=balanced)
        p = heads.refit_head(x, y, strength=0.01, classes=3, weights=weights).probabilities(v).argmax(axis=1)
        recalls.append((p[vy == 2] == 2).mean())
    assert recalls[1] > recalls[0] + 0.1
    assert heads.class_weights(np.array([0, 0, 0, 1]), 3, balanced=True).tolist() == pytest.approx([4 / 9, 4 / 3, 0.0])


def test_temperature_finds_how_overconfident_logits_are() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4000, 5))
    targets = np.array([rng.choice(5, p=row) for row in heads.softmax(logits)])
    found = heads.calibrate(logits * 2.5, targets)
    assert found.temperature == pytest.approx(2.5, rel=0.1) and found.loss < heads.photo_losses(logits * 2.5, targets).mean()
    head = heads.Head(np.eye(5, dtype=np.float32), np.zeros(5, np.float32)).cooled(2.0)
    np.testing.assert_allclose(head.probabilities(logits), heads.softmax(logits / 2), atol=1e-6)


def test_photos_that_are_all_right_do_not_make_the_head_certain() -> None:
    x, y = clouds(200, seed=1, noise=0.1)
    v, vy = clouds(60, seed=2, noise=0.1)
    probe = heads.choose_head(x, y, v, vy, classes=3, weights=np.ones(3))
    assert probe.accuracy == 1.0 and probe.strength > 10 * min(heads.STRENGTHS) and 0.6 < probe.calibrated.temperature <= 1.0


@pytest.mark.slow
def test_refit_from_cached_features_is_quick() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 5000)
    x = np.maximum(0, rng.normal(0, 1, (5000, 1280)) + rng.normal(0, 0.15, (10, 1280))[y]).astype(np.float16)
    with heads.one_thread_each():
        started = time.process_time()
        heads.refit_head(x, y, strength=0.03, classes=10, weights=np.ones(10))
        assert time.process_time() - started < 15  # 3 s on a quiet core; 5 s is the bar

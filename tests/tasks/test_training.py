"""Fine-tuning: it learns, slower towards the stem, with batch norm frozen, and goes on where it was killed."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgepress.errors import ModelError
from edgepress.tasks import training
from edgepress.tasks.head import Calibrated
from edgepress.tasks.training import Photos, Schedule

pytestmark = pytest.mark.tensorflow
SCHEDULE = Schedule(epochs=3, batch_size=16, learning_rate=0.05, layer_decay=0.5, label_smoothing=0.05, ema=0.99, patience=9, seed=0)
NORMALIZE = ((1 / 127.5,) * 3, (-1.0,) * 3)


def stripes(count: int, seed: int) -> Photos:
    """Photos of horizontal (0) or vertical (1) stripes."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, count)
    wave = np.where(np.arange(16) % 4 < 2, 200, 40)
    pixels = np.stack([np.broadcast_to(wave[:, None] if t == 0 else wave[None], (16, 16)) for t in targets])[..., None] + rng.integers(-40, 40, (count, 16, 16, 3))
    return Photos(np.clip(pixels, 0, 255).astype(np.uint8), targets.astype(np.int64))


def tiny() -> object:
    from edgepress.tf import import_tensorflow, set_deterministic

    _, keras = import_tensorflow()
    set_deterministic(0)
    layers, image = keras.layers, keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, strides=2, name="stem", use_bias=False)(image)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="stem_bn")(x))
    x = layers.ReLU(name="top_relu")(layers.Conv2D(8, 3, name="top")(x))
    return keras.Model(image, layers.Dense(2, name="logits")(layers.GlobalAveragePooling2D()(x)))


def run(model: object, checkpoint: Path, schedule: Schedule = SCHEDULE, log: object = lambda epoch, figures: None) -> training.Tuned:
    return training.fine_tune(model, ("stem_relu",), train=stripes(64, 1), validation=stripes(32, 2), normalize=NORMALIZE,
                              class_weights=np.ones(2, np.float32), schedule=schedule, checkpoint=checkpoint, log=log)


def test_it_learns_and_leaves_batch_norm_statistics_alone(tmp_path: Path) -> None:
    model = tiny()
    before = [w.copy() for w in model.get_layer("stem_bn").get_weights()]
    tuned = run(model, tmp_path / "c.npz", replace(SCHEDULE, epochs=15, batch_size=8))
    assert tuned.history[-1]["validation_loss"] < tuned.history[0]["validation_loss"]
    assert tuned.accuracy > 0.9 and tuned.loss == tuned.history[tuned.epoch - 1]["validation_loss"]
    after = model.get_layer("stem_bn").get_weights()
    np.testing.assert_array_equal(before[2:], after[2:])  # moving mean and variance
    assert not np.array_equal(before[0], after[0])  # gamma learns


def test_a_killed_run_goes_on_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = run(tiny(), tmp_path / "whole.npz")

    def die(epoch: int, figures: object) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny(), tmp_path / "killed.npz", log=die)
    resumed = run(tiny(), tmp_path / "killed.npz")
    assert resumed.resumed_from == 2 and [h["epoch"] for h in resumed.history] == [1, 2, 3]
    for ours, theirs in zip(resumed.weights, whole.weights):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_layers_learn_slower_towards_the_stem() -> None:
    model = tiny()
    rates = dict(zip([v.name.split("/")[0] for v in model.trainable_variables], training.learning_rates(model, ("stem_relu",), 0.5)))
    assert rates == {"stem": 0.25, "stem_bn": 0.25, "top": 0.5, "logits": 1.0}


def test_the_last_epoch_that_cannot_be_told_from_the_best_is_kept_and_a_worse_one_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([0.9, 0.5, 0.54, 0.7, 0.8, 0.1])  # standard error 0.05
    monkeypatch.setattr(training, "calibrate", lambda logits, targets: Calibrated(1.0, next(losses), 0.05))
    tuned = run(tiny(), tmp_path / "c.npz", replace(SCHEDULE, epochs=6, patience=2))
    assert (tuned.epoch, tuned.loss, len(tuned.history)) == (3, 0.54, 5)


def test_divergence_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="diverged.*lower learning_rate"):
        run(tiny(), tmp_path / "c.npz", replace(SCHEDULE, learning_rate=1e30))


def test_the_learning_rate_warms_up_and_ends_near_zero() -> None:
    rates = [training.learning_rate(step, 100, 1.0) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == 1.0 == rates[9] and rates[-1] < 0.001
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize("mirror", [True, False])
def test_augmentation_mirrors_only_if_told_and_crops_no_closer(mirror: bool) -> None:
    rows = training.affine(500, (16, 16), replace(SCHEDULE, mirror=mirror, smallest_zoom=0.9), np.random.default_rng(0))
    assert (rows[:, 0] < 0).any() == mirror
    areas = np.abs(rows[:, 0] * rows[:, 4] - rows[:, 1] * rows[:, 3])  # share of the area that is shown
    assert 0.9 ** 2 - 1e-3 <= areas.min() and areas.max() <= 1.1 ** 2 + 1e-3

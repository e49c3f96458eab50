"""Activation ranges: what each method keeps, the same in both formats, and refused where they are not numbers."""
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import tiny_files as tiny  # noqa: E402

from edgepress.errors import ModelError  # noqa: E402
from edgepress.quantizers import calibration  # noqa: E402
from edgepress.quantizers.calibration import Feeds, clip_entropy, clip_percentile, collect  # noqa: E402

IMAGES = tiny.pixels(12)


def fake(rows: list, name: str = "x") -> calibration.Observe:
    def observe(feeds: Feeds, visit: calibration.Visit) -> None:
        for _ in feeds:
            visit(name, rows[_])
    return observe


def ranges(rows: list, method: str, **options: object) -> tuple:
    return collect(fake([np.asarray(row, np.float32) for row in rows]), Feeds(range(len(rows)), lambda i: i), method=method, **options)["x"]


def test_minmax_is_global_and_independent_of_order() -> None:
    rows = [[0.0, 1.0], [-3.0, 0.5], [0.0, 7.0]]
    assert ranges(rows, "minmax") == ranges(rows[::-1], "minmax") == (-3.0, 7.0)


def test_moving_average_depends_on_the_order_as_ai_edge_quantizer_does() -> None:
    rows = [[0.0, 1.0], [0.0, 2.0]]
    assert ranges(rows, "moving_average") == (0.0, pytest.approx(0.95 * 1 + 0.05 * 2))
    assert ranges(rows[::-1], "moving_average") == (0.0, pytest.approx(0.95 * 2 + 0.05 * 1))


def test_percentile_drops_an_outlier_and_minmax_does_not() -> None:
    values = np.random.default_rng(0).normal(0, 1, 16384).astype(np.float32)
    values[5] = 1000
    assert ranges([values], "minmax")[1] == 1000
    assert ranges([values] * 3, "percentile")[1] < 10
    assert ranges([values], "percentile", exact=("x",))[1] == 1000


@pytest.mark.parametrize("clip", [clip_percentile, clip_entropy])
def test_clips_stay_inside_the_observed_range_and_keep_zero(clip: object) -> None:
    counts = np.random.default_rng(1).integers(0, 100, calibration.BINS)
    low, high = clip(counts, (0.0, 6.0))
    assert 0.0 <= low <= 0.0 and 1.0 < high <= 6.0


def test_entropy_clips_a_long_tail() -> None:
    values = np.random.default_rng(2).laplace(0, 1, 200_000)
    values[:3] = 200
    low, high = clip_entropy(np.histogram(values, calibration.BINS, range=(values.min(), values.max()))[0], (values.min(), values.max()))
    assert 4 < high < 60


def test_entropy_survives_a_relu6_with_spikes_at_both_ends() -> None:
    """A spike at zero once drew the threshold down to a sixteenth of the range, and MobileNetV2 to 0 % accuracy."""
    values = np.clip(np.random.default_rng(3).normal(0, 2.5, 200_000), 0, 6)
    assert clip_entropy(np.histogram(values, calibration.BINS, range=(0, 6))[0], (0.0, 6.0))[1] > 5


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(bad: float) -> None:
    with pytest.raises(ModelError, match="not finite"):
        ranges([[0.0, bad]], "minmax")


def test_both_formats_observe_the_same_ranges() -> None:
    feeds = Feeds(IMAGES, lambda image: image[None])
    first = collect(calibration.observe_tflite(tiny.tflite(1 / 255, 0.0), threads=1), feeds, method="minmax")
    second = collect(calibration.observe_onnx(tiny.loaded(tiny.onnx_file(1 / 255, 0.0)), threads=1), feeds, method="minmax")
    for one, other in (("normalized", "x2"), ("features", "r"), ("logits", "logits"), ("probabilities", "probabilities")):
        assert first[one] == pytest.approx(second[other], abs=1e-4)


def test_delegated_activations_are_the_real_ones() -> None:
    """With XNNPACK the interpreter must still show what flows between operators, not stale memory."""
    data, seen = tiny.tflite(1 / 255, 0.0), {}
    calibration.observe_tflite(data, threads=1)(Feeds(IMAGES[:1], lambda image: image[None]), lambda name, values: seen.update({name: values.copy()}))
    logits = seen["logits"] - seen["logits"].max()
    assert np.allclose(np.exp(logits) / np.exp(logits).sum(), seen["probabilities"], atol=1e-5)

"""Intervals and tests against scipy, published examples and exact enumeration."""
from __future__ import annotations

import math

import numpy as np
import pytest

from edgepress import statistics

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize(("successes", "trials", "share"), [(0, 1, 0.3), (3, 10, 0.2), (120, 200, 0.61), (9_900, 10_000, 0.99), (7, 500, 1e-3)])
def test_binomial_cdf_matches_scipy(successes, trials, share):
    assert statistics.binomial_cdf(successes, trials, share) == pytest.approx(stats.binom.cdf(successes, trials, share), rel=1e-10, abs=1e-14)


@pytest.mark.parametrize(("successes", "trials"), [(0, 20), (20, 20), (171, 200), (1, 3)])
def test_wilson_matches_scipy(successes, trials):
    expected = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert statistics.wilson_interval(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (0, 1), (5, 0), (3, 9), (60, 44)])
def test_mcnemar_is_the_two_sided_binomial_test(lost, gained):
    expected = stats.binomtest(lost, lost + gained, 0.5).pvalue if lost + gained else 1.0
    assert statistics.mcnemar_exact(lost, gained) == pytest.approx(expected, rel=1e-9)


def test_tango_has_a_width_where_nothing_flipped():
    low, high = statistics.paired_drop_interval(0, 0, 100)
    z2 = stats.norm.ppf(0.975) ** 2
    assert (low, high) == pytest.approx((-z2 / (100 + z2), z2 / (100 + z2)), abs=1e-9)  # the closed form without discordant pairs


@pytest.mark.parametrize(("lost", "gained", "total"), [(3, 1, 200), (0, 4, 300), (12, 2, 44), (50, 20, 1000)])
def test_tango_ends_satisfy_the_score_equation(lost, gained, total):
    """At each end the constrained maximum-likelihood variance, found numerically, makes the statistic ±1.96."""
    from scipy.optimize import minimize_scalar

    for end, sign in zip(statistics.paired_drop_interval(lost, gained, total), (1, -1)):
        def likelihood(g, d=end):
            parts = ((lost, g + d), (gained, g), (total - lost - gained, 1 - 2 * g - d))
            return -sum(k * math.log(max(p, 1e-300)) for k, p in parts if k)
        g = minimize_scalar(likelihood, bounds=(max(0.0, -end), (1 - end) / 2), method="bounded", options={"xatol": 1e-13}).x
        score = (lost - gained - total * end) / math.sqrt(total * (2 * g + end * (1 - end)))
        assert score == pytest.approx(sign * stats.norm.ppf(0.975), abs=1e-3)  # tolerance of the numerical maximum


def test_paired_interval_mirrors_when_files_swap():
    low, high = statistics.paired_drop_interval(7, 2, 150)
    assert statistics.paired_drop_interval(2, 7, 150) == pytest.approx((-high, -low), abs=1e-9)
    assert low < 5 / 150 < high


def _error_shares(images, drop, flips=40, steps=25):
    """Probability, worst over the share of flips, of each wrong verdict when the true drop is exactly `drop` (by enumeration)."""
    lost, gained = np.meshgrid(np.arange(flips), np.arange(flips), indexing="ij")
    bounds = np.array([[statistics.drop_bounds(i, j, images) for j in range(flips)] for i in range(flips)])
    shares = []
    for total_share in np.linspace(drop, 25 / images, steps):
        p, q = (total_share + drop) / 2, max((total_share - drop) / 2, 1e-12)
        mass = stats.multinomial.pmf(np.stack([lost, gained, images - lost - gained], axis=-1), images, [p, q, 1 - p - q])
        shares.append((mass[bounds[..., 1] < drop - 1e-12].sum(), mass[bounds[..., 0] > drop + 1e-12].sum()))
    return np.max(shares, axis=0)


@pytest.mark.slow
@pytest.mark.parametrize(("images", "drop"), [(200, 0.02), (300, 0.01)])
def test_one_sided_bounds_err_as_often_as_they_say(images, drop):
    assert _error_shares(images, drop).max() <= 0.065  # 5 % nominal; a score bound may exceed it a little where flips are few


def test_smallest_resolvable_drop_is_the_rule_of_three():
    assert statistics.images_to_resolve(0.01) == 299
    assert statistics.smallest_resolvable_drop(299) <= 0.01 < statistics.smallest_resolvable_drop(298)
    assert statistics.smallest_resolvable_drop(200) == pytest.approx(1 - 0.05 ** (1 / 200))


@pytest.mark.parametrize(("lost", "gained", "images", "verdict"), [
    (0, 0, 200, None),   # 200 images cannot rule out one point
    (0, 0, 299, True),
    (2, 1, 1000, True),
    (5, 0, 200, None),   # 2.5 points seen, yet 1 point happens in 5.2 % of such sets
    (6, 0, 200, False),
    (9, 0, 200, False),
    (0, 12, 200, None),  # better, but the set is still too small to promise anything
    (10, 0, 1000, None),
])
def test_verdict_against_one_point(lost, gained, images, verdict):
    assert statistics.drop_verdict(lost, gained, images, max_drop=0.01) is verdict


def test_images_for_verdict_is_enough_and_not_much_more_than_needed():
    assert statistics.images_for_verdict(0, 0, 200, max_drop=0.01) in range(299, 302)
    needed = statistics.images_for_verdict(1, 0, 200, max_drop=0.01)
    assert statistics.drop_verdict(needed / 200, 0, needed, max_drop=0.01) is True
    assert statistics.drop_verdict(needed / 210, 0, int(needed / 1.05), max_drop=0.01) is None
    assert statistics.images_for_verdict(2, 0, 200, max_drop=0.01) is None
    assert statistics.images_for_verdict(9, 0, 200, max_drop=0.01) == 200


def test_holm_matches_its_definition():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([]) == []


@pytest.mark.parametrize(("count", "share", "ranks"), [(200, 0.5, (86, 115)), (200, 0.9, (171, 189)), (1024, 0.5, (481, 544)), (1024, 0.99, (1007, 1020)), (5, 0.5, None)])
def test_quantile_ranks(count, share, ranks):
    assert statistics.quantile_ranks(count, share) == ranks


def test_median_interval_matches_scipy():
    values = list(np.random.default_rng(0).gamma(3, size=61))
    expected = stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    low, high = statistics.median_interval(values)
    assert low == pytest.approx(expected.low) and high == pytest.approx(expected.high)
    assert statistics.median_interval([1.0] * 5) is None and statistics.median_interval([]) is None


@pytest.mark.parametrize("freedom", [1.0, 3.4, 30.0])
def test_student_quantile_matches_scipy(freedom):
    assert statistics.student_t_quantile(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)


@pytest.mark.parametrize(("count", "share"), [(50, 0.5), (459, 0.99), (2000, 0.9)])
def test_quantile_interval_covers_as_often_as_it_says(count, share):
    low, high = statistics.quantile_ranks(count, share)
    covered = stats.binom.cdf(high - 1, count, share) - stats.binom.cdf(low - 1, count, share)
    inner = stats.binom.cdf(high - 2, count, share) - stats.binom.cdf(low, count, share)
    assert inner < 0.95 <= covered + 1e-12


def test_calibration_error_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.0, 1.0]])
    assert statistics.expected_calibration_error(probabilities, [0, 1, 1, 1]) == pytest.approx((2 * abs(0.9 - 0.5) + 0.4 + 0.0) / 4)


def test_kl_matches_scipy_and_survives_zeros():
    p, q = np.array([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]]), np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]])
    kl = statistics.kl_divergences(p, q)
    assert kl[0] == pytest.approx(stats.entropy(p[0], q[0]), abs=1e-6)
    assert np.isfinite(kl).all() and kl[1] > 10


@pytest.mark.parametrize("call", [lambda: statistics.wilson_interval(3, 2), lambda: statistics.paired_drop_interval(1, 1, 0),
                                  lambda: statistics.wilson_interval(1, 2, confidence=1.0), lambda: statistics.images_to_resolve(0.0)])
def test_impossible_counts_are_refused(call):
    with pytest.raises(ValueError, match="accepted|counts"):
        call()

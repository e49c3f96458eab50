"""The verdict about two measurements errs as often as it says, on noise like a real machine's, and finds what is there."""
from __future__ import annotations

import dataclasses
import math
from typing import List, Optional, Tuple

import numpy as np
import pytest

from edgepress import ratios
from edgepress.errors import UnsupportedError
from edgepress.measurement import Measurement, Round
from edgepress.ratios import Ratio, check_comparable, latency_ratio, own_half_width, speedup

HOST = {"cpu": "a processor", "cpus": 2}


def a_measurement(*rounds: Tuple[float, ...], blocks: Tuple[int, ...] = (), sitting: Optional[str] = "one", **facts: object) -> Measurement:
    made = tuple(Round(latencies_ms=r, import_ms=1.0, load_ms=1.0, first_run_ms=1.0, warmup_runs=1, block_runs=blocks) for r in rounds)
    return Measurement(**{"file": "a.tflite", "sha256": "0" * 64, "format": "tflite", "size_bytes": 1, "gzip_bytes": 1, "runtime": "litert", "threads": 1,  # type: ignore[arg-type]
                          "host": HOST, "input_shapes": ((1, 8, 8, 3),), "rounds": made, "sitting": sitting, **facts})


@dataclasses.dataclass(frozen=True)
class Noise:
    """What a machine does: lasting differences between processes, a slow wander that all share, bursts that hit one, noise of each run."""

    process: float = 0.007
    wander: float = 0.03  # standard deviation of the shared AR(1) over blocks
    memory: float = 0.9
    burst: float = 0.0  # share of the blocks that a neighbour slows by up to 60 %
    run: float = 0.02


def sitting(noise: Noise, factor: float, *, seed: int, rounds: int = 4, blocks: int = 8, runs: int = 7) -> Tuple[Measurement, Measurement]:
    dice = np.random.default_rng(seed)
    level = dice.normal(0, noise.wander)
    found: Tuple[List, List] = ([], [])
    for _ in range(rounds):
        own = dice.normal(0, noise.process, 2)
        values: Tuple[List, List] = ([], [])
        for _ in range(blocks):
            for which in dice.permutation(2):
                level = noise.memory * level + dice.normal(0, noise.wander * math.sqrt(1 - noise.memory**2))
                slowed = dice.uniform(0, 0.6) if dice.uniform() < noise.burst else 0.0
                center = level + own[which] + slowed + (math.log(factor) if which else 0.0)
                values[which].extend(np.exp(center + np.abs(dice.normal(0, noise.run, runs))))
        for which in (0, 1):
            found[which].append(tuple(float(v) for v in values[which]))
    first, second = (a_measurement(*found[which], blocks=(runs,) * blocks) for which in (0, 1))
    return first, second


QUIET, SHARED, LOADED = Noise(wander=0.003), Noise(), Noise(process=0.01, wander=0.08, burst=0.3, run=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [QUIET, SHARED, LOADED], ids=["quiet", "shared", "loaded"])
def test_equal_files_are_seldom_told_apart(noise: Noise) -> None:
    """A against A, 200 sittings of autocorrelated noise: at most 5 % may be called faster or slower."""
    verdicts = [latency_ratio(*sitting(noise, 1.0, seed=seed)).verdict for seed in range(200)]
    assert sum(v != "can't tell" for v in verdicts) <= 10


@pytest.mark.parametrize(("noise", "found"), [(QUIET, 40), (SHARED, 39)], ids=["quiet", "shared"])
def test_five_percent_are_found(noise: Noise, found: int) -> None:
    assert sum(latency_ratio(*sitting(noise, 1.05, seed=seed)).verdict == "slower" for seed in range(40)) >= found
    assert sum(latency_ratio(*sitting(noise, 1 / 1.05, seed=seed)).verdict == "faster" for seed in range(40)) >= found


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    inside = [r.low <= 1.1 <= r.high for r in (latency_ratio(*sitting(SHARED, 1.1, seed=seed)) for seed in range(200))]
    assert sum(inside) >= 0.93 * 200


def test_pairs_cancel_what_both_saw() -> None:
    one, other = sitting(Noise(process=0.0, wander=0.2, run=0.0), 1.0, seed=1)
    assert latency_ratio(one, other).half_width < 0.5 * latency_ratio(one, dataclasses.replace(other, sitting="two")).half_width


def test_other_sittings_are_compared_without_pairs_and_more_carefully() -> None:
    one, other = sitting(QUIET, 1.0, seed=3)
    apart = latency_ratio(one, dataclasses.replace(other, sitting="two"))
    assert not apart.paired and apart.half_width > latency_ratio(one, other).half_width
    assert not latency_ratio(dataclasses.replace(one, sitting=None), dataclasses.replace(other, sitting=None)).paired  # records without a sitting are of any


def test_a_difference_within_the_noise_band_is_none() -> None:
    assert Ratio(1.008, 1.004, 1.012, True, 9).verdict == "can't tell"
    assert Ratio(1.02, 1.004, 1.04, True, 9).verdict == "slower" and Ratio(1.02, 1.004, 1.04, True, 9).inverse().verdict == "faster"
    assert Ratio(1.3, 0.99, 1.7, True, 9).verdict == "can't tell"


def test_the_block_bootstrap_sees_what_neighbours_share() -> None:
    """The spread between rounds must not hide noise inside them: equal medians of wild rounds stay uncertain."""
    wild = tuple(1.0 + 0.5 * (i // 14 % 2) for i in range(56))
    calm = (1.0,) * 56
    assert latency_ratio(a_measurement(*[calm] * 4, blocks=(7,) * 8), a_measurement(*[wild] * 4, blocks=(7,) * 8)).half_width > 0.05
    assert ratios._bootstrap_error([0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]) > ratios._bootstrap_error([0.5] * 8) == 0.0


def test_a_comparison_repeats_itself() -> None:
    one, other = sitting(SHARED, 1.02, seed=5)
    assert latency_ratio(one, other) == latency_ratio(one, other)


def test_rounds_make_it_certain() -> None:
    few, many = (own_half_width(sitting(SHARED, 1.0, seed=2, rounds=n)[0]) for n in (2, 16))
    assert many < few


@pytest.mark.parametrize("change", [{"threads": 2}, {"target": "ssh://pi"}, {"measured_on": "emulated"}, {"host": {**HOST, "cpu": "another"}}, {"input_shapes": ((1, 9),)}, {"rounds": ()}])
def test_what_cannot_be_compared_is_not(change: dict) -> None:
    base = a_measurement((1.0,) * 9)
    with pytest.raises(UnsupportedError):
        latency_ratio(base, dataclasses.replace(base, **change))


def test_another_machine_only_when_asked_for() -> None:
    base = a_measurement((1.0,) * 9)
    other = dataclasses.replace(base, host={"cpu": "another", "cpus": 8}, target="ssh://pi")
    check_comparable(base, other, across_machines=True)
    with pytest.raises(UnsupportedError, match="target is local and ssh://pi"):
        check_comparable(base, other)


def test_speedup() -> None:
    slow, fast = a_measurement((2.0,) * 40, (2.0,) * 40, input_shapes=((1, 8, 8, 3),)), a_measurement((1.0,) * 40, (1.0,) * 40, input_shapes=((1, 3, 8, 8),))
    assert speedup(slow, fast) == pytest.approx(2)

"""Which of two measurements is faster: the ratio of their latencies, its 95 % interval, and a verdict that may be "can't tell".

What was measured by turns in one sitting is compared in pairs: block by block, then round by round (a round is one process of each). Processes of one and the
same file differ lastingly (where their memory lies, what the scheduler did first), so it is rounds, not runs, that count as independent: their spread carries
the interval, and a block bootstrap inside each round is its lower bound. Measurements of different sittings are compared round against round without pairs.
"""
from __future__ import annotations

import math
import random
import statistics as stats
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, List, Literal, Mapping, Sequence, Tuple

from edgepress.errors import UnsupportedError
from edgepress.measurement import Measurement
from edgepress.statistics import student_t_quantile

Verdict = Literal["faster", "slower", "can't tell"]

BAND = 0.01  # smaller differences are no verdict: code placement alone makes them
PRIOR_SPREAD, PRIOR_FREEDOM = 0.01, 3.0  # of log-ratios between rounds of one file: 0.6 % (quiet) to 1.1 % (busy) were measured; weighs as much as 4 rounds
SITTING_DRIFT = 0.005  # by which a machine differs from one sitting to the next, beyond what one sitting can see
CHUNKS = 8  # blocks that a round without blocks is cut into
RESAMPLES = 200


@dataclass(frozen=True)
class Ratio:
    """Latency of the second measurement over that of the first: below 1 it is faster."""

    value: float
    low: float
    high: float
    paired: bool
    rounds: int

    @property
    def half_width(self) -> float:
        """Of the 95 % interval, as a share."""
        return math.sqrt(self.high / self.low) - 1

    @property
    def verdict(self) -> Verdict:
        """Faster or slower only where the interval excludes 1 and the difference is above the noise band."""
        if self.high < 1 and self.value < 1 - BAND:
            return "faster"
        return "slower" if self.low > 1 and self.value > 1 + BAND else "can't tell"

    def inverse(self) -> "Ratio":
        """The first over the second: the speed-up."""
        return Ratio(1 / self.value, 1 / self.high, 1 / self.low, self.paired, self.rounds)

    def to_json(self) -> Mapping[str, Any]:
        """Plain values."""
        return {"ratio": self.value, "interval": [self.low, self.high], "verdict": self.verdict, "paired": self.paired, "rounds": self.rounds}


def latency_ratio(old: Measurement, new: Measurement, *, confidence: float = 0.95, across_machines: bool = False) -> Ratio:
    """Latency of `new` over that of `old`.

    Raises:
        UnsupportedError: the two were not measured under the same conditions, or one has no latencies.
    """
    check_comparable(old, new, across_machines=across_machines)
    if old.sitting is not None and old.sitting == new.sitting:
        return _paired(old, new, confidence)
    return _unpaired(old, new, confidence)


def check_comparable(old: Measurement, new: Measurement, *, across_machines: bool = False) -> None:
    """Nothing, where the two may be compared.

    Raises:
        UnsupportedError: another target, thread count, input or processor, or no latencies.
    """
    keys = ("measured_on", "threads", "input_shapes") if across_machines else ("target", "measured_on", "threads", "input_shapes")
    for key in keys:
        ours, theirs = getattr(old, key), getattr(new, key)
        if key == "input_shapes":  # channels first or last is the file's choice; the amount of work is not
            ours, theirs = [sorted(s) for s in ours], [sorted(s) for s in theirs]
        if ours != theirs:
            raise UnsupportedError(f"{old.file} and {new.file} cannot be compared: {key} is {ours} and {theirs}", "measure both under the same conditions")
    if not across_machines and machine_of(old) != machine_of(new):
        raise UnsupportedError(f"{old.file} and {new.file} were measured on different processors ({machine_of(old)} and {machine_of(new)})", "measure both on one machine")
    if not old.median_ms or not new.median_ms:
        raise UnsupportedError(f"{(old if not old.median_ms else new).file} has no latencies to compare", "see its reason")


def machine_of(m: Measurement) -> str:
    """What tells one machine from another: the board or processor, and how many cores we may use."""
    return f"{m.host.get('board') or m.host.get('cpu')}, {m.host.get('cpus')} cores"


def speedup(slow: Measurement, fast: Measurement) -> float:
    """How many times faster the second is: the estimate alone; see `latency_ratio`."""
    return 1 / latency_ratio(slow, fast).value


def own_half_width(m: Measurement) -> float:
    """Half of the 95 % interval of a measurement's typical latency, as a share: how repeatable it is."""
    values = [stats.fmean(block) for block in _log_blocks(m)]
    _, error, freedom = _pooled(values, [0.0])
    return math.exp(_t(0.975, freedom) * error) - 1


def rounds_ratio(old: Sequence[float], new: Sequence[float], *, prior_spread: float, confidence: float = 0.95) -> Ratio:
    """Ratio of something each round has once (time to load, memory), with Welch's interval.

    Args:
        prior_spread: how far rounds of one file usually lie apart in it (logarithmic standard deviation).
    """
    parts = [_pooled([math.log(v) for v in side], [0.0], prior_spread) for side in (old, new)]
    return _welch(parts, drift=0.0, confidence=confidence, rounds=min(len(old), len(new)))


def _paired(old: Measurement, new: Measurement, confidence: float) -> Ratio:
    rounds = [[b - a for a, b in zip(x, y)] for x, y in zip(_log_blocks(old), _log_blocks(new))]
    centers = [stats.median(blocks) for blocks in rounds]
    center, error, freedom = _pooled(centers, [_bootstrap_error(blocks) for blocks in rounds])
    return _ratio(center, _t((1 + confidence) / 2, freedom) * error, paired=True, rounds=len(rounds))


def _unpaired(old: Measurement, new: Measurement, confidence: float) -> Ratio:
    """Welch's interval over rounds (Satterthwaite's degrees of freedom), widened by what differs between sittings."""
    parts = []
    for blocks in (_log_blocks(old), _log_blocks(new)):
        inner = [1.2533 * math.sqrt(_variance(one) / len(one)) if len(one) > 1 else 0.0 for one in blocks]
        parts.append(_pooled([stats.median(one) for one in blocks], inner))
    return _welch(parts, drift=SITTING_DRIFT, confidence=confidence, rounds=min(len(old.rounds), len(new.rounds)))


def _welch(parts: Sequence[Tuple[float, float, float]], *, drift: float, confidence: float, rounds: int) -> Ratio:
    variance = sum(error**2 for _, error, _ in parts) + 2 * drift**2
    freedom = variance**2 / sum(error**4 / freedom for _, error, freedom in parts)
    half = _t((1 + confidence) / 2, freedom) * math.sqrt(variance)
    return _ratio(parts[1][0] - parts[0][0], half, paired=False, rounds=rounds)


def _variance(values: Sequence[float]) -> float:
    """Sample variance in floats: the standard library's is exact, and fifty times slower."""
    middle = stats.fmean(values)
    return sum((v - middle) ** 2 for v in values) / (len(values) - 1)


def _t(share: float, freedom: float) -> float:
    """Student's quantile with the degrees of freedom rounded down to a half: a thousand comparisons then share a few."""
    return _t_of_halves(share, min(int(2 * freedom), 2000))


@lru_cache(maxsize=None)
def _t_of_halves(share: float, halves: int) -> float:
    return student_t_quantile(share, halves / 2)


def _ratio(center: float, half: float, *, paired: bool, rounds: int) -> Ratio:
    return Ratio(math.exp(center), math.exp(center - half), math.exp(center + half), paired, rounds)


def _pooled(values: Sequence[float], inner_errors: Sequence[float], prior_spread: float = PRIOR_SPREAD) -> Tuple[float, float, float]:
    """Mean of the rounds' values, its standard error and degrees of freedom.

    With three or four rounds their own spread is a gamble: it is pooled with that of earlier files, as in a moderated t (Smyth 2004). It is never below what
    the noise inside the rounds alone makes.
    """
    own = len(values) - 1
    spread = _variance(values) if own else 0.0
    freedom = PRIOR_FREEDOM + own
    pooled = (PRIOR_FREEDOM * prior_spread**2 + own * spread) / freedom
    inner = math.sqrt(sum(e**2 for e in inner_errors)) / len(inner_errors)
    return stats.fmean(values), max(math.sqrt(pooled / len(values)), inner), freedom


def _log_blocks(m: Measurement) -> List[List[float]]:
    """Logarithm of each block's median latency, round by round."""
    return [[math.log(stats.median(block)) for block in blocks_of(r.latencies_ms, r.block_runs)] for r in m.rounds]


def blocks_of(latencies: Sequence[float], sizes: Sequence[int]) -> List[Sequence[float]]:
    """The latencies block by block; `sizes` are numbers of runs."""
    if not sizes:  # measured without turns: consecutive runs, of equal numbers
        count = min(CHUNKS, len(latencies))
        edges = [len(latencies) * i // count for i in range(count + 1)]
        return [latencies[a:b] for a, b in zip(edges, edges[1:])]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [latencies[start:start + size] for start, size in zip(starts, sizes)]


def _bootstrap_error(values: Sequence[float]) -> float:
    """Standard error of the median of a series whose neighbours resemble each other: the moving-block bootstrap (Künsch 1989), blocks of n^(1/3)."""
    count = len(values)
    if count < 4:
        return 0.0  # too few to say; the spread between rounds remains
    return math.sqrt(_variance([stats.median([values[i] for i in picks]) for picks in _resamples(count)]))


@lru_cache(maxsize=64)
def _resamples(count: int) -> Tuple[Tuple[int, ...], ...]:
    """Indices of the resampled series; the same ones every time, so that a comparison does not change when it is repeated."""
    length = max(1, round(count ** (1 / 3)))
    dice = random.Random(count)
    picked = []
    for _ in range(RESAMPLES):
        starts = [dice.randrange(count - length + 1) for _ in range(-(-count // length))]
        picked.append(tuple(start + i for start in starts for i in range(length))[:count])
    return tuple(picked)


"""What a measurement says against itself: a closed list of doubts, each with what to do about it."""
from __future__ import annotations

import math
import statistics as stats
from typing import TYPE_CHECKING, Callable, List, NamedTuple, Optional, Sequence, Tuple

if TYPE_CHECKING:
    from edgepress.measurement import Measurement

SPREAD, DRIFT, BUSY, STOLEN, HOT_C, SLOWED = 0.10, 0.05, 0.10, 0.02, 80.0, 0.10
TWO_LEVELS = 5.0  # the gap between two clusters of block medians, in units of their spread
MIN_CLUSTER = 0.15  # share of the runs that the smaller cluster must have
TIMER_SHARE = 0.01


class Caveat(NamedTuple):
    """What is doubtful about a measurement, and what to do about it."""

    code: str
    message: str
    hint: str


def doubts(m: Measurement) -> List[Caveat]:
    """All that apply, in the order of CHECKS."""
    return [found for check in CHECKS for found in [check(m)] if found is not None] if m.rounds else []


def _few_runs(m: Measurement) -> Optional[Caveat]:
    wanted, count = m.settings.get("min_runs", 50), len(m.latencies_ms)
    if count >= wanted:
        return None
    return Caveat("too_few_runs", f"{count} runs of the {wanted} asked for: they ended at {m.settings.get('max_seconds', 0):g} s", "raise --max-seconds")


def _short(m: Measurement) -> Optional[Caveat]:
    """Runs were capped by number before the shortest time was over."""
    seconds, wanted = sum(m.latencies_ms) / 1e3, m.settings.get("min_seconds", 0.0)
    if m.settings.get("max_runs") is None or len(m.latencies_ms) < m.settings["max_runs"] or seconds >= 0.5 * wanted:
        return None
    return Caveat("capped", f"the {len(m.latencies_ms)} runs that are kept took {seconds:.2g} s of the {wanted:g} s asked for", "the file is very fast: that many runs say enough; for longer, use --effort long")


def _spread(m: Measurement) -> Optional[Caveat]:
    values, median = sorted(m.latencies_ms), m.median_ms
    if len(values) < 8 or not median:
        return None
    spread = (_share(values, 0.75) - _share(values, 0.25)) / median
    if spread <= SPREAD:
        return None
    return Caveat("spread", f"half of the runs lie {spread:.0%} of the median apart", "close other programs, or compare the fastest runs (min) only")


def _drift(m: Measurement) -> Optional[Caveat]:
    medians = [stats.median(r.latencies_ms) for r in m.rounds]
    if len(medians) < 2 or max(medians) <= (1 + DRIFT) * min(medians):
        return None
    return Caveat("drift", f"the median of one round is {max(medians) / min(medians):.3g} times that of another", "let the machine come to rest and measure again")


def _two_levels(m: Measurement) -> Optional[Caveat]:
    """Two clusters of runs far apart within the rounds, each with a good part of them: cores of two kinds, a clock that jumps, a neighbour that comes and goes."""
    values = sorted(math.log(v / middle) for r in m.rounds for middle in [stats.median(r.latencies_ms)] for v in r.latencies_ms)
    if len(values) < 40 or not m.median_ms:
        return None
    cut = max(range(round(MIN_CLUSTER * len(values)), round((1 - MIN_CLUSTER) * len(values))), key=lambda i: values[i] - values[i - 1])
    low, high = values[:cut], values[cut:]
    apart = stats.median(high) - stats.median(low)
    within = max(_share(part, 0.75) - _share(part, 0.25) for part in (low, high))
    if apart < DRIFT or apart < TWO_LEVELS * within:
        return None
    return Caveat("two_levels", f"the runs have two levels, {m.median_ms * math.exp(stats.median(low)):.3g} ms and {m.median_ms * math.exp(stats.median(high)):.3g} ms ({len(high) / len(values):.0%} of them)",
                  "keep it on cores of one kind (taskset), fix the clock, and measure again; no single figure describes both")


def _busy(m: Measurement) -> Optional[Caveat]:
    shares = [r.others_share for r in m.rounds if r.others_share is not None]
    if shares and max(shares) > BUSY:
        return Caveat("busy", f"other processes used {max(shares):.0%} of the processors meanwhile", "close other programs and measure again")
    loads = [r.load_average for r in m.rounds if r.load_average is not None]
    if not shares and loads and max(loads) > m.host.get("cpus", 1) / 2:
        return Caveat("busy", f"the load average was {max(loads):g}", "close other programs and measure again")
    return None


def _stolen(m: Measurement) -> Optional[Caveat]:
    share = max((r.stolen_share for r in m.rounds if r.stolen_share is not None), default=0.0)
    return Caveat("stolen", f"other virtual machines took {share:.0%} of the processors", "measure on a machine of your own") if share > STOLEN else None


def _governor(m: Measurement) -> Optional[Caveat]:
    governor = m.host.get("governor")
    if governor in (None, "performance"):
        return None
    return Caveat("governor", f"the frequency governor is {governor!r}", "for steady figures: echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor")


def _hot(m: Measurement) -> Optional[Caveat]:
    degrees = max((t for r in m.rounds for t in (r.temperature_c, r.temperature_after_c) if t is not None), default=0.0)
    if degrees < HOT_C:
        return None
    return Caveat("throttling", f"the hottest sensor read {degrees:.0f} °C", "cool the machine, or measure after a pause")


def _slowed(m: Measurement) -> Optional[Caveat]:
    fall = max((1 - r.clock_after_mhz / r.clock_mhz for r in m.rounds if r.clock_mhz and r.clock_after_mhz), default=0.0)
    return Caveat("frequency", f"the clock fell by {fall:.0%} while measuring", "cool the machine, check its power supply, or fix the clock") if fall > SLOWED else None


def _timer(m: Measurement) -> Optional[Caveat]:
    overhead = max((r.timer_ns for r in m.rounds if r.timer_ns is not None), default=0) / 1e6
    if not m.median_ms or overhead <= TIMER_SHARE * m.median_ms:
        return None
    return Caveat("timer", f"timing itself takes {overhead * 1e3:.2g} µs of each run's {m.median_ms * 1e3:.3g} µs", "too fast for a clock: measure a larger batch")


def _no_delegate(m: Measurement) -> Optional[Caveat]:
    if m.format != "tflite" or m.details.get("delegate") or not m.details.get("operators"):
        return None
    return Caveat("no_delegate", "no operator runs in XNNPACK: these are the slow reference kernels", "choose another scheme or runtime for this file")


def _known(m: Measurement) -> Optional[Caveat]:
    return Caveat("known_slow", m.remark, "see `edgepress show` and the target profiles") if m.remark else None


CHECKS: Tuple[Callable[["Measurement"], Optional[Caveat]], ...] = (
    _few_runs, _short, _spread, _drift, _two_levels, _busy, _stolen, _governor, _hot, _slowed, _timer, _no_delegate, _known)


def _share(ordered: Sequence[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]

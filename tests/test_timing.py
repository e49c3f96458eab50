"""The measuring loop keeps its bounds; its inputs are seeded and of the right kind."""
from __future__ import annotations

import time
from typing import Any, List, Sequence

import numpy as np
import pytest

from edgepress import timing
from edgepress.modelspec import ModelSpec
from edgepress.runtimes.base import TensorInfo
from edgepress.timing import Plan, concrete_shape, random_inputs, timed_runs, warm_up

SPEC = ModelSpec(labels=("a", "b"), input_height=6, input_width=4)
POOL = [[np.zeros(1)], [np.ones(1)]]


class Clockwork:
    """A session that takes the given milliseconds per run, then the last one for ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, milliseconds: Sequence[float]) -> None:
        self.now, self.runs, self.milliseconds = 0, 0, list(milliseconds)
        self.seen: List[float] = []
        monkeypatch.setattr(time, "perf_counter_ns", lambda: self.now)
        monkeypatch.setattr(time, "perf_counter", lambda: self.now / 1e9)

    def run(self, arrays: Any) -> None:
        self.seen.append(float(arrays[0][0]))
        self.now += int(self.milliseconds[min(self.runs, len(self.milliseconds) - 1)] * 1e6)
        self.runs += 1


@pytest.mark.parametrize(("milliseconds", "plan", "runs"), [
    (1, Plan(min_runs=50, min_seconds=0.1, max_seconds=9), 100),  # both bounds reached: the later one counts
    (10, Plan(min_runs=50, min_seconds=0.1, max_seconds=9), 50),
    (1000, Plan(min_runs=50, min_seconds=0.1, max_seconds=9), 9),  # too slow: the largest time ends it
    (20_000, Plan(min_runs=50, min_seconds=0.1, max_seconds=9), 1),  # but one run there always is
    (0.001, Plan(min_runs=50, min_seconds=9, max_seconds=9), timing.MAX_RUNS),
])
def test_bounds(monkeypatch: pytest.MonkeyPatch, milliseconds: float, plan: Plan, runs: int) -> None:
    session = Clockwork(monkeypatch, [milliseconds])
    assert timed_runs(session, POOL, plan) == [int(milliseconds * 1e6)] * runs
    assert session.seen[:3] == [0.0, 1.0, 0.0][:runs]


def test_warm_up_goes_on_until_the_time_settles(monkeypatch: pytest.MonkeyPatch) -> None:
    assert warm_up(Clockwork(monkeypatch, [10]), POOL, seconds=0.3) == 30
    falling = [20 - 0.4 * i for i in range(50)] + [1]
    assert 50 < warm_up(Clockwork(monkeypatch, falling), POOL, seconds=0.3) <= 90
    assert warm_up(Clockwork(monkeypatch, [1000]), POOL, seconds=0.3) == 2  # five times the shortest, no more


def test_inputs_are_seeded_and_vary() -> None:
    infos = [TensorInfo("x", (1, 8, 8, 3), "uint8")]
    first, again, other = (random_inputs(infos, seed=seed) for seed in (0, 0, 1))
    assert len(first) == timing.POOL_INPUTS and np.array_equal(first[3][0], again[3][0])
    assert not np.array_equal(first[0][0], first[1][0]) and not np.array_equal(first[0][0], other[0][0])


@pytest.mark.parametrize(("dtype", "low", "high"), [("uint8", 0, 255), ("int8", -128, 127), ("float32", -1, 1), ("float16", -1, 1), ("int32", 0, 9), ("int64", 0, 9), ("bool", 0, 1)])
def test_inputs_of_every_type(dtype: str, low: float, high: float) -> None:
    array = random_inputs([TensorInfo("x", (1, 500), dtype)], seed=0)[0][0]
    assert array.dtype.name == dtype and low <= array.min() and array.max() <= high and array.max() > array.min()


@pytest.mark.parametrize(("shape", "spec", "expected"), [
    ((-1, 8, 8, 3), None, (1, 8, 8, 3)),
    ((-1, -1, -1, 3), None, (1, 224, 224, 3)),
    ((-1, 3, -1, -1), None, (1, 3, 224, 224)),
    ((-1, -1, -1, 3), SPEC, (1, 6, 4, 3)),
    ((1, 96, 96, 3), SPEC, (1, 96, 96, 3)),
    ((-1, 640), None, (1, 640)),
    ((), None, ()),
])
def test_open_dimensions(shape: tuple, spec: Any, expected: tuple) -> None:
    assert concrete_shape(TensorInfo("x", shape, "uint8"), spec=spec) == expected


def test_photos_for_a_file_with_a_spec() -> None:
    spec = ModelSpec(labels=("a",), input_height=6, input_width=4, layout="nchw", normalization_inside=False, scale=(1 / 255,) * 3)
    array = random_inputs([TensorInfo("x", (1, 3, 6, 4), "float32")], seed=0, spec=spec)[0][0]
    assert array.shape == (1, 3, 6, 4) and 0 <= array.min() and array.max() <= 1


def test_large_inputs_make_a_small_pool() -> None:
    assert len(random_inputs([TensorInfo("x", (1, 1024, 1024, 3), "float32")], seed=0)) == 2

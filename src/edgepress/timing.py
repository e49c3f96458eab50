"""Time an open file: random but seeded inputs, a warm-up until the time settles, then raw latencies."""
from __future__ import annotations

import dataclasses
import gc
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Deque, Dict, List, Optional, Sequence, Tuple

import numpy as np

from edgepress.errors import UnsupportedError
from edgepress.feeding import feed_pixels
from edgepress.host import Usage, state_facts, ticks

if TYPE_CHECKING:
    from edgepress.modelspec import ModelSpec
    from edgepress.runtimes.base import Session, TensorInfo

POOL_BYTES = 2 << 20  # inputs kept ready; varied so that no value's luck is measured, few so that they do not push the weights out of the cache
POOL_INPUTS = 16
MAX_RUNS = 5_000  # of one block: more add megabytes to the record and nothing to the statistics
SETTLED = 0.02  # two windows of warm-up runs whose medians differ by less are one level
WINDOW_RUNS = 10
REWARM = 0.1  # of a block's time at most: untimed runs at its start, one at least


@dataclass(frozen=True)
class Plan:
    """How long to measure."""

    min_runs: int = 50
    min_seconds: float = 2.0
    max_seconds: float = 30.0
    warmup_seconds: float = 0.2
    max_runs: int = MAX_RUNS
    batch: int = 1  # where the file leaves it open
    seed: int = 0


def prepare() -> None:
    """Load what NumPy loads on first use, and touch the memory that latencies are kept in."""
    np.random.default_rng(0).uniform(size=4)
    [float(n) for n in range(2 * MAX_RUNS)]


def measure(session: Session, plan: Plan, *, spec: Optional[ModelSpec] = None) -> Dict[str, Any]:
    """First run, warm-up and timed runs in one go. One latency is: inputs handed over, inference, outputs read.

    Returns:
        What `Stopwatch.record` returns.
    """
    watch = Stopwatch(session, plan, spec=spec)
    watch.block(plan.min_seconds, plan.min_runs)
    return watch.record()


class Stopwatch:
    """Times an open file block by block: first run and warm-up when made, then as many blocks as asked for.

    Where other processes had their turn before a block, its first runs find cold caches: they are not timed.
    """

    def __init__(self, session: Session, plan: Plan, *, spec: Optional[ModelSpec] = None) -> None:
        self._session, self._plan = session, plan
        self._pool = random_inputs(session.inputs, seed=plan.seed, spec=spec, batch=plan.batch)
        self._first_ns = _time_run(session, self._pool[0])
        self._warmup_runs = warm_up(session, self._pool, seconds=plan.warmup_seconds)
        self._blocks: List[List[int]] = []
        self._state, self._usage = state_facts(), Usage()

    def block(self, seconds: float, runs: int) -> None:
        """One block of at least that many seconds and timed runs, within what the plan allows."""
        if self._blocks and self._blocks[-1][-1] < seconds * 1e9:
            self._warmup_runs += warm_up(self._session, self._pool, seconds=REWARM * seconds / 5)
        before = ticks()
        plan = dataclasses.replace(self._plan, min_seconds=seconds, min_runs=runs)
        self._blocks.append(timed_runs(self._session, self._pool, plan))
        self._usage.add(before, ticks())

    def record(self) -> Dict[str, Any]:
        """Raw "latencies_ms" of all blocks, "block_runs", "first_run_ms", "warmup_runs", the input shapes used, and how busy the machine was meanwhile."""
        shapes = [list(a.shape) for a in self._pool[0]]
        return {"latencies_ms": [round(ns / 1e6, 5) for block in self._blocks for ns in block], "block_runs": [len(block) for block in self._blocks],
                "first_run_ms": round(self._first_ns / 1e6, 5), "warmup_runs": self._warmup_runs, "timer_ns": timer_overhead_ns(),
                "input_shapes": shapes, "inputs_bytes": sum(a.nbytes for arrays in self._pool for a in arrays),
                "state": self._state, "state_after": state_facts(), **self._usage.shares()}


class _Nothing:
    """A session that does nothing: what is left is the loop's own time."""

    def run(self, arrays: Any) -> None:
        """Nothing."""


def timer_overhead_ns() -> int:
    """What the measuring loop itself adds to one latency: the median of timing nothing."""
    return sorted(timed_runs(_Nothing(), [[]], Plan(min_runs=201, min_seconds=0.0, max_seconds=1.0)))[100]  # type: ignore[arg-type]


def timed_runs(session: Session, pool: Sequence[Sequence[np.ndarray]], plan: Plan) -> List[int]:
    """Latencies in nanoseconds: at least `min_runs` and `min_seconds`, at most `max_seconds` (but one run) or `max_runs`."""
    clock, run, size = time.perf_counter_ns, session.run, len(pool)
    latencies: List[int] = []
    gc.collect()
    gc.disable()
    try:
        begin = clock()
        soonest, latest = begin + int(plan.min_seconds * 1e9), begin + int(plan.max_seconds * 1e9)
        while True:
            arrays = pool[len(latencies) % size]
            start = clock()
            run(arrays)
            end = clock()
            latencies.append(end - start)
            if end >= latest or len(latencies) >= plan.max_runs or (end >= soonest and len(latencies) >= plan.min_runs):
                return latencies
    finally:
        gc.enable()


def warm_up(session: Session, pool: Sequence[Sequence[np.ndarray]], *, seconds: float) -> int:
    """Run for at least `seconds` and until the time settles, for five times `seconds` at most; returns the number of runs."""
    latest: Deque[int] = deque(maxlen=2 * WINDOW_RUNS)
    runs, begin = 0, time.perf_counter()
    while True:
        latest.append(_time_run(session, pool[runs % len(pool)]))
        runs, elapsed = runs + 1, time.perf_counter() - begin
        if elapsed >= 5 * seconds or (elapsed >= seconds and _settled(list(latest))):
            return runs


def _settled(latencies: Sequence[int]) -> bool:
    if len(latencies) < 2 * WINDOW_RUNS:
        return False
    old, new = (sorted(w)[WINDOW_RUNS // 2] for w in (latencies[:WINDOW_RUNS], latencies[WINDOW_RUNS:]))
    return abs(new - old) < SETTLED * old


def _time_run(session: Session, arrays: Sequence[np.ndarray]) -> int:
    start = time.perf_counter_ns()
    session.run(arrays)
    return time.perf_counter_ns() - start


def random_inputs(infos: Sequence[TensorInfo], *, seed: int, spec: Optional[ModelSpec] = None, batch: int = 1) -> List[List[np.ndarray]]:
    """A pool of inputs: random photos for a file with a spec, otherwise random numbers of each input's type."""
    random = np.random.default_rng(seed)
    shapes = [concrete_shape(info, spec=spec, batch=batch) for info in infos]
    one = sum(int(np.prod(shape, dtype=np.int64)) * _itemsize(info) for shape, info in zip(shapes, infos))
    count = max(2, min(POOL_INPUTS, POOL_BYTES // max(one, 1)))
    return [[_random_array(random, info, shape, spec if len(infos) == 1 else None) for info, shape in zip(infos, shapes)] for _ in range(count)]


def concrete_shape(info: TensorInfo, *, spec: Optional[ModelSpec] = None, batch: int = 1) -> Tuple[int, ...]:
    """The input's shape with its open dimensions filled in: `batch` photos, of the spec's size or 224 pixels; 1 elsewhere.

    Raises:
        UnsupportedError: more than one wanted of a file whose first dimension is fixed.
    """
    shape = list(info.shape)
    if batch > 1 and (not shape or shape[0] not in (-1, batch)):
        raise UnsupportedError(f"input {info.name} has the fixed shape {shape}; accepted for a batch of {batch}: an open first dimension", "convert it with --batch none")
    shape[:1] = [batch] if shape[:1] == [-1] else shape[:1]
    if len(shape) == 4:
        high, wide = _spatial_axes(shape, spec)
        shape[high] = shape[high] if shape[high] != -1 else (spec.input_height if spec else 224)
        shape[wide] = shape[wide] if shape[wide] != -1 else (spec.input_width if spec else 224)
        if spec is not None:
            shape = [spec.channels if n == -1 and axis == 6 - high - wide else n for axis, n in enumerate(shape)]
    return tuple(1 if n == -1 else n for n in shape)


def _spatial_axes(shape: Sequence[int], spec: Optional[ModelSpec]) -> Tuple[int, int]:
    """Axes of height and width: by the spec, or channels first where axis 1 has as few as a photo's and the last has not."""
    if spec is not None:
        return (2, 3) if spec.layout == "nchw" else (1, 2)
    return (2, 3) if shape[1] in (1, 3) and shape[3] not in (1, 3) else (1, 2)


def _random_array(random: np.random.Generator, info: TensorInfo, shape: Tuple[int, ...], spec: Optional[ModelSpec]) -> np.ndarray:
    if spec is not None and len(shape) == 4:
        high, wide = _spatial_axes(shape, spec)
        pixels = random.integers(0, 256, (shape[0], shape[high], shape[wide], 3), dtype=np.uint8)
        return feed_pixels(pixels, info, spec)
    dtype = np.dtype(info.dtype)
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(dtype)
    if dtype.kind == "f":
        return random.uniform(-1, 1, shape).astype(dtype)
    if dtype.itemsize > 2:
        return random.integers(0, 10, shape).astype(dtype)  # most likely indices into a table: small ones exist
    return random.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, shape).astype(dtype)


def _itemsize(info: TensorInfo) -> int:
    return np.dtype(info.dtype).itemsize

"""What only a device tells: photo to answer from the photo's bytes, latency over minutes, energy. Device-safe: NumPy and Pillow, Python 3.9."""
from __future__ import annotations

import gc
import statistics
import time
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from edgepress import power
from edgepress.feeding import feed_pixels
from edgepress.host import interference, state_facts, ticks
from edgepress.preprocess import decode_reduced, to_pixels
from edgepress.timing import Plan, random_inputs, warm_up

if TYPE_CHECKING:
    from edgepress.modelspec import ModelSpec
    from edgepress.runtimes.base import Session

MAX_RAW = 200_000  # latencies that a sustained run brings back: 1.6 MB
WINDOW_SECONDS = 1.0
FIRMWARE_SECONDS = 5.0  # vcgencmd is a process of its own: asked rarely, and between runs only
STEPS = ("decode", "resize", "inference")


def end_to_end(session: Session, spec: ModelSpec, photos: Sequence[bytes], plan: Plan) -> Dict[str, Any]:
    """Raw times in ms of every step from the bytes of a photo to the scores: decode, resize, inference (the feeding included), and their sum."""
    for data in photos[:2]:
        _photo_times(session, spec, data)
    state, before = state_facts(), ticks()
    rows, begin = [], time.perf_counter()
    gc.collect()
    while True:
        rows.append(_photo_times(session, spec, photos[len(rows) % len(photos)]))
        elapsed = time.perf_counter() - begin
        if elapsed >= plan.max_seconds or (elapsed >= plan.min_seconds and len(rows) >= plan.min_runs):
            break
    steps = {f"{name}_ms": [round(row[i], 5) for row in rows] for i, name in enumerate(STEPS)}
    return {"latencies_ms": [round(sum(row), 5) for row in rows], **steps, "photos": len(photos), "state": state, "state_after": state_facts(), **interference(before, ticks())}


def _photo_times(session: Session, spec: ModelSpec, data: bytes) -> Tuple[float, float, float]:
    size = spec.input_height, spec.input_width
    start = time.perf_counter()
    image = decode_reduced(data, side=max(size))[0]
    decoded = time.perf_counter()
    pixels = to_pixels(image, size=size, resize=spec.resize)
    resized = time.perf_counter()
    session.run([feed_pixels(pixels[None], session.inputs[0], spec)])
    return (decoded - start) * 1e3, (resized - decoded) * 1e3, (time.perf_counter() - resized) * 1e3


def sustained(session: Session, *, seconds: float, seed: int = 0, spec: Optional[ModelSpec] = None) -> Tuple[Dict[str, Any], np.ndarray]:
    """Inference without a pause for `seconds`: one window a second with the state of the machine, and raw float32 [N, 2] (start in s, latency in ms)."""
    pool = random_inputs(session.inputs, seed=seed, spec=spec)
    warm_up(session, pool, seconds=0.2)
    raw: List[Tuple[float, float]] = []
    windows: List[Dict[str, Any]] = []
    current: List[float] = []
    bits, asked = power.throttled(), 0.0
    clock, size, runs = time.perf_counter, len(pool), 0
    begin = opened = clock()
    while clock() - begin < seconds:
        start = clock()
        session.run(pool[runs % size])
        end = clock()
        runs += 1
        current.append((end - start) * 1e3)
        if len(raw) < MAX_RAW:
            raw.append((start - begin, (end - start) * 1e3))
        if end - opened >= WINDOW_SECONDS:
            if end - begin - asked >= FIRMWARE_SECONDS:
                bits, asked = power.throttled(), end - begin
            windows.append(_window(opened - begin, current, bits))
            current, opened = [], clock()
    if current:
        windows.append(_window(opened - begin, current, power.throttled()))
    return {"windows": windows, "runs": runs, "seconds": round(clock() - begin, 3), "raw_kept": len(raw)}, np.array(raw, np.float32).reshape(-1, 2)


def _window(at: float, latencies: Sequence[float], bits: Optional[int]) -> Dict[str, Any]:
    state = state_facts()
    ordered = sorted(latencies)
    return {"at_seconds": round(at, 2), "runs": len(ordered), "median_ms": round(statistics.median(ordered), 5), "p90_ms": round(ordered[max(0, -(-9 * len(ordered) // 10) - 1)], 5),
            "max_ms": round(ordered[-1], 5), "clock_mhz": state["clock_mhz"], "temperature_c": state["temperature_c"], "throttled": bits}


def energy(session: Session, *, seconds: float, seed: int = 0, spec: Optional[ModelSpec] = None) -> Dict[str, Any]:
    """Joules per inference, idle power subtracted, from the board's own power sensors; {"reason"} where it has none."""
    if power.watts() is None:
        return {"reason": "no power sensor that can be read here (a Raspberry Pi 5 has one: vcgencmd pmic_read_adc)"}
    pool = random_inputs(session.inputs, seed=seed, spec=spec)
    warm_up(session, pool, seconds=0.2)
    idle = power.idle_samples(seconds)
    runs, begin = 0, time.perf_counter()
    with power.PowerMeter() as meter:
        while time.perf_counter() - begin < seconds:
            session.run(pool[runs % len(pool)])
            runs += 1
        elapsed = time.perf_counter() - begin
    if not idle or not meter.samples:
        return {"reason": "the power sensor stopped answering while it was read"}
    return power.energy_facts(idle, meter.samples, runs=runs, seconds=elapsed)

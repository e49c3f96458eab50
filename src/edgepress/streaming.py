"""Map a function over many files in threads: results in order, memory bounded by a window."""
from __future__ import annotations

import os
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Callable, Deque, Iterable, Iterator, TypeVar

from edgepress.progress import report_progress

Item = TypeVar("Item")
Result = TypeVar("Result")
WINDOW = 64  # results that may wait for a slow neighbour


def usable_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_ordered(function: Callable[[Item], Result], items: Iterable[Item], *, window: int = WINDOW) -> Iterator[Result]:
    """`function` of each item, in order; at most `window` items are begun and not yet taken.

    Threads, not processes: Pillow, hashlib and file reads release the GIL, and a fork beside TensorFlow is not safe.
    """
    pending: Deque[Future] = deque()
    with ThreadPoolExecutor(usable_cores()) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= window:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def show_progress(text: str, results: Iterable[Result], *, total: int, every_seconds: float = 0.5) -> Iterator[Result]:
    """`results`, while people are told how many of `total` are there."""
    reported = time.monotonic()
    for count, result in enumerate(results):
        if time.monotonic() - reported >= every_seconds:
            reported = time.monotonic()
            report_progress(text, done=count / total)
        yield result

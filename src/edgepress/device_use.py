"""Hold one target while work is done on it: its name resolved, leased so that nobody else measures there meanwhile, connected."""
from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, TypeVar

from edgepress.errors import EdgepressError, RecipeError
from edgepress.targets import connect
from edgepress.targets.base import Connection

LOCAL = "local"
Result = TypeVar("Result")


@contextlib.contextmanager
def hold(target: str) -> Iterator[Connection]:
    """The connection to a target: `local`, an address, or the name of a registered device. Only one process at a time holds a device.

    Raises:
        DeviceError: unreachable, or held by somebody else.
        UnsupportedError: no such target.
    """
    if target == LOCAL:
        yield connect(LOCAL)
        return
    from edgepress import devices

    with devices.lease(target):
        connection = connect(devices.resolve(target))
        try:
            yield connection
        finally:
            connection.close()


def on_each(targets: Sequence[str], work: Callable[[str], Result]) -> Tuple[Dict[str, Result], Optional[EdgepressError]]:
    """What `work` returns for each target, all of them at once, in the order given; a target that fails costs the others nothing.

    Returns:
        (target → result where there is one, the error to raise once those are shown, or None).

    Raises:
        UnsupportedError: a name that no device has.
    """
    from edgepress import devices

    unique = list(dict.fromkeys(targets))
    for target in unique:  # a name that does not exist is said before anything is done elsewhere
        devices.resolve(target)
    if len(unique) == 1:
        return {unique[0]: work(unique[0])}, None  # a failure comes straight through
    results: Dict[str, Result] = {}
    failures: Dict[str, EdgepressError] = {}
    with ThreadPoolExecutor(len(unique), thread_name_prefix="target") as pool:
        futures = {target: pool.submit(work, target) for target in unique}
    for target, future in futures.items():
        try:
            results[target] = future.result()
        except EdgepressError as error:
            failures[target] = error
    first = next(iter(failures.values()), None)
    if first is not None and len(failures) > 1:
        first.message += "".join(f" (and {target}: {error.message})" for target, error in list(failures.items())[1:])
    return results, first


def lost_target(records: Sequence[Mapping[str, Any]]) -> Optional[Tuple[str, List[Mapping[str, Any]]]]:
    """The first target whose records ("target", "status", "reason") all failed, with them; None where each has something."""
    for target in dict.fromkeys(record["target"] for record in records):
        own = [record for record in records if record["target"] == target]
        if all(record["status"] == "failed" for record in own):
            return target, own
    return None


def split_targets(text: str) -> Tuple[str, ...]:
    """The targets of `--target a,b`.

    Raises:
        RecipeError: none.
    """
    targets = tuple(part.strip() for part in text.split(",") if part.strip())
    if not targets:
        raise RecipeError(f"{text!r} names no target; accepted: local, or a device's name or address, several with commas", "see `edgepress device list`")
    return targets

"""Read what a worker says. It may come from any device, so it is untrusted: plain JSON, known types, finite numbers, no control characters."""
from __future__ import annotations

import json
import math
from typing import Any, Callable, Dict, List, Mapping, Tuple

from edgepress.channel import clean

STATUSES = ("ok", "unsupported", "failed")
MOST_NUMBER = 2**63


class BadResultError(ValueError):
    """Why a result cannot be one."""


def parse_result(data: bytes) -> Dict[str, Any]:
    """The result in some bytes, with every string cleaned.

    Raises:
        BadResultError: it is no JSON of ours; says where.
    """
    try:
        found = json.loads(data.decode("utf-8"), parse_constant=_refuse, parse_float=_finite, parse_int=_bounded, object_pairs_hook=_object)
    except RecursionError as error:
        raise BadResultError("it is nested too deeply") from error
    except ValueError as error:
        raise BadResultError(str(error)[:300]) from error
    return check_result(_cleaned(found))


def check_result(result: Any) -> Dict[str, Any]:
    """A result whose known parts have their types, and those of the results in it (of a job by turns)."""
    if not isinstance(result, dict):
        raise BadResultError("it is not an object")
    for name in ("schema", "job", "status"):
        if name not in result:
            raise BadResultError(f"it has no {name!r}")
    _check_parts(result)
    for number, one in enumerate(result.get("results", [])):
        try:
            _check_parts(one)
        except BadResultError as error:
            raise BadResultError(f"case {number}: {error}") from error
    return result


def _check_parts(result: Mapping[str, Any]) -> None:
    for name, value in result.items():
        kind, fits = _KINDS.get(name) or _KINDS_BY_END.get(name.rpartition("_")[2]) or ("", _anything)
        if not fits(value):
            raise BadResultError(f"{name!r} is {json.dumps(value)[:80]}; accepted: {kind}")
    if result.get("status") == "failed" and not isinstance(result.get("reason"), str):
        raise BadResultError("it failed without a reason")


def _anything(value: Any) -> bool:
    return True


def _text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _amount(value: Any) -> bool:
    return value is None or (_is_number(value) and value >= 0) or (isinstance(value, list) and all(_is_number(one) and one >= 0 for one in value))


def _runtime(value: Any) -> bool:
    return isinstance(value, dict) and _text(value.get("name")) and _text(value.get("version"))


def _latencies(value: Any) -> bool:
    return isinstance(value, list) and all(_is_number(one) and one > 0 for one in value)


def _scores(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, list) and all(one is None or _is_number(one) for one in row) for row in value)


def _objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


_KINDS: Mapping[str, Tuple[str, Callable[[Any], bool]]] = {
    "schema": ("1", lambda value: value == 1 and not isinstance(value, bool)), "status": (", ".join(STATUSES), lambda value: value in STATUSES),
    "job": ("a text", _text), "reason": ("a text", _text), "hint": ("a text", _text), "error": ("a text", _text), "log": ("a text", lambda value: isinstance(value, str)),
    "runtime": ("name and version", _runtime), "host": ("an object", lambda value: isinstance(value, dict)), "details": ("an object", lambda value: isinstance(value, dict)),
    "latencies_ms": ("positive numbers", _latencies), "block_runs": ("numbers", _amount), "rows": ("a number", _amount), "seconds": ("a number", _amount),
    "probabilities": ("rows of numbers", _scores), "inputs": ("tensors", _objects), "outputs": ("tensors", _objects), "results": ("results", _objects),
}
_KINDS_BY_END: Mapping[str, Tuple[str, Callable[[Any], bool]]] = {"ms": ("a number that is not negative", _amount), "bytes": ("a number that is not negative", _amount)}


def _refuse(name: str) -> Any:
    raise ValueError(f"it has the number {name}; accepted: finite ones")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text[:40])


def _bounded(text: str) -> int:
    value = int(text) if len(text) < 25 else MOST_NUMBER
    return value if abs(value) < MOST_NUMBER else _refuse(text[:40])


def _object(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("it says something twice")
    return dict(pairs)


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_cleaned(one) for one in value]
    if isinstance(value, dict):
        return {clean(name): _cleaned(one) for name, one in value.items()}
    return value

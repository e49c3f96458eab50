"""What a device says is not trusted."""
from __future__ import annotations

import json
from typing import Any

import pytest

from edgepress.results import BadResultError, parse_result

GOOD = {"schema": 1, "job": "benchmark", "status": "ok", "reason": None, "log": "", "runtime": {"name": "litert", "version": "2.3.0"}, "host": {"machine": "aarch64"},
        "latencies_ms": [1.5, 2], "load_ms": 3.0, "rss_after_load_bytes": None, "probabilities": [[0.5, None]], "inputs": [{"name": "x"}]}


def test_a_result_is_what_was_said() -> None:
    assert parse_result(json.dumps(GOOD).encode()) == GOOD


@pytest.mark.parametrize(("key", "value"), [
    ("schema", 2), ("schema", True), ("status", "fine"), ("status", None), ("reason", 7), ("log", None), ("runtime", "litert"), ("runtime", {"name": 1}), ("host", []),
    ("latencies_ms", [1.0, -2.0]), ("latencies_ms", [0]), ("latencies_ms", ["1"]), ("latencies_ms", {"0": 1}), ("latencies_ms", [True]), ("load_ms", "fast"), ("load_ms", -1),
    ("rss_after_load_bytes", -5), ("probabilities", [1.0]), ("probabilities", [["a"]]), ("inputs", ["x"]), ("results", [GOOD, {**GOOD, "latencies_ms": [None]}])])
def test_other_types_are_refused(key: str, value: Any) -> None:
    with pytest.raises(BadResultError, match=r"accepted: "):
        parse_result(json.dumps({**GOOD, key: value}).encode())


@pytest.mark.parametrize("text", [
    "", "{", "[]", "null", "{}", '"ok"', '{"schema": 1, "job": "info"}', "[" * 100_000, '{"schema": NaN}', '{"schema": 1, "job": "x", "status": "ok", "load_ms": 1e999}',
    '{"schema": 1, "job": "x", "status": "ok", "load_ms": -Infinity}', '{"schema": 1, "job": "x", "status": "ok", "status": "failed"}', '{"schema": 1, "job": "x", "status": "failed"}',
    '{"schema": 1, "job": "x", "status": "ok", "rows": ' + "9" * 5000 + "}", "\xff\xfe"])
def test_what_is_no_result(text: str) -> None:
    with pytest.raises(BadResultError):
        parse_result(text.encode("latin-1"))


def test_nothing_steers_a_terminal() -> None:
    said = {**GOOD, "status": "failed", "reason": "\x1b[2Jgone\x07 \u202egnp.exe\r\nnext\tline", "host": {"bo\x1bard": ["\x9b31m red", {"deep": "\x00"}]}}
    found = parse_result(json.dumps(said).encode())
    assert found["reason"] == "[2Jgone gnp.exe\nnext\tline" and found["host"] == {"board": ["31m red", {"deep": ""}]}

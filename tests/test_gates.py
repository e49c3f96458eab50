"""Gates are read strictly and judged by intervals."""
from __future__ import annotations

import pytest

from edgepress.errors import RecipeError
from edgepress.gates import parse_gate, split_gates


@pytest.mark.parametrize(("text", "limit", "change", "percent", "above"), [
    ("latency>+5%", 5.0, True, True, True), (" latency > +5 % ", 5.0, True, True, True), ("latency>20ms", 20.0, False, False, True), ("latency>+0.5ms", 0.5, True, False, True),
    ("accuracy<-0.5", -0.5, True, False, False), ("accuracy<-1points", -1.0, True, False, False), ("accuracy<90%", 90.0, False, False, False), ("size>+10%", 10.0, True, True, True),
    ("memory>200MB", 200.0, False, False, True), ("load>+20%", 20.0, True, True, True),
])
def test_grammar(text: str, limit: float, change: bool, percent: bool, above: bool) -> None:
    gate = parse_gate(text)
    assert (gate.limit, gate.change, gate.percent, gate.above) == (limit, change, percent, above)


@pytest.mark.parametrize(("text", "words"), [
    ("latency", "cannot be read"), ("latency>5", "has no unit; accepted: ms"), ("latency>5%", "a change has a sign"), ("latncy>+5%", "did you mean 'latency'"), ("accuracy<-0.5ms", "points"),
    ("size>+3ms", "% or kB"), ("latency>=+5%", "cannot be read"), ("accuracy<90points", "% for a value"),
])
def test_what_is_no_gate(text: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words.replace("+", r"\+")):
        parse_gate(text)


@pytest.mark.parametrize(("text", "interval", "outcome"), [
    ("latency>+5%", (5.1, 9.0), "failed"), ("latency>+5%", (4.9, 9.0), "unresolved"), ("latency>+5%", (-2.0, 5.0), "met"),
    ("accuracy<-0.5", (-3.0, -0.6), "failed"), ("accuracy<-0.5", (-3.0, 1.0), "unresolved"), ("accuracy<-0.5", (-0.5, 1.0), "met"),
])
def test_only_what_is_sure_fails(text: str, interval: tuple, outcome: str) -> None:
    assert parse_gate(text).outcome(*interval) == outcome


def test_gates_among_the_words() -> None:
    assert split_gates(("old", "new", "accuracy<-0.5", "size>+1%")) == (("old", "new"), ("accuracy<-0.5", "size>+1%"))

"""Axes, ticks and plots: values land where they should, nothing leaves the picture, odd input draws nothing or something whole."""
from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from edgepress import report_plots as plots


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def point(label="a", x=1.0, y=90.0, *, low=89.0, high=91.0, front=True):
    return plots.Point(label, x, y, low, high, 5.0, "k1", "circle", f"{label} <&> title", front)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 7.7), (0.0001, 0.0004), (95.3, 96.1), (0, 12_000)])
def test_linear_ticks_are_round_and_inside(low, high):
    ticks = plots.linear_ticks(low, high)
    assert 3 <= len(ticks) <= 11 and all(low - 1e-9 <= t <= high + 1e-9 for t in ticks)
    step = ticks[1] - ticks[0]
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in (1, 2, 5)


def test_log_axis_places_and_clips():
    axis = plots.Axis(1, 100, 0, 200, log=True)
    assert axis.at(10) == pytest.approx(100) and axis.at(0.001) == 0 and axis.at(1e9) == 200 and axis.at(0) == 0
    assert axis.ticks() == [1, 2, 5, 10, 20, 50, 100]
    assert len(plots.Axis(3.1, 3.3, 0, 1, log=True).ticks()) >= 2  # no power of ten in sight


def test_scatter_draws_every_point_inside_with_its_tooltip():
    svg = plots.scatter([point("slow", 100.0, 91), point("fast", 1.5, 88, front=False), point("broken", 3.0, 12)], x_label="ms", y_label="%", reference=91, budget=90)
    root = parsed(svg)
    assert svg.count("<title>") == 3 and "broken: 12.0 %" in svg and "over the budget" in svg
    circles = [e for e in root if e.tag.endswith("circle")]
    assert len(circles) == 2 and all(0 < float(c.get("cx")) < plots.WIDTH and 0 < float(c.get("cy")) < 330 for c in circles)
    by_x = sorted(circles, key=lambda c: float(c.get("cx")))
    assert float(by_x[0].get("cy")) > float(by_x[1].get("cy"))  # the faster one is less accurate: lower


def test_one_broken_file_does_not_flatten_the_others():
    low, high = plots.y_range([point(y=96, low=95, high=97), point(y=95, low=94, high=96), point(y=10, low=5, high=15)], [96.0])
    assert low > 90 and high <= 100


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0, 2.0], [0.001, 5.0, 900.0]])
def test_strips_survive_any_spread(values):
    svg = plots.strips([plots.Strip("a <b>", values, "k1"), plots.Strip("none", [], "k2")], x_label="ms")
    parsed(svg)
    assert "a &lt;b&gt;" in svg and ">none<" not in svg and "nan" not in svg and "inf" not in svg


def test_strips_thin_out_many_runs():
    svg = plots.strips([plots.Strip("a", [1 + i / 1e4 for i in range(10_000)], "k1")], x_label="ms")
    assert len(re.findall(r"M[\d.]+ [\d.]+h0", svg)) <= 130


def test_drops_put_zero_and_budget_where_they_are():
    rows = [{"label": "a", "drop": 5.0, "interval": [1.0, 9.0], "images": 20}, {"label": "b", "drop": -2.0, "interval": [-6.0, 2.0], "images": 20}]
    root = parsed(plots.drops(rows, limit=1.0, css="k4"))
    zero, limit = (next(float(e.get("x1")) for e in root if e.get("class") == css) for css in ("ref", "limit"))
    first, second = (float(e.get("cx")) for e in root if e.tag.endswith("circle"))
    assert second < zero < limit < first


def test_lines_skip_what_is_not_a_number():
    svg = plots.lines({"loss": ("k0", [1.0, None, float("nan"), 0.5])}, y_label="loss", level=("probe", 0.7))
    parsed(svg)
    assert svg.count("<circle") == 2 and "probe" in svg and "nan" not in svg


def test_nothing_to_draw_is_nothing():
    assert plots.scatter([], x_label="", y_label="", reference=None, budget=None) == plots.strips([], x_label="") == plots.drops([], limit=1, css="") == plots.lines({}, y_label="") == ""


def test_heat_has_a_cell_per_count():
    root = parsed(plots.heat([[3, 1], [0, 4]], ["a", "b"]))
    assert [e.get("class") for e in root if e.tag.endswith("rect")] == ["frame", "hit", "miss", "hit"]

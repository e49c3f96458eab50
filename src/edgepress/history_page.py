"""The history as one HTML page without network: what changed last, then a plot per file and metric."""
from __future__ import annotations

import math
from html import escape
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

from edgepress.history import METRICS, Point, Series
from edgepress.report_plots import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Axis, marker, number

HEIGHT = 210
MOST_PLOTS = 120  # of one page; the rest is in the table and in --json


def render(series: Sequence[Series], *, title: str, runs: int) -> str:
    """The whole page."""
    style = (Path(__file__).parent / "data" / "report.css").read_text(encoding="utf-8")
    machines = list(dict.fromkeys(p.machine for s in series for p in s.points if p.machine))
    sections = [_summary(series), *_plots(series, machines)]
    body = "".join(f"<section>{html}</section>" for html in sections if html)
    return (f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
            f'<title>{escape(title)} – edgepress history</title><style>{style}</style></head><body><main><header><p>edgepress history</p><h1>{escape(title)}</h1>'
            f"<p>{runs} results{', ' + str(len(machines)) + ' machines' if len(machines) > 1 else ''}</p></header>{body}</main></body></html>\n")


def _summary(series: Sequence[Series]) -> str:
    """The last change of every latency, the sure ones first."""
    changed = sorted((s for s in series if s.ratio), key=lambda s: (s.ratio.verdict == "can't tell", -abs(math.log(s.ratio.value))))  # type: ignore[union-attr]
    sure = [s for s in changed if s.ratio and s.ratio.verdict != "can't tell"]
    slower = sum(s.ratio.verdict == "slower" for s in sure if s.ratio)
    words = f"{slower} slower, {len(sure) - slower} faster than the time before" if sure else "No latency is known to have changed last" if changed else "Nothing to compare yet: one result per file"
    rows = "".join(_summary_row(s) for s in changed[:200])
    table = f'<div class="scroll"><table><thead><tr><th class="left">File</th><th>Before</th><th>Now</th><th>Change</th><th>Verdict</th></tr></thead><tbody>{rows}</tbody></table></div>' if rows else ""
    return f"<h2>{words}</h2>{table}<p class=\"note\">A verdict needs a 95 % interval that excludes no change. Every machine has its own plot.</p>"


def _summary_row(s: Series) -> str:
    ratio = s.ratio
    assert ratio is not None
    css = {"slower": "no", "faster": "yes"}.get(ratio.verdict, "plain")
    return (f'<tr><td class="left">{escape(str(s.key))}</td><td>{number(s.points[-2].value)} ms</td><td>{number(s.points[-1].value)} ms</td>'
            f'<td>{100 * (ratio.value - 1):+.1f} %<small>{100 * (ratio.low - 1):+.1f} … {100 * (ratio.high - 1):+.1f}</small></td><td><span class="pill {css}">{ratio.verdict}</span></td></tr>')


def _plots(series: Sequence[Series], machines: Sequence[str]) -> List[str]:
    """A section per metric: one figure per key and machine that have several points, a line for those that have one."""
    css = {machine: f"k{(3 + i) % 7}" for i, machine in enumerate(machines)}
    found, left = [], MOST_PLOTS
    for metric, unit in METRICS:
        own = [(s, machine, points) for s in series if s.metric == metric for machine, points in _by_machine(s).items()]
        several = [(s, machine, points) for s, machine, points in own if len(points) > 1 and (metric in ("latency", "accuracy") or _moved(points))]
        figures = "".join(f"<figure><h3>{escape(str(s.key))}{_on(machine, machines)}</h3>{plot(s, points, css.get(machine, 'k4'))}</figure>" for s, machine, points in several[:left])
        once = "".join(f"<li>{escape(str(s.key))}{_on(machine, machines)}: {number(points[0].value)} {unit}</li>" for s, machine, points in own if len(points) == 1)
        notes = (f'<p class="note">{len(several) - left} more are in --json.</p>' if len(several) > left else "") + (f"<details><summary>measured once</summary><ul>{once}</ul></details>" if once else "")
        left = max(0, left - len(several))
        if figures or (once and metric in ("latency", "accuracy")):
            found.append(f'<h2>{metric.capitalize()}, {unit}</h2><div class="grid">{figures}</div>{notes}')
    return found


def _by_machine(s: Series) -> Dict[str, List[Point]]:
    found: Dict[str, List[Point]] = {}
    for point in s.points:
        found.setdefault(point.machine, []).append(point)
    return found


def _moved(points: Sequence[Point]) -> bool:
    return len({round(p.value, 6) for p in points}) > 1


def _on(machine: str, machines: Sequence[str]) -> str:
    return f' <small class="dim">{escape(machine)}</small>' if machine and len(machines) > 1 else ""


def plot(s: Series, points: Sequence[Point], css: str) -> str:
    """Values of one machine over its results as an inline SVG, with their intervals."""
    low, high = min(p.low for p in points), max(p.high for p in points)
    pad = 0.08 * (high - low) or 0.05 * high or 1.0
    y = Axis(max(0.0, low - pad), high + pad, HEIGHT - BOTTOM, TOP - 16)
    x = Axis(1, max(2, len(points)), LEFT + 14, WIDTH - RIGHT - 10)
    parts = []
    for tick in y.ticks(4):
        parts += [f'<line x1="{LEFT}" y1="{y.at(tick):.1f}" x2="{WIDTH - RIGHT}" y2="{y.at(tick):.1f}" class="g"/>', f'<text x="{LEFT - 5}" y="{y.at(tick) + 4:.1f}" text-anchor="end" class="t">{number(tick)}</text>']
    places = [(x.at(i + 1), p) for i, p in enumerate(points)]
    parts += _dates(places)
    parts.append(f'<polyline class="curve {css}" points="{" ".join(f"{a:.1f},{y.at(p.value):.1f}" for a, p in places)}"/>')
    parts += [f'<line x1="{a:.1f}" y1="{y.at(p.low):.1f}" x2="{a:.1f}" y2="{y.at(p.high):.1f}" class="bar {css}"/>' for a, p in places if p.high > p.low]
    parts += [marker("circle", a, y.at(p.value), 4, f"dot {css}", _title(p, s.unit)) for a, p in places]
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{s.metric} of {s.key} over {len(points)} results", quote=True)}" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'


def _title(p: Point, unit: str) -> str:
    interval = f" [{number(p.low)}, {number(p.high)}]" if p.high > p.low else ""
    return f"{p.label}, {p.started[:16].replace('T', ' ')}: {number(p.value)} {unit}{interval}{', ' + p.machine if p.machine else ''}"


def _dates(places: Sequence[Tuple[float, Point]]) -> List[str]:
    """Days below the axis, or clock times where all are of one day; as many as have room."""
    one_day = len({p.started[:10] for _, p in places}) == 1
    step = max(1, math.ceil(len(places) / 6))
    return [f'<text x="{a:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle" class="t s">{escape(p.started[11:16] if one_day else p.started[5:10])}</text>' for a, p in places[::step]]

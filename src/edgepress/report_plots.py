"""Plots of the report as inline SVG strings: no script, colors from the page's style sheet, drawn for a phone's width first."""
from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import List, Mapping, Optional, Sequence, Tuple

from edgepress import report_text

WIDTH = 420  # user units; at 360 px of screen the 12-unit text is still 9 px
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 30, 40


@dataclass(frozen=True)
class Axis:
    """Maps values to user units."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Position of a value, clipped to the axis."""
        low, high, v = (math.log(x) for x in (self.low, self.high, max(value, 1e-12))) if self.log else (self.low, self.high, value)
        share = (v - low) / (high - low) if high > low else 0.5
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self, count: int = 5) -> List[float]:
        """Round values on the axis: 1, 2, 5 × a power of ten."""
        if self.log:
            found = [m * 10.0 ** e for e in range(-4, 8) for m in (1, 2, 5) if self.low <= m * 10.0 ** e * 1.0000001 and m * 10.0 ** e <= self.high * 1.0000001]
            if len(found) >= 2:
                return found
        return linear_ticks(self.low, self.high, count)


def linear_ticks(low: float, high: float, count: int = 5) -> List[float]:
    """About `count` round values between two numbers."""
    raw = max(high - low, 1e-9) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.7)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, int(math.floor(high / step + 1e-9)) + 1)]


def number(value: float) -> str:
    """A short number for a tick: 0.5, 12, 1,500."""
    return (f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}").replace("-", "−")


def _svg(body: Sequence[str], height: float, label: str) -> str:
    return (f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(label, quote=True)}" xmlns="http://www.w3.org/2000/svg">'
            + "".join(body) + "</svg>")


def _text(x: float, y: float, text: str, *, anchor: str = "middle", css: str = "t") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{css}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


def _x_axis(axis: Axis, top: float, bottom: float, label: str) -> List[str]:
    parts = []
    for tick in axis.ticks():
        x = axis.at(tick)
        parts += [_line(x, top, x, bottom, "g"), _text(x, bottom + 15, number(tick))]
    return parts + [_text((axis.start + axis.end) / 2, bottom + 32, label, css="t l")]


def marker(shape: str, x: float, y: float, size: float, css: str, title: str = "") -> str:
    """A point: circle, square, triangle or diamond, with a tooltip."""
    corners = {"square": ((-1, -1), (1, -1), (1, 1), (-1, 1)), "triangle": ((0, -1.2), (1.15, 0.9), (-1.15, 0.9)), "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0))}
    inner = f"<title>{escape(title)}</title>" if title else ""
    if shape not in corners:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}" class="{css}">{inner}</circle>'
    points = " ".join(f"{x + size * dx * 0.9:.1f},{y + size * dy * 0.9:.1f}" for dx, dy in corners[shape])
    return f'<polygon points="{points}" class="{css}">{inner}</polygon>'


@dataclass(frozen=True)
class Point:
    """One file in the scatter. `y_low`/`y_high` are its interval; `front` marks it as not beaten in both directions."""

    label: str
    x: float
    y: float
    y_low: float
    y_high: float
    size: float  # radius
    css: str
    shape: str
    title: str
    front: bool


def scatter(points: Sequence[Point], *, x_label: str, y_label: str, reference: Optional[float], budget: Optional[float], height: int = 330) -> str:
    """Accuracy (percent) over a cost on a logarithmic axis, with the front of files that no other beats in both.

    Args:
        reference: accuracy of the float reference in percent (a dashed line).
        budget: lowest accuracy the budget allows in percent (below it is shaded).
    """
    if not points:
        return ""
    xs = [p.x for p in points]
    x = Axis(min(xs) / 1.25, max(xs) * 1.25, LEFT + 6, WIDTH - RIGHT, log=True)
    low, high = y_range(points, [v for v in (reference, budget) if v is not None])
    y, bottom = Axis(low, high, height - BOTTOM, TOP), height - BOTTOM
    parts = _x_axis(x, TOP, bottom, x_label) + [_text(8, 12, y_label, anchor="start", css="t l")]
    for tick in y.ticks():
        parts += [_line(LEFT, y.at(tick), WIDTH - RIGHT, y.at(tick), "g"), _text(LEFT - 5, y.at(tick) + 4, number(tick), anchor="end")]
    if budget is not None and budget > low:
        parts.append(f'<rect x="{LEFT}" y="{y.at(budget):.1f}" width="{WIDTH - LEFT - RIGHT}" height="{bottom - y.at(budget):.1f}" class="over"/>')
        parts.append(_text(WIDTH - RIGHT - 3, min(bottom - 4, y.at(budget) + 13), "over the budget", anchor="end", css="t s"))
    if reference is not None:
        parts.append(_line(LEFT, y.at(reference), WIDTH - RIGHT, y.at(reference), "ref"))
    front = sorted((p for p in points if p.front), key=lambda p: p.x)
    if len(front) > 1:
        parts.append(f'<polyline class="front" points="{" ".join(f"{x.at(p.x):.1f},{y.at(p.y):.1f}" for p in front)}"/>')
    for p in sorted(points, key=lambda p: -p.size):
        parts += _below(p, x, bottom) if p.y < low else [_line(x.at(p.x), y.at(p.y_low), x.at(p.x), y.at(p.y_high), f"bar {p.css}"), marker(p.shape, x.at(p.x), y.at(p.y), p.size, f"dot {p.css}", p.title)]
    return _svg(parts + _labels([p for p in front if p.y >= low], x, y), height, f"{y_label} over {x_label}, one point per file")


def y_range(points: Sequence[Point], levels: Sequence[float]) -> Tuple[float, float]:
    """Accuracies worth a place on the axis: those within ten points of the best, so that one broken file does not flatten all others."""
    best = max(p.y for p in points)
    near = [p for p in points if p.y >= best - 10]
    low, high = min([p.y for p in near] + list(levels)), max([p.y for p in near] + list(levels))
    room = max(1.5, high - low)
    low, high = min(low, max(min(p.y_low for p in near), low - room)), max(high, min(max(p.y_high for p in near), high + room))
    return max(0.0, low - 0.3), min(100.0, high + 0.3)


def _below(p: Point, x: Axis, bottom: float) -> List[str]:
    """A file far below all others: an arrow at the bottom with its figure."""
    at = x.at(p.x)
    anchor = "end" if at > WIDTH * 0.6 else "start"
    return [f'<polygon points="{at - 6:.1f},{bottom - 12} {at + 6:.1f},{bottom - 12} {at:.1f},{bottom - 2}" class="dot {p.css}"><title>{escape(p.title)}</title></polygon>',
            _text(at + (-9 if anchor == "end" else 9), bottom - 4, f"{p.label}: {p.y:.1f} %", anchor=anchor, css="t s")]


def _labels(points: Sequence[Point], x: Axis, y: Axis) -> List[str]:
    """Names beside the points of the front; a name that would cover another is left to the tooltip."""
    taken: List[Tuple[float, float, float, float]] = []
    parts = []
    for p in points:
        width = 5.9 * len(p.label)
        px, py = x.at(p.x), y.at(p.y)
        for dx, dy, anchor in ((9, -8, "start"), (-9, -8, "end"), (9, 17, "start"), (-9, 17, "end"), (9, -22, "start"), (-9, -22, "end"), (9, 31, "start"), (-9, 31, "end")):
            left = px + dx if anchor == "start" else px + dx - width
            box = (left, py + dy - 10, left + width, py + dy + 3)
            if box[0] >= LEFT and box[2] <= WIDTH and box[1] >= 0 and not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
                taken.append(box)
                parts.append(_text(px + dx, py + dy, p.label, anchor=anchor, css="t b"))
                break
    return parts


@dataclass(frozen=True)
class Strip:
    """Raw latencies of one file."""

    label: str
    values: Sequence[float]
    css: str


def strips(rows: Sequence[Strip], *, x_label: str, dots: int = 120) -> str:
    """Raw values as dots, the middle half as a box, the median as a line; one row per file, labels above the rows."""
    rows = [row for row in rows if row.values]
    if not rows:
        return ""
    pitch, height = 38, 38 * len(rows) + 48
    x = Axis(min(min(r.values) for r in rows) / 1.08, max(_share(sorted(r.values), 0.995) for r in rows) * 1.08, 10, WIDTH - RIGHT, log=True)
    parts = _x_axis(x, 4, height - BOTTOM, x_label)
    for index, row in enumerate(rows):
        parts += _strip(row, x, 4 + pitch * index, dots)
    return _svg(parts, height, f"{x_label} of {len(rows)} files, raw values")


def _strip(row: Strip, x: Axis, top: float, dots: int) -> List[str]:
    ordered, middle = sorted(row.values), top + 25
    step = max(1, len(row.values) // dots)
    path = "".join(f"M{x.at(v):.1f} {middle - 5 + (i * 7919) % 11:.1f}h0" for i, v in enumerate(row.values[::step]))
    q25, q50, q75, q90 = (_share(ordered, s) for s in (0.25, 0.5, 0.75, 0.9))
    return [_text(10, top + 13, row.label, anchor="start", css="t b"), _text(WIDTH - RIGHT, top + 13, f"{number(q50)}, p90 {number(q90)}", anchor="end"),
            f'<path d="{path}" class="strip {row.css}"/>',
            f'<rect x="{x.at(q25):.1f}" y="{middle - 7}" width="{max(1.0, x.at(q75) - x.at(q25)):.1f}" height="14" rx="2" class="box {row.css}"/>',
            _line(x.at(q50), middle - 9, x.at(q50), middle + 9, f"med {row.css}")]


def _share(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def drops(rows: Sequence[Mapping], *, limit: float, css: str) -> str:
    """Drop of each class in points with its interval; to the right is worse, the budget is a line.

    Args:
        rows: mappings with "label", "drop", "interval", "images" as `accuracy.compare` makes them.
    """
    if not rows:
        return ""
    pitch, height = 32, 32 * len(rows) + 50
    ends = [v for r in rows for v in r["interval"]] + [0.0, limit]
    x = Axis(min(ends) - 1, max(ends) + 1, 12, WIDTH - RIGHT)
    parts = _x_axis(x, 4, height - BOTTOM, "recall lost, percentage points") + [_line(x.at(limit), 4, x.at(limit), height - BOTTOM, "limit"), _line(x.at(0), 4, x.at(0), height - BOTTOM, "ref")]
    for index, row in enumerate(rows):
        y, (low, high) = 4 + pitch * index + 23, row["interval"]
        title = f"{row['label']}: {row['drop']:+.1f} points, corrected interval {low:+.1f} … {high:+.1f}, {row['images']} images"
        parts += [_text(12, y - 9, f"{row['label']}", anchor="start", css="t b"), _text(WIDTH - RIGHT, y - 9, f"{report_text.points(row['drop'])} ({row['images']} images)", anchor="end"),
                  _line(x.at(low), y, x.at(high), y, f"bar {css}"), marker("circle", x.at(row["drop"]), y, 4.5, f"dot {css}", title)]
    return _svg(parts, height, "recall lost per class")


def lines(series: Mapping[str, Tuple[str, Sequence[float]]], *, y_label: str, level: Optional[Tuple[str, float]] = None, height: int = 230) -> str:
    """Curves over epochs: name → (css class, values); `level` is a named horizontal line, such as the probe's accuracy."""
    values = [v for _, (_, vs) in series.items() for v in vs if v is not None and math.isfinite(v)]
    if not values:
        return ""
    longest = max(len(vs) for _, vs in series.values())
    low, high = min(values + ([level[1]] if level else [])), max(values + ([level[1]] if level else []))
    pad = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    x, y = Axis(1, max(2, longest), LEFT + 6, WIDTH - RIGHT - 6), Axis(low - pad, high + pad, height - BOTTOM, TOP)
    step = max(1, math.ceil(longest / 8))
    parts = [_text((x.start + x.end) / 2, height - 8, "epoch", css="t l"), _text(8, 12, y_label, anchor="start", css="t l")]
    parts += [_text(x.at(e), height - BOTTOM + 15, str(e)) for e in range(1, longest + 1, step)]
    for tick in y.ticks(4):
        parts += [_line(LEFT, y.at(tick), WIDTH - RIGHT, y.at(tick), "g"), _text(LEFT - 5, y.at(tick) + 4, number(tick), anchor="end")]
    if level:
        parts += [_line(LEFT, y.at(level[1]), WIDTH - RIGHT, y.at(level[1]), "ref"), _text(WIDTH - RIGHT - 2, y.at(level[1]) - 4, level[0], anchor="end", css="t s")]
    for name, (css, vs) in series.items():
        places = [(x.at(i + 1), y.at(v)) for i, v in enumerate(vs) if v is not None and math.isfinite(v)]
        parts.append(f'<polyline class="curve {css}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in places)}"/>')
        parts += [marker("circle", a, b, 2.6, f"dot {css}", f"{name}, epoch {i + 1}") for i, (a, b) in enumerate(places)]
    return _svg(parts, height, f"{y_label} over epochs")


def heat(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """A confusion matrix without numbers, for more classes than a table can hold; rows are true classes, tooltips have the counts."""
    count, side = len(labels), 396 / max(1, len(labels))
    parts = [f'<rect x="12" y="4" width="396" height="396" class="frame"/>']
    for row, (label, values) in enumerate(zip(labels, matrix)):
        total = max(1, sum(values))
        for column, value in enumerate(values):
            if value:
                css = "hit" if row == column else "miss"
                parts.append(f'<rect x="{12 + column * side:.2f}" y="{4 + row * side:.2f}" width="{side:.2f}" height="{side:.2f}" class="{css}" '
                             f'fill-opacity="{max(0.15, value / total):.2f}"><title>{escape(label)} taken for {escape(labels[column])}: {value} of {total}</title></rect>')
    return _svg(parts + [_text(WIDTH / 2, 416, "predicted class →", css="t l")], 422, f"confusion matrix of {count} classes")


def legend(entries: Sequence[Tuple[str, str, str]]) -> str:
    """HTML chips that explain colors and shapes: (css, shape, text)."""
    chips = []
    for css, shape, text in entries:
        chips.append(f'<span class="chip"><svg viewBox="-8 -8 16 16" width="14" height="14" aria-hidden="true">{marker(shape, 0, 0, 6, f"dot {css}")}</svg>{escape(text)}</span>')
    return f'<p class="legend">{"".join(chips)}</p>'

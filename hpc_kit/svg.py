"""Plots as SVG text: lines, points, bars and spans on two axes, with what a pointer shows over each mark.

Colours, fonts and the pointer's box are those of report/template/, so that one drawing is readable in light, in dark,
on paper and on a phone. Colours are numbered; the palette is that of Okabe and Ito
(https://jfly.uni-koeln.de/color/), which colour-blind people tell apart.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 760, 340
LEFT, RIGHT, TOP, BOTTOM = 76, 14, 12, 46
COLOURS = 8


@dataclass
class Marks:
    """What is drawn in one colour: `kind` "line", "points", or "bars" from y0 to y as wide as `width`.

    `texts` are shown by the pointer, one a mark; `label` stands in the legend, "" keeps it out.
    """

    x: Sequence[float]
    y: Sequence[float]
    kind: str = "line"
    colour: int = 0
    label: str = ""
    texts: Sequence[str] = ()
    y0: Sequence[float] = ()
    width: float = 0.8
    faint: bool = False


@dataclass
class Span:
    """A horizontal bar in a row of a timeline, from `start` to `end`."""

    row: int
    start: float
    end: float
    colour: int
    text: str


@dataclass
class Figure:
    """A drawing with a caption: `svg` is markup made here, `caption` plain text, `legend` (colour, label) pairs."""

    caption: str
    svg: str
    legend: list[tuple[int, str]] = field(default_factory=list)


@dataclass
class Section:
    """A part of a page, as a kind of work adds it: plain text, drawings, a table of texts, and text to unfold.

    `markup` is HTML that the kind makes, with every text of a record escaped; `scripts` are files of the package,
    such as "explain/template/viewer.js", which the page holds once, in this order, after all sections.
    """

    title: str
    text: str = ""
    figures: list[Figure] = field(default_factory=list)
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    folded: dict[str, str] = field(default_factory=dict)
    markup: str = ""
    scripts: Sequence[str] = ()


def plot(
    caption: str,
    x_label: str,
    y_label: str,
    marks: Sequence[Marks],
    log_y: bool = False,
    diagonal: bool = False,
    names: Sequence[str] = (),
    whole_x: bool = False,
) -> Figure:
    """Return a plot. `log_y` leaves out what is not positive; `diagonal` draws y = x; `names` stand on the x axis at
    0, 1, 2 … in place of numbers; `whole_x` marks whole numbers on it alone."""
    points = [
        (x, y)
        for m in marks
        for x, y in [*zip(m.x, m.y, strict=True), *zip(m.x, m.y0, strict=False)]
        if _shown(y, log_y)
    ]
    xs, ys = [x for x, _ in points] or [0.0, 1.0], [y for _, y in points] or [0.1, 1.0]
    if diagonal:
        xs = ys = [min(*xs, *ys), max(*xs, *ys)] if len(points) > 1 else [*xs, *ys]
    across = _Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT, margin=0.6 if names else 0.02, whole=whole_x)
    up = _Axis(min(ys), max(ys), HEIGHT - BOTTOM, TOP, log=log_y, margin=0.04)
    parts = [_frame(across, up, x_label, y_label, names)]
    if diagonal:
        ends = max(across.low, up.low), min(across.high, up.high)
        places = " ".join(f"{across(v):.1f},{up(v):.1f}" for v in ends)
        parts.append(f'<polyline class="guide" points="{places}"/>')
    hover: dict[str, list] = {"x": [], "y": [], "t": []}
    for m in marks:
        parts.append(_draw(m, across, up, log_y))
        for x, y, text in zip(m.x, m.y, m.texts, strict=False):
            if _shown(y, log_y):
                hover["x"].append(round(across(x), 1))
                hover["y"].append(round(up(y), 1))
                hover["t"].append(text)
    legend = list(dict.fromkeys((m.colour, m.label) for m in marks if m.label))
    return Figure(caption, _svg(parts, hover, HEIGHT, caption), legend)


def timeline(caption: str, rows: Sequence[str], spans: Sequence[Span], legend: list[tuple[int, str]]) -> Figure:
    """Return a timeline: a row a name, seconds since 1970 shown from the first start on."""
    start, end = min(s.start for s in spans), max(s.end for s in spans)
    height = TOP + BOTTOM + 20 * len(rows)
    across = _Axis(0.0, max(end - start, 1.0), LEFT + 90, WIDTH - RIGHT, margin=0.0)
    parts, hover = [], {"x": [], "y": [], "t": []}
    for value, text in across.ticks():
        x = across(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - BOTTOM + 16}" text-anchor="middle">{text}</text>')
    parts.append(_text((LEFT + 90 + WIDTH - RIGHT) / 2, height - 8, "seconds since the first start", "axis"))
    for row, name in enumerate(rows):
        y = TOP + 20 * row
        parts.append(
            f'<text class="tick" x="{LEFT + 82}" y="{y + 14}" text-anchor="end">{escape(_cut(name, 24))}</text>'
        )
    for s in spans:
        x, y = across(s.start - start), TOP + 20 * s.row
        width = max(across(s.end - start) - x, 2.0)
        parts.append(f'<rect class="fill c{s.colour}" x="{x:.1f}" y="{y + 3}" width="{width:.1f}" height="14"/>')
        hover["x"].append(round(x + width / 2, 1))
        hover["y"].append(y + 10)
        hover["t"].append(s.text)
    return Figure(caption, _svg(parts, hover, height, caption), legend)


class _Axis:
    """Values to places, with ticks at round numbers."""

    def __init__(
        self,
        low: float,
        high: float,
        start: float,
        end: float,
        log: bool = False,
        margin: float = 0.0,
        whole: bool = False,
    ):
        self._log, self._whole, self._start, self._end = log, whole, start, end
        low, high = (math.log10(low), math.log10(high)) if log else (low, high)
        if high - low < 1e-12 * max(abs(low), abs(high), 1e-300):
            half = max(abs(low) * 0.05, 0.5 if low == 0 or log else abs(low) * 0.05)
            low, high = low - half, high + half
        extra = margin if margin > 0.5 else margin * (high - low)  # names stand whole numbers apart
        self._low, self._high = low - extra, high + extra

    low = property(lambda self: 10**self._low if self._log else self._low)
    high = property(lambda self: 10**self._high if self._log else self._high)

    def __call__(self, value: float) -> float:
        value = math.log10(value) if self._log else value
        return self._start + (value - self._low) / (self._high - self._low) * (self._end - self._start)

    def ticks(self) -> list[tuple[float, str]]:
        if self._log and self._high - self._low > 1:
            powers = range(math.ceil(self._low), math.floor(self._high) + 1)
            return [(10.0**power, _number(10.0**power)) for power in powers]
        low, high = self.low, self.high
        step = 10 ** math.floor(math.log10((high - low) / 5))
        step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 7)
        step = max(step, 1) if self._whole else step
        first, last = math.ceil(low / step), math.floor(high / step)
        return [(n * step, _number(n * step)) for n in range(first, last + 1) if not self._log or n > 0]


def _frame(across: _Axis, up: _Axis, x_label: str, y_label: str, names: Sequence[str]) -> str:
    parts = []
    for value, text in up.ticks():
        y = up(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    ticks = [(float(n), _cut(name, 22)) for n, name in enumerate(names)] if names else across.ticks()
    for value, text in ticks:
        parts.append(_text(across(value), HEIGHT - BOTTOM + 16, text, "tick"))
    parts.append(f'<path class="axes" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label, "axis"))
    place = f"translate(14 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)"
    parts.append(f'<text class="axis" transform="{place}" text-anchor="middle">{escape(y_label)}</text>')
    return "".join(parts)


def _draw(m: Marks, across: _Axis, up: _Axis, log_y: bool) -> str:
    """Return the marks as one path, or as bars."""
    look = f"c{m.colour}{' faint' if m.faint else ''}"
    if m.kind == "bars":
        bars = []
        for x, y0, y in zip(m.x, m.y0, m.y, strict=True):
            left, right, top, bottom = (
                across(x - m.width / 2),
                across(x + m.width / 2),
                up(max(y, y0)),
                up(min(y, y0)),
            )
            bars.append(
                f'<rect class="fill {look}" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}"'
                f' height="{max(bottom - top, 0.0):.1f}"/>'
            )
        return "".join(bars)
    places = [f"{across(x):.1f} {up(y):.1f}" if _shown(y, log_y) else None for x, y in zip(m.x, m.y, strict=True)]
    if m.kind == "points":
        return f'<path class="points {look}" d="{"".join(f"M{place}h0" for place in places if place)}"/>'
    steps, pen = [], "M"
    for place in places:  # a value that cannot be shown interrupts the line
        steps.append(f"{pen}{place}" if place else "")
        pen = "L" if place else "M"
    return f'<path class="line {look}" d="{"".join(steps)}"/>'


def _svg(parts: list[str], hover: dict[str, list], height: int, title: str) -> str:
    data = json.dumps(hover, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}'
        f'<circle class="near" r="5"/></svg><script type="application/json" class="hover">{data}</script>'
    )


def _text(x: float, y: float, text: str, look: str) -> str:
    return f'<text class="{look}" x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{escape(text)}</text>'


def _shown(y: float | None, log_y: bool) -> bool:
    return y is not None and math.isfinite(y) and (y > 0 or not log_y)


def _number(value: float) -> str:
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{float(f'{value:.3g}'):g}"
    return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"

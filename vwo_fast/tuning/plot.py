"""Small SVG plots: lines over time or another number, and horizontal bars.

Own code, because a plot needs few hundred bytes and a plotting library many megabytes.  The colours
are readable on white and on dark pages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

__all__ = ["Bar", "Line", "Mark", "bar_chart", "line_chart", "save"]

COLOURS = ("#2f7ed8", "#d9534f", "#3c9d5d", "#b8860b", "#8a5bb5", "#5f7d8c")
TEXT = "#7a7a7a"
TICKS_FEW = 4
FONT = 'font-family="sans-serif" font-size="12"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A series; its points are (x, y), in order of x."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A stretch of the x axis with a name, drawn behind the lines."""

    name: str
    begin: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """``low`` and ``high``: how far repeated measurements lay apart."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    is_ours: bool = False


@dataclass(frozen=True, slots=True)
class _Scale:
    """From numbers to pixels."""

    first: float
    last: float
    begin: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        first, last = self.first, self.last
        if self.log:
            value, first, last = math.log10(max(value, first)), math.log10(first), math.log10(last)
        share = (value - first) / (last - first) if last > first else 0.0
        return round(self.begin + share * (self.end - self.begin), 1)

    def ticks(self) -> list[float]:
        """Round numbers within the scale."""
        powers = range(math.floor(math.log10(self.first)), math.floor(math.log10(self.last)) + 1) if self.log else ()
        # Powers of ten alone, unless so few of them lie here that a reader could not tell what lies between.
        for factors in ((1,), (1, 2, 5), range(1, 10)):
            found = [factor * 10.0**power for power in powers for factor in factors]
            found = [tick for tick in found if self.first <= tick <= self.last]
            if len(found) >= TICKS_FEW:
                return found
        step = 10 ** math.floor(math.log10(max(self.last - self.first, 1e-12) / 4))
        step *= next(factor for factor in (1, 2, 5, 10) if (self.last - self.first) / (step * factor) <= 6)
        begin, end = math.ceil(self.first / step - 1e-9), math.floor(self.last / step + 1e-9)
        return [number * step for number in range(begin, end + 1)]


def _number(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = TEXT, weight: str = "normal") -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" {FONT} fill="{colour}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )


def _rule(x1: float, y1: float, x2: float, y2: float, colour: str = TEXT, opacity: float = 0.25) -> str:
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{colour}" stroke-opacity="{opacity:g}"/>'


def _picture(width: float, height: float, title: str, caption: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{escape(title, quote=True)}">'
    )
    small = _text(12, height - 8, caption).replace('font-size="12"', 'font-size="9"')
    body = [_text(12, 20, title, weight="bold"), *parts, small]
    return "\n".join([head, *body, "</svg>", ""])


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_name: str,
    y_name: str,
    caption: str = "",
    marks: Sequence[Mark] = (),
    log_x: bool = False,
    log_y: bool = False,
    width: int = 760,
    height: int = 320,
) -> str:
    """The SVG of some lines over one x axis. Raises ValueError when no line has a point."""
    points = [point for line in lines for point in line.points]
    if not points:
        raise ValueError("nothing to draw")
    xs, ys = [x for x, _ in points], [y for _, y in points]
    lowest = min((y for y in ys if y > 0), default=1.0) if log_y else min(0.0, *ys)
    highest = max(max(ys), lowest * 10 if log_y else lowest + 1e-9)
    across = _Scale(min(xs), max(xs), 64, width - 16, log_x)
    up = _Scale(lowest, highest, height - 62, 52, log_y)
    parts = []
    for number, mark in enumerate(marks):
        left, right = across.at(mark.begin), across.at(mark.end)
        shade = 0.10 if number % 2 == 0 else 0.04
        parts.append(
            f'<rect x="{left:g}" y="52" width="{right - left:g}" height="{height - 114:g}" '
            f'fill="{TEXT}" fill-opacity="{shade:g}"/>'
        )
        parts.append(_text((left + right) / 2, 64, mark.name, "middle"))
    for tick in up.ticks():
        parts += [_rule(64, up.at(tick), width - 16, up.at(tick)), _text(58, up.at(tick) + 4, _number(tick), "end")]
    for tick in across.ticks():
        parts.append(_text(across.at(tick), height - 46, _number(tick), "middle"))
    parts.append(_text(width - 16, height - 30, x_name, "end"))
    parts.append(_text(12, 40, y_name))
    legend = 64.0
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        way = " ".join(f"{across.at(x):g},{up.at(y):g}" for x, y in line.points)
        parts.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        parts.append(_text(legend, height - 30, line.name, colour=colour, weight="bold"))
        legend += 18 + 7.2 * len(line.name)
    return _picture(width, height, title, caption, parts)


def bar_chart(
    bars: Sequence[Bar], *, title: str, unit: str, caption: str = "", log: bool = False, width: int = 760
) -> str:
    """The SVG of horizontal bars, ours in another colour. Raises ValueError when there are none."""
    if not bars:
        raise ValueError("nothing to draw")
    row, top = 26, 34
    height = top + row * len(bars) + 34
    names = 24 + 7.0 * max(len(bar.name) for bar in bars)
    highest = max(bar.high or bar.value for bar in bars)
    lowest = min(bar.value for bar in bars)
    first = 10 ** math.floor(math.log10(lowest) - 0.3) if log else 0.0
    scale = _Scale(first, highest, names, width - 90, log)
    parts = []
    for number, bar in enumerate(bars):
        y, end = top + row * number, scale.at(bar.value)
        colour = COLOURS[0] if bar.is_ours else COLOURS[5]
        parts.append(_text(names - 8, y + 15, bar.name, "end", weight="bold" if bar.is_ours else "normal"))
        long = max(1.0, end - names)
        parts.append(f'<rect x="{names:g}" y="{y + 3:g}" width="{long:g}" height="{row - 9:g}" fill="{colour}"/>')
        if bar.low is not None and bar.high is not None:
            parts.append(_rule(scale.at(bar.low), y + 11, scale.at(bar.high), y + 11, "#222222", 0.9))
            end = max(end, scale.at(bar.high))
        parts.append(_text(end + 6, y + 15, f"{_number(float(f'{bar.value:.3g}'))} {unit}"))
    return _picture(width, height, title, caption, parts)


def save(path: Path, picture: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(picture)

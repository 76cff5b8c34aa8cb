"""Figures over time as SVG: panels one above the other, with the phases of the run as bands behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Band", "Curve", "Panel", "draw"]

WIDTH = 960
LEFT, RIGHT, TOP, BOTTOM = 90, 16, 56, 34
PANEL_HEIGHT, GAP = 120, 22
POINTS_MAX = 800
COLORS = ("#1f5fa8", "#b3541e", "#4b7f2b", "#7a3b8f")
BANDS = ("#f4f4f4", "#e6ebf2")


@dataclass(frozen=True, slots=True)
class Band:
    """A phase, from its start to the next one's."""

    name: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Curve:
    """One figure at each of the times."""

    name: str
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves that share an axis, which begins at 0."""

    title: str
    curves: Sequence[Curve]


def draw(title: str, times: Sequence[float], bands: Sequence[Band], panels: Sequence[Panel]) -> str:
    """The picture."""
    end = max(times[-1], bands[-1].end)
    height = TOP + len(panels) * (PANEL_HEIGHT + GAP) + BOTTOM

    def x(moment: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * moment / end

    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="20" font-size="15">{escape(title)}</text>',
    ]
    foot = TOP + len(panels) * (PANEL_HEIGHT + GAP) - GAP
    for number, band in enumerate(bands):
        left, right = x(band.start), x(band.end)
        parts.append(
            f'<rect x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" height="{foot - TOP}"'
            f' fill="{BANDS[number % len(BANDS)]}"/>'
            f'<text x="{(left + right) / 2:.1f}" y="{TOP - 8}" text-anchor="middle">{escape(band.name)}</text>'
        )
    for number, panel in enumerate(panels):
        parts += _panel(panel, TOP + number * (PANEL_HEIGHT + GAP), [x(moment) for moment in times])
    parts += [
        f'<text x="{x(moment):.1f}" y="{foot + 16}" text-anchor="middle">{moment:g}</text>' for moment in _ticks(end)
    ]
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{foot + 31}" text-anchor="middle">seconds</text></svg>')
    return "\n".join(parts) + "\n"


def _panel(panel: Panel, top: int, xs: Sequence[float]) -> list[str]:
    highest = max((value for curve in panel.curves for value in curve.values), default=0) or 1
    bottom = top + PANEL_HEIGHT
    parts = [f'<text x="{LEFT + 6}" y="{top + 14}" font-weight="bold">{escape(panel.title)}</text>']
    for share in (0.0, 0.5, 1.0):
        y = bottom - (PANEL_HEIGHT - 20) * share
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#c8c8c8" stroke-width="0.5"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{highest * share:,.0f}</text>'
        )
    step = max(1, len(xs) // POINTS_MAX)
    for number, curve in enumerate(panel.curves):
        color = COLORS[number % len(COLORS)]
        points = " ".join(
            f"{x:.1f},{bottom - (PANEL_HEIGHT - 20) * value / highest:.1f}"
            for x, value in list(zip(xs, curve.values, strict=True))[::step]
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        if len(panel.curves) > 1:
            parts.append(
                f'<text x="{LEFT + 160 + 110 * number}" y="{top + 14}" fill="{color}">{escape(curve.name)}</text>'
            )
    return parts


def _ticks(end: float) -> list[float]:
    step = next(width for width in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600) if end / width <= 14)
    return [float(moment) for moment in range(0, int(end) + 1, step)]

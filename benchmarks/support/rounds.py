"""Measuring two ways of one work beside each other.

Rounds of both alternate, and each pair gives one ratio: whatever disturbs the machine for longer
than a round disturbs both.  What is reported is the median with the 10th and 90th percentile.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Interval",
    "Line",
    "Pair",
    "Spread",
    "Way",
    "alternate",
    "line_through",
    "median_interval",
    "nanoseconds_each",
    "spread",
]


@dataclass(frozen=True, slots=True)
class Spread:
    """Median of some rounds, and how far they lie apart."""

    median: float
    low: float
    high: float
    rounds: int

    def as_dict(self) -> dict[str, float | int]:
        return {
            "median": round(self.median, 4),
            "p10": round(self.low, 4),
            "p90": round(self.high, 4),
            "rounds": self.rounds,
        }


def spread(values: Sequence[float]) -> Spread:
    """Raises ValueError when there are no values."""
    if not values:
        raise ValueError("no rounds")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return Spread(statistics.median(values), tenths[0], tenths[-1], len(values))


@dataclass(frozen=True, slots=True)
class Interval:
    """Where the true median lies, at a stated confidence."""

    low: float
    high: float
    confidence: float

    def is_at_most(self, limit: float) -> bool | None:
        """True or False when all of the interval says so; None: it holds the limit, so that cannot be told."""
        return True if self.high <= limit else False if self.low > limit else None

    def is_at_least(self, limit: float) -> bool | None:
        """The same for a lower limit."""
        return True if self.low >= limit else False if self.high < limit else None


def median_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """A confidence interval for the median of what the values were drawn from, whatever its distribution.

    The ``k``-th smallest and the ``k``-th largest of ``n`` values enclose the median unless fewer than ``k``
    of them fall on one side of it; how many do is binomial with probability 1/2, so they enclose it with
    probability ``1 - 2 P(B(n, 1/2) < k)``.  ``k`` is the largest that keeps ``confidence``; it is the sign test
    turned round.  (W. R. Thompson, Annals of Mathematical Statistics 7, 1936; H. A. David and H. N. Nagaraja,
    Order Statistics, 3rd edition, section 7.1.)

    The probability that was reached is in the result.  Fewer than six values do not reach 95 %: then all is possible.
    """
    count = len(values)
    outside, k = 0.0, 0
    while k < count // 2:
        more = outside + 2 * math.comb(count, k) / 2**count
        if more > 1 - confidence:
            break
        outside, k = more, k + 1
    if k == 0:
        return Interval(-math.inf, math.inf, 1.0)
    ordered = sorted(values)
    return Interval(ordered[k - 1], ordered[count - k], 1 - outside)


@dataclass(frozen=True, slots=True)
class Line:
    """``fixed + slope * x``; ``off`` is the largest share by which a value lies beside it."""

    fixed: float
    slope: float
    off: float


def line_through(values: Mapping[float, float]) -> Line:
    """The line whose relative errors have the least sum of squares: what is small counts as much as what is large.

    Raises ValueError for fewer than two values.
    """
    if len(values) < 2:
        raise ValueError("a line needs two values")
    weights = {x: 1 / y**2 for x, y in values.items()}
    total = sum(weights.values())
    x_mean = sum(weight * x for x, weight in weights.items()) / total
    y_mean = sum(weights[x] * y for x, y in values.items()) / total
    slope = sum(weights[x] * (x - x_mean) * (y - y_mean) for x, y in values.items())
    slope /= sum(weight * (x - x_mean) ** 2 for x, weight in weights.items())
    fixed = y_mean - slope * x_mean
    return Line(fixed, slope, max(abs((fixed + slope * x) / y - 1) for x, y in values.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to do the work.

    ``prepare`` makes what one round works on, ``run`` is timed, ``settle`` waits until nothing of
    the round goes on in the background, so that the other way has the machine for itself.
    """

    run: Callable[[Any], float]
    prepare: Callable[[], Any] = lambda: None
    settle: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What came of it; ``ratio`` is the median of ours / theirs, each of one pair of rounds."""

    ours: Spread
    theirs: Spread
    ratio: Spread

    def as_dict(self) -> dict[str, Any]:
        return {"ours": self.ours.as_dict(), "theirs": self.theirs.as_dict(), "ratio": self.ratio.as_dict()}


def nanoseconds_each(function: Callable[[Any], Any], items: Sequence[Any]) -> float:
    """Nanoseconds per call, the loop included."""
    begin = time.perf_counter_ns()
    for item in items:
        function(item)
    return (time.perf_counter_ns() - begin) / len(items)


def _round(way: Way) -> float:
    work = way.prepare()
    gc.collect()
    took = way.run(work)
    way.settle()
    return took


def alternate(ours: Way, theirs: Way, rounds: int) -> Pair:
    """Rounds A B B A A B ...: neither way always comes after the other. One round of each warms up."""
    for way in (ours, theirs):
        _round(way)
    took: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        order = ((0, ours), (1, theirs)) if number % 2 == 0 else ((1, theirs), (0, ours))
        for place, way in order:
            took[place].append(_round(way))
    ratios = [mine / other for mine, other in zip(*took, strict=True)]
    return Pair(ours=spread(took[0]), theirs=spread(took[1]), ratio=spread(ratios))

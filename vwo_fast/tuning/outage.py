"""A simulation of an outage: how far lanes and spool fill, and how long it takes to be even again.

Events are a fluid here, since an outage is long beside everything that happens to
one of them.  Key invariant: what was offered is delivered, in lanes, in the spool
or was refused, at every moment.
"""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass, field

from vwo_fast.aggregator.fresh import SPILL_AFTER_FAILURES
from vwo_fast.aggregator.gate import backoff

__all__ = ["Outage", "Replay", "Store", "give_up", "notice", "simulate_outage"]

STEPS_AWAY = 600
STEPS_MAX = 200_000
LIVES = 201
LEAD_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """What can hold events, in events. ``steady``: how many are on their way when all is well."""

    steady: float
    lanes: float
    watermark: float
    """Share of the lanes above which what waits moves to the spool."""
    spool: float
    spool_per_second: float
    """How fast the disk takes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """What comes of it. Times in seconds, from the moment the server is back."""

    seconds: float
    spool_peak: float
    lanes_peak: float
    refused: float
    even_after: float | None
    """When nothing is left of it; None: not while it was looked at."""
    offered: float
    delivered: float
    points: tuple[tuple[float, float, float, float], ...] = field(repr=False)
    """(time, in lanes, in spool, refused so far); time 0 is the beginning of the outage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What decides about an outage, except how long it is."""

    rate: float
    capacity: float
    """Events a second that are sent when the server is back."""
    store: Store
    give_up_seconds: float

    def play(self, seconds: float, notice_seconds: float) -> Outage:
        """An outage of so many seconds, the end of which is noticed so much later."""
        return simulate_outage(
            self.rate,
            self.capacity,
            self.store,
            seconds=seconds,
            notice_seconds=notice_seconds,
            give_up_seconds=self.give_up_seconds,
        )


def notice(seconds: float, delay_min: float, delay_max: float) -> tuple[float, float]:
    """(median, most) seconds until the next try after the server is back, when each try fails at once."""
    found = []
    for life in range(LIVES):
        rng = random.Random(life)
        now, failures = 0.0, 0
        while now < seconds:
            failures += 1
            now += backoff(failures, delay_min, delay_max, rng.random)
        found.append(now - seconds)
    return statistics.median(found), max(found)


def give_up(delay_min: float, delay_max: float) -> float:
    """Seconds, on average, until what waits begins to move to the spool."""
    return sum(backoff(failure, delay_min, delay_max, lambda: 0.5) for failure in range(1, SPILL_AFTER_FAILURES))


def simulate_outage(
    rate: float, capacity: float, store: Store, *, seconds: float, notice_seconds: float, give_up_seconds: float
) -> Outage:
    """``rate`` events a second all the time; nothing is delivered for ``seconds`` and until that is noticed."""
    step = seconds / STEPS_AWAY
    lanes = steady = min(store.steady, store.lanes)
    spool = refused = delivered = 0.0
    offered = lanes
    lead = seconds * LEAD_SHARE
    points = [(-lead, lanes, 0.0, 0.0), (0.0, lanes, 0.0, 0.0)]
    spool_peak, lanes_peak = 0.0, lanes
    even_after = None
    now, back = 0.0, seconds + notice_seconds
    for _ in range(STEPS_MAX):
        now += step
        offered += rate * step
        lanes += rate * step
        if now > back:
            sent = min(capacity * step, spool)
            spool -= sent
            fresh = min(capacity * step - sent, max(0.0, lanes - steady))
            lanes -= fresh
            delivered += sent + fresh
        # While the server fails all that is sealed moves; else only what is above the watermark.
        keep = steady if give_up_seconds < now <= back else max(steady, store.watermark * store.lanes)
        moved = max(0.0, min(lanes - keep, store.spool - spool, store.spool_per_second * step))
        lanes -= moved
        spool += moved
        over = max(0.0, lanes - store.lanes)
        lanes -= over
        refused += over
        spool_peak, lanes_peak = max(spool_peak, spool), max(lanes_peak, lanes)
        points.append((now, lanes, spool, refused))
        # With rounding, what is delivered per step leaves a trace of an event.
        if now > back and spool < 0.5 and lanes <= steady + max(0.5, rate * step):
            even_after = now - seconds
            break
        if now > back and capacity <= rate:
            break
    points.append((now + lead, *points[-1][1:]))
    return Outage(
        seconds=seconds,
        spool_peak=spool_peak,
        lanes_peak=lanes_peak,
        refused=refused,
        even_after=even_after,
        offered=offered,
        delivered=delivered,
        points=tuple(points),
    )

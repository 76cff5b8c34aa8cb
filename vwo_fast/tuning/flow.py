"""A simulation of what happens between enqueue and the answer, batch by batch.

Idea: events come at random at a given rate (a Poisson process), so a batch fills
either up to its count or until its interval is over; how its events lie in that
time is known without drawing each of them.  Sealed batches then pass one core and
the in-flight window as the shipper's rules say: a batch goes when the window has
room and no batch before it that has no answer may hold one of its visitors.  Key
invariant: every event that arrived is in the open batch, waits, is in flight or
is answered, and leaves each of these once.
"""

from __future__ import annotations

import bisect
import functools
import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Flow", "Machine", "Plan", "capacity", "sharing", "simulate"]

LOOKED_AT = 32
"""Batches that wait when there is more than enough to send. With four times as many a tenth less is carried:
the more of them wait before a batch, the more of them may share a visitor with it."""

SAMPLES = 600
"""Moments at which the depth of the queue is looked at."""

SHOWN_BATCHES = 12
STEPS_PER_BATCH = 16
WARM_UP_SHARE = 0.1
NORMAL_FROM = 50.0
"""From this mean on, a Poisson number is drawn as a normal one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What of the machine and of the way to the server matters here; times in seconds."""

    event_cpu: float
    request_cpu: float
    request_base: float
    """What a request takes here beside the way to the server, however small it is."""
    request_per_byte: float
    nap: float
    """How long an event lies in its lane at most before it is read."""
    json_bytes: float
    rtt: float
    visitor_bits: int
    """Bits of the filter that tells whether two batches may share a visitor."""

    def request_seconds(self, events: float) -> float:
        """From sending to the answer."""
        return self.rtt + self.request_base + self.request_per_byte * self.json_bytes * events


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The settings that decide the flow."""

    events_per_request: int
    request_time_interval: float
    in_flight_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What a plan gives. Times in seconds; depth is events that were enqueued and have no answer yet."""

    delay_median: float
    delay_p99: float
    delay_mean: float
    depth_mean: float
    depth_median: float
    depth_p99: float
    batches_waiting_max: int
    """Sealed, with or without a request on its way, at the same time."""
    requests_per_second: float
    events_per_request: float
    arrived: int
    answered: int
    depth: tuple[tuple[float, float], ...] = field(repr=False)
    """(time, depth) of the last few batches, in order of time."""


@dataclass(slots=True, eq=False)
class _Batch:
    events: int
    opened: float
    sealed: float
    ready: float
    settled: float = 0.0
    blockers: set[int] = field(default_factory=set)


def simulate(machine: Machine, rate: float, plan: Plan, *, batches: int = 1500, seed: int = 1) -> Flow:
    """Let events come at ``rate`` per second. The plan should have the capacity for it; else the queue only grows."""
    rng = random.Random(seed)
    made = _arrivals(machine, rate, plan, batches, rng)
    waiting_max = _send(machine, plan, made, rng, loaded_max=None)
    begin = made[int(len(made) * WARM_UP_SHARE)].opened
    counted = [batch for batch in made if batch.opened >= begin]
    delays = _delays(machine, counted, plan)
    duration = counted[-1].sealed - begin
    depths = sorted(value for _, value in _depth(made, begin, counted[-1].sealed))
    events = sum(batch.events for batch in counted)
    return Flow(
        delay_median=_quantile(delays, 0.5),
        delay_p99=_quantile(delays, 0.99),
        delay_mean=sum(delay * weight for delay, weight in delays) / sum(weight for _, weight in delays),
        depth_mean=sum(depths) / len(depths),
        depth_median=depths[len(depths) // 2],
        depth_p99=depths[int(len(depths) * 0.99)],
        batches_waiting_max=waiting_max,
        # From open to open, so that the wait for the first event of a batch is counted too.
        requests_per_second=len(counted) / (duration + 1 / rate),
        events_per_request=events / len(counted),
        arrived=sum(batch.events for batch in made),
        answered=sum(batch.events for batch in made if batch.settled > 0),
        depth=tuple(_depth(made, made[-min(len(made), SHOWN_BATCHES)].opened, counted[-1].sealed)),
    )


def capacity(
    machine: Machine, events: int, in_flight_max: int, *, batches: int = 200, seed: int = 1, with_cpu: bool = True
) -> float:
    """Events per second when there is always more to send, in batches of ``events``.

    ``with_cpu``: False leaves only the window and the way to the server.
    """
    rng = random.Random(seed)
    work = machine.request_cpu + events * machine.event_cpu if with_cpu else 0.0
    made = [_Batch(events, 0.0, 0.0, number * work) for number in range(batches)]
    plan = Plan(events_per_request=events, request_time_interval=1.0, in_flight_max=in_flight_max)
    _send(machine, plan, made, rng, loaded_max=LOOKED_AT)
    took = max(batch.settled for batch in made)
    return batches * events / took if took else math.inf


# ---- what comes in


def _arrivals(machine: Machine, rate: float, plan: Plan, batches: int, rng: random.Random) -> list[_Batch]:
    made = []
    now = free = 0.0
    for _ in range(batches):
        opened = now + rng.expovariate(rate)
        events, sealed = _fill(rate, plan, opened, rng)
        # The core reads while the batch fills; what it has not managed by then, it does after it.
        work = machine.request_cpu + events * machine.event_cpu
        free = max(sealed + machine.request_cpu, free + work)
        made.append(_Batch(events, opened, sealed, free))
        now = sealed
    return made


def _fill(rate: float, plan: Plan, opened: float, rng: random.Random) -> tuple[int, float]:
    """Events of a batch that was opened now, and when it is sealed."""
    more = plan.events_per_request - 1
    if more == 0:
        return 1, opened
    took = rng.gammavariate(more, 1 / rate)
    if took <= plan.request_time_interval:
        return plan.events_per_request, opened + took
    came = 1 + _poisson(rng, rate * plan.request_time_interval)
    return min(came, more), opened + plan.request_time_interval


def _poisson(rng: random.Random, mean: float) -> int:
    if mean > NORMAL_FROM:
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    limit, product, count = math.exp(-mean), rng.random(), 0
    while product > limit:
        product *= rng.random()
        count += 1
    return count


# ---- what goes out


def _send(machine: Machine, plan: Plan, made: Sequence[_Batch], rng: random.Random, *, loaded_max: int | None) -> int:
    """Give each batch the time of its answer. Returns how many were sealed and not settled at most."""
    unsettled: dict[int, _Batch] = {}
    waiting: list[int] = []
    flying: list[tuple[float, int]] = []
    coming = 0
    now = 0.0
    most = 0
    while coming < len(made) or unsettled:
        while coming < len(made) and made[coming].ready <= now and (loaded_max or len(made)) > len(unsettled):
            batch = made[coming]
            batch.blockers = {key for key, other in unsettled.items() if _share(machine, batch, other, rng)}
            unsettled[coming] = batch
            waiting.append(coming)
            coming += 1
        most = max(most, len(unsettled))
        while len(flying) < plan.in_flight_max:
            chosen = next((key for key in waiting if not unsettled[key].blockers), None)
            if chosen is None:
                break
            waiting.remove(chosen)
            heapq.heappush(flying, (now + machine.request_seconds(unsettled[chosen].events), chosen))
        can_come = coming < len(made) and (loaded_max or len(made)) > len(unsettled)
        next_ready = made[coming].ready if can_come else math.inf
        if flying and flying[0][0] <= next_ready:
            now, key = heapq.heappop(flying)
            unsettled.pop(key).settled = now
            for other in waiting:
                unsettled[other].blockers.discard(key)
        else:
            now = max(now, next_ready)
    return most


def _share(machine: Machine, one: _Batch, other: _Batch, rng: random.Random) -> bool:
    """Whether two batches of different visitors share a bit of the filter all the same."""
    return rng.random() < sharing(one.events, other.events, machine.visitor_bits)


@functools.lru_cache(maxsize=4096)
def sharing(one: int, other: int, bits: int) -> float:
    """How likely it is that a filter has a bit of so many visitors, and of so many others."""
    taken = -math.expm1(other * math.log1p(-1 / bits))
    return -math.expm1(one * math.log1p(-taken))


# ---- what is seen


def _delays(machine: Machine, made: Sequence[_Batch], plan: Plan) -> list[tuple[float, float]]:
    """(delay, weight) of a few events of each batch: the first one, and the others evenly in its time."""
    found = []
    for batch in made:
        found.append((batch.settled - batch.opened + machine.nap / 2, 1.0))
        rest = batch.events - 1
        steps = min(rest, STEPS_PER_BATCH)
        for step in range(steps):
            came = batch.opened + (step + 0.5) / steps * (batch.sealed - batch.opened)
            found.append((batch.settled - came + machine.nap / 2, rest / steps))
    return found


def _quantile(weighted: list[tuple[float, float]], share: float) -> float:
    ordered = sorted(weighted)
    left = share * sum(weight for _, weight in ordered)
    for value, weight in ordered:
        left -= weight
        if left <= 0:
            return value
    return ordered[-1][0]


def _depth(made: Sequence[_Batch], begin: float, end: float) -> list[tuple[float, float]]:
    """Events between enqueue and answer, at moments evenly in a time."""
    openings = [batch.opened for batch in made]
    before = [0]
    for batch in made:
        before.append(before[-1] + batch.events)
    answered_at = sorted((batch.settled, batch.events) for batch in made)
    answered_times = [time for time, _ in answered_at]
    answered = [0]
    for _, events in answered_at:
        answered.append(answered[-1] + events)
    found = []
    for number in range(SAMPLES):
        now = begin + (number + 0.5) / SAMPLES * (end - begin)
        index = bisect.bisect_right(openings, now)
        arrived = float(before[index])
        if index:
            batch = made[index - 1]
            if now < batch.sealed:
                share = (now - batch.opened) / (batch.sealed - batch.opened)
                arrived = before[index - 1] + 1 + (batch.events - 1) * share
        found.append((now, arrived - answered[bisect.bisect_right(answered_times, now)]))
    return found

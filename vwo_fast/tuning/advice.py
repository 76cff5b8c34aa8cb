"""The choice among settings, each with its reason, from figures of this machine and what a user wants.

The rule: the fewest requests that keep the wished delay, with capacity to spare;
then the smallest window and the smallest lanes that do not cost any of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from vwo_fast._options import OPTIONS
from vwo_fast.aggregator.nap import NAP_SECONDS_MAX
from vwo_fast.aggregator.sealed import VISITOR_FILTER_BYTES
from vwo_fast.aggregator.spool_file import LOG_BYTES
from vwo_fast.aggregator.spool_rows import ROW_OVERHEAD
from vwo_fast.aggregator.window import LOADED_BATCHES_MAX
from vwo_fast.owner import GROWTH_RESERVE
from vwo_fast.tuning.figures import Figures, amount, events_max
from vwo_fast.tuning.flow import Flow, Machine, Plan, capacity, sharing, simulate
from vwo_fast.tuning.outage import Outage, Replay, Store, give_up, notice

__all__ = ["Advice", "Choice", "Demand", "ImpossibleError", "Trial", "advise", "machine_of"]

SPARE = 1.25
"""Capacity beside the rate: what is missing of it is the time that a backlog takes to go."""

OUTAGE_SECONDS = 600.0
CANDIDATES = (1, 2, 5, 10, 20, 50, 100, 150, 200, 300, 500, 750, 1000, 1500, 2000, 3000, 5000)
WINDOWS = (2, 4, 8, 16, 32, 64)
WORTH = 0.9
"""A larger window must give more than a smaller one by so much."""

EQUAL = 1.03
"""Within this, two numbers of requests are the same."""

DELAY_SHARE = 0.9
"""Of the wished delay, what request and interval may take together; the rest is for what happens by chance."""

UNEVEN = 2.0
"""The busiest worker, beside the average one."""

NOTICED_SECONDS = 1.0
"""Until a worker notices that the aggregator is gone."""

LANE_FLOOR = 256 * 1024
GROWTH_MAX = 16
BUSY_WORKER_MAX = 0.5
SLOW_SHARE = 0.3
"""Of read_timeout: a request that usually takes more will sometimes take all of it."""

SPOOL_FLOOR = 256 * 1024 * 1024
SEGMENT_BYTES = 10 * 1448
"""What TCP sends before it waits for the first answer on a connection that has been idle."""

Tell = Callable[[str], None]


class ImpossibleError(Exception):
    """What is wanted cannot be had on this machine; ``bottleneck`` is what stands in the way."""

    def __init__(self, bottleneck: str, text: str) -> None:
        super().__init__(text)
        self.bottleneck = bottleneck


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a user wants. ``rtt`` and ``delay`` in seconds; ``delay``: from enqueue to answer, for 99 of 100."""

    rate: float
    event_bytes: int
    rtt: float
    workers: int
    delay: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One option of the queue, and why. ``value`` None: better left at its default."""

    name: str
    value: int | float | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a number of events per request would give. ``flow`` is None where the capacity is not enough."""

    plan: Plan
    capacity: float
    flow: Flow | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Settings for a demand, and what they are expected to do. Bytes, seconds, events."""

    demand: Demand
    choices: tuple[Choice, ...]
    flow: Flow
    capacity: float
    core_share: float
    worker_share: float
    aggregator_bytes: float
    lanes_bytes: int
    outage: Outage
    disk_per_event: float
    log_bytes: float
    """What SQLite's log takes beside the spool."""
    notice_median: float
    notice_max: float
    cold_delay: float
    """What TCP adds to the delay of a request whose connection has been idle."""
    warnings: tuple[str, ...]
    replay: Replay
    """For outages of other lengths."""
    trials: tuple[Trial, ...] = field(repr=False)

    def disk_bytes(self, events: float) -> float:
        """What so many events take there at most, first in the log and then beside it."""
        data = events * self.disk_per_event
        return data + min(data, self.log_bytes)

    def value(self, name: str) -> int | float | None:
        """The recommended value of an option."""
        return next(choice.value for choice in self.choices if choice.name == name)


def machine_of(figures: Figures, rtt: float) -> Machine:
    """What the simulation needs of the figures."""
    alone = sorted((http.body_bytes, http.request.median) for http in figures.http if http.window == 1)
    (small, quick), (large, slow) = alone[0], alone[-1]
    per_byte = max(0.0, (slow - quick) / (large - small)) if large > small else 0.0
    return Machine(
        event_cpu=figures.engine.event_cpu,
        request_cpu=figures.engine.request_cpu,
        request_base=max(0.0, quick - per_byte * small),
        request_per_byte=per_byte,
        nap=NAP_SECONDS_MAX,
        json_bytes=figures.lane.json_bytes,
        rtt=rtt,
        visitor_bits=VISITOR_FILTER_BYTES * 8,
    )


def advise(demand: Demand, figures: Figures, tell: Tell = lambda _text: None) -> Advice:
    """Settings for a demand. Raises ImpossibleError, which names the bottleneck."""
    machine = machine_of(figures, demand.rtt)
    _check_workers(demand, figures)
    tell("simulation: sizes of request")
    sizes_of_request = sorted({min(count, events_max(demand.event_bytes)) for count in CANDIDATES})
    trials = [_trial(machine, demand, events) for events in sizes_of_request]
    chosen = _choose(machine, demand, trials)
    tell("simulation: the settings as a whole")
    flow = simulate(machine, demand.rate, chosen.plan)
    sizes = _lane_sizes(demand, figures, flow)
    limit = _spool_limit(demand, figures, chosen.plan)
    replay = _replay(demand, figures, machine, chosen, flow, sizes, limit)
    return _assemble(demand, figures, machine, chosen, flow, sizes, limit, replay, tuple(trials))


# ---- the way to the server


def _check_workers(demand: Demand, figures: Figures) -> None:
    busy = demand.rate / demand.workers * figures.lane.enqueue.median
    if busy > BUSY_WORKER_MAX:
        needed = math.ceil(demand.rate * figures.lane.enqueue.median / BUSY_WORKER_MAX)
        raise ImpossibleError(
            "workers",
            f"{demand.workers} workers would spend {busy:.0%} of their time in enqueue, which takes"
            f" {figures.lane.enqueue.median * 1e9:.0f} ns per event here: at least {needed} workers are needed",
        )


def _trial(machine: Machine, demand: Demand, events: int) -> Trial:
    window = WINDOWS[0]
    reached = capacity(machine, events, window)
    for larger in WINDOWS[1:]:
        more = capacity(machine, events, larger)
        if reached >= WORTH * more:
            break
        reached, window = more, larger
    interval = _interval(machine, demand, events)
    plan = Plan(events_per_request=events, request_time_interval=interval, in_flight_max=window)
    flow = None
    if reached >= SPARE * demand.rate:
        flow = simulate(machine, demand.rate, plan, batches=150)
    return Trial(plan=plan, capacity=reached, flow=flow)


def _interval(machine: Machine, demand: Demand, events: int) -> float:
    """What the wished delay leaves when a batch is as full as the rate makes it in that time."""
    minimum = OPTIONS["request_time_interval"].minimum or 0
    filled = min(events, 1 + demand.rate * demand.delay)
    left = demand.delay * DELAY_SHARE - machine.request_seconds(filled)
    return max(float(minimum), math.floor(left) if left >= 10 else math.floor(left * 10) / 10)


def _choose(machine: Machine, demand: Demand, trials: list[Trial]) -> Trial:
    able = [trial for trial in trials if trial.flow is not None]
    if not able:
        raise _no_capacity(machine, demand, trials)
    good = [trial for trial in able if trial.flow is not None and trial.flow.delay_p99 <= demand.delay]
    if not good:
        quickest = min(able, key=lambda trial: trial.flow.delay_p99 if trial.flow else math.inf)
        assert quickest.flow is not None
        raise ImpossibleError(
            "delay",
            f"99 of 100 events within {demand.delay:g} s cannot be had: the quickest settings that carry"
            f" {amount(demand.rate)} events/s need {quickest.flow.delay_p99:.3g} s"
            f" ({quickest.plan.events_per_request} events per request)",
        )
    fewest = min(trial.flow.requests_per_second for trial in good if trial.flow)
    # Of equal ones the largest: a burst then goes out in fewer requests.
    return [trial for trial in good if trial.flow and trial.flow.requests_per_second <= fewest * EQUAL][-1]


def _no_capacity(machine: Machine, demand: Demand, trials: list[Trial]) -> ImpossibleError:
    best = max(trials, key=lambda trial: trial.capacity)
    events = best.plan.events_per_request
    core = 1 / (machine.event_cpu + machine.request_cpu / events)
    way = capacity(machine, events, WINDOWS[-1], with_cpu=False)
    limit = best.capacity / SPARE
    said = (
        f"{amount(demand.rate)} events/s of {demand.event_bytes} bytes are too many: at most {amount(limit)} can be had"
    )
    if core <= way:
        return ImpossibleError(
            "aggregator",
            f"{said}. The bottleneck is the one core of the aggregator, which here takes"
            f" {machine.event_cpu * 1e9:.0f} ns per event and {machine.request_cpu * 1e6:.0f} µs per request,"
            f" {amount(core)} events/s, of which {1 / SPARE:.0%} are planned for",
        )
    return ImpossibleError(
        "server",
        f"{said}. The bottleneck is the way to the server: a request holds at most {events} such events, is"
        f" answered after {machine.request_seconds(events):.3g} s, and large requests of one account follow each other,"
        f" which makes {amount(way)} events/s, of which {1 / SPARE:.0%} are planned for",
    )


# ---- shared memory


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lanes:
    record: float
    size: int
    size_max: int
    watermark: float
    waiting: float
    """Bytes of the busiest worker that wait for an answer."""
    absence: float
    """Bytes that it writes while there is no aggregator."""
    absence_seconds: float
    is_short: bool
    """Shared memory has no room for what is needed."""


def _lane_sizes(demand: Demand, figures: Figures, flow: Flow) -> _Lanes:
    record = figures.lane.record_bytes
    uneven = UNEVEN if demand.workers > 1 else 1.0
    waiting = flow.depth_p99 / demand.workers * uneven * record
    absence_seconds = NOTICED_SECONDS + figures.engine.start_seconds
    absence = demand.rate / demand.workers * uneven * absence_seconds * record
    smallest, largest = int(OPTIONS["lane_bytes"].minimum or 0), int(OPTIONS["lane_bytes"].maximum or 0)
    half = figures.shared_memory_free / 2
    room = _power_below(half / demand.workers)
    if room < smallest:
        raise ImpossibleError(
            "shared memory",
            f"{demand.workers} workers need {amount(demand.workers * smallest, 'B')} of shared memory at least,"
            f" and half of what is free is {amount(half, 'B')}",
        )
    wanted = _power_above(max(LANE_FLOOR, waiting + absence, 4 * record))
    size = min(wanted, room, largest)
    # Not less than usual for a burst: it is taken only while shared memory has several times that free.
    burst = max(GROWTH_MAX * size, int(OPTIONS["lane_bytes_max"].default or 0))
    size_max = max(size, min(burst, largest, _power_below(figures.shared_memory_free / GROWTH_RESERVE)))
    return _Lanes(
        record=record,
        size=size,
        size_max=size_max,
        watermark=_watermark(size, waiting, absence),
        waiting=waiting,
        absence=absence,
        absence_seconds=absence_seconds,
        is_short=size < wanted,
    )


def _watermark(size: int, waiting: float, absence: float) -> float:
    """The usual one when it serves, or when none does; else as far from what waits as from what an absence needs."""
    option = OPTIONS["lane_watermark"]
    usual = float(option.default or 0.5)
    if (waiting <= usual * size and absence <= (1 - usual) * size) or waiting + absence > size:
        return usual
    middle = (waiting / size + 1 - absence / size) / 2
    return round(min(float(option.maximum or 1), max(float(option.minimum or 0), middle)), 2)


def _power_above(value: float) -> int:
    return 1 << max(0, math.ceil(math.log2(max(1.0, value))))


def _power_below(value: float) -> int:
    return 1 << math.floor(math.log2(value)) if value >= 1 else 0


# ---- the disk


@dataclass(frozen=True, slots=True, kw_only=True)
class _SpoolLimit:
    bytes_max: int
    per_event: float
    needed: float
    is_short: bool

    def lasts(self, rate: float) -> str:
        """How long an outage may be that fits."""
        hours = self.bytes_max / self.per_event / rate / 3600
        return f"{hours:.0f} hours" if hours >= 2 else f"{hours * 60:.0f} minutes"


def _spool_limit(demand: Demand, figures: Figures, plan: Plan) -> _SpoolLimit:
    # A batch that the interval sealed is a small row of its own.
    events = min(float(plan.events_per_request), 1 + demand.rate * plan.request_time_interval)
    per_event = figures.lane.json_bytes + ROW_OVERHEAD / events
    delay_max = float(OPTIONS["retry_delay_max"].default or 0)
    needed = demand.rate * (OUTAGE_SECONDS + delay_max) * per_event
    wanted = max(2 * needed, SPOOL_FLOOR)
    allowed = figures.disk_free / 2
    return _SpoolLimit(
        bytes_max=max(int(OPTIONS["spool_max_bytes"].minimum or 0), int(min(wanted, allowed))),
        per_event=per_event,
        needed=needed,
        is_short=allowed < needed,
    )


def _replay(
    demand: Demand,
    figures: Figures,
    machine: Machine,
    chosen: Trial,
    flow: Flow,
    lanes: _Lanes,
    limit: _SpoolLimit,
) -> Replay:
    replaying = replace(machine, event_cpu=machine.event_cpu + figures.spool.read)
    # Small batches of the spool share a request.
    joined = min(chosen.plan.events_per_request, round(LOADED_BATCHES_MAX * flow.events_per_request))
    room = lanes.size * demand.workers / figures.lane.record_bytes
    store = Store(
        steady=min(flow.depth_median, room),
        lanes=room,
        watermark=lanes.watermark,
        spool=limit.bytes_max / limit.per_event,
        spool_per_second=1 / figures.spool.write,
    )
    return Replay(
        rate=demand.rate,
        capacity=capacity(replaying, joined, chosen.plan.in_flight_max),
        store=store,
        give_up_seconds=give_up(*_retry_delays()),
    )


def _retry_delays() -> tuple[float, float]:
    return float(OPTIONS["retry_delay_min"].default or 0), float(OPTIONS["retry_delay_max"].default or 0)


# ---- the whole


def _assemble(
    demand: Demand,
    figures: Figures,
    machine: Machine,
    chosen: Trial,
    flow: Flow,
    lanes: _Lanes,
    limit: _SpoolLimit,
    replay: Replay,
    trials: tuple[Trial, ...],
) -> Advice:
    plan = chosen.plan
    # As late as in half of all cases, and at the latest.
    seen, latest = notice(OUTAGE_SECONDS, *_retry_delays())
    outage = replay.play(OUTAGE_SECONDS, seen)
    body = flow.events_per_request * machine.json_bytes
    cold = math.ceil(math.log2(body / SEGMENT_BYTES + 1)) - 1
    batch_bytes = plan.events_per_request * (machine.json_bytes + 4) + 2 * VISITOR_FILTER_BYTES
    return Advice(
        demand=demand,
        choices=_choices(demand, machine, chosen, flow, lanes, limit),
        flow=flow,
        capacity=chosen.capacity,
        core_share=demand.rate * machine.event_cpu + flow.requests_per_second * machine.request_cpu,
        worker_share=demand.rate / demand.workers * figures.lane.enqueue.median,
        aggregator_bytes=figures.engine.memory_bytes + (1 + flow.batches_waiting_max) * batch_bytes,
        lanes_bytes=lanes.size * demand.workers,
        outage=outage,
        disk_per_event=max(limit.per_event, figures.spool.disk_bytes),
        log_bytes=LOG_BYTES + body,
        notice_median=seen,
        notice_max=latest,
        replay=replay,
        cold_delay=max(0, cold) * demand.rtt,
        warnings=_warnings(demand, figures, lanes, limit, outage, machine.request_seconds(flow.events_per_request)),
        trials=trials,
    )


def _choices(
    demand: Demand, machine: Machine, chosen: Trial, flow: Flow, lanes: _Lanes, limit: _SpoolLimit
) -> tuple[Choice, ...]:
    plan = chosen.plan
    full = plan.events_per_request / demand.rate
    meets = sharing(plan.events_per_request, plan.events_per_request, machine.visitor_bits)
    by_count = full <= plan.request_time_interval
    return (
        Choice(
            name="events_per_request",
            value=plan.events_per_request,
            reason=f"The fewest requests, {flow.requests_per_second:.3g} a second of {flow.events_per_request:.0f}"
            f" events, that keep 99 of 100 events within {demand.delay:g} s. They carry {amount(chosen.capacity)}"
            f" events/s, {chosen.capacity / demand.rate:.3g} times the rate.",
        ),
        Choice(
            name="request_time_interval",
            value=plan.request_time_interval,
            reason=(
                f"At this rate the count seals a batch, after {full:.3g} s; in quiet hours the interval does, so that"
                f" no event waits longer than about {plan.request_time_interval + machine.request_seconds(1):.3g} s."
                if by_count
                else f"At this rate the interval seals a batch: {full:.3g} s until it were full. It leaves the request"
                f" its {machine.request_seconds(flow.events_per_request):.3g} s of the {demand.delay:g} s that an"
                " event may take."
            ),
        ),
        Choice(
            name="in_flight_max",
            value=plan.in_flight_max,
            reason=f"A larger window carries less than {1 / WORTH - 1:.0%} more: two batches of this size wait for"
            f" each other in {meets:.0%} of cases, because they may share a visitor. It also bounds what is sent twice"
            f" if the aggregator is killed: {plan.in_flight_max * plan.events_per_request} events.",
        ),
        *_store_choices(demand, lanes, limit),
    )


def _store_choices(demand: Demand, lanes: _Lanes, limit: _SpoolLimit) -> tuple[Choice, ...]:
    return (
        Choice(
            name="lane_bytes",
            value=lanes.size,
            reason=f"The busiest worker has up to {amount(lanes.waiting, 'B')} waiting for an answer, and writes"
            f" {amount(lanes.absence, 'B')} in the {lanes.absence_seconds:.2g} s that a killed aggregator is away.",
        ),
        Choice(
            name="lane_bytes_max",
            value=lanes.size_max,
            reason=f"A burst of one worker may take {lanes.size_max // lanes.size} times the lane, about"
            f" {amount(lanes.size_max / lanes.record)} events, before enqueue returns False. A lane grows only while"
            f" {GROWTH_RESERVE} times its size is free, so bursts of many workers do not take all shared memory.",
        ),
        Choice(
            name="lane_watermark",
            value=lanes.watermark,
            reason=(
                f"Below it the usual {amount(lanes.waiting, 'B')} stay off the disk; above it there is room for"
                f" {amount((1 - lanes.watermark) * lanes.size, 'B')} while the disk is written or the aggregator is"
                " away."
                if lanes.waiting <= lanes.watermark * lanes.size
                else f"What waits, {amount(lanes.waiting, 'B')}, does not fit into a lane of this size: what is above"
                " it moves to the disk, and the rest of the lane takes what comes meanwhile."
            ),
        ),
        Choice(
            name="spool_max_bytes",
            value=limit.bytes_max,
            reason=f"Ten minutes of outage need {amount(limit.needed, 'B')}, the wait for the next try included;"
            f" this is enough for {limit.lasts(demand.rate)}.",
        ),
        Choice(
            name="spool_max_age",
            value=None,
            reason="No limit: the size bounds the disk, and age alone would throw away what VWO may still take.",
        ),
    )


def _warnings(
    demand: Demand, figures: Figures, lanes: _Lanes, limit: _SpoolLimit, outage: Outage, took: float
) -> tuple[str, ...]:
    found = []
    if lanes.is_short and lanes.waiting > lanes.watermark * lanes.size:
        found.append(
            f"Shared memory ({amount(figures.shared_memory_free, 'B')} free) has no room for lanes of what waits:"
            " events go through the spool on disk also when all is well. Give it more, or the demand a shorter delay."
        )
    elif lanes.is_short:
        found.append(
            f"Shared memory ({amount(figures.shared_memory_free, 'B')} free) has no room for lanes that outlast"
            f" {lanes.absence_seconds:.2g} s without an aggregator: enqueue may return False then."
        )
    if limit.is_short:
        found.append(
            f"Half of the free disk, {amount(limit.bytes_max, 'B')}, is less than an outage of 10 minutes needs,"
            f" {amount(limit.needed, 'B')}: after {limit.lasts(demand.rate)} enqueue returns False."
        )
    if 1 / figures.spool.write < demand.rate:
        found.append(
            f"The disk takes {amount(1 / figures.spool.write)} events/s, less than come: in an outage lanes fill up."
        )
    timeout = float(OPTIONS["read_timeout"].default or 0)
    if took > timeout * SLOW_SHARE:
        found.append(
            f"A request takes {took:.3g} s, and after {timeout:g} s without an answer it is sent again: with a"
            " read_timeout of several times what a request takes, a slow answer makes no duplicates."
        )
    if outage.even_after is None:
        found.append("After an outage the backlog does not go while events come at this rate.")
    if demand.workers > figures.cpus * 16:
        found.append(f"{demand.workers} workers share {figures.cpus} cores: what was measured alone will be slower.")
    return tuple(found)

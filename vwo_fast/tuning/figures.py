"""What a measurement of this machine gives: values, and the rows that show them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Drain", "Engine", "Figures", "Http", "Lane", "Row", "Spool", "Spread", "amount", "rows_of", "spread"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Repeated measurements of one thing: their median and the outer tenths."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Raises ValueError when there are none."""
    if not values:
        raise ValueError("no measurements")
    ordered = sorted(values)
    tenth = (len(ordered) - 1) // 10
    return Spread(median=statistics.median(ordered), low=ordered[tenth], high=ordered[-1 - tenth])


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """Handing events over: seconds of the caller's time per event, and the shared memory that one takes."""

    enqueue: Spread
    record_bytes: float
    json_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """From a lane to sealed bodies of so many events: seconds per event on one core."""

    events: int
    per_event: Spread
    bytes_per_event: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """Requests of so many events, ``window`` of them at a time. ``request``: seconds from sending to the answer."""

    events: int
    body_bytes: int
    window: int
    requests_per_second: float
    request: Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A whole aggregator: what an event and what a request cost it, in seconds of CPU."""

    event_cpu: float
    request_cpu: float
    start_seconds: float
    """From nothing to the first event delivered."""
    memory_bytes: int
    """At the start, before there was work."""
    events_per_second: dict[int, float]
    """By the events of a request; producer, aggregator and server share this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spool:
    """The disk: seconds per event into the spool and out of it again, and the bytes that one takes there."""

    write: float
    read: float
    disk_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """This machine, for events of one size."""

    event_bytes: int
    url: str | None
    """The server that was given; None for our own sink."""
    lane: Lane
    drains: tuple[Drain, ...]
    http: tuple[Http, ...]
    engine: Engine
    spool: Spool
    shared_memory_free: int
    disk_free: int
    cpus: int

    def to_json_dict(self) -> dict[str, Any]:
        """The values, as JSON can carry them."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    what: str
    value: str
    spread: str
    rate: str


def amount(value: float, unit: str = "") -> str:
    """A number with three digits and the usual letter for its size."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{float(f'{value / size:.3g}'):g} {letter}{unit}"
    return f"{float(f'{value:.3g}'):g} {unit}".rstrip()


def _time(seconds: float) -> str:
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if abs(seconds) >= size:
            return f"{float(f'{seconds / size:.3g}'):g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def _range(found: Spread) -> str:
    return f"{_time(found.low)} to {_time(found.high)}"


def _bytes_rate(value: float) -> str:
    return f"{amount(value, 'B')}/s"


def rows_of(figures: Figures) -> list[Row]:
    """The table of ``vwo-fast bench``."""
    lane, engine, spool = figures.lane, figures.engine, figures.spool
    rows = [
        Row(
            what="enqueue, one process",
            value=_time(lane.enqueue.median),
            spread=_range(lane.enqueue),
            rate=f"{amount(1 / lane.enqueue.median)} events/s",
        )
    ]
    for drain in figures.drains:
        each = drain.per_event.median
        rate = f"{amount(1 / each)} events/s, {_bytes_rate(drain.bytes_per_event / each)}"
        what = f"drain to bodies of {drain.events}, one core"
        rows.append(Row(what=what, value=_time(each), spread=_range(drain.per_event), rate=rate))
    for http in figures.http:
        events = http.requests_per_second * http.events
        body = _bytes_rate(http.requests_per_second * http.body_bytes)
        rows.append(
            Row(
                what=f"HTTP, {http.events} events, {http.window} in flight",
                value=_time(http.request.median),
                spread=_range(http.request),
                rate=f"{amount(http.requests_per_second)} requests/s, {amount(events)} events/s, {body}",
            )
        )
    for events_per_request, rate_found in engine.events_per_second.items():
        cpu = engine.event_cpu + engine.request_cpu / events_per_request
        rows.append(
            Row(
                what=f"aggregator, {events_per_request} events per request",
                value=_time(cpu),
                spread="",
                rate=f"{amount(rate_found)} events/s end to end, {amount(1 / cpu)} events/s of its CPU",
            )
        )
    rows += [
        Row(
            what="aggregator, a request",
            value=_time(engine.request_cpu),
            spread="",
            rate=f"{amount(1 / engine.request_cpu)} requests/s of its CPU",
        ),
        Row(what="aggregator, start to first delivery", value=_time(engine.start_seconds), spread="", rate=""),
        Row(what="aggregator, memory at rest", value=amount(engine.memory_bytes, "B"), spread="", rate=""),
        Row(
            what="spool, write",
            value=_time(spool.write),
            spread="",
            rate=f"{amount(1 / spool.write)} events/s, {_bytes_rate(figures.event_bytes / spool.write)}",
        ),
        Row(
            what="spool, read",
            value=_time(spool.read),
            spread="",
            rate=f"{amount(1 / spool.read)} events/s, {_bytes_rate(figures.event_bytes / spool.read)}",
        ),
    ]
    return rows


def sizes_for(event_bytes: int) -> tuple[int, ...]:
    """Events per request that are worth measuring: small, usual, and as many as VWO takes."""
    largest = events_max(event_bytes)
    return tuple(sorted({min(100, largest), min(1000, largest), largest}))


def events_max(event_bytes: int) -> int:
    """Events of this size that one request may hold, by count and by bytes."""
    from vwo_fast._batch import BYTES_MAX, EVENTS_MAX

    return max(1, min(EVENTS_MAX, math.floor(BYTES_MAX * 0.99 / (event_bytes + 1))))

"""The batcher: records come out of the lanes and become sealed batches.

There is one open batch per route and host.  It is sealed when it has
``events_per_request`` events, before the event that would break the byte limit,
when its interval is over, at a flush, and at the end.  The interval begins with
the first event of an empty batch; an empty batch has no timer.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from vwo_fast import _batch, _lane
from vwo_fast.aggregator.failpoint import reach
from vwo_fast.aggregator.lanes import Lane, Segment
from vwo_fast.aggregator.metrics import Throttle
from vwo_fast.aggregator.records import Parts, impression_parts, request_parts, sealed_request
from vwo_fast.aggregator.routes import Routes
from vwo_fast.aggregator.sealed import Sealed, Source, new_batch_id
from vwo_fast.aggregator.spool import Fragment
from vwo_fast.config import Settings
from vwo_fast.paths import read_private
from vwo_fast.route import Route

__all__ = ["Batcher", "Sink"]

logger = logging.getLogger(__name__)

RUNS_PER_TURN = 64
"""Runs that are read from one lane before the next lane has its turn."""

KIND_EXTERNAL = 0x8000
_EXTERNAL = struct.Struct("=QQ")
EXTERNAL_BYTES_MAX = 64_000_000


class Sink(Protocol):
    """Where sealed batches go."""

    @property
    def has_room(self) -> bool: ...

    def accept(self, sealed: Sealed, route: Route) -> None: ...


@dataclass(slots=True, eq=False)
class _Open:
    """The open batch of one route."""

    key: int
    route: Route
    batch: _batch.Batch
    id: int
    deadline: float = 0.0
    created: float = 0.0
    sources: list[Source] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    saved_events: int = 0
    """Events that are in fragments in the spool already."""
    saved_sources: int = 0


@dataclass(frozen=True, slots=True)
class _Record:
    """A record that was taken out of a lane on its own."""

    kind: int
    route_key: int
    seq: int
    segment: Segment
    payload: bytes


class Batcher:
    """Reads lanes into open batches and hands sealed ones to ``sink``."""

    def __init__(
        self,
        settings: Settings,
        *,
        folder: Path,
        routes: Routes,
        sink: Sink,
        first_ordinal: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.last_ordinal = first_ordinal - 1
        self._folder = folder
        self._routes = routes
        self._sink = sink
        self._clock = clock
        self._real_time = settings.events_per_request is None and settings.request_time_interval is None
        self._events_max = 1 if self._real_time else settings.events_per_request or _batch.EVENTS_MAX
        self._interval = settings.request_time_interval or 0.0
        self._bytes_max = settings.body_bytes_max
        self._open: dict[int, _Open] = {}
        self._last_open_id = time.time_ns()
        self._lost = 0
        self._throttle = Throttle(clock)

    # ---- reading

    def read(self, lane: Lane, until: int) -> bool:
        """Read records of a lane that begin before ``until``, for one turn. Returns whether there was any.

        ``lane.read_to`` becomes ``until`` once there is no more before it.
        Raises SegmentError when the lane cannot be right.
        """
        has_read = False
        lane.is_waiting = False
        for _ in range(RUNS_PER_TURN):
            if not self._sink.has_room:
                break
            found = lane.reader.peek()
            self._lost += lane.count_damage()
            if found is None or lane.reader.cursor >= until:
                lane.read_to = until
                break
            kind, route_key = found
            try:
                route = self._routes.get(route_key)
                if route is not None and kind == _lane.KIND_EVENT:
                    self._drain(lane, self._open_for(route_key, route), until)
                else:
                    self._take(lane, route)
            except OSError as exc:
                # The lane waits at this record: what cannot be read now is not lost.
                lane.is_waiting = True
                if self._throttle.allows("file"):
                    logger.error("a file that events need cannot be read now: %s", exc)
                break
            has_read = True
        self._lost += lane.count_damage()
        lane.advance()
        return has_read

    def _open_for(self, key: int, route: Route) -> _Open:
        found = self._open.get(key)
        if found is None:
            batch = _batch.Batch(self._events_max, self._bytes_max)
            found = self._open[key] = _Open(key, route, batch, self._next_open_id())
        return found

    def _next_open_id(self) -> int:
        self._last_open_id += 1
        return self._last_open_id

    def _drain(self, lane: Lane, open_: _Open, until: int) -> None:
        was_empty = not open_.batch.count
        status, count, start, end, _, invalid = lane.reader.drain(open_.batch, open_.key, until)
        if count or invalid:
            segment = lane.add(start, end)
            self._lose(segment, untranscodable=invalid)
            reach("read: moved")
            if count:
                self._note(open_, lane, segment, count)
            else:
                lane.drop(segment)
        elif status == _batch.FULL and was_empty:
            # One event that fills no batch would be offered for ever.
            self._take(lane, None)
            return
        if open_.batch.count and (status == _batch.FULL or open_.batch.count >= self._events_max):
            self.seal(open_.key)

    def _note(self, open_: _Open, lane: Lane, segment: Segment, count: int) -> None:
        if not open_.sources:
            open_.created = time.time()
            open_.deadline = self._clock() + self._interval
        open_.sources.append(Source(lane.id, lane.owner, segment.start, segment.end, count))
        open_.segments.append(segment)

    def _take(self, lane: Lane, route: Route | None) -> None:
        taken = lane.reader.take()
        if taken is None:
            return
        kind, route_key, seq, start, end, payload = taken
        record = _Record(kind & ~KIND_EXTERNAL, route_key, seq, lane.add(start, end), payload)
        if kind & KIND_EXTERNAL:
            try:
                found = self._read_external(lane, record)
            except OSError:
                lane.give_back(record.segment)
                raise
            if found is None:
                self._drop(record, damaged=1)
                return
            record = found
        if route is None or record.kind not in (_lane.KIND_EVENT, _lane.KIND_IMPRESSION, _lane.KIND_REQUEST):
            self._drop(record, damaged=1)
        elif record.kind == _lane.KIND_EVENT:
            self._append(lane, route, record)
        else:
            self._emit_request(lane, route, record)

    def _append(self, lane: Lane, route: Route, record: _Record) -> None:
        open_ = self._open_for(record.route_key, route)
        status = open_.batch.append(record.payload)
        if status == _batch.FULL and open_.batch.count:
            self.seal(open_.key)
            status = open_.batch.append(record.payload)
        if status != _batch.OK:
            self._drop(record, untranscodable=1)
            return
        self._note(open_, lane, record.segment, 1)
        if open_.batch.count >= self._events_max:
            self.seal(open_.key)

    def _emit_request(self, lane: Lane, route: Route, record: _Record) -> None:
        try:
            parts = self._parts(route, record)
        except Exception as exc:
            # Not only ValueError: whatever one record can cause here, it would cause again at each start.
            if self._throttle.allows("request"):
                logger.error("an event that travels alone is dropped: %s", type(exc).__name__)
            self._drop(record, untranscodable=1)
            return
        segment = record.segment
        sealed = sealed_request(
            parts,
            route_key=record.route_key,
            ordinal=self._next_ordinal(),
            source=Source(lane.id, lane.owner, segment.start, segment.end, 1),
            created=time.time(),
        )
        sealed.segments = [segment]
        reach("seal: a request")
        self._sink.accept(sealed, route)

    def _parts(self, route: Route, record: _Record) -> Parts:
        if record.kind == _lane.KIND_IMPRESSION:
            return impression_parts(route, record.payload)
        return request_parts(record.payload)

    def _read_external(self, lane: Lane, record: _Record) -> _Record | None:
        """The record with the payload that was too large for the lane; None when its file is not the one meant.

        Raises OSError when that cannot be told now.
        """
        path = self._folder / f"big-{lane.id:016x}-{record.seq:016x}"
        record.segment.external = path
        try:
            size, check = _EXTERNAL.unpack(record.payload)
            if size > EXTERNAL_BYTES_MAX:
                return None
            payload = read_private(path, size + 1)
        except (FileNotFoundError, struct.error) as exc:
            if self._throttle.allows("external"):
                logger.error("a large event is lost: %s: %s", path.name, exc)
            return None
        if len(payload) != size or _lane.check_value(payload) != check:
            return None
        return _Record(record.kind, record.route_key, record.seq, record.segment, payload)

    def _drop(self, record: _Record, *, untranscodable: int = 0, damaged: int = 0) -> None:
        self._lose(record.segment, untranscodable=untranscodable, damaged=damaged)
        record.segment.lane.drop(record.segment)

    def _lose(self, segment: Segment, *, untranscodable: int = 0, damaged: int = 0) -> None:
        segment.untranscodable += untranscodable
        segment.damaged += damaged
        self._lost += untranscodable + damaged

    def take_lost(self) -> int:
        """Events that were read and are in no batch, since the last call."""
        lost, self._lost = self._lost, 0
        return lost

    # ---- sealing

    def seal(self, key: int) -> None:
        """Seal the open batch of a route, if it holds anything."""
        open_ = self._open.get(key)
        if open_ is None or not open_.sources:
            return
        reach("seal: before")
        events = open_.batch.count
        body, offsets, visitors = open_.batch.seal()
        sealed = Sealed(
            id=new_batch_id(),
            route_key=key,
            ordinal=self._next_ordinal(),
            body=body,
            offsets=offsets,
            events=events,
            visitors=visitors,
            sources=tuple(open_.sources),
            created=open_.created,
            segments=open_.segments,
            open_id=open_.id if open_.saved_events else None,
        )
        open_.sources, open_.segments = [], []
        open_.saved_events = open_.saved_sources = 0
        open_.id = self._next_open_id()
        self._sink.accept(sealed, open_.route)
        reach("seal: after")

    def _next_ordinal(self) -> int:
        self.last_ordinal += 1
        return self.last_ordinal

    def seal_all(self) -> None:
        """Seal every open batch; their timers are cleared with that."""
        for key in list(self._open):
            self.seal(key)

    def seal_due(self) -> None:
        """Seal the open batches whose interval is over."""
        now = self._clock()
        for key, open_ in self._open.items():
            if open_.sources and open_.deadline <= now:
                self.seal(key)

    def next_due(self) -> float | None:
        """When the next interval is over; None when no batch is open."""
        return min((open_.deadline for open_ in self._open.values() if open_.sources), default=None)

    @property
    def open_events(self) -> int:
        """Events in open batches."""
        return sum(open_.batch.count for open_ in self._open.values())

    def open_events_of(self, key: int) -> int:
        """Events in the open batch of one route."""
        open_ = self._open.get(key)
        return open_.batch.count if open_ else 0

    # ---- lane space for events that are not sealed yet

    def routes_holding(self, lane_ids: set[int]) -> list[int]:
        """Routes whose open batch keeps space of one of these lanes."""
        return [
            key for key, open_ in self._open.items() if any(segment.lane.id in lane_ids for segment in open_.segments)
        ]

    def unsaved_routes(self) -> list[int]:
        """Routes whose open batch holds events that are in no fragment."""
        return [key for key, open_ in self._open.items() if open_.saved_events < open_.batch.count]

    def fragment(self, key: int) -> tuple[Fragment, Route] | None:
        """What the open batch of a route has gained since its last fragment; None when it is nothing."""
        open_ = self._open[key]
        if open_.saved_events >= open_.batch.count:
            return None
        json, offsets = open_.batch.snapshot(open_.saved_events)
        fragment = Fragment(
            open_id=open_.id,
            route_key=key,
            json=json,
            offsets=offsets,
            sources=tuple(open_.sources[open_.saved_sources :]),
        )
        return fragment, open_.route

    def segments_of(self, key: int) -> list[Segment]:
        """The lane records that the open batch of a route keeps."""
        return list(self._open[key].segments)

    def fragment_saved(self, key: int) -> None:
        """The fragment is in the spool: its lane space can go."""
        open_ = self._open[key]
        open_.saved_events = open_.batch.count
        open_.saved_sources = len(open_.sources)
        for segment in open_.segments:
            segment.settle()
            reach("fragment: settled in part")
        open_.segments = []

"""The shipper: which batch goes next, and what its outcome means.

Idea: one line per route, served in turn, so that no route starves another; one
gate per server and one per route, so that a server that is away gets one request
at a time and a route whose key is refused holds up nobody else.  Key invariant: a
batch leaves its line only when its outcome is final, and its lane records are
released only then or when it is in the spool.
"""

from __future__ import annotations

import logging
import random
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vwo_fast import _batch
from vwo_fast.aggregator.bounds import Bounds, Observer
from vwo_fast.aggregator.failpoint import reach
from vwo_fast.aggregator.fresh import Fresh
from vwo_fast.aggregator.gate import Gate, backoff
from vwo_fast.aggregator.joined import Load, body_of, part_ways, size_of
from vwo_fast.aggregator.journal import Proof
from vwo_fast.aggregator.line import Line
from vwo_fast.aggregator.metrics import Metrics, Throttle
from vwo_fast.aggregator.outcome import Reply, Verdict, judge
from vwo_fast.aggregator.routes import Routes
from vwo_fast.aggregator.sealed import Sealed
from vwo_fast.aggregator.spool import Spool
from vwo_fast.aggregator.spool_door import suspect
from vwo_fast.aggregator.transport import HttpRequest, Senders
from vwo_fast.aggregator.window import LOADED_BATCHES_MAX, LOADED_BYTES_MAX, Window
from vwo_fast.config import Settings
from vwo_fast.counters import ControlCounter, Reason
from vwo_fast.route import Route

__all__ = ["Flight", "Shipper"]

logger = logging.getLogger(__name__)

REVIVED_AT_ONCE = 100
PAYLOAD_TOO_LARGE = 413


@dataclass(frozen=True, slots=True, eq=False)
class Flight:
    """A request on its way, and the batches in it."""

    batches: Sequence[Sealed]
    line: Line
    started: float

    @property
    def events(self) -> int:
        """Events in it."""
        return sum(sealed.events for sealed in self.batches)


class Shipper:
    """All lines of a queue."""

    def __init__(
        self,
        settings: Settings,
        *,
        routes: Routes,
        spool: Spool,
        senders: Senders[Flight],
        metrics: Metrics,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.last_error: str | None = None
        self.lines: dict[int, Line] = {}
        self.is_closed = False
        """Nothing more is sent; what is on its way may come back."""
        self._settings = settings
        self._routes = routes
        self._spool = spool
        self._senders = senders
        self._metrics = metrics
        self._observer = observer
        self._clock = clock
        self._rng = rng
        self._turn: deque[Line] = deque()
        self._servers: dict[str, Gate] = {}
        self._flights: set[Flight] = set()
        self._throttle = Throttle(clock)
        self._changes = -1
        self._is_durable = settings.durable != "none"
        self._load = Load(
            events_max=settings.events_per_request or _batch.EVENTS_MAX, bytes_max=settings.body_bytes_max
        )
        self._window = Window(spool=spool, lines=self.lines, metrics=metrics, observer=observer, complain=self.complain)
        self.bounds = Bounds(
            settings,
            spool=spool,
            lines=self.lines,
            metrics=metrics,
            observer=observer,
            complain=self.complain,
            clock=clock,
        )
        self.fresh = Fresh(
            spool=spool,
            lines=self.lines,
            bounds=self.bounds,
            window=self._window,
            metrics=metrics,
            throttle=self._throttle,
            complain=self.complain,
        )

    # ---- what comes in

    def resume(self) -> None:
        """Learn what the spool holds."""
        for key, encoded in self._spool.routes():
            if self._routes.add(key, encoded) is None:
                logger.error("the spool names a route that is not one: its batches stay there")
        for key, rows in self._spool.rows_per_route().items():
            route = self._routes.get(key)
            if route is not None:
                self._line(key, route).unloaded = rows

    def accept(self, sealed: Sealed, route: Route) -> None:
        """A batch was sealed."""
        self._line(sealed.route_key, route).items.append(sealed)
        self.fresh.came(sealed)

    @property
    def has_room(self) -> bool:
        """Whether more may be read from the lanes."""
        return self.fresh.has_room

    @property
    def in_flight(self) -> int:
        """Requests on their way."""
        return len(self._flights)

    @property
    def is_empty(self) -> bool:
        """Whether everything that was sealed has settled."""
        return not self._flights and all(line.is_empty for line in self.lines.values())

    def _line(self, key: int, route: Route) -> Line:
        line = self.lines.get(key)
        if line is None:
            url = self._base_url(route)
            server = self._servers.get(url)
            if server is None:
                server = self._servers[url] = self._new_gate()
            line = self.lines[key] = Line(key, route, self._new_gate(), server, self._load)
            self._turn.append(line)
        return line

    def _new_gate(self) -> Gate:
        return Gate(
            window_max=self._settings.in_flight_max,
            delay_min=self._settings.retry_delay_min,
            delay_max=self._settings.retry_delay_max,
            random=self._rng,
        )

    def _base_url(self, route: Route) -> str:
        return (route.base_url or self._settings.base_url).rstrip("/")

    # ---- what goes out

    def dispatch(self) -> bool:
        """Send what may go now. Returns whether anything went."""
        if self._is_durable:
            # What does not get onto the disk is sent all the same: waiting would keep it in shared memory alone.
            self.fresh.spill_all()
        now = self._clock()
        sent = False
        while len(self._flights) < self._settings.in_flight_max and not self.is_closed:
            chosen = self._choose(now)
            if chosen is None:
                break
            self._send(*chosen, now)
            sent = True
        return sent

    def _choose(self, now: float) -> tuple[Line, list[Sealed]] | None:
        for _ in range(len(self._turn)):
            line = self._turn[0]
            self._turn.rotate(-1)
            if line.is_empty or not line.allows(now):
                continue
            self._window.load(line)
            if batches := line.next_to_send(now):
                return line, batches
        return None

    def _send(self, line: Line, batches: list[Sealed], now: float) -> None:
        for sealed in batches:
            sealed.in_flight = True
            sealed.attempts += 1
            if sealed.first_try is None:
                sealed.first_try = time.time()
        self._metrics.add(ControlCounter.REQUESTS)
        if any(sealed.attempts > 1 for sealed in batches):
            self._metrics.add(ControlCounter.RETRIES)
        line.gate.begin()
        line.server.begin()
        flight = Flight(batches, line, now)
        self._flights.add(flight)
        reach("post: before the note")
        # Noted first: should this process die, nobody will know whether the request arrived.
        self._metrics.handed_out(flight.events, sum(map(self._spool.events_held, batches)))
        reach("post: noted")
        self._senders.submit(flight, self._request(line.route, batches))
        reach("post: handed out")

    def _request(self, route: Route, batches: Sequence[Sealed]) -> HttpRequest:
        base, head = self._base_url(route), batches[0].head
        if head is None:
            return HttpRequest(
                method="POST",
                url=base + route.batch_path,
                params=tuple(route.batch_query),
                headers=route.batch_headers,
                body=body_of(batches),
            )
        return HttpRequest(
            method=head.method,
            url=base + head.path,
            params=head.query,
            headers=dict(head.headers),
            body=batches[0].body if head.sends_body else None,
        )

    # ---- what comes back

    def collect(self) -> bool:
        """Act on the replies that have come. Returns whether there were any."""
        results = self._senders.results()
        for flight, reply in results:
            self._finish(flight, reply)
        return bool(results)

    def _finish(self, flight: Flight, reply: Reply) -> None:
        batches, line, now = flight.batches, flight.line, self._clock()
        reach("answer: before")
        self._flights.discard(flight)
        for sealed in batches:
            sealed.in_flight = False
        line.gate.end()
        line.server.end()
        verdict = judge(reply)
        if verdict is Verdict.REFUSED and reply.unsendable and batches[0].head is None:
            # A batch's own request line comes from its route: a fault there says nothing about the events.
            verdict = Verdict.HELD
        if verdict is Verdict.REFUSED and reply.is_page and not _are_the_cause(line, batches):
            verdict = Verdict.HELD
        if verdict is Verdict.SERVER_FAILED:
            line.server.failed(now, flight.started, reply.retry_after)
        elif not reply.unsendable:
            self._server_answers(line.server)
        if verdict is Verdict.DELIVERED:
            self._delivered(line, batches, reply, now)
            return
        self._no_longer_flying(flight, is_unknown=reply.is_unknown)
        self._metrics.add(ControlCounter.REQUESTS_FAILED)
        reach("answer: failure counted")
        self.last_error = reply.message
        for sealed in batches:
            sealed.last_error = reply.message
        if verdict in (Verdict.HELD, Verdict.ROUTE_FAILED):
            line.gate.failed(now, flight.started, reply.retry_after)
        self._log_failure(flight, verdict, reply)
        if verdict is Verdict.REFUSED and len(batches) > 1:
            self._part(line, batches, reply)
            return
        if verdict is Verdict.REFUSED and self._refused(line, batches[0], reply):
            return
        self._put_off(line, batches, now)

    def _server_answers(self, server: Gate) -> None:
        was_failing = server.failures
        server.succeeded()
        if was_failing:
            for line in self.lines.values():
                if line.server is server:
                    line.make_due()

    def _delivered(self, line: Line, batches: Sequence[Sealed], reply: Reply, now: float) -> None:
        line.gate.succeeded()
        line.delivered_at = now
        events = sum(sealed.events for sealed in batches)
        add: dict[int, int] = {
            ControlCounter.DELIVERED: events,
            ControlCounter.DELIVERED_BATCHES: 1,
            ControlCounter.UNANSWERED_EVENTS: -events,
        }
        if batches[0].head is None or batches[0].head.sends_body:
            add[ControlCounter.DELIVERED_BYTES] = size_of(batches)
        segments = [segment for sealed in batches for segment in sealed.segments]
        with self._metrics.entry(add, segments=segments, forget=batches):
            for sealed in batches:
                self._leave(line, sealed)
            reach("ack: released")
            self._forget(batches)
            reach("ack: forgotten")
        for sealed in batches:
            self._observer.settled(sealed, delivered=True, reply=reply)
            reach("ack: told")

    def _no_longer_flying(self, flight: Flight, *, is_unknown: bool) -> None:
        events = flight.events
        add: dict[int, int] = {ControlCounter.UNANSWERED_EVENTS: -events}
        if is_unknown:
            for sealed in flight.batches:
                sealed.is_uncertain = True
            add[ControlCounter.UNKNOWN_OUTCOME_EVENTS] = events
        with self._metrics.entry(add):
            pass

    def _part(self, line: Line, batches: Sequence[Sealed], reply: Reply) -> None:
        """What VWO refuses is looked for in halves; only a batch that is refused alone is split itself."""
        part_ways(batches)
        if reply.status == PAYLOAD_TOO_LARGE:
            line.load = line.load.lighter(size_of(batches))
        reach("part: before")
        self._note_tries(batches)

    def _refused(self, line: Line, sealed: Sealed, reply: Reply) -> bool:
        """Split, or bury what is refused alone. False when the spool could not keep the result."""
        if sealed.row is None and not self.fresh.spill_through(line, sealed):
            return False
        try:
            if sealed.events > 1:
                halves = sealed.split()
                reach("split: before")
                self._spool.split(sealed, halves)
                reach("split: kept")
                line.replace(sealed, list(halves))
                self._metrics.add(ControlCounter.SPLITS)
                return True
            with self._metrics.entry({ControlCounter.DEAD: sealed.events}, proof=Proof("dead", sealed.id)):
                reach("bury: before")
                self._spool.bury(sealed, status=reply.status, message=reply.message, excerpt=reply.excerpt)
                reach("bury: kept")
        except sqlite3.Error as exc:
            self.complain(exc)
            return False
        line.remove(sealed)
        self._observer.settled(sealed, delivered=False, reply=reply)
        return True

    def _put_off(self, line: Line, batches: Sequence[Sealed], now: float) -> None:
        for sealed in batches:
            if line.delivered_at > sealed.failed_at > 0.0:
                sealed.refusals += 1
            sealed.failed_at = now
        refusals = max(sealed.refusals for sealed in batches)
        if refusals and len(batches) > 1:
            # Others are accepted: perhaps it is one of these that makes all of them fail.
            part_ways(batches)
        delay = backoff(max(1, refusals), self._settings.retry_delay_min, self._settings.retry_delay_max, self._rng)
        for sealed in batches:
            sealed.due = now + delay
        reach("put off: before")
        self._note_tries(batches)
        reach("put off: kept")

    def _note_tries(self, batches: Sequence[Sealed]) -> None:
        try:
            self._spool.update(batches)
        except sqlite3.Error as exc:
            self.complain(exc)

    def _leave(self, line: Line, sealed: Sealed) -> None:
        if sealed.row is None:
            self.fresh.left(sealed)
        line.remove(sealed)
        for segment in sealed.segments:
            segment.settle()
            reach("ack: released in part")
        sealed.segments = []

    def _forget(self, batches: Sequence[Sealed]) -> None:
        try:
            self._spool.remove(batches)
        except sqlite3.Error as exc:
            self.complain(exc)

    def _log_failure(self, flight: Flight, verdict: Verdict, reply: Reply) -> None:
        route = flight.line.route
        if not self._throttle.allows((flight.line.route_key, verdict)):
            return
        if verdict is Verdict.HELD:
            logger.error(
                "account %s (%s) is held: %s. %sIts events are kept, and tried again",
                route.account_id,
                route.sdk,
                reply.message,
                "" if reply.is_page else "Check its SDK key. ",
            )
        else:
            logger.warning(
                "%d events of account %s are not delivered yet: %s", flight.events, route.account_id, reply.message
            )

    def complain(self, exc: sqlite3.Error) -> None:
        """The spool did not do what it was asked to."""
        self.last_error = f"spool: {exc}"
        self._metrics.add(ControlCounter.SPOOL_FAILURES)
        suspect(self._spool, exc)
        if self._throttle.allows("spool"):
            logger.error("the spool cannot be written: %s", exc)

    # ---- at the end, and in between

    def abandon(self) -> None:
        """The end has come for requests that have no answer: whether they arrived stays unknown."""
        for flight in self._flights:
            self._no_longer_flying(flight, is_unknown=True)
        self._flights.clear()

    def keep_house(self) -> None:
        """What need not be done at once: rows that could not be deleted, what is too old, what an operator wants."""
        try:
            self._spool.retry_removing()
            changes = self._spool.changes
            if changes != self._changes and self._do_as_asked():
                self._changes = changes
        except sqlite3.Error as exc:
            self.complain(exc)
        self.bounds.expire()

    def _do_as_asked(self) -> bool:
        """Count dead letters that were purged; make batches of those that are to be sent again. False: not yet all."""
        self._metrics.letters_left(self._spool.take_purged(), Reason.PURGED)
        while batches := self._spool.revive(REVIVED_AT_ONCE):
            self._metrics.letters_left(len(batches), None)
            if not self._revive(batches):
                return False
        return True

    def _revive(self, batches: list[Sealed]) -> bool:
        """Put batches that are in the spool again before all others. False when memory takes no more of them now."""
        has_room = True
        for key in {sealed.route_key for sealed in batches}:
            route = self._routes.get(key)
            if route is None:
                logger.error("the spool names a route that is not one: its batches stay there")
                continue
            line = self._line(key, route)
            line.revive([sealed for sealed in batches if sealed.route_key == key])
            line.evict(LOADED_BATCHES_MAX)
            has_room &= line.loaded_bytes() <= LOADED_BYTES_MAX
        return has_room

    # ---- what others ask

    def kick(self) -> None:
        """Try everything once now: somebody waits for it."""
        for line in self.lines.values():
            line.kick()

    @property
    def is_failing(self) -> bool:
        """Whether any server or route with something to send does not take it."""
        return any(not line.is_empty and (line.gate.failures or line.server.failures) for line in self.lines.values())

    def next_due(self) -> float | None:
        """When time alone lets something go; None when it does not."""
        now = self._clock()
        dues = [due for line in self.lines.values() if (due := line.next_due(now)) is not None]
        return min(dues, default=None)

    def first_ordinal(self) -> int | None:
        """The oldest ordinal that has not settled; None when all have."""
        fresh = [line.items[line.loaded].ordinal for line in self.lines.values() if line.loaded < len(line.items)]
        try:
            spooled = self._spool.first_ordinal()
        except sqlite3.Error as exc:
            self.complain(exc)
            spooled = -1
        return min(fresh if spooled is None else [*fresh, spooled], default=None)

    def set_gauges(self) -> None:
        """Show what is where."""
        flying = [sealed for flight in self._flights for sealed in flight.batches]
        flying_fresh = sum(sealed.events for sealed in flying if sealed.row is None)
        totals = self._spool.totals
        flying_spooled = sum(self._spool.events_held(sealed) for sealed in flying)
        gauge = self._metrics.gauge
        gauge(ControlCounter.GAUGE_SEALED_EVENTS, self.fresh.events - flying_fresh)
        gauge(ControlCounter.GAUGE_IN_FLIGHT_REQUESTS, len(self._flights))
        gauge(ControlCounter.GAUGE_SPOOLED_EVENTS, totals.events + totals.fragment_events - flying_spooled)
        gauge(ControlCounter.GAUGE_SPOOLED_BATCHES, totals.batches)
        gauge(ControlCounter.GAUGE_SPOOLED_BYTES, totals.bytes + totals.fragment_bytes)
        gauge(ControlCounter.GAUGE_DEAD_EVENTS, totals.dead_events)
        gauge(ControlCounter.GAUGE_NO_SPOOL, 0 if self._spool.is_there else 1)
        held = sum(1 for line in self.lines.values() if line.gate.failures and not line.is_empty)
        gauge(ControlCounter.GAUGE_HELD_ROUTES, held)


def _are_the_cause(line: Line, batches: Sequence[Sealed]) -> bool:
    """Whether others of the route have been accepted since these were refused: then it is not the way that is wrong."""
    return all(line.delivered_at > sealed.failed_at > 0.0 for sealed in batches)

"""Fresh batches: how many there may be, and how they move to the spool.

A batch is fresh while its events are in the lanes alone: until its outcome is final or it is in the
spool.  Only then the records that it came from are released.  It moves with everything older of its
route, so that the spool holds what was sealed first.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence

from vwo_fast.aggregator.bounds import Bounds
from vwo_fast.aggregator.failpoint import reach
from vwo_fast.aggregator.journal import Proof
from vwo_fast.aggregator.line import Line
from vwo_fast.aggregator.metrics import Metrics, Throttle
from vwo_fast.aggregator.sealed import Sealed
from vwo_fast.aggregator.spool import Spool
from vwo_fast.aggregator.window import Window
from vwo_fast.counters import ControlCounter

__all__ = ["SPILL_AFTER_FAILURES", "Fresh"]

logger = logging.getLogger(__name__)

BATCHES_MAX = 128
BYTES_MAX = 64_000_000
WAITING_BYTES_MAX = 8_000_000
"""What is sealed ahead of its turn: more would be memory that is filled, and cold when it is sent."""

SPILL_AFTER_FAILURES = 3


class Fresh:
    """Of all lines. One thread."""

    def __init__(
        self,
        *,
        spool: Spool,
        lines: Mapping[int, Line],
        bounds: Bounds,
        window: Window,
        metrics: Metrics,
        throttle: Throttle,
        complain: Callable[[sqlite3.Error], None],
    ) -> None:
        self.batches = 0
        self.events = 0
        self._bytes = 0
        self._spool = spool
        self._lines = lines
        self._bounds = bounds
        self._window = window
        self._metrics = metrics
        self._throttle = throttle
        self._complain = complain

    def came(self, sealed: Sealed) -> None:
        """A batch was sealed."""
        self.batches += 1
        self.events += sealed.events
        self._bytes += sealed.size

    def left(self, sealed: Sealed) -> None:
        """It is fresh no more."""
        self.batches -= 1
        self.events -= sealed.events
        self._bytes -= sealed.size

    @property
    def has_room(self) -> bool:
        """Whether there may be more of them."""
        if self.batches >= BATCHES_MAX or self._bytes >= BYTES_MAX:
            return False
        if self._bytes < WAITING_BYTES_MAX:
            return True
        flying = sum(sealed.size for line in self._lines.values() for sealed in line.fresh() if sealed.in_flight)
        return self._bytes - flying < WAITING_BYTES_MAX

    def keep_space_of(self, line: Line, lane_ids: set[int]) -> bool:
        """Whether those of a line keep space of these lanes."""
        return any(segment.lane.id in lane_ids for sealed in line.fresh() for segment in sealed.segments)

    # ---- to the spool

    def spill_failing(self) -> None:
        """Move what waits for a server or a route that keeps failing."""
        for line in self._lines.values():
            failures = max(line.gate.failures, line.server.failures)
            if failures >= SPILL_AFTER_FAILURES or (failures and not self.has_room):
                self.spill(line)

    def spill(self, line: Line) -> bool:
        """Move everything fresh of a line, the oldest first. False when not all of it fitted."""
        fresh = line.fresh()
        return not fresh or self._spill(line, fresh, force=False)

    def spill_all(self) -> bool:
        """The same for every line."""
        is_complete = True
        for line in self._lines.values():
            is_complete &= self.spill(line)
        return is_complete

    def spill_through(self, line: Line, sealed: Sealed) -> bool:
        """Move a batch and all that is older, room or not: what replaces it in the spool keeps its place."""
        fresh = line.fresh()
        # In flight for as long as this takes: such a batch is not evicted from memory.
        sealed.in_flight = True
        try:
            return self._spill(line, fresh[: fresh.index(sealed) + 1], force=True)
        finally:
            sealed.in_flight = False

    def _spill(self, line: Line, batches: Sequence[Sealed], *, force: bool) -> bool:
        fitting = list(batches)
        while not force and fitting and not self._bounds.make_room(sum(map(self._spool.cost, fitting))):
            fitting.pop()
        if len(fitting) < len(batches) and self._throttle.allows("full"):
            logger.error("the spool is full (spool_max_bytes): what does not fit stays in the lanes")
        if not fitting:
            return False
        segments = [segment for sealed in fitting for segment in sealed.segments]
        add: dict[int, int] = {ControlCounter.SPOOLED: sum(sealed.events for sealed in fitting)}
        try:
            with self._metrics.entry(add, segments=segments, proof=Proof("batch", fitting[0].id)):
                reach("spill: before")
                self._spool.add(fitting, [(line.route_key, line.route.encode())])
                reach("spill: kept")
                for segment in segments:
                    segment.settle()
                    reach("spill: released in part")
        except sqlite3.Error as exc:
            self._complain(exc)
            return False
        line.spilled(len(fitting))
        for sealed in fitting:
            self.left(sealed)
            sealed.segments = []
        self._window.trim(line)
        return len(fitting) == len(batches)

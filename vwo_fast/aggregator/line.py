"""A line: everything of one route that is sealed and not settled, in the order of sealing.

``items`` begins with batches that are in the spool as well, the oldest of them;
behind these come fresh ones, whose events are only in the lanes.  Key invariant:
of one route, what is in the spool was sealed before what is fresh.  So when the
spool holds batches that are not in memory (``unloaded``), they belong between the
two, and nothing fresh is sent before them.
"""

from __future__ import annotations

from collections.abc import Iterator

from vwo_fast.aggregator.gate import Gate
from vwo_fast.aggregator.sealed import Sealed
from vwo_fast.route import Route

__all__ = ["BEFORE_ALL", "Line"]


BEFORE_ALL = (-(1 << 62), 0)
"""A place in the order of sealing that comes first: what is sent again after a refusal has ordinals below zero."""


class Line:
    """The line of one route."""

    def __init__(self, route_key: int, route: Route, gate: Gate, server: Gate, *, unloaded: int = 0) -> None:
        self.route_key = route_key
        self.route = route
        self.gate = gate
        self.server = server
        self.items: list[Sealed] = []
        self.loaded = 0
        """How many items, from the front, are in the spool."""
        self.unloaded = unloaded
        self.cursor = BEFORE_ALL
        """Place of the last spooled batch that was loaded; the rows behind it are not in memory."""
        self.delivered_at = 0.0

    @property
    def is_empty(self) -> bool:
        return not self.items and not self.unloaded

    def allows(self, now: float) -> bool:
        """Whether the route and its server take one more request now."""
        return self.gate.allows(now) and self.server.allows(now)

    def spooled(self, row: int) -> Sealed | None:
        """The batch of a row of the spool, if it is in memory."""
        return next((item for item in self.items[: self.loaded] if item.row == row), None)

    def revive(self, batches: list[Sealed]) -> None:
        """Batches that are in the spool again, older than everything."""
        self.items[0:0] = batches
        self.loaded += len(batches)

    def fresh(self) -> list[Sealed]:
        """The batches whose events are only in the lanes."""
        return self.items[self.loaded :]

    def loaded_bytes(self) -> int:
        """Bytes of the spooled batches that are in memory."""
        return sum(item.size for item in self.items[: self.loaded])

    def add_loaded(self, batches: list[Sealed]) -> None:
        """Batches that were read from the spool, behind those read before."""
        self.items[self.loaded : self.loaded] = batches
        self.loaded += len(batches)
        self.unloaded -= len(batches)
        if batches:
            self.cursor = batches[-1].key

    def missed(self, rows: int) -> None:
        """Rows that were counted are not to be had: they are damaged, or were taken away from outside."""
        self.unloaded -= rows

    def remove(self, sealed: Sealed) -> None:
        """A batch has settled."""
        index = self.items.index(sealed)
        del self.items[index]
        self.loaded -= index < self.loaded

    def replace(self, sealed: Sealed, halves: list[Sealed]) -> None:
        """A spooled batch was split."""
        index = self.items.index(sealed)
        self.items[index : index + 1] = halves
        self.loaded += len(halves) - 1
        self.cursor = max(self.cursor, halves[-1].key)

    def spilled(self, count: int) -> None:
        """The ``count`` oldest fresh batches are in the spool now.

        Behind rows that are not in memory they leave it too; none of them can be in flight then.
        """
        if self.unloaded:
            del self.items[self.loaded : self.loaded + count]
            self.unloaded += count
        else:
            self.loaded += count
            self.cursor = self.items[self.loaded - 1].key

    def evict(self, keep: int) -> list[Sealed]:
        """Drop spooled batches from memory, the newest first, down to ``keep``; the spool still has them.

        Stops at one in flight: what is sealed after a batch that is not in memory must not be on its way.
        """
        dropped: list[Sealed] = []
        if any(item.in_flight for item in self.fresh()):
            return dropped
        while self.loaded > keep and not self.items[self.loaded - 1].in_flight:
            self.loaded -= 1
            sealed = self.items.pop(self.loaded)
            self.unloaded += 1
            self.cursor = (sealed.ordinal, sealed.part - 1)
            dropped.append(sealed)
        return dropped

    def next_to_send(self, now: float) -> Sealed | None:
        """The oldest batch that may go now without overtaking an event of one of its visitors.

        While the server or the route fails, the one whose last failure is longest ago: if a batch
        itself is what fails, the others must have their turn to show that they do not.
        """
        if self.gate.failures or self.server.failures:
            return min(self._candidates(now), key=lambda item: item.failed_at, default=None)
        return next(self._candidates(now), None)

    def next_due(self, now: float) -> float | None:
        """When the next batch that waits for nothing but time may go; None when time alone changes nothing."""
        if not any(not item.in_flight for item in self.items) and not self.unloaded:
            return None
        gates = max(self.gate.retry_at, self.server.retry_at)
        if gates > now:
            return gates
        waiting = [item.due for item in self.items if not item.in_flight and item.due > now]
        return min(waiting, default=None)

    def _candidates(self, now: float) -> Iterator[Sealed]:
        before = 0
        for index, item in enumerate(self.items):
            if self.unloaded and index >= self.loaded:
                return
            if not item.in_flight and item.due <= now and not item.visitors & before:
                yield item
            if item.holds_back:
                before |= item.visitors

    def make_due(self) -> None:
        """The server is back: what failed while it was away goes in order, the oldest first."""
        for item in self.items:
            if not item.refusals:
                item.due = 0.0

    def kick(self) -> None:
        """Let everything be tried now."""
        self.gate.kick()
        self.server.kick()
        for item in self.items:
            item.due = 0.0

"""A line: everything of one route that is sealed and not settled, in the order of sealing.

``items`` are the batches that are in memory.  First those that are in the spool as well, the
oldest of them; then the recent ones, which are in the spool too; then the fresh ones, whose events
are only in the lanes.  Key invariant: of one route, what is in the spool was sealed before what is
fresh, and the rows that are not in memory (``unloaded``) lie between the oldest and the recent ones.

Hard case: that gap.  While it is there, nobody here knows whose events are in it, so what comes
after it cannot wait for its visitors' turn alone.  It neither waits for all of the gap, which may
be hours of events, nor takes the way from it: requests are in turn one of the old and one of the new.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vwo_fast._batch import visitors_join, visitors_meet
from vwo_fast.aggregator.gate import Gate
from vwo_fast.aggregator.joined import Joint, Load
from vwo_fast.aggregator.sealed import Sealed
from vwo_fast.route import Route

__all__ = ["BEFORE_ALL", "Line"]


BEFORE_ALL = (-(1 << 62), 0)
"""A place in the order of sealing that comes first: what is sent again after a refusal has ordinals below zero."""


class Line:
    """The line of one route."""

    def __init__(self, route_key: int, route: Route, gate: Gate, server: Gate, load: Load) -> None:
        self.route_key = route_key
        self.route = route
        self.gate = gate
        self.server = server
        self.load = load
        self.items: list[Sealed] = []
        self.loaded = 0
        """How many items, from the front, are in the spool and older than what is not in memory."""
        self.recent = 0
        """How many items behind them are in the spool and newer than that; none when all is in memory."""
        self.unloaded = 0
        self.cursor = BEFORE_ALL
        """Place of the last spooled batch that was loaded; the rows behind it are not in memory."""
        self.delivered_at = 0.0
        self._turn_of_new = False

    @property
    def is_empty(self) -> bool:
        return not self.items and not self.unloaded

    @property
    def is_failing(self) -> bool:
        """Whether the route or its server does not take what it is sent."""
        return bool(self.gate.failures or self.server.failures)

    def allows(self, now: float) -> bool:
        """Whether the route and its server take one more request now."""
        return self.gate.allows(now) and self.server.allows(now)

    def spooled(self, row: int) -> Sealed | None:
        """The batch of a row of the spool, if it is in memory."""
        return next((item for item in self.items[: self.loaded + self.recent] if item.row == row), None)

    def fresh(self) -> list[Sealed]:
        """The batches whose events are only in the lanes."""
        return self.items[self.loaded + self.recent :]

    def loaded_bytes(self) -> int:
        """Memory of the spooled batches that are in it."""
        return sum(item.memory for item in self.items[: self.loaded + self.recent])

    def waiting(self) -> int:
        """How many of the oldest are not on their way."""
        return sum(not item.in_flight for item in self.items[: self.loaded])

    # ---- what comes from the spool, and goes to it

    def revive(self, batches: list[Sealed]) -> None:
        """Batches that are in the spool again, older than everything."""
        self.items[0:0] = batches
        self.loaded += len(batches)

    def gap(self) -> tuple[tuple[int, int], tuple[int, int] | None]:
        """Between which places of the order the rows lie that are not in memory; None: there is no end."""
        return self.cursor, self.items[self.loaded].key if self.recent else None

    def add_loaded(self, batches: list[Sealed]) -> None:
        """Batches that were read from the spool, behind those read before."""
        self.items[self.loaded : self.loaded] = batches
        self.loaded += len(batches)
        self.unloaded -= len(batches)
        if batches:
            self.cursor = batches[-1].key
        self._close_gap()

    def missed(self, rows: int) -> None:
        """Rows that were counted are not to be had: they are damaged, or were taken away from outside."""
        self.unloaded -= rows
        self._close_gap()

    def spilled(self, count: int) -> None:
        """The ``count`` oldest fresh batches are in the spool now."""
        self.recent += count
        self._close_gap()

    def _close_gap(self) -> None:
        if not self.unloaded and self.recent:
            self.loaded += self.recent
            self.recent = 0
            self.cursor = max(self.cursor, self.items[self.loaded - 1].key)

    def evict(self, keep: int) -> None:
        """Drop the oldest ones from memory, the newest of them first, down to ``keep``; the spool still has them.

        Stops at one in flight: its answer is to find it here.
        """
        while self.loaded > keep and not self.items[self.loaded - 1].in_flight:
            self.loaded -= 1
            sealed = self.items.pop(self.loaded)
            self.unloaded += 1
            self.cursor = (sealed.ordinal, sealed.part - 1)

    def evict_recent(self, bytes_max: int) -> None:
        """Drop recent ones from memory, the oldest first, so that the gap stays in one piece."""
        size = sum(item.memory for item in self.items[self.loaded : self.loaded + self.recent])
        while self.recent and size > bytes_max and not self.items[self.loaded].in_flight:
            size -= self.items.pop(self.loaded).memory
            self.recent -= 1
            self.unloaded += 1

    # ---- what leaves

    def remove(self, sealed: Sealed) -> None:
        """A batch has settled."""
        self._exchange(sealed, [])

    def replace(self, sealed: Sealed, halves: list[Sealed]) -> None:
        """A spooled batch was split."""
        if self._exchange(sealed, halves) < self.loaded:
            self.cursor = max(self.cursor, halves[-1].key)

    def _exchange(self, sealed: Sealed, others: list[Sealed]) -> int:
        index = self.items.index(sealed)
        self.items[index : index + 1] = others
        if index < self.loaded:
            self.loaded += len(others) - 1
        elif index < self.loaded + self.recent:
            self.recent += len(others) - 1
        return index

    # ---- what goes out

    def next_to_send(self, now: float) -> list[Sealed]:
        """What may go now in one request without overtaking an event of one of its visitors; the oldest first.

        While the server or the route fails, one batch, that whose last failure is longest ago: if a batch
        itself is what fails, the others must have their turn to show that they do not, and what has an unknown
        outcome shall be little.
        """
        if self.is_failing:
            # Nothing old is in memory when the spool cannot be read: then the new have to find out.
            items = self._old() or self.items
            probe = min(self._candidates(items, now), key=lambda item: item.failed_at, default=None)
            return [] if probe is None else [probe]
        if not self.unloaded:
            return self._together(self.items, now)
        for is_new in (self._turn_of_new, not self._turn_of_new):
            if batches := self._together(self.items[self.loaded :] if is_new else self._old(), now):
                self._turn_of_new = not is_new
                return batches
        return []

    def _old(self) -> list[Sealed]:
        """What comes before the gap: everything, when there is none."""
        return self.items[: self.loaded] if self.unloaded else self.items

    def _together(self, items: Sequence[Sealed], now: float) -> list[Sealed]:
        joint = Joint(self.load)
        for item in self._candidates(items, now, joint):
            if not joint.add(item) or joint.is_closed:
                break
        return joint.batches

    @staticmethod
    def _candidates(items: Sequence[Sealed], now: float, joint: Joint | None = None) -> Iterator[Sealed]:
        """What may go now, the oldest first. What ``joint`` has taken holds nothing back from it."""
        before = bytearray()
        for item in items:
            if not item.in_flight and item.due <= now and not visitors_meet(item.visitors, before):
                yield item
                if joint is not None:
                    continue
            if item.holds_back:
                visitors_join(before, item.visitors)

    def next_due(self, now: float) -> float | None:
        """When the next batch that waits for nothing but time may go; None when time alone changes nothing."""
        if not any(not item.in_flight for item in self.items) and not self.unloaded:
            return None
        gates = max(self.gate.retry_at, self.server.retry_at)
        if gates > now:
            return gates
        waiting = [item.due for item in self.items if not item.in_flight and item.due > now]
        return min(waiting, default=None)

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

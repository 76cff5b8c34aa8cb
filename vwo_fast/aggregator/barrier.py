"""Flush barriers: when everything that was published before a question is settled, and how it went.

A barrier first waits until the lanes have been read up to the heads of its moment;
then the open batches are sealed, and it waits until nothing up to the ordinal of
the last of them is unsettled.

An event that was lost or refused before anybody asked belongs to the next answer:
otherwise the answer would depend on how fast the aggregator was.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Barrier", "Barriers"]

BARRIERS_MAX = 4096
PER_CLIENT_MAX = 16
"""Flushes of one client that may wait at once; it has no use for the answers to more."""
AGE_MAX_SECONDS = 3600.0


@dataclass(slots=True, eq=False, kw_only=True)
class Barrier:
    """One flush that waits for its answer."""

    client: bytes
    number: int
    owner: int
    targets: dict[int, int]
    asked_at: float
    failures_before: int
    """Failures since the start, when it was asked."""
    untold: int
    """Those of them that no answer has told of yet."""
    ordinal: int | None = None
    delivered: int = 0
    failed_since: int = 0
    is_spoiled: bool = False

    @property
    def failed(self) -> int:
        """Events that are lost or dead letters."""
        return self.untold + self.failed_since

    @property
    def ok(self) -> bool:
        """Whether all of it was delivered."""
        return not self.failed and not self.is_spoiled


class Barriers:
    """All flushes that wait."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: list[Barrier] = []
        self._per_client: Counter[bytes] = Counter()
        self._failures = 0
        self._told_failures = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, client: bytes, number: int, owner: int, targets: dict[int, int], *, is_spoiled: bool = False) -> None:
        """A flush was asked for. ``targets``: heads by lane. ``is_spoiled``: there are events that nobody can read."""
        if self._per_client[client] >= PER_CLIENT_MAX:
            return
        if len(self._waiting) >= BARRIERS_MAX:
            # Whoever asked first has stopped waiting long ago.
            self._per_client[self._waiting.pop(0).client] -= 1
        self._per_client[client] += 1
        self._waiting.append(
            Barrier(
                client=client,
                number=number,
                owner=owner,
                targets=targets,
                asked_at=self._clock(),
                failures_before=self._failures,
                untold=self.untold,
                is_spoiled=is_spoiled,
            )
        )

    def take_all(self) -> list[Barrier]:
        """Take out all of them; somebody else answers."""
        taken, self._waiting = self._waiting, []
        self._per_client.clear()
        return taken

    @property
    def untold(self) -> int:
        """Failures that no answer has told of."""
        return self._failures - self._told_failures

    @property
    def is_reading(self) -> bool:
        """Whether one waits for lanes to be read."""
        return any(barrier.ordinal is None for barrier in self._waiting)

    def read_up_to(self, read_to: Mapping[int, int]) -> list[Barrier]:
        """Barriers whose lanes have been read; the caller seals, then gives them an ordinal."""
        found = []
        for barrier in self._waiting:
            if barrier.ordinal is None:
                for lane, target in list(barrier.targets.items()):
                    if lane not in read_to or read_to[lane] >= target:
                        del barrier.targets[lane]
                if not barrier.targets:
                    found.append(barrier)
        return found

    def lane_lost(self, lane: int) -> None:
        """A lane was put aside: nobody knows what was in it."""
        for barrier in self._waiting:
            if lane in barrier.targets:
                barrier.is_spoiled = True

    def lost(self, events: int) -> None:
        """Events were read that belong to no batch."""
        self._failures += events
        for barrier in self._waiting:
            if barrier.ordinal is None:
                barrier.failed_since += events

    def settled(self, ordinal: int, events: int, *, delivered: bool) -> None:
        """A batch has its final outcome."""
        self._failures += 0 if delivered else events
        for barrier in self._waiting:
            if barrier.ordinal is None or ordinal <= barrier.ordinal:
                if delivered:
                    barrier.delivered += events
                else:
                    barrier.failed_since += events

    def finished(self, first_unsettled: int | None) -> list[Barrier]:
        """Take out the barriers that nothing unsettled belongs to."""
        done = [
            barrier
            for barrier in self._waiting
            if barrier.ordinal is not None and (first_unsettled is None or barrier.ordinal < first_unsettled)
        ]
        for barrier in done:
            self._told_failures = max(self._told_failures, barrier.failures_before + barrier.failed_since)
        horizon = self._clock() - AGE_MAX_SECONDS
        if done or (self._waiting and self._waiting[0].asked_at < horizon):
            gone = set(done)
            self._waiting = [b for b in self._waiting if b not in gone and b.asked_at >= horizon]
            self._per_client = Counter(barrier.client for barrier in self._waiting)
        return done

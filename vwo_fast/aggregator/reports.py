"""Delivery reports: each owner hears once, per batch with events of its own, what became of them."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vwo_fast.aggregator.metrics import Metrics, Throttle
from vwo_fast.aggregator.outcome import Reply
from vwo_fast.aggregator.sealed import Sealed
from vwo_fast.counters import ControlCounter

__all__ = ["Reports"]

logger = logging.getLogger(__name__)

KEEP_SECONDS = 60.0
KEEP_BYTES = 32_000_000

Send = Callable[[bytes, dict[str, Any]], bool]
"""Sends a message to a client; False when it cannot be reached now."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    since: float
    size: int
    message: dict[str, Any]


class Reports:
    """Reports that were sent, and those that wait for an owner that has not asked yet."""

    def __init__(self, send: Send, metrics: Metrics, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._send = send
        self._metrics = metrics
        self._clock = clock
        self._clients: dict[int, bytes] = {}
        self._made: dict[int, int] = {}
        self._waiting: dict[int, deque[_Waiting]] = {}
        self._waiting_bytes = 0
        self._throttle = Throttle(clock)

    def register(self, owner: int, client: bytes) -> None:
        """From now on this client receives the reports of ``owner``."""
        self._clients[owner] = client
        self._flush_owner(owner)

    def made_for(self, owner: int) -> int:
        """Reports for an owner so far: sent, or waiting for it."""
        return self._made.get(owner, 0)

    def tell(self, sealed: Sealed, reply: Reply, *, delivered: bool) -> None:
        """Report a final outcome to all owners of events in the batch."""
        refused = "unknown" if sealed.is_uncertain else "not delivered"
        for owner in sealed.owners():
            events = sealed.events_of(owner)
            message = {
                "report": sealed.id,
                "status": reply.status,
                "message": "" if delivered else reply.message,
                "attempts": sealed.attempts,
                "outcome": "delivered" if delivered else refused,
                "events": events,
            }
            self._made[owner] = self._made.get(owner, 0) + 1
            queue = self._waiting.setdefault(owner, deque())
            size = sum(map(len, events)) + 64
            queue.append(_Waiting(self._clock(), size, message))
            self._waiting_bytes += size
            self._flush_owner(owner)
        self._trim()

    def flush_waiting(self) -> None:
        """Send what can be sent."""
        for owner in list(self._waiting):
            self._flush_owner(owner)

    def _flush_owner(self, owner: int) -> None:
        client = self._clients.get(owner)
        queue = self._waiting.get(owner)
        if client is None or queue is None:
            return
        while queue and self._send(client, queue[0].message):
            self._waiting_bytes -= queue.popleft().size
            self._metrics.add(ControlCounter.REPORTS_SENT)
        if not queue:
            del self._waiting[owner]

    def _trim(self) -> None:
        while self._waiting_bytes > KEEP_BYTES and self._waiting:
            self._drop_one(next(iter(self._waiting)))

    def _drop_one(self, owner: int) -> None:
        queue = self._waiting[owner]
        self._waiting_bytes -= queue.popleft().size
        # The owner must not wait for a report that will not come.
        self._made[owner] -= 1
        if not queue:
            del self._waiting[owner]
        if self._throttle.allows("dropped"):
            logger.warning("delivery reports are dropped: their process does not take them")

    def keep_house(self, living: set[int]) -> None:
        """Send again what could not be sent; drop what waited too long or for owners that are gone."""
        self.flush_waiting()
        horizon = self._clock() - KEEP_SECONDS
        for owner in list(self._waiting):
            while owner in self._waiting and (
                self._waiting[owner][0].since < horizon or (owner not in living and owner not in self._clients)
            ):
                self._drop_one(owner)
        for owner in [owner for owner in self._clients if owner not in living and owner not in self._waiting]:
            del self._clients[owner]
            self._made.pop(owner, None)

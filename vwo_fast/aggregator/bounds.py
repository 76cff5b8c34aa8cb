"""The bounds of the spool: what is too old leaves it, and what is oldest when others need the room.

Both are losses that the user has asked for.  Each is counted by its reason, told to
whoever waits for the events, and logged at most once per interval.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from vwo_fast.aggregator.line import Line
from vwo_fast.aggregator.metrics import Metrics, Throttle
from vwo_fast.aggregator.outcome import Reply
from vwo_fast.aggregator.sealed import Sealed
from vwo_fast.aggregator.spool import OldRow, Spool
from vwo_fast.config import Settings
from vwo_fast.counters import ControlCounter, Reason

__all__ = ["Bounds", "Observer"]

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 64
_TEXT = {
    Reason.EXPIRED: "%d events are dropped: they have been in the spool for longer than spool_max_age",
    Reason.SPOOL_FULL: "%d events are dropped: the spool is full (spool_max_bytes), and the oldest give way",
}
_REPLY = {
    Reason.EXPIRED: Reply(error="dropped from the spool: too old"),
    Reason.SPOOL_FULL: Reply(error="dropped from the spool: it is full"),
}


class Observer(Protocol):
    """Who is told about final outcomes."""

    def settled(self, sealed: Sealed, *, delivered: bool, reply: Reply) -> None: ...

    def lost(self, events: int) -> None:
        """Events of a batch that cannot be read any more."""


class Bounds:
    """Drops from the spool what the settings say. One thread."""

    def __init__(
        self,
        settings: Settings,
        *,
        spool: Spool,
        lines: Mapping[int, Line],
        metrics: Metrics,
        observer: Observer,
        complain: Callable[[sqlite3.Error], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spool = spool
        self._lines = lines
        self._metrics = metrics
        self._observer = observer
        self._complain = complain
        self._age_max = settings.spool_max_age
        self._bytes_max = settings.spool_max_bytes
        self._drops_oldest = settings.on_full == "drop_oldest"
        self._throttle = Throttle(clock)
        self._unlogged: dict[Reason, int] = {}

    def expire(self) -> None:
        """Drop what is too old."""
        if self._age_max is None:
            return
        try:
            while letters := self._expired(self._spool.oldest_dead(ROWS_AT_ONCE)):
                self._drop_letters(letters, Reason.EXPIRED)
            while rows := self._expired(self._spool.oldest(ROWS_AT_ONCE)):
                if not sum(self._drop(old, Reason.EXPIRED) for old in rows):
                    break
        except sqlite3.Error as exc:
            self._complain(exc)
        self._log()

    def _expired(self, rows: list[OldRow]) -> list[OldRow]:
        return [old for old in rows if self._age_max is not None and old.age > self._age_max]

    def make_room(self, size: int) -> bool:
        """Have room for ``size`` more bytes, by dropping the oldest if that is what the user wants."""
        if self._spool.has_room(size):
            return True
        if not self._drops_oldest or self._bytes_max is None or size > self._bytes_max:
            return False
        try:
            # What VWO has refused before it takes anything away from what VWO may still accept.
            while not self._spool.has_room(size) and (letters := self._spool.oldest_dead(1)):
                self._drop_letters(letters, Reason.SPOOL_FULL)
            while not self._spool.has_room(size):
                if not self._drop_first_of(self._spool.oldest(ROWS_AT_ONCE)):
                    break
        except sqlite3.Error as exc:
            self._complain(exc)
        self._log()
        return self._spool.has_room(size)

    def _drop_first_of(self, rows: list[OldRow]) -> bool:
        return any(self._drop(old, Reason.SPOOL_FULL) for old in rows)

    def _drop(self, old: OldRow, reason: Reason) -> bool:
        """Drop one batch; not one that is on its way."""
        line = self._lines.get(old.route_key)
        sealed = line.spooled(old.row) if line is not None else None
        if sealed is not None and sealed.in_flight:
            return False
        is_loaded = sealed is not None
        if sealed is None:
            found = self._spool.load_row(old.row)
            if not isinstance(found, Sealed):
                self._metrics.unreadable(found.events)
                self._observer.lost(found.events)
                if line is not None:
                    line.missed(found.rows)
                return bool(found.rows)
            sealed = found
        add = {ControlCounter.BY_REASON + reason: sealed.events}
        with self._metrics.entry(add, forget=[sealed], unspooled=self._spool.events_held(sealed)):
            try:
                self._spool.remove([sealed])
            except sqlite3.Error as exc:
                self._complain(exc)
        if line is not None and is_loaded:
            line.remove(sealed)
        elif line is not None:
            line.missed(1)
        self._observer.settled(sealed, delivered=False, reply=_REPLY[reason])
        self._unlogged[reason] = self._unlogged.get(reason, 0) + sealed.events
        return True

    def _drop_letters(self, letters: list[OldRow], reason: Reason) -> None:
        events = sum(old.events for old in letters)
        self._spool.drop_dead(letters)
        self._metrics.letters_left(events, reason)
        self._unlogged[reason] = self._unlogged.get(reason, 0) + events

    def _log(self) -> None:
        for reason, events in self._unlogged.items():
            if events and self._throttle.allows(reason):
                logger.error(_TEXT[reason], events)
                self._unlogged[reason] = 0

"""Dead letters in the spool: what VWO refused one by one, and what cannot be read.

Nothing here is a transaction of its own: each call is a step of one of the spool's, or only reads.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

from vwo_fast.aggregator.sealed import Sealed
from vwo_fast.aggregator.spool_clock import SpoolClock
from vwo_fast.aggregator.spool_rows import (
    ROW_OVERHEAD,
    OldRow,
    SpoolTotals,
    count_of,
    dead_check,
    insert_into,
    letter_of,
)

__all__ = ["DeadLetters"]


class DeadLetters:
    """The table of them, and their part of the totals."""

    def __init__(self, totals: SpoolTotals, clock: SpoolClock) -> None:
        self._totals = totals
        self._clock = clock

    def count(self, db: sqlite3.Connection) -> None:
        """Find out how many there are, as others may have purged some."""
        self._totals.dead_events, self._totals.dead_bytes = db.execute(
            f"SELECT COALESCE(SUM(events),0), COALESCE(SUM(LENGTH(body)+{ROW_OVERHEAD}),0) FROM dead"  # noqa: S608
        ).fetchone()

    def add(self, db: sqlite3.Connection, sealed: Sealed, *, status: int | None, message: str, excerpt: str) -> None:
        """Make one of a batch that was refused. :meth:`added` counts it when it is kept."""
        head = sealed.head.encode() if sealed.head else None
        values = {
            "id": sealed.id,
            "route": sealed.route_key,
            "events": sealed.events,
            "status": status,
            "message": message,
            "excerpt": excerpt,
            "attempts": sealed.attempts,
            "first_try": sealed.first_try,
            "uncertain": sealed.is_uncertain,
            "created": sealed.created,
            "check_value": dead_check(id=sealed.id, route=sealed.route_key, head=head, body=sealed.body),
            "head": head,
            "body": sealed.body,
        }
        insert_into(db, "dead", values | self._now())

    def added(self, sealed: Sealed) -> None:
        """It is kept."""
        self._totals.dead_events += sealed.events
        self._totals.dead_bytes += sealed.size + ROW_OVERHEAD

    def add_unreadable(self, db: sqlite3.Connection, rows: Iterable[tuple[Any, ...]]) -> int:
        """Make them of rows that are damaged: (id, route, created, sources, offsets, body). Returns their events."""
        total = 0
        for id_, route, created, sources, offsets, body in rows:
            events = count_of(offsets, sources)
            total += events
            values = {
                "id": id_,
                "route": route,
                "events": events,
                "message": "damaged in the spool",
                "excerpt": "",
                "attempts": 0,
                "created": created,
                "damaged": 1,
                "check_value": 0,
                "body": body,
            }
            insert_into(db, "dead", values | self._now())
        return total

    def _now(self) -> dict[str, Any]:
        return {"died": self._clock.wall(), "life": self._clock.life, "since": self._clock.now()}

    def oldest(self, db: sqlite3.Connection, count: int) -> list[OldRow]:
        """Those that have been here longest."""
        rows = db.execute("SELECT row, route, events, life, since FROM dead ORDER BY row LIMIT ?", (count,))
        return [OldRow(row, route, events, self._clock.age(life, since)) for row, route, events, life, since in rows]

    def delete(self, db: sqlite3.Connection, rows: Iterable[int]) -> None:
        """Delete them."""
        for row in rows:
            db.execute("DELETE FROM dead WHERE row=?", (row,))

    def to_send_again(self, db: sqlite3.Connection, count: int) -> dict[int, Sealed]:
        """At most so many that an operator wants to be sent again, by row, as batches older than all others."""
        rows = db.execute(
            "SELECT row, id, route, head, body, attempts, first_try, uncertain, created FROM dead"
            " WHERE replay=1 AND damaged=0 ORDER BY row LIMIT ?",
            (count,),
        ).fetchall()
        if not rows:
            return {}
        (lowest,) = db.execute("SELECT MIN(0, COALESCE(MIN(ordinal), 0)) FROM batch").fetchone()
        return {row[0]: letter_of(row[1:], lowest - len(rows) + index) for index, row in enumerate(rows)}

    def purged(self, db: sqlite3.Connection) -> int:
        """Events of those that an operator has deleted and nobody has counted."""
        (events,) = db.execute("SELECT COALESCE(SUM(events),0) FROM purged").fetchone()
        return int(events)

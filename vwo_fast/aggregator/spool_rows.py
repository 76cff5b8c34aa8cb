"""The tables of the spool, and what their rows mean.

Every row that holds events has a check value over all that must not change.  A row
that does not match it, or contradicts itself, is never sent: what it holds becomes
a dead letter that is marked as damaged.
"""

from __future__ import annotations

import sqlite3
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from vwo_fast import _lane
from vwo_fast.aggregator.sealed import (
    BODY_END,
    BODY_START,
    NOBODY,
    RequestHead,
    Sealed,
    Source,
    new_batch_id,
    pack_sources,
    pack_visitors,
    unpack_sources,
    unpack_visitors,
)

__all__ = [
    "BATCH_COLUMNS",
    "COUNT_EVENTS",
    "COUNT_ROWS",
    "FRAGMENT_COLUMNS",
    "ROW_OVERHEAD",
    "SCHEMA",
    "SCHEMA_VERSION",
    "UNREADABLE",
    "Damaged",
    "Fragment",
    "OldRow",
    "SpoolTotals",
    "batch_check",
    "batch_values",
    "count_of",
    "dead_check",
    "fragment_check",
    "fragment_values",
    "insert_into",
    "joined",
    "letter_of",
    "sealed_of",
]

SCHEMA_VERSION = 3

# Small columns come first: what lies behind a large one is read through all of its pages.
# ``life`` and ``since`` are when a row was made, in a clock that nobody sets (see spool_clock.py).
SCHEMA = """
CREATE TABLE route (key INTEGER PRIMARY KEY, encoded BLOB NOT NULL);
CREATE TABLE life (key INTEGER PRIMARY KEY, boot TEXT NOT NULL, wall REAL NOT NULL);
CREATE TABLE batch (
  row INTEGER PRIMARY KEY, id TEXT NOT NULL, route INTEGER NOT NULL, ordinal INTEGER NOT NULL, part INTEGER NOT NULL,
  attempts INTEGER NOT NULL, first_try REAL, last_error TEXT, uncertain INTEGER NOT NULL, created REAL NOT NULL,
  life INTEGER NOT NULL, since REAL NOT NULL, check_value INTEGER NOT NULL,
  head BLOB, sources BLOB NOT NULL, visitors BLOB, offsets BLOB NOT NULL, body BLOB NOT NULL,
  events INTEGER GENERATED ALWAYS AS (LENGTH(offsets) / 4 - 1) VIRTUAL);
CREATE INDEX batch_order ON batch (ordinal, part);
CREATE INDEX batch_route_order ON batch (route, ordinal, part);
CREATE TABLE fragment (
  row INTEGER PRIMARY KEY, open_id INTEGER NOT NULL, route INTEGER NOT NULL, created REAL NOT NULL,
  check_value INTEGER NOT NULL, sources BLOB NOT NULL, offsets BLOB NOT NULL, json BLOB NOT NULL,
  events INTEGER GENERATED ALWAYS AS (LENGTH(offsets) / 4 - 1) VIRTUAL);
CREATE TABLE dead (
  row INTEGER PRIMARY KEY, id TEXT NOT NULL, route INTEGER NOT NULL, events INTEGER NOT NULL,
  status INTEGER, message TEXT NOT NULL, excerpt TEXT NOT NULL,
  attempts INTEGER NOT NULL, first_try REAL, uncertain INTEGER NOT NULL DEFAULT 0,
  created REAL NOT NULL, died REAL NOT NULL, life INTEGER NOT NULL, since REAL NOT NULL,
  damaged INTEGER NOT NULL DEFAULT 0, replay INTEGER NOT NULL DEFAULT 0, check_value INTEGER NOT NULL,
  head BLOB, body BLOB NOT NULL);
CREATE TABLE purged (events INTEGER NOT NULL);
"""

BATCH_COLUMNS = (
    "row, id, route, ordinal, part, attempts, first_try, last_error, uncertain, created, check_value,"
    " head, sources, visitors, offsets, body"
)
FRAGMENT_COLUMNS = "row, open_id, route, created, check_value, sources, offsets, json"

COUNT_ROWS = {
    "batch": "SELECT COUNT(*) FROM batch WHERE id=?",
    "dead": "SELECT COUNT(*) FROM dead WHERE id=?",
    "fragment": "SELECT COUNT(*) FROM fragment WHERE open_id=?",
}
COUNT_EVENTS = (
    "SELECT offsets, sources FROM batch WHERE row=? AND id=?"
    " UNION ALL SELECT offsets, sources FROM fragment WHERE open_id=?"
)

ROW_OVERHEAD = 512
"""What a row costs beside its body, for the byte limit."""

UNREADABLE = (ValueError, TypeError, IndexError, OverflowError, zlib.error, msgpack.exceptions.UnpackException)
"""What reading a damaged row may raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """A part of an open batch: comma-separated JSON, and where each event begins in it."""

    open_id: int
    route_key: int
    json: bytes
    offsets: bytes
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Damaged:
    """What of the spool could not be read and is a dead letter now."""

    rows: int = 0
    events: int = 0


@dataclass(frozen=True, slots=True)
class OldRow:
    """One of the oldest rows."""

    row: int
    route_key: int
    events: int
    age: float


@dataclass(slots=True)
class SpoolTotals:
    """What the spool holds now."""

    batches: int = 0
    events: int = 0
    bytes: int = 0
    dead_events: int = 0
    dead_bytes: int = 0
    fragment_events: int = 0
    fragment_bytes: int = 0

    @property
    def events_held(self) -> int:
        """Events that wait here to be sent."""
        return self.events + self.fragment_events


def _check(*fields: object) -> int:
    parts = [_lane.check_value(field) if isinstance(field, bytes) else field for field in fields]
    # SQLite's integers are signed.
    return _lane.check_value(msgpack.packb(parts)) - (1 << 63)


def batch_check(
    *,
    id: str,
    route: int,
    ordinal: int,
    part: int,
    head: bytes | None,
    sources: bytes,
    visitors: bytes | None,
    offsets: bytes,
    body: bytes,
) -> int:
    """The check value of a batch: over everything but what is written down while it is tried."""
    return _check(id, route, ordinal, part, head, sources, visitors, offsets, body)


def fragment_check(*, open_id: int, route: int, sources: bytes, offsets: bytes, json: bytes) -> int:
    """The check value of a fragment."""
    return _check(open_id, route, sources, offsets, json)


def dead_check(*, id: str, route: int, head: bytes | None, body: bytes) -> int:
    """The check value of a dead letter."""
    return _check(id, route, head, body)


def batch_values(sealed: Sealed, *, unknown_visitors: bool = False) -> dict[str, Any]:
    """The columns of a batch's row but for its number and its time."""
    lasting: dict[str, Any] = {
        "id": sealed.id,
        "route": sealed.route_key,
        "ordinal": sealed.ordinal,
        "part": sealed.part,
        "head": sealed.head.encode() if sealed.head else None,
        "sources": pack_sources(sealed.sources),
        "visitors": None if unknown_visitors else pack_visitors(sealed.visitors),
        "offsets": sealed.offsets,
        "body": sealed.body,
    }
    return {
        **lasting,
        "check_value": batch_check(**lasting),
        "attempts": sealed.attempts,
        "first_try": sealed.first_try,
        "last_error": sealed.last_error,
        "uncertain": sealed.is_uncertain,
        "created": sealed.created,
    }


def fragment_values(fragment: Fragment, created: float) -> dict[str, Any]:
    """The columns of a fragment's row but for its number."""
    lasting: dict[str, Any] = {
        "open_id": fragment.open_id,
        "route": fragment.route_key,
        "sources": pack_sources(fragment.sources),
        "offsets": fragment.offsets,
        "json": fragment.json,
    }
    return {**lasting, "check_value": fragment_check(**lasting), "created": created}


def sealed_of(row: Sequence[Any]) -> Sealed:
    """The batch of a row of ``BATCH_COLUMNS``. Raises one of ``UNREADABLE`` when the row is damaged."""
    (number, id_, route, ordinal, part, attempts, first_try, last_error, uncertain, created, check, *large) = row
    head, sources, visitors, offsets, body = large
    expected = batch_check(
        id=id_,
        route=route,
        ordinal=ordinal,
        part=part,
        head=head,
        sources=sources,
        visitors=visitors,
        offsets=offsets,
        body=body,
    )
    if check != expected:
        raise ValueError("check value")
    found = unpack_sources(sources)
    events = _count_events(body, offsets, found)
    return Sealed(
        row=number,
        id=id_,
        route_key=route,
        ordinal=ordinal,
        part=part,
        head=None if head is None else RequestHead.decode(head),
        body=body,
        offsets=offsets,
        events=events,
        visitors=unpack_visitors(visitors),
        sources=found,
        # These are written anew at each try, outside the check value; what is no number there was never tried.
        attempts=attempts if isinstance(attempts, int) else 0,
        first_try=first_try if isinstance(first_try, float) else None,
        last_error=last_error if isinstance(last_error, str) else None,
        is_uncertain=bool(uncertain),
        created=created if isinstance(created, float) else 0.0,
    )


def letter_of(row: Sequence[Any], ordinal: int) -> Sealed:
    """The batch that a dead letter of one event is again: id, route, head, body and what was tried with it."""
    id_, route, head, body, attempts, first_try, uncertain, created = row
    bounds = (0, len(body) + 1) if head is not None else (len(BODY_START), len(body) - len(BODY_END) + 1)
    return Sealed(
        id=id_,
        route_key=route,
        ordinal=ordinal,
        head=None if head is None else RequestHead.decode(head),
        body=body,
        offsets=array("I", bounds).tobytes(),
        events=1,
        # Its lane is long gone, and so are the events of its visitor that came after it.
        visitors=NOBODY,
        sources=(Source(0, 0, 0, 0, 1),),
        attempts=attempts,
        first_try=first_try,
        is_uncertain=bool(uncertain),
        created=created,
    )


def count_of(offsets: object, sources: object) -> int:
    """Events of a damaged row: its lane records say it best, else the length of its offsets, else it is one."""
    try:
        if isinstance(sources, bytes) and (total := sum(source.count for source in unpack_sources(sources))) > 0:
            return total
    except UNREADABLE:
        pass
    return max(1, len(offsets) // 4 - 1) if isinstance(offsets, bytes) else 1


def _count_events(body: bytes, offsets: bytes, sources: tuple[Source, ...]) -> int:
    """Raise ValueError when a row contradicts itself, so that no later step has to doubt it."""
    bounds = memoryview(offsets).cast("I")
    events = len(bounds) - 1
    if events < 1 or sum(source.count for source in sources) != events:
        raise ValueError("count of events")
    if bounds[-1] - 1 > len(body) or any(bounds[i] >= bounds[i + 1] for i in range(events)):
        raise ValueError("offsets")
    return events


def joined(fragments: Sequence[Sequence[Any]], ordinal: int) -> Sealed:
    """One batch of the fragments of one open batch. Raises one of ``UNREADABLE``."""
    bounds_of_all = array("I")
    pieces: list[bytes] = []
    position = len(BODY_START)
    sources: list[Source] = []
    for _, open_id, route, _, check, packed, offsets, json in fragments:
        if check != fragment_check(open_id=open_id, route=route, sources=packed, offsets=offsets, json=json):
            raise ValueError("check value")
        bounds = memoryview(offsets).cast("I")
        found = unpack_sources(packed)
        bounds_of_all.extend(position + bounds[i] for i in range(sum(source.count for source in found)))
        sources += found
        pieces.append(json)
        position += len(json) + 1
    bounds_of_all.append(position)
    body = BODY_START + b",".join(pieces) + BODY_END
    return Sealed(
        id=new_batch_id(),
        route_key=fragments[0][2],
        ordinal=ordinal,
        body=body,
        offsets=bounds_of_all.tobytes(),
        events=_count_events(body, bounds_of_all.tobytes(), tuple(sources)),
        visitors=NOBODY,
        sources=tuple(sources),
        created=fragments[0][3],
    )


def insert_into(db: sqlite3.Connection, table: str, values: dict[str, Any]) -> int:
    """Add a row; its number."""
    marks = ",".join("?" * len(values))
    # Only the names of columns become part of the statement.
    row = db.execute(f"INSERT INTO {table} ({','.join(values)}) VALUES ({marks})", tuple(values.values())).lastrowid  # noqa: S608
    assert row is not None
    return row

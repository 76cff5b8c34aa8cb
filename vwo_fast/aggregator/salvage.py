"""Salvage: what can be read of a damaged spool goes into a new one.

Idea: a database that is damaged somewhere is whole elsewhere.  Row numbers are
collected from both ends of a table, from its indices and, in the gap that is left,
by asking for each; then every row is read on its own, so that a bad page costs its
own rows.  A row must match its check value; one that does not becomes a dead letter.
Hard case: the first page is hit, and SQLite opens nothing.  Our tables are always
made in the same order, so the first page of a new, empty spool fits the old one.

Nothing is written to the damaged file: it stays as evidence.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sqlite3
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vwo_fast.aggregator.spool_clock import SpoolClock
from vwo_fast.aggregator.spool_file import COMPANIONS, PAGE_BYTES, connect, is_misnamed, open_or_create
from vwo_fast.aggregator.spool_rows import (
    UNREADABLE,
    batch_check,
    count_of,
    dead_check,
    fragment_check,
)
from vwo_fast.route import route_key

__all__ = ["Salvaged", "salvage"]

logger = logging.getLogger(__name__)

GAP_MAX = 200_000
"""Row numbers that are asked for one by one where no index tells them."""

_FIELDS = {
    "route": ("key", "encoded"),
    "life": ("key", "boot", "wall"),
    "batch": (
        "row", "id", "route", "ordinal", "part", "attempts", "first_try", "last_error", "uncertain", "created",
        "life", "since", "check_value", "head", "sources", "visitors", "offsets", "body",
    ),
    "fragment": ("row", "open_id", "route", "created", "check_value", "sources", "offsets", "json"),
    "dead": (
        "row", "id", "route", "events", "status", "message", "excerpt", "attempts", "first_try", "uncertain",
        "created", "died", "life", "since", "damaged", "replay", "check_value", "head", "body",
    ),
    "purged": ("events",),
}  # fmt: skip

# What a row of an older version lacks, or one whose time or message is not to be had.
_ABSENT: dict[str, Any] = {
    "attempts": 0, "uncertain": 0, "created": 0.0, "since": 0.0, "damaged": 0, "replay": 0, "died": 0.0,
    "message": "", "excerpt": "", "events": 1, "part": 0,
}  # fmt: skip

_LASTING: dict[str, tuple[Callable[..., int], tuple[str, ...]]] = {
    "batch": (batch_check, ("id", "route", "ordinal", "part", "head", "sources", "visitors", "offsets", "body")),
    "fragment": (fragment_check, ("open_id", "route", "sources", "offsets", "json")),
    "dead": (dead_check, ("id", "route", "head", "body")),
}

Row = dict[str, Any]


@dataclass(slots=True)
class Salvaged:
    """What was read, in rows but where it says events."""

    batches: int = 0
    fragments: int = 0
    dead: int = 0
    events: int = 0
    """Events in the batches and fragments that are whole."""
    damaged: int = 0
    """Rows that were read and are wrong."""
    damaged_events: int = 0


def salvage(aside: Path, db: sqlite3.Connection, clock: SpoolClock) -> Salvaged:
    """Copy what can be read of a damaged file into an empty spool, in one transaction.

    Rows of unknown age are said to be made now.  Raises sqlite3.Error or OSError when the new
    spool cannot take it; then nothing has been written.
    """
    found = Salvaged()
    with _readable(aside) as source:
        if source is None:
            return found
        db.execute("BEGIN IMMEDIATE")
        try:
            _copy(source, db, found, clock)
            db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise
    return found


@contextlib.contextmanager
def _readable(aside: Path) -> Iterator[sqlite3.Connection | None]:
    """A connection that shows the damaged tables; None when there is no way to have one."""
    patched = aside.with_name(f"{aside.name}.tmp")
    attempts: tuple[Callable[[], Path], ...] = (lambda: aside, lambda: _with_new_first_page(aside, patched))
    db = None
    try:
        for attempt in attempts:
            try:
                db = connect(attempt(), mode="ro")
                if _columns(db, "batch") and not is_misnamed(db):
                    break
            except sqlite3.Error as exc:
                logger.debug("damaged spool: %s", exc)
            if db is not None:
                db.close()
                db = None
        yield db
    finally:
        if db is not None:
            db.close()
        for path in (patched, aside):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{path}-shm")
        for suffix in COMPANIONS:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{patched}{suffix}")


def _with_new_first_page(aside: Path, patched: Path) -> Path:
    template = aside.with_name(f"{aside.name}.new")
    try:
        open_or_create(template).close()
        page = bytearray(template.read_bytes()[:PAGE_BYTES])
    finally:
        for suffix in COMPANIONS:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{template}{suffix}")
    for suffix in ("-wal", ""):
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(f"{aside}{suffix}", f"{patched}{suffix}")
    # File format: the size in pages at 28 is believed while the counters at 24 and 92 agree; at 32 the free pages.
    struct.pack_into(">II", page, 24, 1, max(1, patched.stat().st_size // PAGE_BYTES))
    struct.pack_into(">II", page, 32, 0, 0)
    struct.pack_into(">I", page, 92, 1)
    with patched.open("r+b") as file:
        file.write(page)
    return patched


def _copy(source: sqlite3.Connection, db: sqlite3.Connection, found: Salvaged, clock: SpoolClock) -> None:
    for row in _rows(source, "route"):
        if isinstance(row["encoded"], bytes) and route_key(row["encoded"]) == row["key"]:
            _insert(db, "route", row)
    lives: dict[object, int] = {}
    for row in _rows(source, "life"):
        if row["boot"] == clock.boot:
            lives[row["key"]] = clock.life
        elif isinstance(row["boot"], str) and isinstance(row["wall"], float):
            lives[row["key"]] = _insert(db, "life", {**row, "key": None})
    ids: set[object] = set()
    now = clock.now()
    for table in ("batch", "fragment", "dead"):
        for row in _rows(source, table):
            if table != "fragment":
                if row["id"] in ids:
                    continue
                ids.add(row["id"])
            life = lives.get(row.get("life"))
            if life is None or not isinstance(row.get("since"), float):
                row["life"], row["since"] = clock.life, now
            else:
                row["life"] = life
            _keep(db, table, row, found, now)
    for row in _rows(source, "purged"):
        _insert(db, "purged", row)


def _keep(db: sqlite3.Connection, table: str, row: Row, found: Salvaged, now: float) -> None:
    check, lasting = _LASTING[table]
    try:
        expected = check(**{name: row[name] for name in lasting})
        is_whole = row.get("check_value", expected) == expected
    except UNREADABLE:
        is_whole = False
    if table == "dead":
        # Letters made of damaged rows take numbers too, and nobody asks for a letter by its number.
        row["row"] = None
    if is_whole or (table == "dead" and row.get("damaged")):
        row["check_value"] = expected if is_whole else 0
        try:
            _insert(db, table, row)
        except (sqlite3.IntegrityError, OverflowError):
            is_whole = False
    if is_whole:
        events = count_of(row.get("offsets"), row.get("sources"))
        found.batches += table == "batch"
        found.fragments += table == "fragment"
        found.dead += table == "dead"
        found.events += events if table != "dead" else 0
    elif table != "dead":
        found.damaged += 1
        found.damaged_events += _bury(db, table, row, now)


def _bury(db: sqlite3.Connection, table: str, row: Row, now: float) -> int:
    events = count_of(row.get("offsets"), row.get("sources"))
    body = row["json" if table == "fragment" else "body"]
    identity = row["id"] if table == "batch" else f"fragment-{row['row']}"
    letter = {
        **_ABSENT,
        "row": None,
        "id": str(identity),
        "route": row["route"] if isinstance(row["route"], int) else 0,
        "events": events,
        "message": "damaged in the spool",
        "life": row["life"],
        "since": now,
        "damaged": 1,
        "check_value": 0,
        "body": body if isinstance(body, bytes) else b"",
    }
    _insert(db, "dead", letter)
    return events


def _insert(db: sqlite3.Connection, table: str, row: Row) -> int:
    names = _FIELDS[table]
    values = [_ABSENT.get(name) if row.get(name) is None else row[name] for name in names]
    # Only names from the tables above become part of the statement.
    statement = f"INSERT INTO {table} ({','.join(names)}) VALUES ({','.join('?' * len(names))})"  # noqa: S608
    return db.execute(statement, values).lastrowid or 0


def _columns(db: sqlite3.Connection, table: str) -> list[str]:
    known = {name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")}
    return [name for name in _FIELDS[table] if name in known]


def _rows(db: sqlite3.Connection, table: str) -> Iterator[Row]:
    """Every row that can be read."""
    try:
        columns = _columns(db, table)
    except sqlite3.DatabaseError:
        return
    if not columns:
        return
    query = f"SELECT {','.join(columns)} FROM {table} NOT INDEXED WHERE rowid=?"  # noqa: S608
    lost = 0
    for number in sorted(_row_numbers(db, table)):
        try:
            values = db.execute(query, (number,)).fetchone()
        except sqlite3.DatabaseError:
            lost += 1
            continue
        if values is not None:
            yield dict(zip(columns, values, strict=True))
    if lost:
        logger.error("damaged spool: %d rows of %s cannot be read", lost, table)


def _row_numbers(db: sqlite3.Connection, table: str) -> set[int]:
    upwards, downwards = (_walk(db, table, "NOT INDEXED", order) for order in ("ASC", "DESC"))
    found = upwards | downwards
    if table == "batch":
        for order in ("ASC", "DESC"):
            found |= _walk(db, table, "INDEXED BY batch_order", order, by="ordinal")
    if upwards and downwards:
        gap = range(max(upwards) + 1, min(downwards))
        found.update(gap if len(gap) <= GAP_MAX else ())
    return found


def _walk(db: sqlite3.Connection, table: str, how: str, order: str, *, by: str = "rowid") -> set[int]:
    found: set[int] = set()
    try:
        for (number,) in db.execute(f"SELECT rowid FROM {table} {how} ORDER BY {by} {order}"):  # noqa: S608
            if number in found:
                break  # a page that leads back to an earlier one
            found.add(number)
    except sqlite3.DatabaseError as exc:
        logger.debug("damaged spool: %s of %s: %s", order, table, exc)
    return found

"""The spool: batches on disk, until VWO has taken them.

One row per sealed batch, kept until its outcome is final.  The order of rows is
the order of sealing (``ordinal``, ``part``).  Fragments hold what was read into a
batch that is still open, so that lane space can be released before it is sealed;
a fragment whose batch was never sealed, because the aggregator was killed, becomes
a batch of its own at the next start.

Every method that changes something is one transaction.  A row names the lane
records it came from: if the aggregator dies after the transaction and before the
records are marked as done, the next start marks them.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vwo_fast.aggregator.failpoint import reach
from vwo_fast.aggregator.salvage import Salvaged, salvage
from vwo_fast.aggregator.sealed import Sealed, Source, unpack_sources
from vwo_fast.aggregator.spool_clock import SpoolClock
from vwo_fast.aggregator.spool_dead import DeadLetters
from vwo_fast.aggregator.spool_file import is_damage, open_or_create, put_aside, put_back
from vwo_fast.aggregator.spool_rows import (
    BATCH_COLUMNS,
    COUNT_EVENTS,
    COUNT_ROWS,
    FRAGMENT_COLUMNS,
    ROW_OVERHEAD,
    UNREADABLE,
    Damaged,
    Fragment,
    OldRow,
    SpoolTotals,
    batch_values,
    count_of,
    fragment_values,
    insert_into,
    joined,
    sealed_of,
)

__all__ = ["FILE_NAME", "Damaged", "Fragment", "OldRow", "Spool", "SpoolTotals"]

logger = logging.getLogger(__name__)

FILE_NAME = "spool.sqlite"
AFTER_ALL = ((1 << 63) - 1, 0)
"""A place in the order of sealing behind every batch."""


class Spool:
    """The database of one queue. Used by one thread."""

    is_there = True
    """Whether it can keep anything at all."""

    def __init__(
        self,
        path: Path,
        *,
        bytes_max: int | None = None,
        is_durable: bool = False,
        clock: SpoolClock | None = None,
    ) -> None:
        """Open the database, or make it. One that is damaged is put aside, and what can be read of it is kept.

        ``is_durable``: what is added is on disk, whatever happens to the machine, when the call returns.
        Raises sqlite3.Error or OSError when there can be no spool now.
        """
        self.path = path
        self.totals = SpoolTotals()
        self.put_aside: Path | None = None
        """Where a damaged database was moved to, if that was needed."""
        self.salvaged = Salvaged()
        """What was read of it."""
        self.is_damaged = False
        """Damage was met since it was opened: it has to be opened again."""
        self._bytes_max = bytes_max
        self._is_durable = is_durable
        self._clock = clock or SpoolClock()
        self._letters = DeadLetters(self.totals, self._clock)
        self._tell: Callable[[int], None] = lambda _events: None
        self._fragment_events: dict[int, int] = {}
        self._fragment_bytes: dict[int, int] = {}
        self._routes: set[int] = set()
        self._undeleted: list[tuple[int | None, str, int | None]] = []
        self._has_shrunk = False
        self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        try:
            return self._ready(open_or_create(self.path))
        except sqlite3.Error as exc:
            if not is_damage(exc):
                raise
            reason = str(exc)
        aside = put_aside(self.path)
        logger.error("the spool is damaged (%s) and is put aside as %s", reason, aside.name)
        try:
            db = open_or_create(self.path)
            try:
                self._clock.open(db)
                self.salvaged = salvage(aside, db, self._clock)
                self._ready(db)
            except BaseException:
                db.close()
                raise
        except BaseException:
            # A full disk, say: with the file in its old place the next start tries the same again.
            put_back(self.path, aside)
            raise
        self.put_aside = aside
        found = self.salvaged
        logger.error(
            "of the damaged spool %d batches, %d parts of batches and %d dead letters are read; %d rows are wrong",
            found.batches,
            found.fragments,
            found.dead,
            found.damaged,
        )
        return db

    def _ready(self, db: sqlite3.Connection) -> sqlite3.Connection:
        try:
            self._clock.open(db)
            db.execute("CREATE TEMP TABLE gone (row INTEGER PRIMARY KEY)")
            self._count(db)
        except BaseException:
            db.close()
            raise
        return db

    def watch(self, tell: Callable[[int], None]) -> None:
        """Have ``tell`` called with the number of events held: after they are kept, and before they are removed."""
        self._tell = tell
        tell(self.totals.events_held)

    def _count(self, db: sqlite3.Connection) -> None:
        batches, events, size = db.execute(
            f"SELECT COUNT(*), COALESCE(SUM(events),0), COALESCE(SUM(LENGTH(body)+{ROW_OVERHEAD}),0) FROM batch"  # noqa: S608
        ).fetchone()
        totals = self.totals
        totals.batches, totals.events, totals.bytes = batches, events, size
        self._letters.count(db)
        self._routes = {key for (key,) in db.execute("SELECT key FROM route")}

    @contextmanager
    def _transaction(self, *, is_durable: bool = False) -> Iterator[sqlite3.Connection]:
        if self._is_durable:
            # A removal that a loss of power undoes costs a duplicate, and no event.
            self._db.execute(f"PRAGMA synchronous={'FULL' if is_durable else 'NORMAL'}")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            reach("spool: before the commit")
            self._db.execute("COMMIT")
            reach("spool: committed")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    def has_room(self, size: int) -> bool:
        """Whether ``size`` more bytes fit under the limit."""
        used = self.totals.bytes + self.totals.fragment_bytes + self.totals.dead_bytes
        return self._bytes_max is None or used + size <= self._bytes_max

    @staticmethod
    def cost(sealed: Sealed) -> int:
        """Bytes that a batch takes, as they are counted against the limit."""
        return sealed.size + ROW_OVERHEAD

    def events_held(self, sealed: Sealed) -> int:
        """How many events of a batch are on disk: all, those in fragments, or none."""
        if sealed.row is not None:
            return sealed.events
        return 0 if sealed.open_id is None else self._fragment_events.get(sealed.open_id, 0)

    # ---- what the loop learns at start

    def routes(self) -> list[tuple[int, bytes]]:
        """(key, canonical bytes) of every route that a row may name."""
        return [(key, bytes(encoded)) for key, encoded in self._db.execute("SELECT key, encoded FROM route")]

    def rows_per_route(self) -> dict[int, int]:
        """How many batches wait, by route."""
        return dict(self._db.execute("SELECT route, COUNT(*) FROM batch GROUP BY route").fetchall())

    def last_ordinal(self) -> int:
        """The highest ordinal that was ever kept, among the rows that are here."""
        (ordinal,) = self._db.execute("SELECT COALESCE(MAX(ordinal),0) FROM batch").fetchone()
        return max(0, int(ordinal))

    def first_ordinal(self) -> int | None:
        """The ordinal of the oldest batch."""
        if not self.totals.batches:
            return None
        found = self._db.execute(
            f"SELECT ordinal FROM batch {self._where_not_gone('WHERE')} ORDER BY ordinal LIMIT 1"  # noqa: S608
        ).fetchone()
        return None if found is None else int(found[0])

    def _where_not_gone(self, word: str) -> str:
        return f"{word} row NOT IN gone" if self._undeleted else ""

    def count_rows(self, table: str, key: str | int) -> int:
        """How many rows of ``batch`` or ``dead`` have this id, or how many fragments belong to an open batch."""
        (count,) = self._db.execute(COUNT_ROWS[table], (key,)).fetchone()
        return int(count)

    def events_of(self, rows: Iterable[tuple[int, str]], open_ids: Iterable[int]) -> int:
        """How many events these batches and the fragments of these open ones hold."""
        keys = [(*row, None) for row in rows] + [(None, None, open_id) for open_id in open_ids]
        found = (each for key in keys for each in self._db.execute(COUNT_EVENTS, key))
        return sum(count_of(offsets, sources) for offsets, sources in found)

    def forget_again(self, rows: Iterable[tuple[int, str]], open_ids: Iterable[int]) -> None:
        """Remove settled batches that an aggregator which was killed did not live to remove."""
        with self._transaction() as db:
            db.executemany("DELETE FROM batch WHERE row=? AND id=?", rows)
            for open_id in open_ids:
                self._delete_fragments(db, open_id)
        self._count(self._db)

    def sources(self) -> Iterator[Source]:
        """Every lane record run that is in the spool."""
        for (packed,) in self._db.execute("SELECT sources FROM batch UNION ALL SELECT sources FROM fragment"):
            with contextlib.suppress(*UNREADABLE):
                yield from unpack_sources(packed)

    def seal_fragments(self) -> Damaged:
        """Turn what is left of batches that were open when the aggregator died into batches.

        Their visitors are not known any more, so each waits for what was sealed before it, and holds back what follows.
        """
        rows = self._db.execute(f"SELECT {FRAGMENT_COLUMNS} FROM fragment ORDER BY row").fetchall()  # noqa: S608
        if not rows:
            return Damaged()
        groups: dict[int, list[Any]] = {}
        for row in rows:
            groups.setdefault(row[1], []).append(row)
        ordinal = self.last_ordinal()
        wrong: list[tuple[Any, ...]] = []
        with self._transaction() as db:
            for group in groups.values():
                ordinal += 1
                try:
                    self._insert(db, joined(group, ordinal), unknown_visitors=True)
                except UNREADABLE:
                    logger.error("a part of a batch in the spool is damaged: it becomes a dead letter")
                    wrong += [(f"fragment-{row[0]}", row[2], row[3], row[5], row[6], row[7]) for row in group]
            events = self._letters.add_unreadable(db, wrong)
            db.execute("DELETE FROM fragment")
        self._count(self._db)
        return Damaged(len(wrong), events)

    # ---- what happens to batches

    def add(self, batches: Sequence[Sealed], routes: Iterable[tuple[int, bytes]]) -> None:
        """Keep batches; their fragments are replaced by them. Raises sqlite3.Error; then nothing has changed."""
        with self._transaction(is_durable=True) as db:
            self._add_routes(db, routes)
            rows = [self._insert(db, sealed) for sealed in batches]
            for sealed in batches:
                self._delete_fragments(db, sealed.open_id)
        self._routes.update(sealed.route_key for sealed in batches)
        for sealed, row in zip(batches, rows, strict=True):
            sealed.row = row
            self._count_batch(sealed, 1)
            self._forget_fragments(sealed)
        self._tell(self.totals.events_held)

    def remove(self, batches: Sequence[Sealed]) -> None:
        """Forget batches whose outcome is final: their rows, their fragments.

        Raises sqlite3.Error when they cannot be deleted now; for everybody else they are gone all the same, and
        :meth:`retry_removing` deletes them.
        """
        kept = [
            (each.row, each.id, each.open_id) for each in batches if each.row is not None or each.open_id is not None
        ]
        if not kept:
            return
        for sealed in batches:
            if sealed.row is not None:
                self._count_batch(sealed, -1)
                sealed.row = None
            self._forget_fragments(sealed)
        self._tell(self.totals.events_held)
        try:
            with self._transaction() as db:
                for row, id_, open_id in kept:
                    self._delete(db, row, id_, open_id)
        except sqlite3.Error:
            self._undeleted += kept
            gone = [(row,) for row, _, _ in kept if row is not None]
            self._db.executemany("INSERT OR IGNORE INTO gone VALUES (?)", gone)
            raise

    def retry_removing(self) -> None:
        """Delete what could not be deleted when it was removed. Raises sqlite3.Error."""
        if self._undeleted:
            with self._transaction() as db:
                for row, id_, open_id in self._undeleted:
                    self._delete(db, row, id_, open_id)
            self._undeleted.clear()
            self._db.execute("DELETE FROM gone")

    def undeleted(self) -> list[tuple[int | None, str, int | None]]:
        """(row, id, open_id) of what is removed and could not be deleted."""
        return list(self._undeleted)

    def _delete(self, db: sqlite3.Connection, row: int | None, id_: str, open_id: int | None) -> None:
        if row is not None:
            db.execute("DELETE FROM batch WHERE row=? AND id=?", (row, id_))
        self._delete_fragments(db, open_id)

    def update(self, batches: Iterable[Sealed]) -> None:
        """Keep what has been tried so far with batches."""
        tried = [
            (each.attempts, each.first_try, each.last_error, each.is_uncertain, each.row)
            for each in batches
            if each.row is not None
        ]
        if tried:
            with self._transaction() as db:
                db.executemany("UPDATE batch SET attempts=?, first_try=?, last_error=?, uncertain=? WHERE row=?", tried)

    def split(self, parent: Sealed, halves: Sequence[Sealed]) -> None:
        """Replace a batch in the spool by its halves, which are as old as it."""
        with self._transaction() as db:
            made = db.execute("SELECT life, since FROM batch WHERE row=?", (parent.row,)).fetchone()
            db.execute("DELETE FROM batch WHERE row=?", (parent.row,))
            rows = [self._insert(db, half, made=made) for half in halves]
        self._count_batch(parent, -1)
        parent.row = None
        for half, row in zip(halves, rows, strict=True):
            half.row = row
            self._count_batch(half, 1)

    def bury(self, sealed: Sealed, *, status: int | None, message: str, excerpt: str) -> None:
        """Turn a batch in the spool into a dead letter."""
        with self._transaction() as db:
            self._letters.add(db, sealed, status=status, message=message, excerpt=excerpt)
            db.execute("DELETE FROM batch WHERE row=?", (sealed.row,))
            self._tell(self.totals.events_held - sealed.events)
        self._count_batch(sealed, -1)
        sealed.row = None
        self._letters.added(sealed)

    def save_fragment(self, fragment: Fragment, routes: Iterable[tuple[int, bytes]]) -> None:
        """Keep a part of an open batch. Raises sqlite3.Error; then nothing has changed."""
        with self._transaction(is_durable=True) as db:
            self._add_routes(db, routes)
            insert_into(db, "fragment", fragment_values(fragment, self._clock.wall()))
        self._routes.add(fragment.route_key)
        events = sum(source.count for source in fragment.sources)
        size = len(fragment.json) + ROW_OVERHEAD
        self._fragment_events[fragment.open_id] = self._fragment_events.get(fragment.open_id, 0) + events
        self._fragment_bytes[fragment.open_id] = self._fragment_bytes.get(fragment.open_id, 0) + size
        self.totals.fragment_events += events
        self.totals.fragment_bytes += size
        self._tell(self.totals.events_held)

    def load(
        self,
        route_key: int,
        after: tuple[int, int],
        before: tuple[int, int] | None = None,
        *,
        rows_max: int,
        bytes_max: int,
    ) -> tuple[list[Sealed], Damaged]:
        """The next batches of a route between two places in the order, the oldest first; at least one if there is one.

        ``before`` None: up to the end.
        """
        rows = self._db.execute(
            f"SELECT {BATCH_COLUMNS} FROM batch WHERE route=? AND (ordinal, part) > (?, ?) AND (ordinal, part) < (?, ?)"  # noqa: S608
            f" {self._where_not_gone('AND')} ORDER BY ordinal, part LIMIT ?",
            (route_key, *after, *(before or AFTER_ALL), rows_max),
        )
        found: list[Sealed] = []
        damaged: list[tuple[Any, ...]] = []
        for row in rows:
            try:
                found.append(sealed_of(row))
            except UNREADABLE:
                damaged.append(row)
                continue
            bytes_max -= found[-1].memory
            if bytes_max <= 0:
                rows.close()
                break
        return found, self._bury_damaged(damaged) if damaged else Damaged()

    def load_row(self, row: int) -> Sealed | Damaged:
        """One batch. Raises sqlite3.Error."""
        found = self._db.execute(f"SELECT {BATCH_COLUMNS} FROM batch WHERE row=?", (row,)).fetchone()  # noqa: S608
        if found is None:
            return Damaged()
        try:
            return sealed_of(found)
        except UNREADABLE:
            return self._bury_damaged([found])

    def _bury_damaged(self, rows: list[tuple[Any, ...]]) -> Damaged:
        with self._transaction() as db:
            # Columns: 0 row, 1 id, 2 route, 9 created, 12 sources, 14 offsets, 15 body.
            events = self._letters.add_unreadable(
                db, ((row[1], row[2], row[9], row[12], row[14], row[15]) for row in rows)
            )
            for row in rows:
                db.execute("DELETE FROM batch WHERE row=?", (row[0],))
        # Whoever counts them as dead letters says in the same step that the spool holds fewer.
        self._count(self._db)
        logger.error("%d batches in the spool are damaged: they become dead letters", len(rows))
        return Damaged(len(rows), events)

    # ---- what is old

    def oldest(self, count: int) -> list[OldRow]:
        """The batches that have been here longest."""
        rows = self._db.execute(
            f"SELECT row, route, events, life, since FROM batch {self._where_not_gone('WHERE')}"  # noqa: S608
            " ORDER BY ordinal, part LIMIT ?",
            (count,),
        )
        return [OldRow(row, route, events, self._clock.age(life, since)) for row, route, events, life, since in rows]

    def oldest_dead(self, count: int) -> list[OldRow]:
        """The dead letters that have been here longest."""
        return self._letters.oldest(self._db, count)

    def drop_dead(self, rows: Iterable[OldRow]) -> None:
        """Delete dead letters."""
        with self._transaction() as db:
            self._letters.delete(db, (old.row for old in rows))
        self._has_shrunk = True
        self._letters.count(self._db)

    # ---- what an operator asked for

    @property
    def changes(self) -> int:
        """Differs from what it was when somebody else has changed the file."""
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        return int(version)

    def take_purged(self) -> int:
        """Events of dead letters that were purged since the last call."""
        events = self._letters.purged(self._db)
        if events:
            with self._transaction() as db:
                db.execute("DELETE FROM purged")
        self._letters.count(self._db)
        return events

    def revive(self, count: int) -> list[Sealed]:
        """Turn dead letters that are to be sent again into the oldest batches; at most ``count`` of them."""
        letters = self._letters.to_send_again(self._db, count)
        if not letters:
            return []
        batches = list(letters.values())
        with self._transaction() as db:
            for sealed in batches:
                sealed.row = self._insert(db, sealed)
            self._letters.delete(db, letters)
        for sealed in batches:
            self._count_batch(sealed, 1)
        self._letters.count(self._db)
        self._tell(self.totals.events_held)
        return batches

    def tidy(self) -> None:
        """Give disk space back once the spool has been emptied."""
        if self._has_shrunk and not self.totals.batches and not self.totals.fragment_events:
            self._has_shrunk = False
            # Each step of this statement frees one page, and only a script is stepped to its end.
            self._db.executescript("PRAGMA incremental_vacuum")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Close the database; its write-ahead log goes into it."""
        with contextlib.suppress(sqlite3.Error):
            self.tidy()
        self._db.close()

    # ---- pieces of transactions

    def _add_routes(self, db: sqlite3.Connection, routes: Iterable[tuple[int, bytes]]) -> None:
        for key, encoded in routes:
            if key not in self._routes:
                db.execute("INSERT OR IGNORE INTO route (key, encoded) VALUES (?,?)", (key, encoded))

    def _insert(
        self,
        db: sqlite3.Connection,
        sealed: Sealed,
        *,
        unknown_visitors: bool = False,
        made: tuple[int, float] | None = None,
    ) -> int:
        life, since = made or (self._clock.life, self._clock.now())
        values = batch_values(sealed, unknown_visitors=unknown_visitors)
        return insert_into(db, "batch", {**values, "life": life, "since": since})

    def _delete_fragments(self, db: sqlite3.Connection, open_id: int | None) -> None:
        if open_id is not None:
            db.execute("DELETE FROM fragment WHERE open_id=?", (open_id,))

    def _forget_fragments(self, sealed: Sealed) -> None:
        if sealed.open_id is not None:
            self.totals.fragment_events -= self._fragment_events.pop(sealed.open_id, 0)
            self.totals.fragment_bytes -= self._fragment_bytes.pop(sealed.open_id, 0)
            sealed.open_id = None

    def _count_batch(self, sealed: Sealed, sign: int) -> None:
        self._has_shrunk |= sign < 0
        self.totals.batches += sign
        self.totals.events += sign * sealed.events
        self.totals.bytes += sign * (sealed.size + ROW_OVERHEAD)

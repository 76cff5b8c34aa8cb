"""A look at the spool from another process, and the two things an operator may do with dead letters.

The aggregator may be at work on the same file: readers of a write-ahead log do not
stop it, and both changes are one transaction each.  What is to be sent again is only
marked here; the aggregator itself puts it into its order, when it notices or starts.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from vwo_fast.aggregator.sealed import RequestHead
from vwo_fast.aggregator.spool_file import connect
from vwo_fast.aggregator.spool_rows import SCHEMA_VERSION, UNREADABLE
from vwo_fast.errors import QueueError
from vwo_fast.route import Route

__all__ = ["Marked", "SpoolView"]

BUSY_MS = 10_000

_SHORT = "id, route, events, attempts, first_try, created, LENGTH(body), head"


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """Dead letters that a command has changed, and those that it could not."""

    letters: int
    events: int
    damaged: int = 0


class SpoolView:
    """The spool of a queue as somebody else sees it."""

    def __init__(self, path: Path) -> None:
        """Open it. Raises QueueError when there is none, or none of this version."""
        if not path.exists():
            raise QueueError(f"{path}: there is no spool; nothing has been kept there yet")
        self.path = path
        try:
            self._db = connect(path)
            self._db.execute(f"PRAGMA busy_timeout={BUSY_MS}")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version != SCHEMA_VERSION:
                raise QueueError(f"{path}: is of another version of vwo_fast (schema {version}, not {SCHEMA_VERSION})")
            self._routes = {key: Route.decode(encoded) for key, encoded in self._rows("SELECT key, encoded FROM route")}
        except (sqlite3.Error, ValueError) as exc:
            raise QueueError(f"{path}: cannot be read: {exc}; the next start of the aggregator mends it") from exc

    def __enter__(self) -> SpoolView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._db.close()

    def _rows(self, query: str, values: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._db.execute(query, values)
        except sqlite3.Error as exc:
            raise QueueError(f"{self.path}: {exc}") from exc

    # ---- what is there

    def batches(self) -> Iterator[dict[str, Any]]:
        """Every batch, the oldest first, without what is in it."""
        for *row, error in self._rows(f"SELECT {_SHORT}, last_error FROM batch ORDER BY ordinal, part"):  # noqa: S608
            yield {**self._short(row), "last_error": error}

    def open_events(self) -> int:
        """Events of batches that are not sealed yet."""
        return int(next(self._rows("SELECT COALESCE(SUM(events), 0) FROM fragment"))[0])

    def letters(self) -> Iterator[dict[str, Any]]:
        """Every dead letter, the oldest first, without what is in it."""
        query = f"SELECT {_SHORT}, status, message, died, damaged, replay FROM dead ORDER BY row"  # noqa: S608
        for row in self._rows(query):
            status, message, died, damaged, replay = row[8:]
            yield {
                **self._short(row[:8]),
                "status": status,
                "message": message,
                "died": _moment(died),
                "damaged": bool(damaged),
                "to_be_sent_again": bool(replay),
            }

    def _short(self, row: Sequence[Any]) -> dict[str, Any]:
        id_, route, events, attempts, first_try, created, size, head = row
        found = self._routes.get(route)
        return {
            "id": id_,
            "account_id": found.account_id if found else None,
            "sdk": found.sdk if found else None,
            "kind": "batch" if head is None else "request",
            "events": events,
            "bytes": size,
            "attempts": attempts,
            "first_try": _moment(first_try),
            "created": _moment(created),
        }

    # ---- what is in it

    def batch(self, wanted: str) -> dict[str, Any] | None:
        """A batch with its events, by its id or by the beginning of it that no other has."""
        found = self._one("batch", wanted, self.batches())
        return None if found is None else {**found, **self._content("batch", found["id"])}

    def letter(self, wanted: str) -> dict[str, Any] | None:
        """A dead letter with its events and what VWO said, likewise."""
        found = self._one("dead letter", wanted, self.letters())
        if found is None:
            return None
        ((excerpt,),) = self._rows("SELECT excerpt FROM dead WHERE id=?", (found["id"],))
        return {**found, "answer": excerpt, **self._content("dead", found["id"])}

    def contents(self) -> Iterator[dict[str, Any]]:
        """Every batch with its events."""
        for short in list(self.batches()):
            content = self._content("batch", short["id"])
            if content:
                yield {**short, **content}

    def _one(self, noun: str, wanted: str, all_of_them: Iterator[dict[str, Any]]) -> dict[str, Any] | None:
        found = [short for short in all_of_them if short["id"].startswith(wanted)]
        exact = [short for short in found if short["id"] == wanted]
        if len(exact or found) > 1:
            raise QueueError(f"{wanted}: is the beginning of more than one {noun}'s id; give more of it")
        return next(iter(exact or found), None)

    def _content(self, table: str, id_: str) -> dict[str, Any]:
        row = next(self._rows(f"SELECT head, body FROM {table} WHERE id=?", (id_,)), None)  # noqa: S608
        if row is None:
            return {}
        head, body = row
        try:
            request = None if head is None else RequestHead.decode(head)
            decoded: Any = json.loads(body) if body else {}
            events = decoded["ev"] if request is None else [decoded]
        except (*UNREADABLE, KeyError):
            return {"unreadable": bytes(body).decode("utf-8", "replace")}
        # Not the query: an SDK key stands in it.
        return {"content": events} if request is None else {"path": request.path, "content": events}

    # ---- what is done with it

    def replay(self, wanted: Sequence[str] | None) -> Marked:
        """Mark dead letters to be sent again; None: all. Damaged ones cannot be."""
        return self._change(wanted, None, "UPDATE dead SET replay=1 WHERE row=?", skip_damaged=True)

    def purge(self, wanted: Sequence[str] | None, *, older_than: float | None = None) -> Marked:
        """Delete dead letters for good; None: all, or those that died more than ``older_than`` seconds ago."""
        return self._change(wanted, older_than, "DELETE FROM dead WHERE row=?", skip_damaged=False)

    def _change(
        self, wanted: Sequence[str] | None, older_than: float | None, statement: str, *, skip_damaged: bool
    ) -> Marked:
        ids = None if wanted is None else {self._letter_id(one) for one in wanted}
        horizon = None if older_than is None else time.time() - older_than
        letters = events = damaged = 0
        try:
            # What is deleted held visitors' data: it is overwritten.
            self._db.execute("PRAGMA secure_delete=ON")
            self._db.execute("BEGIN IMMEDIATE")
            rows = self._db.execute("SELECT row, id, events, damaged, died FROM dead").fetchall()
            for row, id_, count, is_damaged, died in rows:
                if (ids is not None and id_ not in ids) or (horizon is not None and died > horizon):
                    continue
                if skip_damaged and is_damaged:
                    damaged += 1
                    continue
                self._db.execute(statement, (row,))
                letters += 1
                events += count
            if not skip_damaged and events:
                self._db.execute("INSERT INTO purged (events) VALUES (?)", (events,))
            self._db.execute("COMMIT")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as exc:
            raise QueueError(f"{self.path}: {exc}") from exc
        return Marked(letters=letters, events=events, damaged=damaged)

    def _letter_id(self, wanted: str) -> str:
        found = self._one("dead letter", wanted, self.letters())
        if found is None:
            raise QueueError(f"{wanted}: there is no such dead letter")
        return str(found["id"])


def _moment(seconds: object) -> str | None:
    if not isinstance(seconds, (int, float)):
        return None
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return None

"""The way to the spool: open it when that can be done, and go on without it when it cannot.

A disk that is full, read-only, missing or locked must not stop a delivery.  Then
:class:`NoSpool` takes the spool's place: it holds nothing and refuses every write,
so nothing leaves the lanes without an answer of VWO.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vwo_fast.aggregator.metrics import Throttle
from vwo_fast.aggregator.spool import FILE_NAME, Spool
from vwo_fast.aggregator.spool_clock import SpoolClock
from vwo_fast.aggregator.spool_file import is_damage
from vwo_fast.aggregator.spool_rows import SCHEMA
from vwo_fast.config import Settings
from vwo_fast.errors import QueueError
from vwo_fast.locks import LockFile, lock_file
from vwo_fast.paths import spool_folder

__all__ = ["SPOOL_LOCK", "NoSpool", "SpoolDoor"]

logger = logging.getLogger(__name__)

SPOOL_LOCK = "spool.lock"


class NoSpool(Spool):
    """Stands where there is no spool: empty, and not to be written to."""

    is_there = False

    def __init__(self, reason: str, *, holds: int = 0) -> None:
        """``holds``: events that are in the spool that cannot be reached."""
        self.reason = reason
        self._holds = holds
        super().__init__(Path(":memory:"))
        self.totals.events = holds

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        db.executescript(SCHEMA)
        return self._ready(db)

    @contextmanager
    def _transaction(self, *, is_durable: bool = False) -> Iterator[sqlite3.Connection]:
        raise sqlite3.OperationalError(self.reason)
        yield self._db

    def first_ordinal(self) -> int | None:
        """What cannot be reached is older than everything, and has not settled."""
        return -1 if self._holds else None

    def forget_again(self, rows: Iterable[tuple[int, str]], open_ids: Iterable[int]) -> None:
        """Keep in mind what is to be deleted once there is a spool."""
        self._undeleted += [(row, id_, None) for row, id_ in rows]
        self._undeleted += [(None, "", open_id) for open_id in open_ids]

    def retry_removing(self) -> None:
        """Nothing can be deleted."""


class SpoolDoor:
    """Opens the spool of one queue as often as it takes, and keeps others out of it."""

    def __init__(self, settings: Settings, *, clock: SpoolClock | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._lock: LockFile | None = None
        self._ready: Spool | None = None
        self._undeleted: list[tuple[int | None, str, int | None]] = []
        self._throttle = Throttle()

    def open(self, *, holds: int = 0) -> Spool:
        """The spool, or what stands in for it. ``holds``: how many events it is known to hold."""
        if self._ready is not None or self.is_open_again():
            assert self._ready is not None
            spool, self._ready = self._ready, None
            return spool
        return NoSpool(self._reason, holds=holds)

    def refuse(self, reason: str, *, holds: int = 0) -> Spool:
        """What stands in for a spool that was opened and cannot be used all the same."""
        logger.error("the spool cannot be used, and what VWO does not take stays in shared memory: %s", reason)
        return NoSpool(reason, holds=holds)

    def is_open_again(self) -> bool:
        """Whether it can be opened now; then the next :meth:`open` gives it."""
        try:
            self._ready = self._open()
            return True
        except (OSError, sqlite3.Error) as exc:
            self._reason = str(exc)
        if self._throttle.allows("spool"):
            logger.error("there is no spool, and what VWO does not take stays in shared memory: %s", self._reason)
        return False

    def _open(self) -> Spool:
        folder = spool_folder(self._settings)
        lock = lock_file(folder / SPOOL_LOCK)
        # Two queues of one name in different run_dirs would send one spool twice.
        if not lock.acquire(0):
            raise QueueError(f"{folder} is in use by another queue's aggregator: give this one a spool_dir")
        self._lock = lock
        settings = self._settings
        spool = Spool(
            folder / FILE_NAME,
            bytes_max=settings.spool_max_bytes,
            is_durable=settings.durable != "none",
            clock=self._clock,
        )
        try:
            if self._undeleted:
                rows = [(row, id_) for row, id_, _ in self._undeleted if row is not None]
                spool.forget_again(rows, [open_id for _, _, open_id in self._undeleted if open_id is not None])
                self._undeleted.clear()
        except BaseException:
            spool.close()
            raise
        return spool

    def take_back(self, spool: Spool) -> None:
        """Close a spool; what it could not delete is deleted when it is opened again."""
        with contextlib.suppress(sqlite3.Error):
            spool.retry_removing()
        self._undeleted += spool.undeleted()
        spool.close()

    def close(self) -> None:
        """Let others have the spool."""
        if self._ready is not None:
            self._ready.close()
            self._ready = None
        if self._lock is not None:
            self._lock.release(0)
            self._lock = None


def suspect(spool: Spool, exc: sqlite3.Error) -> None:
    """Note damage that was met while the spool was used."""
    spool.is_damaged |= is_damage(exc)

"""How long something has been in the spool, whoever sets the clock of the machine.

Idea: a row notes when it was made in the monotonic clock, and in which life of the
machine.  While that life lasts, its age is a difference of that clock.  What an
earlier life has left is aged once, by the wall clock, when the spool is opened;
from then on it ages by the monotonic clock too.  Key invariant: nothing becomes
older by a clock that is set forward while we look, and nothing is younger than zero.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path

__all__ = ["SpoolClock", "boot_id"]


@cache
def boot_id() -> str:
    """Names this life of the machine; where the system has no such name, this process."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        return uuid.uuid4().hex


class SpoolClock:
    """The lives that rows of one spool come from."""

    def __init__(
        self,
        *,
        boot: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.life = 0
        """Key of the life that lasts."""
        self.wall = wall
        self.now = monotonic
        """The ``since`` of a row that is made now."""
        self.boot = boot or boot_id()
        self._opened = 0.0
        self._bases: dict[int, float] = {}

    def open(self, db: sqlite3.Connection) -> None:
        """Learn the lives that the spool knows, and add this one. Raises sqlite3.Error."""
        self._opened = self.now()
        known = db.execute("SELECT key, boot, wall FROM life").fetchall()
        lasting = [key for key, boot, _ in known if boot == self.boot]
        if lasting:
            self.life = lasting[0]
        else:
            db.execute("INSERT INTO life (boot, wall) VALUES (?,?)", (self.boot, self.wall() - self._opened))
            (self.life,) = db.execute("SELECT MAX(key) FROM life").fetchone()
        self._bases = {}
        for key, boot, wall in known:
            if boot != self.boot:
                # A clock that shows less than the last row of that life was set back since.
                (latest,) = db.execute(
                    "SELECT MAX(COALESCE((SELECT MAX(since) FROM batch WHERE life=?), 0),"
                    " COALESCE((SELECT MAX(since) FROM dead WHERE life=?), 0))",
                    (key, key),
                ).fetchone()
                self._bases[key] = max(self.wall() - wall, latest)

    def age(self, life: int, since: float) -> float:
        """Seconds since a row was made."""
        now = self.now()
        if life == self.life:
            return max(0.0, now - since)
        base = self._bases.get(life)
        return now - self._opened if base is None else max(0.0, base + now - self._opened - since)

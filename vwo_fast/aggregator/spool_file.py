"""The file of the spool: opening it, and what to do when it is damaged.

A file that is damaged, or of another version, is put aside under a name that ends in
``.bad``; nothing ever deletes it.  What can be read of it goes into a new file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from functools import cache
from pathlib import Path
from typing import Any

from vwo_fast.aggregator.spool_rows import SCHEMA, SCHEMA_VERSION

__all__ = ["connect", "is_damage", "is_misnamed", "open_or_create", "put_aside", "put_back"]

logger = logging.getLogger(__name__)

BUSY_SECONDS = 0.25
"""How long the loop may stand still because somebody else writes: an operator's commands are short."""

PAGE_BYTES = 4096
LOG_BYTES = 1 << 22
"""SQLite's log beside the file grows to this, and by one transaction, before what is in it goes into the file."""
COMPANIONS = ("-wal", "-shm", "")


class _Connection(sqlite3.Connection):
    """Says of each damage that it is one, also when SQLite's message quotes bytes of the file that are no text."""

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        try:
            return super().execute(*arguments)
        except UnicodeDecodeError as exc:
            raise sqlite3.DatabaseError("malformed: SQLite's message about it is no text") from exc


def connect(path: Path, *, mode: str = "rw") -> sqlite3.Connection:
    """A connection to an existing file. Raises sqlite3.Error."""
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_SECONDS,
        factory=_Connection,
    )
    # Damage must show as a wrong check value of one row, not as an error of a whole query.
    db.text_factory = lambda data: data.decode("utf-8", "replace")
    return db


def open_or_create(path: Path) -> sqlite3.Connection:
    """The spool at ``path``, whole and of this version. Raises sqlite3.Error, or OSError when there can be none."""
    # SQLite gives its other files the mode of this one.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    db = connect(path)
    try:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            db.execute(f"PRAGMA page_size={PAGE_BYTES}")
            db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute(f"PRAGMA wal_autocheckpoint={LOG_BYTES // PAGE_BYTES}")
        db.execute(f"PRAGMA journal_size_limit={LOG_BYTES}")
        db.execute("PRAGMA temp_store=MEMORY")
        if version == 0:
            db.executescript(f"BEGIN;{SCHEMA}PRAGMA user_version={SCHEMA_VERSION};COMMIT;")
        elif version != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"made by another version: schema {version}, ours is {SCHEMA_VERSION}")
        # The long form: it also finds an index that no longer fits its table, behind which rows would hide.
        (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        # It does not look at names: a column that is called otherwise would be missed at its first use.
        if is_misnamed(db):
            raise sqlite3.DatabaseError("its schema is not ours")
    except BaseException:
        db.close()
        raise
    return db


def is_misnamed(db: sqlite3.Connection) -> bool:
    """Whether it says that it is of our version and has not our schema. Raises sqlite3.Error when it cannot be read."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return version == SCHEMA_VERSION and _schema_of(db) != _schema_expected()


def _schema_of(db: sqlite3.Connection) -> list[tuple[str, ...]]:
    return db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name").fetchall()


@cache
def _schema_expected() -> list[tuple[str, ...]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.executescript(SCHEMA)
        return _schema_of(db)


def is_damage(exc: sqlite3.Error) -> bool:
    """Whether the file itself is wrong. A lock, a full disk and a missing permission are no damage."""
    if not isinstance(exc, sqlite3.DatabaseError):
        return False
    if not isinstance(exc, (sqlite3.OperationalError, sqlite3.IntegrityError, sqlite3.ProgrammingError)):
        return True
    # A file that lost a table, or whose header was hit, shows as an operational error too.
    text = str(exc)
    return any(
        sign in text for sign in ("malformed", "no such table", "no such column", "unsupported file format", "already")
    )


def put_aside(path: Path) -> Path:
    """Rename a damaged file with its log. Raises OSError."""
    aside = path.with_name(f"{path.name}.{time.time_ns()}.bad")
    # The shared memory of a log is made anew from the log.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{path}-shm")
    for suffix in ("-wal", ""):
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
    return aside


def put_back(path: Path, aside: Path) -> None:
    """Undo :func:`put_aside`; what was made in the meantime goes."""
    for suffix in COMPANIONS:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}{suffix}")
    for suffix in COMPANIONS:
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{aside}{suffix}", f"{path}{suffix}")

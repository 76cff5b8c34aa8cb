"""Locks that the kernel keeps, and so the only truth about who lives.

``fcntl`` locks belong to a process and vanish with it, however it ends; a forked
child does not inherit them.  Two traps shape this module: closing *any*
descriptor of a file drops all of the process's locks on it, so each lock file is
opened once per process and never closed; and a process cannot see its own locks,
so what this process holds is remembered here.

``flock`` is used for the short critical sections of opening a queue, because it
excludes threads of one process as well; it is always unlocked explicitly, since a
child forked meanwhile keeps a copy of the descriptor.  That a child keeps it is what
``launch.lock`` is for: it is handed to the process that is launched.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "AGGREGATOR_LOCK",
    "LAUNCH_LOCK",
    "OPEN_LOCK",
    "USERS_LOCK",
    "LockFile",
    "exclusive",
    "is_inherited_lock_held",
    "lock_file",
    "lock_to_inherit",
    "random_id",
]

AGGREGATOR_LOCK = "aggregator.lock"
LAUNCH_LOCK = "launch.lock"
OPEN_LOCK = "open.lock"
USERS_LOCK = "users.lock"

ID_BITS = 62

LOOKS_MAX = 10
LOOK_SECONDS = 0.001

if sys.platform == "darwin":
    # struct flock: start, length, pid, type, whence.
    _FLOCK = struct.Struct("@qqihh")
    _TYPE_INDEX = 3
else:
    # struct flock: type, whence, start, length, pid.
    _FLOCK = struct.Struct("@hhqqi4x" if struct.calcsize("P") == 8 else "@hhqqi")
    _TYPE_INDEX = 0


def random_id() -> int:
    """A random id of 62 bits, never 0: member, lane and owner ids, and offsets in ``users.lock``."""
    return int.from_bytes(os.urandom(8), "big") >> (64 - ID_BITS) or 1


class LockFile:
    """A file whose bytes are locked one by one. Get it with :func:`lock_file`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = _open(path)
        status = os.fstat(self._fd)
        self.identity = (status.st_dev, status.st_ino)
        self._held: dict[int, int] = {}

    def fileno(self) -> int:
        """The descriptor, for asking only: it stays open as long as this process lives."""
        return self._fd

    def acquire(self, offset: int) -> bool:
        """Lock one byte for this process without waiting. False: another process has it."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset, os.SEEK_SET)
        except (BlockingIOError, PermissionError):
            return False
        self._held[offset] = os.getpid()
        return True

    def release(self, offset: int) -> None:
        """Unlock a byte that this process holds."""
        if self._held.pop(offset, None) == os.getpid():
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, offset, os.SEEK_SET)

    def is_held(self, offset: int) -> bool:
        """Whether any process, this one included, holds the byte."""
        return self._held.get(offset) == os.getpid() or self._probe(offset, 1)

    def any_held_by_others(self) -> bool:
        """Whether any byte is held by another process."""
        return self._probe(0, 0)

    def any_held_here(self) -> bool:
        """Whether this process holds any byte."""
        return os.getpid() in self._held.values()

    def _probe(self, start: int, length: int) -> bool:
        fields = [0, 0, 0, 0, 0]
        if sys.platform == "darwin":
            fields[0], fields[1], fields[4] = start, length, os.SEEK_SET
        else:
            fields[1], fields[2], fields[3] = os.SEEK_SET, start, length
        fields[_TYPE_INDEX] = fcntl.F_WRLCK
        answer = fcntl.fcntl(self._fd, fcntl.F_GETLK, _FLOCK.pack(*fields))
        return bool(_FLOCK.unpack(answer)[_TYPE_INDEX] != fcntl.F_UNLCK)


_open_files: dict[str, LockFile] = {}
_outlived: list[LockFile] = []


def lock_file(path: Path) -> LockFile:
    """The one :class:`LockFile` of this process for ``path``.

    A folder that was deleted and made anew gives a new file; the old one stays
    open, because closing it could not be told apart from closing the new one.
    """
    known = _open_files.get(str(path))
    if known is not None:
        try:
            status = os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            pass
        else:
            if known.identity == (status.st_dev, status.st_ino):
                return known
        _outlived.append(known)
    made = LockFile(path)
    _open_files[str(path)] = made
    return made


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the ``flock`` of ``path`` for a short critical section."""
    fd = _open(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def lock_to_inherit(path: Path) -> int | None:
    """A descriptor with the ``flock`` of ``path``, for a child to inherit; None when another has it.

    The lock is held until the child has ended, and the caller has closed the descriptor.  A child that another
    thread forks in between keeps it too.
    """
    fd = _open(path)
    for _ in range(LOOKS_MAX):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            # Most likely of one who only looks whether it is held.
            time.sleep(LOOK_SECONDS)
    os.close(fd)
    return None


def is_inherited_lock_held(path: Path) -> bool:
    """Whether a process lives that inherited the lock of :func:`lock_to_inherit`."""
    fd = _open(path)
    try:
        # Shared, so that two who look do not take each other for the holder.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _open(path: Path) -> int:
    """A descriptor of the file, which is made when it is absent. Raises OSError for what is no file."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return fd

"""Folders: where they are by default, and the check that they are ours.

/dev/shm and the temporary folder are everybody's.  Whoever could make our
folder first, or enter it, could read visitors' data or feed us events.  So a
folder is used only when it is a real folder of this user that nobody else may
enter; it is judged through a descriptor that was opened without following a
link, so that what was judged is what is there.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vwo_fast.errors import ConfigError, QueueError

if TYPE_CHECKING:
    from vwo_fast.config import Settings

__all__ = [
    "CTL_PATH_MAX",
    "check_socket_path",
    "default_run_dir",
    "default_spool_dir",
    "is_another",
    "private_folder",
    "queue_folder",
    "read_private",
    "spool_folder",
]

CTL_PATH_MAX = 103 if sys.platform == "darwin" else 107
"""Bytes of the path of a Unix socket, the closing NUL not counted."""

_NO_FILE_OF_OURS = frozenset((errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENODEV, errno.ENXIO))

_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - what is made there is checked by private_folder
_LASTING_TEMPORARY = "/var/tmp"  # noqa: S108 - likewise


def default_run_dir() -> Path:
    """Folder vwo_fast-<uid> in /dev/shm, or in the temporary folder where that cannot be written to."""
    name = f"vwo_fast-{os.geteuid()}"
    usable = os.path.isdir(_SHARED_MEMORY) and os.access(_SHARED_MEMORY, os.W_OK | os.X_OK)
    if sys.platform.startswith("linux") and usable:
        return Path(_SHARED_MEMORY, name)
    # Imported here because it pulls in much that a worker on Linux never needs.
    import tempfile

    return Path(os.path.abspath(tempfile.gettempdir()), name)


def default_spool_dir() -> Path:
    """Folder vwo_fast-<uid> in /var/tmp, which unlike /tmp is kept over a reboot."""
    return Path(_LASTING_TEMPORARY, f"vwo_fast-{os.geteuid()}")


def private_folder(path: str | os.PathLike[str], create: bool = True) -> Path:
    """The folder, made when it is absent, once it is known to be ours alone. Raises QueueError."""
    folder = Path(os.path.abspath(path))
    if create:
        _make(folder)
    try:
        seen = os.lstat(folder)
        if stat.S_ISLNK(seen.st_mode):
            raise QueueError(f"{folder}: is a symbolic link; remove it, or name the folder that it leads to")
        if not stat.S_ISDIR(seen.st_mode):
            raise QueueError(f"{folder}: is not a folder; remove it, or choose another path")
        _check_owner(folder, seen)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as exc:
        raise QueueError(f"{folder}: does not exist; is the queue's name right, and has it been opened?") from exc
    except QueueError:
        raise
    except OSError as exc:
        raise QueueError(f"{folder}: cannot be opened: {exc.strerror}; check its owner and permissions") from exc
    try:
        opened = os.fstat(handle)
    finally:
        os.close(handle)
    if (opened.st_dev, opened.st_ino) != (seen.st_dev, seen.st_ino):
        raise QueueError(f"{folder}: was replaced while it was checked; find out who does that")
    _check_owner(folder, opened)
    return folder


def queue_folder(settings: Settings, create: bool = True) -> Path:
    """The queue's folder in run_dir, made and checked. Raises ConfigError when a socket in it could not have a path."""
    check_socket_path(settings)
    private_folder(settings.run_dir, create)
    return private_folder(settings.queue_dir, create)


def check_socket_path(settings: Settings) -> int:
    """Length of the path of the queue's socket. Raises ConfigError when it is more than the system allows."""
    path = settings.queue_dir / "ctl"
    length = len(os.fsencode(path))
    if length > CTL_PATH_MAX:
        raise ConfigError(
            f"run_dir={str(settings.run_dir)!r}: the path of the queue's socket, {str(path)!r}, has {length} bytes, "
            f"and the system allows {CTL_PATH_MAX}; choose a run_dir (or a queue name) that is shorter by "
            f"{length - CTL_PATH_MAX}"
        )
    return length


def spool_folder(settings: Settings, create: bool = True) -> Path:
    """The queue's folder in spool_dir, made and checked."""
    private_folder(settings.spool_dir, create)
    return private_folder(settings.queue_spool_dir, create)


def is_another(folder: Path, inode: int) -> bool:
    """Whether a folder was deleted, or made anew: who opens it now does not find what is in the one of that number."""
    try:
        return os.stat(folder).st_ino != inode
    except (FileNotFoundError, NotADirectoryError):
        return True


def _make(folder: Path) -> None:
    """Make the folder and its missing parents, each 0700 from its first moment."""
    missing = []
    place = folder
    while not os.path.lexists(place):
        missing.append(place)
        place = place.parent
    for place in reversed(missing):
        try:
            os.mkdir(place, 0o700)
        except FileExistsError:
            # Another process was faster; whether it may have been is judged by the check that follows.
            continue
        except OSError as exc:
            raise QueueError(f"{folder}: {place} cannot be made: {exc.strerror}; choose another path") from exc


def _check_owner(folder: Path, found: os.stat_result) -> None:
    user = os.geteuid()
    if found.st_uid != user:
        raise QueueError(
            f"{folder}: belongs to user id {found.st_uid}, and this process runs as {user}; "
            "run all processes of a queue as one user, or choose another path"
        )
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise QueueError(
            f"{folder}: others may enter it (mode {mode:04o}); do `chmod 700 {folder}` or choose another path"
        )
    if mode & 0o700 != 0o700:
        raise QueueError(f"{folder}: its owner may not use it (mode {mode:04o}); do `chmod 700 {folder}`")


def read_private(path: Path, bytes_max: int) -> bytes:
    """The first ``bytes_max`` bytes of a file of ours.

    Raises FileNotFoundError also when something else lies there, for that does not change by waiting: a pipe would
    hold us for ever, a link would lead us elsewhere.  Raises OSError when the file cannot be read now.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno in _NO_FILE_OF_OURS:
            raise FileNotFoundError(errno.ENOENT, "not a file of ours", str(path)) from exc
        raise
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise FileNotFoundError(errno.ENOENT, "not a file of ours", str(path))
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(bytes_max)
    finally:
        os.close(handle)

"""How the aggregator lives as a process: alone on its queue, detached from whoever launched it, with a log."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path

__all__ = ["StopRequest", "detach", "lift_descriptor_limit", "log_to", "stop_signals"]

LOG_FILE = "aggregator.log"
LOG_BYTES = 1_000_000
LOG_FILES = 3
FIRST_INHERITED_FD = 3

_FORMAT = "%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"


def detach(lock: Path | None = None) -> None:
    """Cut everything that ties this process to the one that launched it, but for the ``lock`` that came from there.

    A server's listening sockets come along as open descriptors (uWSGI marks none of its own
    as close-on-exec); kept here they would keep its port taken after it has stopped.
    """
    _close_inherited(lock)
    with contextlib.suppress(PermissionError):
        os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(FIRST_INHERITED_FD):
        os.dup2(null, fd)
    if null >= FIRST_INHERITED_FD:
        os.close(null)


def _close_inherited(lock: Path | None) -> None:
    kept = None
    if lock is not None:
        with contextlib.suppress(OSError):
            kept = os.stat(lock)
    listing = "/proc/self/fd" if sys.platform.startswith("linux") else "/dev/fd"
    try:
        open_fds = [int(name) for name in os.listdir(listing)]
    except OSError:
        open_fds = list(range(FIRST_INHERITED_FD, 1024))
    for fd in open_fds:
        if fd >= FIRST_INHERITED_FD:
            with contextlib.suppress(OSError):
                if kept is None or not os.path.samestat(os.fstat(fd), kept):
                    os.close(fd)


def lift_descriptor_limit(wanted: int) -> None:
    """Allow this process up to ``wanted`` open files, as far as it may decide that itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lifted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < lifted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (lifted, hard))


@contextmanager
def log_to(*folders: Path) -> Iterator[None]:
    """Log of everything under ``vwo_fast``: to ``aggregator.log`` in the first folder that takes it.

    Without a folder it goes to stderr; when none takes it, nowhere: a log is no reason to stop.
    """
    handler = _file_handler(folders) if folders else logging.StreamHandler()
    handler.setFormatter(logging.Formatter(_FORMAT))
    logger = logging.getLogger("vwo_fast")
    level = logger.level
    logger.addHandler(handler)
    if level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


class StopRequest:
    """The wish to end, which may come while there is nothing yet that could end in good order."""

    def __init__(self) -> None:
        self.is_made = False
        self._stop: Callable[[], None] | None = None

    def __call__(self) -> None:
        self.is_made = True
        if self._stop is not None:
            self._stop()

    def connect(self, stop: Callable[[], None]) -> None:
        """Hand the wish on, also one that has been made already."""
        self._stop = stop
        if self.is_made:
            stop()


def _file_handler(folders: Iterable[Path]) -> logging.Handler:
    for folder in folders:
        path = folder / LOG_FILE
        with contextlib.suppress(OSError):
            # A pipe in its place would hold us until somebody reads it.
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
            is_file = stat.S_ISREG(os.fstat(fd).st_mode)
            os.close(fd)
            if is_file:
                return RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES - 1, encoding="utf-8")
    return logging.NullHandler()


@contextmanager
def stop_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` at SIGTERM and SIGINT. Only a main thread may ask for signals; others are stopped by message."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: stop()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

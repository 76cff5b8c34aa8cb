"""Files that look old are deleted by cleaners of temporary folders; those of a queue in use must not look old.

systemd-tmpfiles takes what was not touched for 10 days in /tmp and for 30 in /var/tmp, macOS what
was not for 3.  A lock file is never written, and a spool not while VWO answers.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["UPKEEP_SECONDS", "Upkeep"]

UPKEEP_SECONDS = 3600.0


class Upkeep:
    """Touches the folders and their files, at once and then every hour. One thread."""

    def __init__(self, *folders: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folders = folders
        self._clock = clock
        self._due = clock()

    def look(self) -> None:
        """Touch them if it is time. What cannot be touched, on a disk that is read-only say, stays as it is."""
        now = self._clock()
        if now < self._due:
            return
        self._due = now + UPKEEP_SECONDS
        for folder in self._folders:
            with contextlib.suppress(OSError):
                os.utime(folder)
                for entry in os.scandir(folder):
                    with contextlib.suppress(OSError):
                        os.utime(entry.path, follow_symlinks=False)

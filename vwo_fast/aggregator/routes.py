"""The routes that records name by key: read from the queue's folder, or known from the spool.

A route that is not there may be the first sign that the folder is being deleted, file by file: then its events
must stay where they are, for their process takes them along.  So it is missed for a while before it is unknown.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from vwo_fast._lane import Control
from vwo_fast.aggregator.metrics import Throttle
from vwo_fast.paths import is_another, read_private
from vwo_fast.route import Route, route_key

__all__ = ["Routes"]

logger = logging.getLogger(__name__)

ROUTE_BYTES_MAX = 1 << 16
MISSED_SECONDS = 2.0
"""More than the aggregator takes to notice that its folder is gone."""


class Routes:
    """Routes by key. A route never changes: its key is the hash of its content."""

    def __init__(self, folder: Path, control: Control, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._folder_inode = os.stat(folder).st_ino
        self._control = control
        self._clock = clock
        self._missed_since: dict[int, float] = {}
        self._known: dict[int, Route] = {}
        self._unknown: dict[int, int] = {}
        self._throttle = Throttle()

    def get(self, key: int) -> Route | None:
        """The route, or None when there is no file that proves to be it.

        Raises OSError when that cannot be told now (no descriptor free, say, or it has just been missed).
        """
        route = self._known.get(key)
        if route is None and self._unknown.get(key) != self._control.generation:
            route = self._read(key)
            if route is None:
                # A producer writes the file before its first record, so only a new generation can bring it.
                self._unknown[key] = self._control.generation
        return route

    def add(self, key: int, encoded: bytes) -> Route | None:
        """Learn a route from its canonical bytes; None when they are not it."""
        if route_key(encoded) != key:
            return None
        try:
            route = Route.decode(encoded)
        except ValueError:
            return None
        self._known[key] = route
        return route

    def _read(self, key: int) -> Route | None:
        path = self._folder / f"route-{key:016x}"
        try:
            encoded = read_private(path, ROUTE_BYTES_MAX)
        except FileNotFoundError:
            since = self._missed_since.setdefault(key, self._clock())
            if self._clock() - since < MISSED_SECONDS or is_another(self._folder, self._folder_inode):
                raise
            if self._throttle.allows(key):
                logger.error("records of an unknown route are dropped: there is no %s", path.name)
            return None
        route = self.add(key, encoded)
        if route is None and self._throttle.allows(key):
            logger.error("records of an unknown route are dropped: %s is not the route it is named after", path.name)
        return route

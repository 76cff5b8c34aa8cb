"""The window on the spool: which of its batches are in memory, in the order in which they are to be sent.

Memory stays bounded however much waits on disk: a line holds the oldest of its spooled batches,
and more are read when these have gone; of the others it holds some of the most recent.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping

from vwo_fast.aggregator.bounds import Observer
from vwo_fast.aggregator.failpoint import reach
from vwo_fast.aggregator.line import Line
from vwo_fast.aggregator.metrics import Metrics
from vwo_fast.aggregator.spool import Spool

__all__ = ["LOADED_BATCHES_MAX", "LOADED_BYTES_MAX", "Window"]

logger = logging.getLogger(__name__)

LOADED_BATCHES_MAX = 512
"""As many small batches as one request may carry."""
LOADED_BYTES_MAX = 16_000_000
RECENT_BYTES_MAX = 4_000_000


class Window:
    """Reads batches of the spool into lines, and drops them from memory again. One thread."""

    def __init__(
        self,
        *,
        spool: Spool,
        lines: Mapping[int, Line],
        metrics: Metrics,
        observer: Observer,
        complain: Callable[[sqlite3.Error], None],
    ) -> None:
        self._spool = spool
        self._lines = lines
        self._metrics = metrics
        self._observer = observer
        self._complain = complain

    def load(self, line: Line) -> None:
        """Have the next batches of a line in memory, if there are some on disk and few are left to be sent."""
        if not line.unloaded or line.waiting() > LOADED_BATCHES_MAX // 4:
            return
        budget = self._budget()
        if line.loaded and budget <= 0:
            return
        if budget <= 0:
            # However many routes wait: what others have in memory is read again when it is their turn.
            for other in self._lines.values():
                other.evict_recent(0)
                if other is not line:
                    other.evict(0)
        rows_max = 1 if line.gate.failures else LOADED_BATCHES_MAX
        reach("load: before")
        try:
            found, damaged = self._spool.load(line.route_key, *line.gap(), rows_max=rows_max, bytes_max=budget)
        except sqlite3.Error as exc:
            self._complain(exc)
            return
        line.add_loaded(found)
        if damaged.rows or not found:
            line.missed(damaged.rows or line.unloaded)
            self._metrics.unreadable(damaged.events)
            self._observer.lost(damaged.events)

    def trim(self, line: Line) -> None:
        """Drop from memory what is more than a line may have there, once it is in the spool.

        A line with a gap keeps some of its recent batches, so that they need not wait until it is closed.
        """
        line.evict(1 if line.gate.failures else LOADED_BATCHES_MAX)
        if line.loaded_bytes() > LOADED_BYTES_MAX:
            line.evict(1)
        is_scarce = line.is_failing or self._budget() <= 0
        line.evict_recent(0 if is_scarce else RECENT_BYTES_MAX)

    def _budget(self) -> int:
        return LOADED_BYTES_MAX - sum(line.loaded_bytes() for line in self._lines.values())

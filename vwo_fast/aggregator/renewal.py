"""When all rooms begin anew, in the same process: the spool is damaged, or there is one again.

Idea: a start is the one way in which rooms learn what the spool and the lanes hold,
and it is the way that every kill goes through.  So when that has changed under our
feet, nothing is mended in place: sending stops, the answers to what is on its way are
waited for, and everything starts again.  What was not released is in the lanes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from vwo_fast.aggregator.metrics import Metrics
from vwo_fast.aggregator.shipper import Shipper
from vwo_fast.aggregator.spool import Spool
from vwo_fast.aggregator.spool_door import SpoolDoor
from vwo_fast.config import Settings
from vwo_fast.counters import ControlCounter

__all__ = ["Renewal"]

logger = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
"""How often it is tried to open a spool that could not be opened."""


class Renewal:
    """Decides that it is time. One thread."""

    def __init__(
        self,
        settings: Settings,
        *,
        spool: Spool,
        door: SpoolDoor,
        shipper: Shipper,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spool = spool
        self._door = door
        self._shipper = shipper
        self._metrics = metrics
        self._clock = clock
        self._patience = settings.connect_timeout + settings.read_timeout
        self._retry_at = clock() + RETRY_SECONDS
        self._until: float | None = None

    @property
    def is_begun(self) -> bool:
        """Whether nothing more is sent before the rooms begin anew."""
        return self._until is not None

    def look(self) -> None:
        """See whether it is time; called now and then."""
        if self.is_begun:
            return
        if self._spool.is_damaged:
            logger.error("the spool is damaged: everything starts again, with what can be read of it")
            self._begin()
        elif not self._spool.is_there and self._clock() >= self._retry_at:
            self._retry_at = self._clock() + RETRY_SECONDS
            if self._door.is_open_again():
                logger.info("there is a spool again")
                self._begin()
            else:
                self._metrics.add(ControlCounter.SPOOL_FAILURES)

    def _begin(self) -> None:
        self._until = self._clock() + self._patience
        self._shipper.is_closed = True

    def is_over(self) -> bool:
        """Whether the rooms may be closed now."""
        return self._until is not None and (not self._shipper.in_flight or self._clock() >= self._until)

    def next_due(self) -> float | None:
        """When waiting for answers ends."""
        return self._until

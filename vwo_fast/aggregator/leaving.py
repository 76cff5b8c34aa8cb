"""When the aggregator ends, and how.

It ends by itself when nobody uses the queue and nothing is left to send, and when
it is told to.  Told to, it first tries to deliver; what is not delivered after a
part of its time, or at once when VWO is away, goes to the spool.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from vwo_fast._lane import SegmentError
from vwo_fast.aggregator.barrier import Barriers
from vwo_fast.aggregator.batcher import Batcher
from vwo_fast.aggregator.failpoint import reach
from vwo_fast.aggregator.lanes import LaneSet
from vwo_fast.aggregator.shipper import Shipper
from vwo_fast.config import Settings
from vwo_fast.locks import OPEN_LOCK, LockFile

__all__ = ["Leaving"]

DELIVER_SHARE = 0.6
"""Part of ``shutdown_timeout`` in which delivery is tried; the rest is for saving."""

CHECK_SECONDS = 0.5


class Leaving:
    """Decides when the loop ends."""

    def __init__(
        self,
        settings: Settings,
        *,
        folder: Path,
        lanes: LaneSet,
        batcher: Batcher,
        shipper: Shipper,
        barriers: Barriers,
        users: LockFile,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.asked = False
        """Set by whoever wants the aggregator to end."""
        self._folder = folder
        self._lanes = lanes
        self._batcher = batcher
        self._shipper = shipper
        self._barriers = barriers
        self._timeout = settings.shutdown_timeout
        # One that others start and watch stays until they end it.
        self._idle_exit = settings.idle_exit if settings.aggregator == "auto" else float("inf")
        self._users = users
        self._clock = clock
        self._is_over = False
        self._asked_at: float | None = None
        self._targets: dict[int, int] = {}
        self._alone_since: float | None = None
        self._checked_at = 0.0
        # Kept open until the process ends: whoever opens the queue waits for it, and then finds no aggregator.
        self._open_lock = -1

    @property
    def is_begun(self) -> bool:
        """Whether the end was asked for."""
        return self.asked

    def is_over(self) -> bool:
        """Whether the loop should end now."""
        return self._is_over

    def summary(self) -> str:
        """Why it ended."""
        return "stopped" if self.asked else "left, as nobody uses the queue"

    def next_due(self) -> float | None:
        """When there is something to decide."""
        if self.asked:
            return self._clock() + 0.01
        return None if self._alone_since is None else self._checked_at + CHECK_SECONDS

    def advance(self) -> None:
        """Look at the state of things; called every turn."""
        if self.asked:
            self._advance_stop()
        elif self._clock() - self._checked_at >= CHECK_SECONDS:
            self._checked_at = self._clock()
            self._advance_idle()

    # ---- told to stop

    def _advance_stop(self) -> None:
        now = self._clock()
        if self._asked_at is None:
            self._asked_at = now
            self._lanes.scan()
            self._targets = self._heads()
            self._shipper.kick()
        elapsed = now - self._asked_at
        is_late = elapsed > self._timeout * DELIVER_SHARE
        is_read = self._is_read()
        if is_read:
            self._batcher.seal_all()
        if is_late or self._shipper.is_failing:
            self._batcher.seal_all()
            reach("leaving: sealed")
            # What does not fit into the spool stays in the lanes, and is read at the next start.
            is_saved = self._shipper.fresh.spill_all()
            self._is_over = is_late and (is_read or not is_saved)
        if is_read and not self._shipper.fresh.batches:
            # What is left is on disk; only the answers to what is on its way are worth a wait.
            self._shipper.is_closed = True
            self._is_over |= not self._shipper.in_flight
        self._is_over |= elapsed > self._timeout

    def _heads(self) -> dict[int, int]:
        heads = {}
        for lane in self._lanes.lanes.values():
            try:
                heads[lane.id] = lane.head()
            except SegmentError:
                continue
        return heads

    def _is_read(self) -> bool:
        lanes = self._lanes.lanes
        unread = [lanes[lane] for lane, head in self._targets.items() if lane in lanes and lanes[lane].read_to < head]
        # In a folder that was deleted nothing comes that a lane waits for; its process takes the rest along.
        return not unread or (self._lanes.is_folder_gone and all(lane.is_waiting for lane in unread))

    # ---- nobody there

    def _advance_idle(self) -> None:
        now = self._clock()
        if self._users.any_held_by_others() or len(self._barriers):
            self._alone_since = None
            return
        if self._alone_since is None:
            self._alone_since = now
        if now - self._alone_since < self._idle_exit:
            return
        # Nobody will add to them.
        self._batcher.seal_all()
        if self._has_nothing_left():
            self._try_to_leave()

    def _has_nothing_left(self) -> bool:
        return self._shipper.is_empty and not self._batcher.open_events and not self._has_unread()

    def _has_unread(self) -> bool:
        return any(self._lanes.lanes[lane].read_to != head for lane, head in self._heads().items())

    def _try_to_leave(self) -> None:
        """Leave only while nobody can open the queue, and only if nobody has opened it meanwhile."""
        path = self._folder / OPEN_LOCK
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return
        self._lanes.scan()
        self._lanes.retire()
        if self._users.any_held_by_others() or not self._has_nothing_left():
            os.close(fd)
            return
        reach("leaving: decided")
        self._open_lock = fd
        self._is_over = True

    def release(self) -> None:
        """Let others open the queue again, once the aggregator's own lock is free."""
        if self._open_lock >= 0:
            os.close(self._open_lock)
            self._open_lock = -1

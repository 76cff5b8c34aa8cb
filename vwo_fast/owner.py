"""The lane of a process, and what is done when something is not as usual.

An :class:`Owner` stands between a queue and its compiled producers.  They come here
for the first event of a process (or of a forked child), to wake an aggregator that
sleeps, to see that one lives, when the lane is full, and for an event that is
refused.  Key invariant: the lane in which this process writes is one that somebody
reads; where it was put aside, or its folder was deleted, the process moves what
nobody has read into another.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

from vwo_fast import _lane, stats
from vwo_fast._log import get_logger
from vwo_fast.client import Link
from vwo_fast.counters import Reason
from vwo_fast.doorbell import Doorbell
from vwo_fast.errors import ConfigError, QueueError
from vwo_fast.folder import Membership, write_private
from vwo_fast.locks import AGGREGATOR_LOCK, LockFile, lock_file, random_id
from vwo_fast.paths import read_private
from vwo_fast.reports import FlushCallback, ReportListener

__all__ = ["Owner"]

logger = get_logger(__name__)

LOG_INTERVAL_SECONDS = 60.0
ATTACH_RETRY_SECONDS = 1.0
LANE_BYTES_MIN = 1 << 16
BLOCKED_NAP_SECONDS = 0.001
SHRINK_SECONDS = 10.0
GROWTH_RESERVE = 4
"""A lane grows only to a size of which shared memory has this many times free."""


class Owner(_lane.LaneOwner):
    """The lane of this process, and the hooks that the compiled producer calls."""

    def __init__(self, member: Membership, callback: FlushCallback | None, link: Link) -> None:
        super().__init__(member.control)
        self.member = member
        self.callback = callback
        self.link = link
        self.owner_id = 0
        self.listener: ReportListener | None = None
        self.is_closed = False
        self.body_bytes_max = member.settings.body_bytes_max
        self._bell = Doorbell(member.folder)
        self._attach_failed = 0.0
        self._locks: dict[int, threading.RLock] = {}
        self._is_replacing = False
        self._replaced_at = 0.0
        self._place = (Path(), -1)
        self._aggregator_lock: LockFile | None = None
        self._routes: dict[int, bytes] = {}
        self._left_bytes = 0
        self._is_moving = False
        self._refusals: dict[int, tuple[float, int]] = {}
        self._said: dict[str, float] = {}

    def hook_attach(self) -> bool:
        if self.is_closed or time.monotonic() - self._attach_failed < ATTACH_RETRY_SECONDS:
            return False
        with self._lock():
            if self.lane_id:
                return True  # another thread was faster
            # What a parent left here belongs to the parent: its socket, its listener, its ids.
            self._bell.abandon()
            self._bell = Doorbell(self.member.folder)
            self.listener = None
            self.owner_id = random_id()
            try:
                self._find_home()
                self._open_first_lane()
                self._aggregator_lock = lock_file(self.member.folder / AGGREGATOR_LOCK)
                self.watch_aggregator(self._aggregator_lock.fileno())
            except (OSError, QueueError, ConfigError) as exc:
                self._attach_failed = time.monotonic()
                logger.error("queue %r gives this process no lane: %s", self.member.settings.queue, exc)
                return False
            self._take_along()
            if self.callback is not None:
                self.listener = ReportListener(self.member.folder, self.member.control, self.owner_id, self.callback)
            return True

    def _lock(self) -> threading.RLock:
        """A lock of this process: its parent's may be held by a thread that does not exist here."""
        return self._locks.setdefault(os.getpid(), threading.RLock())

    def _open_first_lane(self) -> None:
        capacity = max(self.member.settings.lane_bytes, self._left_bytes)
        while True:
            try:
                self._make_lane(capacity)
                return
            except OSError as exc:
                if capacity <= LANE_BYTES_MIN:
                    raise
                logger.warning("no room for a lane of %d bytes (%s): trying half of it", capacity, exc.strerror)
                capacity //= 2

    def _make_lane(self, capacity: int, predecessor: int = 0, *, keep_old: bool = False) -> None:
        lane_id = random_id()
        path = self.member.folder / f"lane-{lane_id:016x}"
        # The lock comes first: a lane that can be seen and is not locked is a dead process's.
        if not self.member.users.acquire(lane_id):
            raise QueueError(f"lane id {lane_id:016x} is taken")
        try:
            wants_reports = self.callback is not None
            self.open_lane(str(path), lane_id, self.owner_id, capacity, wants_reports, predecessor, keep_old=keep_old)
            os.rename(f"{path}.tmp", path)
            self._place = (path, _inode(path))
        except OSError:
            self.member.users.release(lane_id)
            raise
        self.member.control.bump_generation()

    def _replace_lane(self, capacity: int) -> bool:
        """Go on in a lane of another size. The old one is the aggregator's from then on: read first, then removed."""
        with self._lock():
            old = self.lane_id
            if self._is_replacing or not old or self.capacity == capacity:
                return bool(old) and not self._is_replacing
            self._is_replacing = True
            try:
                self._make_lane(capacity, old)
            except OSError as exc:
                logger.debug("lane of %d bytes: %s", capacity, exc)
                return False
            finally:
                self._is_replacing = False
            self._replaced_at = time.monotonic()
            # Only now: nobody writes into it any more.
            self.member.users.release(old)
            return True

    def see_lane(self) -> None:
        """Leave a lane that nobody reads any more: the aggregator has put it aside, or something took its place."""
        if self.member.is_gone:
            self._leave_folder()
        elif self.lane_id and (self.is_abandoned or self._is_misplaced()):
            self._leave_lane()

    def _is_misplaced(self) -> bool:
        path, inode = self._place
        return _inode(path) != inode

    # ---- the folder was deleted

    def _leave_folder(self) -> None:
        """Go on in a folder made anew, once nobody reads the lane in the old one any more."""
        if self.is_closed:
            return
        with self._lock():
            if self.lane_id:
                lock = self._aggregator_lock
                if not self.is_abandoned and lock is not None and lock.is_held(0):
                    return  # it saves what it reads, and says where it has stopped before it ends
                if self.listener is not None:
                    self.listener.stop()
                self._left_bytes = self.capacity
                self.member.users.release(self.lane_id)
                # Without a lane: where no folder can be made, events are refused rather than put where nobody looks.
                self.move_to(self.member.control)
        if self._left_bytes:
            self.attach_now()
            return
        # A process that has no lane needs none for this, a master that preloads for instance.
        try:
            with self._lock():
                self._find_home()
        except (OSError, QueueError, ConfigError) as exc:
            if self._may_say("folder"):
                logger.error("queue %r: its folder was deleted, and there is no other: %s", self.link.queue, exc)

    def _find_home(self) -> None:
        """Open the queue again where its folder is gone, with all that events need to be understood."""
        if self.member.is_gone:
            self._is_moving = True
            self.member.reopen()
        if self._is_moving:
            self.move_to(self.member.control)
            for key, encoded in self._routes.items():
                self.store_route(key, encoded)
            self._is_moving = False

    def _take_along(self) -> None:
        """Move what nobody has read of the lane in a folder that was deleted."""
        if not self._left_bytes:
            return
        self._left_bytes = 0
        moved, lost = self.rescue_old(is_counted=False)
        logger.error(
            "queue %r: its folder was deleted; this process goes on in a new one: %d events moved, %d are lost",
            self.link.queue,
            moved,
            lost,
        )

    def store_route(self, key: int, encoded: bytes) -> None:
        """Have a route in the folder, for whoever reads the events that name it. Raises OSError."""
        if self.member.is_gone:
            self.see_lane()
            if key in self._routes and self.member.is_gone:
                return  # the aggregator that still reads the lane knows it, and it moves along
        self._routes[key] = encoded
        path = self.member.folder / f"route-{key:016x}"
        if not _holds(path, encoded):
            write_private(path, encoded)
            self.member.control.bump_generation()

    # ---- the lane is read no more

    def _leave_lane(self) -> None:
        with self._lock():
            old = self.lane_id
            if self._is_replacing or not old or not (self.is_abandoned or self._is_misplaced()):
                return
            self._is_replacing = True
            try:
                self._make_lane(self.capacity, keep_old=True)
                moved, lost = self.rescue_old()
            except OSError as exc:
                if self._may_say("lane"):
                    logger.error("queue %r: the lane was put aside, and there is no other: %s", self.link.queue, exc)
                return
            finally:
                self._is_replacing = False
            self.member.users.release(old)
            logger.error(
                "queue %r: lane %016x was put aside; %d events moved to a new one, %d are lost",
                self.link.queue,
                old,
                moved,
                lost,
            )

    def _grow(self) -> bool:
        """Have a larger lane for a burst, if memory is there without taking it from processes to come."""
        capacity = 2 * self.capacity
        if capacity > self.member.settings.lane_bytes_max or self.member.is_gone:
            return False
        shared = os.statvfs(self.member.folder)
        return capacity * GROWTH_RESERVE <= shared.f_bavail * shared.f_frsize and self._replace_lane(capacity)

    def _shrink(self) -> None:
        """Back to the usual size once a burst is over."""
        base = self.member.settings.lane_bytes
        if self.capacity <= base or time.monotonic() - self._replaced_at < SHRINK_SECONDS:
            return
        if self.used_bytes < base // 2:
            self._replace_lane(base)

    def hook_ring(self) -> None:
        self._bell.ring()

    def hook_tick(self) -> None:
        # First: a folder that was deleted has no aggregator to be launched in.
        self.see_lane()
        self.ensure_aggregator()
        self._shrink()

    def ensure_aggregator(self) -> None:
        """See that an aggregator lives, or have one launched; never waits for it."""
        if self.member.is_gone:
            return
        if self.link.ensure():
            self._see_it_work()

    def _see_it_work(self) -> None:
        """Say it when the aggregator holds the queue and does nothing. A worker does not decide to end it."""
        age = stats.heartbeat_age(self.member.control)
        if age > stats.HUNG_SECONDS and self._may_say("hung"):
            logger.error(
                "queue %r: process %d holds the queue and has shown no sign of life for %d s: nothing is sent",
                self.link.queue,
                self.member.control.aggregator_pid,
                age,
            )

    def _may_say(self, subject: str) -> bool:
        """Whether to log now; then not again for the interval."""
        now = time.monotonic()
        last = self._said.get(subject)
        if last is not None and now - last < LOG_INTERVAL_SECONDS:
            return False
        self._said[subject] = now
        return True

    def hook_full(self, needed_bytes: int, waited: float) -> bool:
        lane_id = self.lane_id
        self.see_lane()
        if self.lane_id != lane_id:
            return True
        self.ensure_aggregator()
        if self._grow():
            return True
        settings = self.member.settings
        if settings.on_full != "block" or waited >= settings.block_timeout:
            return False
        # Short, because room comes in turns of the aggregator; a sleep that gevent has replaced lets others run.
        time.sleep(BLOCKED_NAP_SECONDS)
        return True

    def hook_external(self, seq: int, payload: bytes) -> bool:
        try:
            write_private(self._event_file(self.lane_id, seq), payload)
        except OSError as exc:
            logger.error("queue %r has no room for an event of %d bytes: %s", self.link.queue, len(payload), exc)
            return False
        return True

    def hook_adopted(self, lane_id: int, seq: int, new_seq: int) -> bool:
        os.rename(self._event_file(lane_id, seq), self._event_file(self.lane_id, new_seq))
        return True

    def hook_unused(self, lane_id: int, seq: int) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._event_file(lane_id, seq))

    def _event_file(self, lane_id: int, seq: int) -> Path:
        return self.member.folder / f"big-{lane_id:016x}-{seq:016x}"

    def hook_refused(self, reason: int, detail: str) -> None:
        now = time.monotonic()
        last, held_back = self._refusals.get(reason, (0.0, 0))
        if last and now - last < LOG_INTERVAL_SECONDS:
            self._refusals[reason] = (last, held_back + 1)
            return
        self._refusals[reason] = (now, 0)
        name = Reason(reason).name.lower()
        also = f" ({held_back} more since the last message)" if held_back else ""
        logger.warning("queue %r refused an event: %s: %s%s", self.link.queue, name, detail, also)

    def close(self) -> None:
        if self.lane_id:
            self.see_lane()
            self.ensure_aggregator()
        self.is_closed = True
        lane_id = self.lane_id
        if not lane_id:
            return  # a child that never enqueued: all that is here belongs to its parent
        self.close_lane()
        self.member.users.release(lane_id)
        self._bell.ring()
        self._bell.close()
        if self.listener is not None:
            self.listener.stop()


def _inode(path: Path) -> int:
    """The number of what lies there; -1 when nothing does."""
    try:
        return os.lstat(path).st_ino
    except FileNotFoundError:
        return -1


def _holds(path: Path, content: bytes) -> bool:
    """Whether the file is ours and is just this."""
    try:
        return read_private(path, len(content) + 1) == content
    except OSError:
        return False

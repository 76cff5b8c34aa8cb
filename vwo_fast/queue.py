"""What an application holds: :class:`Queue` and :class:`Producer`.

Nothing here runs on the usual way of an event: ``Producer.enqueue`` is compiled
and comes back here, through the hooks of :class:`_Owner`, only for the first
event of a process (or of a forked child), to wake a sleeping aggregator, to see
that one lives, and for an event that is refused.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from pathlib import Path
from typing import Any

from vwo_fast import _batch, _lane, stats
from vwo_fast._log import get_logger
from vwo_fast._wire import fme_realtime_request, is_impression
from vwo_fast.client import Link, flush
from vwo_fast.config import load_settings
from vwo_fast.counters import Reason
from vwo_fast.doorbell import Doorbell
from vwo_fast.errors import ConfigError, QueueError
from vwo_fast.folder import Membership, write_private
from vwo_fast.launch import LAUNCH_INTERVAL_NS
from vwo_fast.locks import AGGREGATOR_LOCK, LockFile, lock_file, random_id
from vwo_fast.paths import read_private
from vwo_fast.reports import FlushCallback, ReportListener
from vwo_fast.route import Route, route_key
from vwo_fast.stats import Stats, read_stats

__all__ = ["Producer", "Queue"]

logger = get_logger(__name__)

LOG_INTERVAL_SECONDS = 60.0
ATTACH_RETRY_SECONDS = 1.0
LANE_BYTES_MIN = 1 << 16
BLOCKED_NAP_SECONDS = 0.001
GONE_NAP_SECONDS = 0.005
SHRINK_SECONDS = 10.0
GROWTH_RESERVE = 4
"""A lane grows only to a size of which shared memory has this many times free."""


class _Owner(_lane.LaneOwner):
    """The lane of this process and what happens when something is not as usual."""

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
        control = self.member.control
        if self.member.is_gone:
            return
        if self.link.ensure(lambda: control.claim_launch(time.monotonic_ns(), LAUNCH_INTERVAL_NS)):
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
            # A lane that was filled within a nap: the aggregator need not sleep to its end.
            self._bell.ring()
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


class Producer(_lane.Producer):
    """Puts the events of one route into the queue. Get it from :meth:`Queue.producer`.

    ``enqueue(event)`` takes the dict that the official SDK gives to its own queue and
    returns True once the event is safe from the death of this process.  It never raises
    and never waits (unless ``on_full="block"`` asks for it); False means refused, counted
    and logged with the reason.
    """

    def __init__(self, queue: Queue, owner: _Owner, route: Route, key: int) -> None:
        real_time = queue.real_time
        shape, kind = _lane.SHAPE_PLAIN, _lane.KIND_EVENT
        if route.sdk == "fullstack":
            shape = _lane.SHAPE_PLAIN if real_time else _lane.SHAPE_FULLSTACK
            kind = _lane.KIND_IMPRESSION if real_time else _lane.KIND_EVENT
        super().__init__(owner, key, shape, kind)
        self.queue = queue
        self.route = route
        self._requests = _lane.Producer(owner, key, _lane.SHAPE_PLAIN, _lane.KIND_REQUEST)
        self._refuse = owner.refuse

    def enqueue_request(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]],
        headers: dict[str, str],
        body: dict[str, Any] | None,
    ) -> bool:
        """Accept one event that travels alone, as this HTTP request. Never raises."""
        text, visitor = None, 0
        try:
            if body is not None:
                packed = _lane.pack(body)
                text, visitor = _batch.to_json(packed).decode("ascii"), _visitor_of(body, packed)
        except ValueError as exc:
            self._refuse(_lane.REASON_NOT_JSON, str(exc))
            return False
        pairs = [[name, value] for name, value in query]
        return self._requests.enqueue([method, path, pairs, headers, text, visitor])


class _FullStackRealTimeProducer(Producer):
    """Without batching the aggregator makes a request of each impression, so here it is seen that it is one."""

    def enqueue(self, event: Any, /) -> bool:
        if not is_impression(event):
            self._refuse(_lane.REASON_BAD_IMPRESSION, "its url ends in none of track-user, track-goal, push")
            return False
        return super().enqueue(event)


class _FmeRealTimeProducer(Producer):
    """Without batching, each FME event is a request of its own, as the SDK would send it."""

    def enqueue(self, event: Any, /) -> bool:
        try:
            method, path, query, headers, body = fme_realtime_request(self.route, event)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            self._refuse(_lane.REASON_BAD_IMPRESSION, f"not an FME payload ({type(exc).__name__})")
            return False
        return self.enqueue_request(method, path, query, headers, body)


class Queue:
    """One crash-safe queue per host, shared by every process that opens it under the same name.

    Making a Queue opens no network connection, starts no thread and no process; the
    aggregator is launched by the first event.  A Queue may be made before a fork: each
    child gets a lane of its own at its first event.

    ``events_per_request``: 1 to 5000 events; ``request_time_interval``: seconds, at least 1.
    With neither, each event is sent at once.  ``flush_callback(err, events)`` is called once
    per batch that holds events of this process, on a thread of its own; ``err`` is None when
    VWO accepted it, else a :class:`~vwo_fast.errors.DeliveryError`.
    ``run_dir``: folder in shared memory; ``spool_dir``: folder on disk; ``base_url``: where the
    requests go.  All options and their ranges: docs/configuration.md.

    Raises ConfigError for a wrong option, or when the queue is in use with other settings;
    QueueError when its folder cannot be used.
    """

    def __init__(
        self,
        name: str,
        *,
        events_per_request: int | None = None,
        request_time_interval: float | None = None,
        flush_callback: FlushCallback | None = None,
        run_dir: str | os.PathLike[str] | None = None,
        spool_dir: str | os.PathLike[str] | None = None,
        base_url: str | None = None,
        **options: Any,
    ) -> None:
        options.update(
            events_per_request=events_per_request,
            request_time_interval=request_time_interval,
            run_dir=run_dir,
            spool_dir=spool_dir,
            base_url=base_url,
        )
        given = {option: value for option, value in options.items() if value is not None}
        self.settings = load_settings(name, **given)
        self._member = Membership(self.settings)
        link = Link(
            self._member.folder,
            self.settings.queue,
            auto=self.settings.aggregator == "auto",
            python=str(self.settings.python) if self.settings.python else None,
        )
        self._owner = _Owner(self._member, flush_callback, link)
        if flush_callback is not None:
            # Its listener needs it: now, before the fork of a server that preloads, and not in the first request.
            import zmq  # noqa: F401
        self._link = link
        self._finalizer = weakref.finalize(self, _at_exit, self._owner)

    @property
    def name(self) -> str:
        return self.settings.queue

    @property
    def folder(self) -> Path:
        """The queue's folder in shared memory."""
        return self._member.folder

    @property
    def real_time(self) -> bool:
        """Whether each event is sent at once, because neither count nor interval was given."""
        return self.settings.real_time

    def producer(self, route: Route) -> Producer:
        """A producer for the events of ``route``. Raises QueueError when the route cannot be stored."""
        encoded = route.encode()
        key = route_key(encoded)
        try:
            self._owner.store_route(key, encoded)
        except OSError as exc:
            raise QueueError(f"route cannot be stored in {self._member.folder}: {exc}") from exc
        alone = {"fme": _FmeRealTimeProducer, "fullstack": _FullStackRealTimeProducer}
        kind = alone[route.sdk] if self.real_time else Producer
        return kind(self, self._owner, route, key)

    def flush(self, timeout: float = 10) -> bool:
        """Send everything now and wait for the answers, at most ``timeout`` seconds.

        True only if every event that any process had put into this queue before the call
        has been accepted by VWO.  False: not yet, or some were refused by VWO; nothing is lost by it.
        """
        deadline = time.monotonic() + timeout
        self._owner.see_lane()
        while self._member.is_gone:
            # An aggregator in a new folder would know nothing of what the one in the old folder still saves.
            if time.monotonic() >= deadline:
                return False
            time.sleep(GONE_NAP_SECONDS)
            self._owner.see_lane()
        try:
            answer = flush(self._link, max(0.0, deadline - time.monotonic()), self._owner.owner_id)
        except (QueueError, OSError) as exc:
            logger.error("flush of queue %r: %s", self.name, exc)
            return False
        if answer is None:
            return False
        listener = self._owner.listener
        if listener is not None:
            listener.wait(int(answer.get("reports", 0)), max(0.0, deadline - time.monotonic()))
        return bool(answer.get("ok"))

    def stats(self) -> Stats:
        """What has become of the events, counted over all processes of the queue."""
        return read_stats(self._member.folder)

    def close(self) -> None:
        """Give the lane back; events accepted before are delivered by the aggregator.

        After it every ``enqueue`` of this queue's producers is refused.  It does not wait for
        deliveries: call :meth:`flush` first to know their outcome.
        """
        if self._finalizer.detach() is not None:
            self._owner.close()
            self._member.leave()

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


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


def _visitor_of(body: dict[str, Any], packed: bytes) -> int:
    """Visitor of a request. The events of one that is a batch come from one call, so they have one visitor."""
    batched = body.get("ev")
    return _batch.visitor(_lane.pack(batched[0]) if isinstance(batched, list) and batched else packed)


def _at_exit(owner: _Owner) -> None:
    """The last chance of this process to see that somebody will read its lane."""
    with contextlib.suppress(Exception):
        owner.close()

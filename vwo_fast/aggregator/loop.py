"""The loop: one thread that owns lanes, batches, spool, barriers and the control socket.

Idea: every turn does what is there to do, then the loop sleeps as long as it may.
After work it naps for some milliseconds without being woken for an event, because
more is likely (nap.py); after a while without events it announces its sleep in the
control file, looks at the lanes once more, and waits for a doorbell, a reply, or the
next moment that something is due.  Key invariant: between the announcement and the
sleep every head is read again, so an event published meanwhile is either seen
here or its producer has seen the announcement and rings.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vwo_fast import __version__, _batch
from vwo_fast._lane import Control, SegmentError
from vwo_fast.aggregator.barrier import Barriers
from vwo_fast.aggregator.batcher import Batcher
from vwo_fast.aggregator.control import ControlSocket, Question
from vwo_fast.aggregator.failpoint import reach
from vwo_fast.aggregator.ground import Ground, prepare
from vwo_fast.aggregator.lanes import Lane, LaneSet
from vwo_fast.aggregator.leaving import Leaving
from vwo_fast.aggregator.line import BEFORE_ALL
from vwo_fast.aggregator.nap import Nap, fill_of
from vwo_fast.aggregator.outcome import Reply
from vwo_fast.aggregator.process import StopRequest, detach, lift_descriptor_limit, log_to, stop_signals
from vwo_fast.aggregator.relief import Relief
from vwo_fast.aggregator.renewal import Renewal
from vwo_fast.aggregator.reports import Reports
from vwo_fast.aggregator.routes import Routes
from vwo_fast.aggregator.sealed import Sealed
from vwo_fast.aggregator.shipper import Flight, Shipper
from vwo_fast.aggregator.spool import Spool
from vwo_fast.aggregator.spool_door import SpoolDoor
from vwo_fast.aggregator.transport import Senders, Transport
from vwo_fast.aggregator.upkeep import Upkeep
from vwo_fast.config import Settings
from vwo_fast.counters import ControlCounter
from vwo_fast.errors import VwoFastError
from vwo_fast.folder import Membership
from vwo_fast.locks import AGGREGATOR_LOCK, LAUNCH_LOCK, LockFile, lock_file

__all__ = ["Aggregator", "run"]

logger = logging.getLogger(__name__)

AWAKE_SECONDS = 0.05
BLOCKED_NAP_SECONDS = 0.02
SLEEP_SECONDS_MAX = 1.0
HOUSE_SECONDS = 0.9
DESCRIPTORS_MAX = 1 << 15


class Aggregator:
    """All rooms of one queue, wired together. One thread."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        *,
        control: Control,
        users: LockFile,
        ground: Ground,
        spool: Spool,
        door: SpoolDoor,
        socket: ControlSocket,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.name = settings.queue
        self._clock = clock
        self._shared = control
        self._spool = spool
        self._journal = ground.journal
        self.metrics = ground.metrics
        self._socket = socket
        self._transport = Transport(settings)
        self._senders: Senders[Flight] = Senders(self._transport, settings.in_flight_max)
        self._socket.watch(self._senders.fileno())
        routes = Routes(folder, control, clock)
        self.barriers = Barriers(clock)
        # Those of earlier lives, and what the ground was found to lack.
        self.barriers.lost(self.metrics.failures_untold)
        self.reports = Reports(self._socket.send, self.metrics, clock=clock)
        self.shipper = Shipper(
            settings,
            routes=routes,
            spool=spool,
            senders=self._senders,
            metrics=self.metrics,
            observer=self,
            clock=clock,
        )
        self.shipper.resume()
        self.lanes = LaneSet(folder, control, users, self.metrics, ground.settled)
        self.batcher = Batcher(
            settings,
            folder=folder,
            routes=routes,
            sink=self.shipper,
            first_ordinal=ground.last_ordinal + 1,
            clock=clock,
        )
        self._relief = Relief(self.lanes, self.batcher, self.shipper, spool, self.metrics, settings, clock)
        self._renewal = Renewal(
            settings, spool=spool, door=door, shipper=self.shipper, metrics=self.metrics, clock=clock
        )
        self._upkeep = Upkeep(folder, settings.queue_spool_dir, clock=clock)
        self._leaving = Leaving(
            settings,
            folder=folder,
            lanes=self.lanes,
            batcher=self.batcher,
            shipper=self.shipper,
            barriers=self.barriers,
            users=users,
            clock=clock,
        )
        self._active_at = clock()
        self._nap = Nap(is_short=settings.durable == "always" or settings.real_time)
        self._house_at = 0.0
        self._is_blocked = self._has_backlog = self._is_waiting = False
        self._keeps_memory = False

    # ---- life

    def run(self) -> None:
        """Until nobody uses the queue and nothing is left to send, or until it is told to stop."""
        self._shared.aggregator_pid = os.getpid()
        self._shared.heartbeat_ns = time.monotonic_ns()
        reach("start: before the count")
        # Only now, when the socket is bound: whoever waits for a start registers with us at once.
        self.metrics.add(ControlCounter.STARTS)
        reach("start: counted")
        self._shared.clear_launch()
        logger.info("queue %r: started", self.settings.queue)
        while not self._is_over():
            self.turn()
            if self._is_over():
                break
            self._sleep()
        logger.info("queue %r: %s", self.name, "begins anew" if self.begins_anew else self._leaving.summary())

    def _is_over(self) -> bool:
        return self._leaving.is_over() or self._renewal.is_over()

    @property
    def is_asked_to_stop(self) -> bool:
        """Whether somebody wants it to end."""
        return self._leaving.asked

    @property
    def begins_anew(self) -> bool:
        """Whether it ended only in order to start again."""
        return not self._leaving.is_over() and self._renewal.is_over()

    def stop(self) -> None:
        """End soon, with everything saved. May be called from a signal handler."""
        self._leaving.asked = True
        self._senders.wake()

    def close(self) -> None:
        """Give everything back, but for spool, socket and the lock of the queue."""
        self.shipper.abandon()
        reach("leaving: abandoned")
        self._show()
        self._socket.unwatch(self._senders.fileno())
        self._senders.stop()
        self._shared.set_awake()
        for barrier in self.barriers.take_all() if self.begins_anew else ():
            self._socket.send(barrier.client, {"id": barrier.number, "again": True})
        self.lanes.close()
        self._journal.close()

    def let_others_open(self) -> None:
        """The last step, once the lock of the queue is free: who opens the queue from now on starts another."""
        self._leaving.release()

    # ---- one turn

    def turn(self) -> None:
        """Do what is there to do, and not more than a turn of it."""
        now = self._clock()
        for question in self._socket.questions():
            self._answer(question)
        reach("turn: asked")
        is_active = self.shipper.collect()
        reach("turn: collected")
        if is_active:
            # Before the lanes are read, so that what waited is on its way meanwhile.
            self.shipper.dispatch()
        if self.lanes.has_news or now >= self._house_at:
            self._keep_house(now)
        if self.read():
            self._active_at = self._clock()
            is_active = self._keeps_memory = True
        reach("turn: read")
        self.batcher.seal_due()
        self._leaving.advance()
        self._relief.relieve()
        self._relief.save_often(now)
        self.shipper.fresh.spill_failing()
        reach("turn: relieved")
        is_active |= self.shipper.dispatch()
        if is_active or len(self.barriers):
            self._show()
            self._settle_barriers()

    def read(self) -> bool:
        """Read every lane up to its head, a turn's worth. Returns whether there was anything."""
        has_read = False
        fill = 0.0
        self._is_blocked = self._has_backlog = self._is_waiting = False
        for lane in list(self.lanes.lanes.values()):
            try:
                head = lane.head()
                if head == lane.read_to:
                    continue
                if not self.lanes.is_turn_of(lane):
                    self._is_waiting = True
                    continue
                fill = max(fill, fill_of(head - lane.read_to, lane.reader.capacity))
                if self.batcher.read(lane, head):
                    has_read = True
                    self._has_backlog |= lane.read_to != head
                elif lane.read_to != head:
                    self._is_blocked = True
            except SegmentError as exc:
                self._lose_lane(lane, str(exc))
        self._nap.after(fill)
        self.barriers.lost(self.batcher.take_lost() + self.lanes.aside.take_lost())
        return has_read

    def _lose_lane(self, lane: Lane, reason: str) -> None:
        self.barriers.lane_lost(lane.id)
        # What was read of it is nowhere else but in memory, once nobody reads it again.
        self._relief.save_lanes({lane.id})
        self.lanes.quarantine(lane, reason)

    def _keep_house(self, now: float) -> None:
        self._house_at = now + HOUSE_SECONDS
        self._shared.heartbeat_ns = time.monotonic_ns()
        if self.lanes.is_folder_gone and not self._leaving.asked:
            logger.error(
                "queue %r: its folder was deleted; what was read is saved, then the next one starts", self.name
            )
            self.stop()
        self.lanes.scan()
        reach("house: scanned")
        self.lanes.retire()
        self.reports.keep_house(self.lanes.owners())
        self.shipper.keep_house()
        self._renewal.look()
        self._upkeep.look()
        try:
            if now - self._active_at > SLEEP_SECONDS_MAX:
                if self._keeps_memory:
                    self._keeps_memory = False
                    _batch.return_memory()
                self._spool.tidy()
        except sqlite3.Error as exc:
            self.shipper.complain(exc)
        self._show()

    def _show(self) -> None:
        self.metrics.gauge(ControlCounter.GAUGE_OPEN_EVENTS, self.batcher.open_events)
        self.metrics.gauge(ControlCounter.GAUGE_LANES, len(self.lanes.lanes))
        self.shipper.set_gauges()

    # ---- sleep

    def _sleep(self) -> None:
        now = self._clock()
        rooms = (self.batcher, self.shipper, self._leaving, self._relief, self._renewal)
        dues = (self._house_at, *(room.next_due() for room in rooms))
        wait = min(min(due for due in dues if due is not None) - now, SLEEP_SECONDS_MAX)
        if self._has_backlog:
            self._socket.wait(0)
        elif self._is_blocked:
            self._socket.wait(min(wait, BLOCKED_NAP_SECONDS))
        elif now - self._active_at < AWAKE_SECONDS:
            self._take_nap(min(now + wait, self._active_at + AWAKE_SECONDS))
        elif self._is_waiting:
            # There is something unread, but to look again at once would find it in the same state.
            self._socket.wait(min(wait, BLOCKED_NAP_SECONDS))
        else:
            self._nap.reset()
            self._shared.set_sleeping()
            if not self._has_unread():
                self._socket.wait(wait)
            self._shared.set_awake()

    def _take_nap(self, until: float) -> None:
        """Look at the lanes now and then; a whole turn, which costs as much as hundreds of events, for a reason."""
        while True:
            left = until - self._clock()
            if self._nap.is_long:
                self._shared.set_dozing()
            # Also with no time left: whoever asks something is heard in any case.
            if self._socket.wait(min(left, self._nap.seconds)) or self._has_unread() or left <= self._nap.seconds:
                break
            self._nap.after(0.0)
        self._shared.set_awake()

    def _has_unread(self) -> bool:
        if self.lanes.has_news:
            return True
        try:
            return any(lane.head() != lane.read_to for lane in self.lanes.lanes.values())
        except SegmentError:
            return True

    # ---- what is asked and told

    def settled(self, sealed: Sealed, *, delivered: bool, reply: Reply) -> None:
        """A batch has its final outcome."""
        self.reports.tell(sealed, reply, delivered=delivered)
        self.barriers.settled(sealed.ordinal, sealed.events, delivered=delivered)

    def lost(self, events: int) -> None:
        """Events of a spooled batch cannot be read any more: nobody can tell which flush waits for them, so all do."""
        self.barriers.settled(BEFORE_ALL[0], events, delivered=False)

    def _settle_barriers(self) -> None:
        read = self.barriers.read_up_to({lane.id: lane.read_to for lane in self.lanes.lanes.values()})
        if read:
            self.batcher.seal_all()
            for barrier in read:
                barrier.ordinal = self.batcher.last_ordinal
            reach("flush: sealed")
            self.shipper.dispatch()
            self._show()
        if not len(self.barriers):
            return
        untold = self.barriers.untold
        for barrier in self.barriers.finished(self.shipper.first_ordinal()):
            reach("flush: before the answer")
            self._socket.send(
                barrier.client,
                {
                    "id": barrier.number,
                    "ok": barrier.ok,
                    "delivered": barrier.delivered,
                    "failed": barrier.failed,
                    "reports": self.reports.made_for(barrier.owner),
                },
            )
        self.metrics.told(untold - self.barriers.untold)

    def _answer(self, question: Question) -> None:
        number = question.number
        if question.op == "ping":
            self._socket.send(question.client, {"id": number, "pid": os.getpid(), "version": __version__})
        elif question.op == "flush":
            self._begin_flush(question)
        elif question.op == "status":
            self._socket.send(question.client, {"id": number, **self._status()})
        elif question.op == "reports" and (owner := question.id_value("owner")):
            self._socket.send(question.client, {"id": number})
            self.reports.register(owner, question.client)
        elif question.op == "stop":
            self._socket.send(question.client, {"id": number})
            self.stop()

    def _begin_flush(self, question: Question) -> None:
        # Lanes that were named just before the question belong to it too.
        if self.lanes.has_news:
            self.lanes.scan()
        targets = {}
        for lane in list(self.lanes.lanes.values()):
            try:
                targets[lane.id] = lane.head()
            except SegmentError as exc:
                self._lose_lane(lane, str(exc))
        owner = question.id_value("owner")
        is_spoiled = self.lanes.aside.is_awaited
        self.barriers.lost(self.lanes.aside.take_lost())
        self.barriers.add(question.client, question.number, owner, targets, is_spoiled=is_spoiled)
        self.shipper.kick()

    def _status(self) -> dict[str, Any]:
        routes = [
            {
                "account_id": line.route.account_id,
                "sdk": line.route.sdk,
                "sdk_name": line.route.sdk_name,
                "sdk_version": line.route.sdk_version,
                "open": self.batcher.open_events_of(line.route_key),
                "sealed_batches": len(line.items) + line.unloaded,
                "held": bool(line.gate.failures),
            }
            for line in self.shipper.lines.values()
        ]
        state = "running"
        if self._leaving.is_begun:
            state = "leaving"
        elif self.shipper.is_failing:
            state = "failing"
        elif self._is_blocked:
            state = "full"
        return {
            "routes": routes,
            "last_error": self.shipper.last_error,
            "state": state,
            "spool": "ok" if self._spool.is_there else "none",
        }


def run(queue_dir: Path, settings: Settings, *, foreground: bool) -> int:
    """Be the aggregator of a queue until nobody uses it. Returns the exit code.

    0 also when another aggregator has the queue; 1 when it cannot be run, with the reason in the log.
    """
    os.umask(0o077)
    lift_descriptor_limit(DESCRIPTORS_MAX)
    _batch.keep_memory()
    queue_dir = Path(os.path.abspath(queue_dir))
    settings = settings.replace(run_dir=queue_dir.parent, queue=queue_dir.name)
    if not foreground and not queue_dir.is_dir():
        # Whoever launched it had the queue open: its folder was deleted since, and nobody would use a new one.
        return 0
    try:
        if not foreground:
            detach(queue_dir / LAUNCH_LOCK)
        with log_to(*(() if foreground else (settings.queue_spool_dir, settings.queue_dir))):
            try:
                return _run_alone(settings, foreground=foreground)
            except Exception:
                logger.exception("queue %r: the aggregator failed", settings.queue)
                return 1
    except (VwoFastError, OSError) as exc:
        logger.error("queue %r: %s", settings.queue, exc)
        return 1


def _run_alone(settings: Settings, *, foreground: bool) -> int:
    membership = Membership(settings)
    folder = membership.folder
    lock = lock_file(folder / AGGREGATOR_LOCK)
    stop = StopRequest()
    with stop_signals(stop):
        try:
            if not lock.acquire(0):
                pid = membership.control.aggregator_pid
                logger.info("queue %r: another aggregator is at work (pid %d)", settings.queue, pid)
                return 0
            # Whoever sees the lock held must not find the pid of one that was killed, which may be another's by now.
            membership.control.aggregator_pid = os.getpid()
            membership.control.heartbeat_ns = time.monotonic_ns()
        finally:
            membership.leave()
        if not foreground:
            os.chdir(folder)
        try:
            aggregator = _serve(settings, membership, stop)
        finally:
            lock.release(0)
            reach("leaving: unlocked")
    aggregator.let_others_open()
    # A child of a user holds nothing until its first event. One whose first event came while the lock was still
    # held has seen an aggregator, and starts none.
    if not stop.is_made and membership.users.any_held_by_others():
        return _run_alone(settings, foreground=foreground)
    return 0


def _serve(settings: Settings, membership: Membership, stop: StopRequest) -> Aggregator:
    """Run to the end, holding the queue's lock: one life of all rooms after the other. Returns the last one."""
    reach("start: locked")
    door = SpoolDoor(settings)
    try:
        with contextlib.closing(ControlSocket(membership.folder)) as socket:
            reach("start: socket")
            try:
                while (aggregator := _live(settings, membership, stop, door, socket)).begins_anew:
                    if aggregator.is_asked_to_stop:
                        stop()
            finally:
                membership.control.aggregator_pid = 0
        reach("leaving: socket closed")
    finally:
        door.close()
    return aggregator


def _live(
    settings: Settings, membership: Membership, stop: StopRequest, door: SpoolDoor, socket: ControlSocket
) -> Aggregator:
    control = membership.control
    holds = control.counter(ControlCounter.SPOOL_HOLDS)
    spool = door.open(holds=holds)
    try:
        try:
            ground = prepare(membership.folder, control, spool)
        except sqlite3.Error as exc:
            door.take_back(spool)
            spool = door.refuse(str(exc), holds=holds)
            ground = prepare(membership.folder, control, spool)
        aggregator = Aggregator(
            membership.folder,
            settings,
            control=control,
            users=membership.users,
            ground=ground,
            spool=spool,
            door=door,
            socket=socket,
        )
        stop.connect(aggregator.stop)
        try:
            aggregator.run()
        finally:
            aggregator.close()
    finally:
        door.take_back(spool)
    return aggregator

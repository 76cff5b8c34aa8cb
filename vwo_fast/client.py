"""Talking to the aggregator over ZeroMQ: questions, and finding it alive.

A context lives as long as one question: what it brings, two threads and half a dozen
descriptors, is gone when the answer is there.  So a process has no thread of ours when
it forks, and a child finds no socket of its parent, on which a message is accepted and lost.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vwo_fast import launch
from vwo_fast._lane import Control, SegmentError
from vwo_fast._log import get_logger
from vwo_fast.doorbell import ENDPOINT
from vwo_fast.errors import QueueError
from vwo_fast.locks import AGGREGATOR_LOCK, lock_file

# ZeroMQ is imported by the first that asks: most workers never do, and it is twice as large as all the rest of us.
if TYPE_CHECKING:
    import zmq

__all__ = ["Link", "dealer", "flush"]

logger = get_logger(__name__)

POLL_SECONDS = 0.05
WAIT_SECONDS = 0.005
ANSWER_BYTES_MAX = 1 << 20
DESCRIPTORS_NEEDED = 16
"""More than a context and a socket of ZeroMQ take together."""

DEAD_SECONDS = 0.1
"""Who has claimed a launch and has no process to show for so long has none."""

_question_numbers = itertools.count(1)


@contextlib.contextmanager
def dealer(folder: Path, *, answer_bytes_max: int = ANSWER_BYTES_MAX) -> Iterator[zmq.Socket[bytes]]:
    """A DEALER connected to the aggregator's endpoint in ``folder``; nothing is left of it afterwards.

    Raises QueueError when this process has too few descriptors left.
    """
    # Here, because this may end in an interpreter that imports no more.
    from signal import SIG_BLOCK, SIG_SETMASK, pthread_sigmask, valid_signals

    import zmq

    _check_descriptors()
    context = zmq.Context(io_threads=1)
    try:
        context.set(zmq.MAX_SOCKETS, 1)
        socket = context.socket(zmq.DEALER)
        try:
            socket.linger = 0
            socket.setsockopt(zmq.MAXMSGSIZE, answer_bytes_max)
            socket.setsockopt(zmq.RECONNECT_IVL, 20)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
            socket.connect(f"ipc://{folder / ENDPOINT}")
            yield socket
        finally:
            socket.close()
    finally:
        # A signal would interrupt the wait for its threads, and then they would stay for good.
        before = pthread_sigmask(SIG_BLOCK, valid_signals())
        try:
            context.term()
        finally:
            pthread_sigmask(SIG_SETMASK, before)


def _check_descriptors() -> None:
    """ZeroMQ ends the whole process when it finds none while it makes a context or a socket, so look before."""
    found: list[int] = []
    try:
        for _ in range(DESCRIPTORS_NEEDED):
            found.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as exc:
        raise QueueError(f"the aggregator cannot be reached: {exc.strerror}") from exc
    finally:
        for fd in found:
            os.close(fd)


class Link:
    """The way from a process to the aggregator of one queue: is it there, start it, ask it.

    ``claim()`` tells whether this process may launch it now; by default the queue's control file is asked.
    """

    def __init__(
        self,
        folder: Path,
        queue: str,
        *,
        claim: Callable[[], bool] | None = None,
        auto: bool = True,
        python: str | None = None,
    ) -> None:
        self.folder = folder
        self.queue = queue
        self.auto = auto
        self.python = python
        self._claim = claim or (lambda: _claim_in(folder))
        self._launches = 0
        self._complained = 0.0

    def is_alive(self) -> bool:
        """Whether an aggregator holds the lock of this queue."""
        return lock_file(self.folder / AGGREGATOR_LOCK).is_held(0)

    def start(self) -> None:
        """Launch the aggregator now. Raises QueueError when nothing could be spawned."""
        self._launches += 1
        try:
            launch.launch(self.folder, self.queue, python=self.python)
        except OSError as exc:
            raise QueueError(f"the aggregator of queue {self.queue!r} could not be started: {exc}") from exc

    def ensure(self) -> bool:
        """Launch the aggregator if none lives and this process may.

        Never raises and never waits for the start.  A consumer that stays away is logged, at
        most once a minute.
        """
        if self.is_alive():
            self._launches = 0
            return True
        if not self.auto:
            self._complain("no aggregator runs for queue %r: start it with 'vwo-fast run --queue %s'")
            return False
        if self._claim():
            if self._launches >= 2:
                self._complain(
                    "the aggregator of queue %r does not stay up: see aggregator.log, try 'vwo-fast run --queue %s'"
                )
            try:
                self.start()
            except QueueError as exc:
                logger.error("%s", exc)
        return False

    def _complain(self, text: str) -> None:
        now = time.monotonic()
        if not self._complained or now - self._complained >= 60.0:
            self._complained = now
            logger.error(text, self.queue, self.queue)

    def ask(self, question: dict[str, Any], timeout: float) -> dict[str, Any] | None:
        """Send one question and wait for its answer; None after ``timeout`` seconds.

        An aggregator that is gone is started again and asked again, so an answer
        always comes from one that knows the question.
        """
        deadline = time.monotonic() + timeout
        while True:
            answer = self._ask_once(question, deadline)
            if answer is not None or time.monotonic() >= deadline:
                return answer

    def _ask_once(self, question: dict[str, Any], deadline: float) -> dict[str, Any] | None:
        import msgpack
        import zmq

        number = next(_question_numbers)
        if not self._wait_alive(deadline):
            return None
        with dealer(self.folder) as socket:
            socket.send(msgpack.packb({**question, "id": number}), zmq.NOBLOCK)
            while (left := deadline - time.monotonic()) > 0:
                if _poll(socket, min(left, POLL_SECONDS)):
                    answer = _decode(socket.recv(zmq.NOBLOCK))
                    if answer is not None and answer.get("id") == number:
                        # An aggregator that begins anew has forgotten the question.
                        return None if answer.get("again") else answer
                elif not self.is_alive():
                    return None
        return None

    def _wait_alive(self, deadline: float) -> bool:
        """Wait for an aggregator that somebody has launched, and launch one when nobody has."""
        dead_since: float | None = None
        may_hurry = True
        while not self.is_alive():
            now = time.monotonic()
            if now >= deadline:
                return False
            if self.auto:
                if launch.is_under_way(self.folder):
                    dead_since = None
                elif dead_since is None:
                    dead_since = now
                # Whoever has launched one that died at once has used up the claim; that is not waited out here.
                is_dead = may_hurry and dead_since is not None and now - dead_since >= DEAD_SECONDS
                if self._claim() or is_dead:
                    may_hurry = may_hurry and not is_dead
                    self.start()
            time.sleep(WAIT_SECONDS)
        return True


def _claim_in(folder: Path) -> bool:
    """Ask the control file for the claim. An aggregator that could not read it would not stay."""
    try:
        with contextlib.closing(Control.attach(str(folder / "control"))) as control:
            return launch.claim(control)
    except (OSError, SegmentError):
        return False


def flush(link: Link, timeout: float, owner: int = 0) -> dict[str, Any] | None:
    """Ask for the barrier: everything accepted so far, by any process, is sent and answered.

    Returns the aggregator's answer (``ok``, ``delivered``, ``failed``, ``reports``), or None after ``timeout`` seconds.
    """
    return link.ask({"op": "flush", "owner": owner}, timeout)


def _poll(socket: zmq.Socket[bytes], seconds: float) -> bool:
    if _is_cooperative():
        # gevent has replaced sleep; a wait inside ZeroMQ would stop every greenlet of the worker.
        if socket.poll(0):
            return True
        time.sleep(min(seconds, WAIT_SECONDS))
        return False
    return bool(socket.poll(int(seconds * 1000) or 1))


def _is_cooperative() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("time"))


def _decode(data: bytes) -> dict[str, Any] | None:
    try:
        import msgpack

        value = msgpack.unpackb(data)
    except Exception:
        return None
    return value if isinstance(value, dict) else None

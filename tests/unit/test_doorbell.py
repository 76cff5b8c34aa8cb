"""The doorbell: it wakes, it never waits, and it never raises."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest

from tests.support.engine import wait_for
from vwo_fast.aggregator.control import ControlSocket, Question
from vwo_fast.doorbell import Doorbell


@pytest.fixture
def folder() -> Iterator[Path]:
    """Its path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="vfd-") as made:
        yield Path(made)


@pytest.fixture
def bell(folder: Path) -> Iterator[Doorbell]:
    made = Doorbell(folder)
    yield made
    made.close()


def rung(control: ControlSocket) -> int:
    """How many peers have said all that comes before messages; a ring is no question."""
    control.wait(0.05)
    assert list(control.questions()) == []
    return sum(peer.incoming.is_ready for peer in control._peers.values())


def test_a_ring_is_heard(folder: Path, bell: Doorbell) -> None:
    """It wakes the one that listens, who understands it; all rings go over one connection."""
    with contextlib.closing(ControlSocket(folder)) as control:
        bell.ring()
        wait_for(lambda: rung(control))
        for _ in range(5):
            bell.ring()
            control.wait(60)
            assert control._ready, "it waited for the ring, and for nothing else"
            assert rung(control) == len(control._peers) == 1


def test_where_nobody_listens_nothing_happens(folder: Path, bell: Doorbell) -> None:
    """No file, then a socket without a listener: the ring is for nothing; the next one is heard when there is one."""
    bell.ring()
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(folder / "ctl"))
        bell.ring()
    with contextlib.closing(ControlSocket(folder)) as control:
        bell.ring()
        wait_for(lambda: rung(control))


def test_a_new_aggregator_hears_the_first_ring(folder: Path, bell: Doorbell) -> None:
    """The connection to its predecessor is broken: the ring goes to the new one, not into the void."""
    with contextlib.closing(ControlSocket(folder)) as control:
        bell.ring()
        wait_for(lambda: rung(control))
    with contextlib.closing(ControlSocket(folder)) as control:
        bell.ring()
        wait_for(lambda: rung(control))


def test_it_never_waits(folder: Path, bell: Doorbell) -> None:
    """Nobody accepts, nobody reads, no room for another connection: each ring returns."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as stopped, contextlib.ExitStack() as others:
        stopped.bind(str(folder / "ctl"))
        stopped.listen(0)
        for _ in range(20_000):
            bell.ring()
        assert bell._socket is not None
        for _ in range(10):
            other = Doorbell(folder)
            others.callback(other.close)
            other.ring()


def test_what_needs_no_answer_is_said(folder: Path, bell: Doorbell) -> None:
    """True when somebody listens, who gets the question; False when nobody does, and nothing is kept."""
    message = msgpack.packb({"op": "flush", "id": 0})
    assert not bell.say(message)
    assert bell._socket is None
    with contextlib.closing(ControlSocket(folder)) as control:
        assert bell.say(message)
        assert [question.op for question in heard(control)] == ["flush"]
    assert not bell.say(message)


def test_answers_that_nobody_waits_for_do_not_pile_up(folder: Path, bell: Doorbell) -> None:
    """Each time something is said, what came since the last time is taken out of the socket."""
    message = msgpack.packb({"op": "flush", "id": 0})
    with contextlib.closing(ControlSocket(folder)) as control:
        for _ in range(50):
            assert bell.say(message)
            [question] = heard(control)
            assert control.send(question.client, {"id": 0, "text": "x" * 60_000})
        assert len(control._peers) == 1
        assert control._out_total < 1 << 20


def heard(control: ControlSocket) -> list[Question]:
    """The questions that come next."""
    found: list[Question] = []

    def has_any() -> bool:
        control.wait(0.05)
        found.extend(control.questions())
        return bool(found)

    wait_for(has_any)
    return found


def test_a_child_rings_over_a_connection_of_its_own(folder: Path, bell: Doorbell) -> None:
    """What it inherited it lets go of, even when a thread of its parent held the lock; the parent's goes on."""
    with contextlib.closing(ControlSocket(folder)) as control:
        bell.ring()
        wait_for(lambda: rung(control))
        before = bell._socket
        until, seen = os.pipe()
        with bell._lock:
            pid = os.fork()
        if pid == 0:
            code = 1
            with contextlib.suppress(BaseException):
                bell.abandon()
                own = Doorbell(folder)
                own.ring()
                os.read(until, 1)
                code = 0
            os._exit(code)
        wait_for(lambda: rung(control) == 2)
        os.write(seen, b".")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        bell.ring()
        assert bell._socket is before
        wait_for(lambda: rung(control) == 1)
        os.close(until)
        os.close(seen)


def test_one_that_is_forgotten_warns_of_nothing(folder: Path) -> None:
    """A process that drops its queue without closing it hears nothing of the socket."""
    control = ControlSocket(folder)
    try:
        made = Doorbell(folder)
        made.ring()
        assert made._socket is not None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del made
            gc.collect()
    finally:
        control.close()

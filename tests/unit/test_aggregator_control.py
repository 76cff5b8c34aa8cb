"""The control socket against clients of all kinds."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from tests.support.engine import wait_for
from vwo_fast.aggregator.control import ControlSocket, Question


@pytest.fixture
def socket(tmp_path: Path) -> Iterator[ControlSocket]:
    made = ControlSocket(tmp_path)
    yield made
    made.close()


@pytest.fixture
def client(tmp_path: Path, socket: ControlSocket) -> Iterator[zmq.Socket[bytes]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made = context.socket(zmq.DEALER)
    made.linger = 0
    made.connect(f"ipc://{tmp_path / 'ctl'}")
    yield made
    made.close()
    context.term()


def asked(socket: ControlSocket, count: int = 1) -> list[Question]:
    found: list[Question] = []

    def enough() -> bool:
        socket.wait(0.05)
        found.extend(socket.questions())
        return len(found) >= count

    wait_for(enough)
    return found


def test_a_question_and_its_answer(socket: ControlSocket, client: zmq.Socket[bytes]) -> None:
    """The answer reaches the one that asked."""
    client.send(msgpack.packb({"op": "ping", "id": 7, "owner": 5, "other": -1}))
    (question,) = asked(socket)
    assert (question.op, question.number, question.id_value("owner")) == ("ping", 7, 5)
    assert (question.id_value("other"), question.id_value("absent")) == (0, 0)
    assert socket.send(question.client, {"id": 7})
    assert msgpack.unpackb(client.recv()) == {"id": 7}


@pytest.mark.parametrize(
    "message",
    [
        [b""],
        [b"\xc1"],
        [b"\xdf\xff\xff\xff\xff"],
        [msgpack.packb([1])],
        [msgpack.packb({"op": 1, "id": 1})],
        [msgpack.packb({"op": "ping"})],
        [msgpack.packb({"op": "ping", "id": True})],
        [msgpack.packb({"op": "ping", "id": 1 << 63})],
        [msgpack.packb({1: 2, b"\xff": None})],
        [msgpack.packb({"op": "ping", "id": 1}), b"more"],
        [b"", b"", b""],
        [b"\x91" * 60000],
    ],
)
def test_what_is_no_question_is_passed_over(
    socket: ControlSocket, client: zmq.Socket[bytes], message: list[bytes]
) -> None:
    """Doorbells, garbage and several frames give no question, and the next one is heard."""
    client.send_multipart(message)
    client.send(msgpack.packb({"op": "ping", "id": 2}))
    assert [question.number for question in asked(socket)] == [2]


def test_a_message_too_large_ends_its_connection_only(
    socket: ControlSocket, client: zmq.Socket[bytes], tmp_path: Path
) -> None:
    """64 KiB is the limit; whoever sends more is cut off, the others are served."""
    client.send(b"x" * (1 << 20))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    other = context.socket(zmq.DEALER)
    other.linger = 0
    other.connect(f"ipc://{tmp_path / 'ctl'}")
    other.send(msgpack.packb({"op": "ping", "id": 1}))
    assert [question.number for question in asked(socket)] == [1]
    other.close()
    context.term()


def test_clients_that_are_gone(socket: ControlSocket) -> None:
    """A message to one that is not there is not sent, and says so."""
    assert not socket.send(b"nobody", {"id": 1})


def test_the_endpoint_is_ours_alone(tmp_path: Path, socket: ControlSocket) -> None:
    """Mode 0600; one that a dead aggregator left is replaced; it goes with its owner."""
    assert stat.S_IMODE((tmp_path / "ctl").stat().st_mode) == 0o600
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "ctl").write_bytes(b"left behind")
    other = ControlSocket(folder)
    assert stat.S_ISSOCK((folder / "ctl").stat().st_mode)
    other.close()
    assert not (folder / "ctl").exists()


def test_many_questions_take_several_turns(socket: ControlSocket, client: zmq.Socket[bytes]) -> None:
    """A flood of messages does not keep the loop from its work: one turn takes a limited number."""
    for number in range(600):
        client.send(msgpack.packb({"op": "ping", "id": number}))
    taken: list[list[Any]] = []

    def all_taken() -> bool:
        socket.wait(0.05)
        taken.append(list(socket.questions()))
        return sum(map(len, taken)) == 600

    wait_for(all_taken)
    assert max(map(len, taken)) <= 256

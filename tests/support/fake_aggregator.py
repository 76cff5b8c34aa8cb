"""Holds an aggregator's lock and answers questions with what the test says; it sends nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import zmq

from vwo_fast._lane import Control
from vwo_fast.locks import AGGREGATOR_LOCK, lock_file


@contextmanager
def fake_aggregator(folder: Path, answers: dict[str, dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """While it runs, a question with ``op`` in ``answers`` gets that answer, and any other gets none.

    Yields the questions that came.
    """
    lock = lock_file(folder / AGGREGATOR_LOCK)
    assert lock.acquire(0)
    control = Control.attach(str(folder / "control"))
    control.aggregator_pid = os.getpid()
    questions: list[dict[str, Any]] = []
    stop = threading.Event()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.linger = 0
        socket.bind(f"ipc://{folder}/ctl")
        thread = threading.Thread(target=_answer, args=(socket, stop, answers, questions))
        thread.start()
        try:
            yield questions
        finally:
            stop.set()
            thread.join()
            control.close()
            lock.release(0)


def _answer(
    socket: zmq.Socket[bytes],
    stop: threading.Event,
    answers: dict[str, dict[str, Any]],
    questions: list[dict[str, Any]],
) -> None:
    while not stop.is_set():
        if not socket.poll(20):
            continue
        peer, data = socket.recv_multipart()
        if not data:
            continue
        question = msgpack.unpackb(data)
        questions.append(question)
        if question["op"] in answers:
            socket.send_multipart([peer, msgpack.packb({**answers[question["op"]], "id": question["id"]})])

"""Whom a flush launches, which is one."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import vwo_fast
from tests.support.engine import Engine, engine, impression, route, wait_for
from vwo_fast import launch


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made


# ---- who launches


def launched(shop: Engine) -> int:
    """How many aggregators have come up: each says in the log that it has started, or that another has."""
    text = "".join(log.read_text() for log in shop.root.rglob("aggregator.log*"))
    return text.count(": started") + text.count("another aggregator is at work")


def wait_until_gone(shop: Engine, queue: vwo_fast.Queue) -> None:
    """Nobody is under way any more, so whoever was launched has said so in the log."""
    queue.close()
    wait_for(lambda: not launch.is_under_way(queue.folder) and not shop.is_running())


def test_a_queue_that_is_flushed_at_once_launches_one(shop: Engine) -> None:
    """The event launches the aggregator, and the flush waits for that one."""
    queue = shop.queue(events_per_request=1000)
    assert queue.producer(route()).enqueue(impression(1))
    assert queue.flush(60)
    # It has the lock from its launcher as long as it lives.
    assert launch.is_under_way(queue.folder)
    wait_until_gone(shop, queue)
    assert launched(shop) == 1


def flushed_together(queue: vwo_fast.Queue) -> list[bool]:
    """What three threads are answered that flush at once."""
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(queue.flush(60))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_processes_that_flush_at_once_launch_one(shop: Engine) -> None:
    """Six threads of two processes ask together, and nobody has enqueued."""
    queue = shop.queue(events_per_request=1000)
    pids = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if flushed_together(queue) == [True] * 3 else 1)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0]
    wait_until_gone(shop, queue)
    assert launched(shop) == 1


def test_a_launch_that_fails_at_once_is_not_waited_out(
    shop: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event's aggregator dies before it is one: the flush launches another, long before the claim is free."""
    monkeypatch.setattr(launch, "LAUNCH_INTERVAL_NS", 3600 * 10**9)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nmkdir "{tmp_path}/first" 2>/dev/null && exit 1\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o700)
    queue = shop.queue(events_per_request=1000, python=str(python))
    assert queue.producer(route()).enqueue(impression(1))
    assert queue.flush(60)
    assert (tmp_path / "first").is_dir()
    wait_until_gone(shop, queue)
    assert launched(shop) == 1


def test_one_that_is_slow_to_start_is_waited_for(shop: Engine, tmp_path: Path) -> None:
    """The lock that it has from its launcher tells that it lives: nobody launches another because of it."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nsleep 1\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o700)
    queue = shop.queue(events_per_request=1000, python=str(python))
    assert queue.producer(route()).enqueue(impression(1))
    assert launch.is_under_way(queue.folder)
    assert queue.flush(60)
    wait_until_gone(shop, queue)
    assert launched(shop) == 1


def test_what_lies_in_the_place_of_the_lock_stops_no_launch(shop: Engine) -> None:
    """A folder there: the aggregator comes up without it, and the flush is true."""
    queue = shop.queue(events_per_request=1000)
    (queue.folder / "launch.lock").mkdir()
    assert queue.producer(route()).enqueue(impression(1))
    assert queue.flush(60)

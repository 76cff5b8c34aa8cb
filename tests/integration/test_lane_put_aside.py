"""The lane of a living process is put aside: it notices, goes on in another, and the ledger balances."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vwo_fast
from tests.support.crashes import end_aggregators
from tests.support.engine import Engine, engine, impression, numbers, route, wait_for
from vwo_fast import _lane
from vwo_fast.counters import ControlCounter
from vwo_fast.stats import Stats

MAGIC, HEAD, NOISE = 0, 128, b"\xa7" * 8
OPTIONS: dict[str, Any] = {"events_per_request": 10, "lane_bytes": 1 << 16}


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made


def scribble(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(NOISE)


def the_lane(shop: Engine) -> Path:
    (path,) = (shop.run_dir / "shop").glob("lane-" + "[0-9a-f]" * 16)
    return path


def put_aside(shop: Engine) -> int:
    return _lane.Control.attach(str(shop.run_dir / "shop" / "control")).counter(ControlCounter.QUARANTINED_LANES)


def send(queue: vwo_fast.Queue, first: int, last: int) -> None:
    producer = queue.producer(route())
    assert all(producer.enqueue(impression(n)) for n in range(first, last))


def settled(queue: vwo_fast.Queue, delivered: int) -> Stats:
    wait_for(lambda: (stats := queue.stats()).delivered >= delivered and not stats.in_flight)
    return queue.stats()


@contextlib.contextmanager
def stopped(shop: Engine) -> Iterator[None]:
    pid = int(wait_for(shop.aggregator_pid))
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def in_running(shop: Engine, queue: vwo_fast.Queue) -> None:
    """The head is overwritten while an aggregator reads the lane, and some events are not read yet."""
    with stopped(shop):
        send(queue, 20, 35)
        scribble(the_lane(shop), HEAD)


def in_idle(shop: Engine, queue: vwo_fast.Queue) -> None:
    """The head is overwritten while nothing happens; the next events are made after the lane was put aside."""
    del queue
    scribble(the_lane(shop), HEAD)


def before_start(shop: Engine, queue: vwo_fast.Queue) -> None:
    """The lane is no lane any more for the aggregator that starts."""
    end_aggregators(shop, signal.SIGKILL)
    scribble(the_lane(shop), MAGIC)
    assert queue.producer(route()).enqueue(impression(20))


@pytest.mark.parametrize(("spoil", "made"), [(in_running, 35), (in_idle, 20), (before_start, 21)])
def test_nothing_is_lost_with_the_lane_of_a_living_process(
    shop: Engine, spoil: Callable[[Engine, vwo_fast.Queue], None], made: int, caplog: pytest.LogCaptureFixture
) -> None:
    """What was not read moves to a new lane, also what was made before the process could notice; each event arrives
    once, and as many are delivered as were accepted."""
    queue = shop.queue(**OPTIONS)
    send(queue, 0, 20)
    assert queue.flush(20)
    old = the_lane(shop)
    spoil(shop, queue)
    wait_for(lambda: put_aside(shop) == 1)
    send(queue, made, 50)
    wait_for(lambda: queue.flush(5))
    assert sorted(numbers(shop.collector.events)) == list(range(50))
    stats = settled(queue, 50)
    assert (stats.accepted, stats.delivered, stats.queued, stats.dropped) == (50, 50, 0, {})
    assert the_lane(shop) != old
    assert any("was put aside" in record.getMessage() for record in caplog.records)


def test_a_flush_takes_along_what_nobody_read(shop: Engine) -> None:
    """The process makes no more events: its flush is what notices, and it is True only when all has arrived."""
    queue = shop.queue(**OPTIONS)
    send(queue, 0, 20)
    assert queue.flush(20)
    in_running(shop, queue)
    wait_for(lambda: put_aside(shop) == 1)
    assert queue.flush(20)
    assert sorted(numbers(shop.collector.events)) == list(range(35))


def test_a_close_takes_along_what_nobody_read(shop: Engine) -> None:
    """The process ends as usual: what it leaves is in a lane that is read."""
    queue = shop.queue(**OPTIONS)
    send(queue, 0, 20)
    assert queue.flush(20)
    in_running(shop, queue)
    wait_for(lambda: put_aside(shop) == 1)
    queue.close()
    wait_for(lambda: len(shop.collector.events) == 35)
    assert sorted(numbers(shop.collector.events)) == list(range(35))


CHILD = """
import sys, time, vwo_fast
from tests.support.engine import FAST, impression, route
queue = vwo_fast.Queue("shop", base_url=sys.argv[1], run_dir=sys.argv[2], spool_dir=sys.argv[3], events_per_request=10,
    lane_bytes=1 << 16, **FAST)
producer = queue.producer(route())
for line in sys.stdin:
    first, last = map(int, line.split())
    assert all(producer.enqueue(impression(n)) for n in range(first, last))
    print("ok", flush=True)
"""


def test_what_nobody_can_take_along_is_counted(shop: Engine) -> None:
    """The process is killed before it notices: its unread events are dropped by damage, and no flush says True before
    that is known."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, shop.collector.url, str(shop.run_dir), str(shop.spool_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None

    def make(first: int, last: int) -> None:
        print(first, last, file=child.stdin, flush=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "ok\n"

    try:
        make(0, 20)
        wait_for(lambda: len(shop.collector.events) == 20)
        queue = shop.queue(**OPTIONS)
        with stopped(shop):
            make(20, 35)
            scribble(the_lane(shop), HEAD)
        wait_for(lambda: put_aside(shop) == 1)
        assert not queue.flush(5), "somebody may still bring events along"
    finally:
        child.kill()
        child.communicate()
    wait_for(lambda: queue.stats().dropped == {"damaged": 15})
    stats = settled(queue, 20)
    assert (stats.accepted, stats.delivered, stats.queued) == (35, 20, 0)

"""The lane of a living process is put aside: it notices, goes on in another, and the ledger balances."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vwo_fast
from tests.support.collector import Rule
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


class Other:
    """A process that enqueues what it is told to."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self.child = child

    def make(self, first: int, last: int) -> None:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        print(first, last, file=self.child.stdin, flush=True)
        assert self.child.stdout.readline() == "ok\n"

    def kill(self) -> None:
        self.child.kill()
        self.child.communicate()


@pytest.fixture
def other(shop: Engine) -> Iterator[Other]:
    """Another process, whose first twenty events have been delivered."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, shop.collector.url, str(shop.run_dir), str(shop.spool_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    made = Other(child)
    try:
        made.make(0, 20)
        wait_for(lambda: len(shop.collector.events) == 20)
        yield made
    finally:
        made.kill()


def put_lane_aside(shop: Engine, other: Other) -> None:
    """The other process's lane is put aside with 15 events in it, and the process does not know."""
    with stopped(shop):
        other.make(20, 35)
        scribble(the_lane(shop), HEAD)
    wait_for(lambda: put_aside(shop) == 1)


def restart(shop: Engine) -> None:
    end_aggregators(shop, signal.SIGKILL)


def test_what_nobody_can_take_along_is_counted(shop: Engine, other: Other) -> None:
    """The process is killed before it notices: its unread events are dropped by damage, no flush says True before
    that is known, and the one after it says so."""
    queue = shop.queue(**OPTIONS)
    put_lane_aside(shop, other)
    assert not queue.flush(5), "somebody may still bring events along"
    other.kill()
    wait_for(lambda: queue.stats().dropped == {"damaged": 15})
    stats = settled(queue, 20)
    assert (stats.accepted, stats.delivered, stats.queued) == (35, 20, 0)
    assert not queue.flush(5), "15 events were lost"
    assert queue.flush(5)


def test_no_flush_is_true_after_a_restart_either(shop: Engine, other: Other) -> None:
    """Aggregators that come later know of the lane too; once its process has taken its events along, flush is True."""
    queue = shop.queue(**OPTIONS)
    put_lane_aside(shop, other)
    for _ in range(3):
        restart(shop)
        assert not queue.flush(5)
        assert not queue.flush(5)
    assert len(shop.collector.events) == 20
    time.sleep(0.02)
    other.make(35, 36)
    wait_for(lambda: queue.flush(5))
    assert sorted(numbers(shop.collector.events)) == list(range(36))
    stats = settled(queue, 36)
    assert (stats.accepted, stats.delivered, stats.queued, stats.dropped) == (36, 36, 0, {})


def test_no_flush_is_true_when_a_lane_cannot_be_attached(shop: Engine, other: Other) -> None:
    """The aggregator that starts finds no lane in the place of one, and its process has not looked."""
    queue = shop.queue(**OPTIONS)
    other.make(20, 35)
    restart(shop)
    scribble(the_lane(shop), MAGIC)
    assert not queue.flush(5)
    assert put_aside(shop) == 1
    # Once a second the process looks for its file.
    time.sleep(1.1)
    other.make(35, 36)
    wait_for(lambda: queue.flush(5))
    assert set(numbers(shop.collector.events)) == set(range(36))


@pytest.mark.parametrize("is_aggregator_there", [True, False])
def test_what_is_lost_after_a_restart_is_told(shop: Engine, other: Other, is_aggregator_there: bool) -> None:
    """The aggregator that put the lane aside is gone, and then its process: the next flush is not True, also when
    there was no aggregator to see the process end; one that was there counts what is lost."""
    queue = shop.queue(**OPTIONS)
    put_lane_aside(shop, other)
    restart(shop)
    if is_aggregator_there:
        assert not queue.flush(5)
    other.kill()
    if is_aggregator_there:
        wait_for(lambda: queue.stats().dropped == {"damaged": 15})
    assert not queue.flush(5)
    assert queue.flush(5)


@pytest.mark.parametrize("many", [1, 3])
def test_a_loss_is_told_by_whichever_aggregator_answers(shop: Engine, many: int) -> None:
    """Counted by one that is killed before anybody asks: the answer of the next one is not True, the one after is."""
    queue = shop.queue(**OPTIONS)
    send(queue, 0, 20)
    assert queue.flush(20)
    end_aggregators(shop, signal.SIGKILL)
    send(queue, 20, 30)
    path = the_lane(shop)
    for number in range(25, 25 + many):
        scribble(path, path.read_bytes().index(f"{number:032X}".encode()))
    wait_for(lambda: queue.stats().dropped == {"damaged": many})
    end_aggregators(shop, signal.SIGKILL)
    assert not queue.flush(20)
    assert queue.flush(20)
    assert len(shop.collector.events) == 30 - many


def test_a_dead_letter_is_told_by_whichever_aggregator_answers(shop: Engine) -> None:
    """The same for an event that VWO refuses."""
    queue = shop.queue(**OPTIONS)
    shop.collector.rules[:] = [Rule(status=400)]
    send(queue, 0, 1)
    wait_for(lambda: queue.flush(5) or queue.stats().dead == 1)
    shop.collector.rules.clear()
    assert queue.flush(5)
    shop.collector.rules[:] = [Rule(status=400)]
    send(queue, 1, 11)
    wait_for(lambda: queue.stats().dead == 11)
    end_aggregators(shop, signal.SIGKILL)
    shop.collector.rules.clear()
    assert not queue.flush(5)
    assert queue.flush(5)

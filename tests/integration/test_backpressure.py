"""When VWO is slower than the application: what waits, what gives way, what is counted, and what memory it takes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vwo_fast
from tests.support.collector import Rule
from tests.support.engine import Engine, engine, impression, numbers, route, wait_for
from vwo_fast import _lane
from vwo_fast.stats import Stats

SMALL_LANE: dict[str, Any] = {"lane_bytes": 65536, "lane_bytes_max": 65536}
MEMORY_MAX = 256 << 20
"""Bytes: some 45 MB for the interpreter, and the limits that docs/guarantees.md names, with room to spare."""


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made


def ledger(stats: Stats) -> int:
    where = stats.delivered + stats.queued + stats.in_flight + stats.spooled + stats.dead
    return where + sum(stats.dropped.values())


def fill(producer: vwo_fast.Producer) -> int:
    """Enqueue until it is refused. Returns how many were accepted."""
    accepted = 0
    while producer.enqueue(impression(accepted)):
        accepted += 1
    return accepted


def test_block_waits_for_room(shop: Engine) -> None:
    """A lane that is full because no aggregator runs: enqueue waits, and succeeds once one has read it."""
    options = {"events_per_request": 50, "on_full": "block", "block_timeout": 10, **SMALL_LANE}
    queue = shop.queue(aggregator="external", **{**options, "block_timeout": 0})
    producer = queue.producer(route())
    accepted = fill(producer)
    patient = shop.queue(aggregator="external", **options)
    second = patient.producer(route())
    taken = 0
    while second.enqueue(impression(accepted + taken)) and taken < 150:
        taken += 1
    more: list[bool] = []
    thread = threading.Thread(
        target=lambda: more.extend(second.enqueue(impression(accepted + taken + n)) for n in range(1, 400))
    )
    thread.start()
    starter = shop.queue(aggregator="auto", **options)
    assert starter.flush(60)
    thread.join(120)
    assert all(more)
    assert starter.flush(60)
    assert Counter(numbers(shop.collector.events)) == Counter(range(accepted + taken + 400))


def test_block_gives_up(shop: Engine) -> None:
    """Without room in time the event is refused and counted; the wait was at least block_timeout."""
    queue = shop.queue(aggregator="external", events_per_request=50, on_full="block", block_timeout=0.2, **SMALL_LANE)
    producer = queue.producer(route())
    fill(producer)
    started = time.monotonic()
    assert not producer.enqueue(impression(0))
    assert time.monotonic() - started >= 0.2
    assert queue.stats().refused == {"lane_full": 2}


def test_the_other_threads_run_while_one_is_blocked(shop: Engine) -> None:
    """The wait gives the interpreter to others."""
    queue = shop.queue(aggregator="external", events_per_request=50, on_full="block", block_timeout=2, **SMALL_LANE)
    producer = queue.producer(route())
    thread = threading.Thread(target=fill, args=(producer,))
    thread.start()
    turns = 0
    while thread.is_alive():
        turns += 1
        time.sleep(0.001)
    assert turns >= 20


def test_drop_oldest_keeps_the_newest(shop: Engine) -> None:
    """VWO is away and the spool is full: enqueue goes on, the oldest batches are dropped and counted, and what arrives
    later is the newest, whole, each once."""
    shop.collector.rules.append(Rule(status=503))
    queue = shop.queue(events_per_request=20, spool_max_bytes=200_000, on_full="drop_oldest", **SMALL_LANE)
    producer = queue.producer(route())
    for n in range(3000):
        wait_for(lambda n=n: producer.enqueue(impression(n)))  # type: ignore[misc]
    wait_for(lambda: (stats := queue.stats()).spooled + sum(stats.dropped.values()) == 3000)
    stats = queue.stats()
    assert set(stats.dropped) == {"spool_full"}
    assert stats.spooled < 2000
    assert ledger(stats) == 3000
    shop.collector.rules.clear()
    assert not queue.flush(60), "what was dropped was not delivered"
    dropped = queue.stats().dropped["spool_full"]
    # What was on its way when its turn to go had come stayed.
    arrived = sorted(numbers(shop.collector.events))
    assert Counter(arrived) == Counter(set(arrived))
    assert len(arrived) == 3000 - dropped
    assert arrived[-400:] == list(range(2600, 3000))
    log = (shop.spool_dir / "shop" / "aggregator.log").read_text()
    assert log.count("the oldest give way") == 1


def test_what_waited_too_long_is_dropped(shop: Engine) -> None:
    """spool_max_age: counted as expired, the ledger balances, and newer events arrive."""
    shop.collector.rules.append(Rule(status=503))
    queue = shop.queue(events_per_request=5, spool_max_age=3)
    producer = queue.producer(route())
    assert all(producer.enqueue(impression(n)) for n in range(50))
    wait_for(lambda: queue.stats().dropped.get("expired", 0) >= 45)
    stats = queue.stats()
    assert ledger(stats) == 50
    shop.collector.rules.clear()
    assert all(producer.enqueue(impression(n)) for n in range(50, 60))
    queue.flush(60)
    assert set(range(50, 60)) <= set(numbers(shop.collector.events))
    assert queue.stats().delivered + queue.stats().dropped["expired"] == 60


@pytest.mark.parametrize("durable", ["seal", "always"])
def test_durable_has_it_on_disk_before_it_is_sent(shop: Engine, durable: str) -> None:
    """When a request arrives, its events are in the database; with "always" also those of a batch that is open."""
    seen: list[int] = []
    receive = shop.collector.receive

    def look(request: Any) -> Any:
        with sqlite3.connect(f"file:{shop.spool_dir}/shop/spool.sqlite?mode=ro", uri=True) as db:
            seen.append(db.execute("SELECT COUNT(*) FROM batch WHERE body=?", (request.body,)).fetchone()[0])
        db.close()
        return receive(request)

    shop.collector.receive = look  # type: ignore[method-assign]
    queue = shop.queue(events_per_request=10, request_time_interval=600, durable=durable)
    producer = queue.producer(route())
    assert all(producer.enqueue(impression(n)) for n in range(55))
    assert shop.collector.wait(lambda c: len(c.events) == 50)
    assert seen == [1] * 5
    if durable == "always":
        wait_for(lambda: queue.stats().spooled == 5)
    assert queue.flush(60)
    assert Counter(numbers(shop.collector.events)) == Counter(range(55))
    assert queue.stats().spooled == 0


def test_a_power_loss_with_durable_always_costs_nothing_saved(shop: Engine) -> None:
    """The folder in memory is gone, as after a loss of power: what was in the database arrives after the next start."""
    shop.collector.rules.append(Rule(status=503))
    queue = shop.queue(events_per_request=1000, request_time_interval=600, durable="always")
    producer = queue.producer(route())
    assert all(producer.enqueue(impression(n)) for n in range(55))
    wait_for(lambda: queue.stats().spooled == 55)
    shop.kill_aggregator()
    queue.close()
    for path in (shop.run_dir / "shop").iterdir():
        path.unlink()
    shop.collector.rules.clear()
    again = shop.queue(events_per_request=1000, request_time_interval=600, durable="always")
    assert again.flush(60)
    assert Counter(numbers(shop.collector.events)) == Counter(range(55))


def _at_full_speed(options: dict[str, Any], number: int, seconds: float) -> None:
    queue = vwo_fast.Queue("shop", **options)
    producer = queue.producer(route())
    made = impression(number)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(200):
            producer.enqueue(made)
        # Two processors for all of us: the aggregator is to be fed, not starved.
        time.sleep(0.0005)
    queue.close()


def resident(pid: int) -> int:
    """Bytes of memory that a process has; 0 once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") - int(fields[2]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="optional: memory is read from /proc")
@pytest.mark.parametrize(
    "rule",
    [Rule(delay=0.3), Rule(delay=30), Rule(status=503), Rule(drop=True)],
    ids=["slow", "hanging", "refusing", "dropping"],
)
def test_memory_is_bounded_whatever_the_server_does(shop: Engine, rule: Rule) -> None:
    """Four producers at full speed for some seconds: the aggregator's own memory stays below the documented limits."""
    shop.collector.rules.append(rule)
    options = shop.options(events_per_request=5000, request_time_interval=1, spool_max_bytes=200_000_000)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_at_full_speed, args=(options, n, 4.0)) for n in range(4)]
    for worker in workers:
        worker.start()
    pid = wait_for(lambda: (shop.run_dir / "shop" / "control").exists() and shop.aggregator_pid())
    highest = 0
    while any(worker.is_alive() for worker in workers):
        highest = max(highest, resident(pid))
        time.sleep(0.05)
    for worker in workers:
        worker.join(30)
    stats = shop.queue(
        **{name: options[name] for name in ("events_per_request", "request_time_interval")}, spool_max_bytes=200_000_000
    ).stats()
    assert stats.accepted > 50_000
    assert ledger(stats) == stats.accepted
    assert 0 < highest < MEMORY_MAX, f"{highest >> 20} MiB"
    print(f"\n{highest >> 20} MiB with {stats.accepted} events, {stats.refused} refused")
    # The end is not what is tested here: a server that hangs would be waited for.
    shop.kill_aggregator(number=signal.SIGKILL)


def test_a_lane_is_there_again_after_the_rush(shop: Engine) -> None:
    """What was refused in a rush is counted by its reason, and afterwards there is room."""
    shop.collector.rules.append(Rule(delay=0.05, times=10))
    queue = shop.queue(events_per_request=100, **SMALL_LANE)
    producer = queue.producer(route())
    accepted = sum(producer.enqueue(impression(n)) for n in range(20_000))
    assert queue.flush(60)
    stats = queue.stats()
    assert stats.accepted == stats.delivered == accepted
    assert accepted + stats.refused.get("lane_full", 0) == 20_000
    assert producer.enqueue(impression(20_000))
    assert queue.flush(60)
    assert _lane.Control.attach(str(shop.run_dir / "shop" / "control")).aggregator_pid == shop.aggregator_pid()

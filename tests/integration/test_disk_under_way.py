"""The disk of the spool stops taking writes while it is in use, and takes them again later."""

from __future__ import annotations

import errno
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vwo_fast
from tests.support.collector import Rule
from tests.support.engine import Engine, engine, impression, numbers, route, wait_for
from tests.support.zygote import shim
from vwo_fast.stats import Stats

OPTIONS: dict[str, Any] = {"events_per_request": 10, "lane_bytes": 1 << 16, "lane_bytes_max": 1 << 16}
Fault = Callable[[int], None]


@pytest.fixture
def fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fault:
    """Makes every write to the spool fail with an error, from now on and in every aggregator; 0: no longer."""
    file = tmp_path / "fault"
    file.write_bytes(bytes(8))
    monkeypatch.setenv("LD_PRELOAD", str(shim("disk")))
    monkeypatch.setenv("VF_DISK_FILE", str(file))
    monkeypatch.setenv("VF_DISK_PART", "/spool.sqlite")

    def turn(error: int) -> None:
        with file.open("r+b") as opened:
            opened.write(struct.pack("=q", error))

    return turn


@pytest.fixture
def shop(fault: Fault) -> Iterator[Engine]:
    with engine() as made:
        yield made
        fault(0)


def ledger(stats: Stats) -> int:
    where = stats.delivered + stats.queued + stats.in_flight + stats.spooled + stats.dead
    return where + sum(stats.dropped.values())


def send(queue: vwo_fast.Queue, first: int, last: int) -> None:
    producer = queue.producer(route())
    assert all(producer.enqueue(impression(n)) for n in range(first, last))


def failures(queue: vwo_fast.Queue) -> str:
    return (queue.settings.queue_spool_dir / "aggregator.log").read_text()


@pytest.mark.parametrize("error", [errno.EROFS, errno.EIO, errno.ENOSPC])
def test_a_disk_that_stops_taking_writes_costs_nothing(shop: Engine, fault: Fault, error: int) -> None:
    """VWO is away, some batches are on the disk, and then it takes nothing more: lanes fill, enqueue refuses, and the
    ledger balances at each step; when VWO is back all is delivered without the disk; when the disk is back too, it is
    used again by the same process."""
    shop.collector.rules[:] = [Rule(status=503)]
    queue = shop.queue(**OPTIONS)
    send(queue, 0, 50)
    wait_for(lambda: queue.stats().spooled == 50)
    pid = shop.aggregator_pid()
    fault(error)
    producer = queue.producer(route())
    accepted = 50
    while producer.enqueue(impression(accepted)):
        accepted += 1
    wait_for(lambda: "the spool cannot be" in failures(queue) or "there is no spool" in failures(queue))
    assert ledger(queue.stats()) == queue.stats().accepted == accepted
    assert queue.stats().refused["lane_full"] >= 1
    shop.collector.rules.clear()
    wait_for(lambda: queue.flush(5))
    assert queue.stats().delivered == accepted
    assert ledger(queue.stats()) == accepted
    fault(0)
    shop.collector.rules[:] = [Rule(status=503)]
    send(queue, accepted, accepted + 20)
    wait_for(lambda: queue.stats().spooled == 20)
    shop.collector.rules.clear()
    wait_for(lambda: queue.flush(5))
    assert Counter(numbers(shop.collector.events)) == Counter(range(accepted + 20))
    stats = queue.stats()
    assert (stats.accepted, stats.delivered, stats.dropped, stats.dead) == (accepted + 20, accepted + 20, {}, 0)
    assert shop.aggregator_pid() == pid


def test_a_kill_while_the_disk_takes_nothing(shop: Engine, fault: Fault) -> None:
    """Delivered rows could not be deleted when the aggregator is killed: nothing is lost, and what is sent twice is no
    more than those."""
    shop.collector.rules[:] = [Rule(status=503)]
    queue = shop.queue(**OPTIONS)
    send(queue, 0, 50)
    wait_for(lambda: queue.stats().spooled == 50)
    fault(errno.EROFS)
    shop.collector.rules.clear()
    send(queue, 50, 80)
    wait_for(lambda: queue.stats().delivered == 80)
    shop.kill_aggregator()
    fault(0)
    send(queue, 80, 90)
    wait_for(lambda: queue.flush(5))
    arrived = Counter(numbers(shop.collector.events))
    assert set(arrived) == set(range(90))
    assert {n for n, times in arrived.items() if times > 1} <= set(range(50))
    wait_for(lambda: queue.stats().spooled == 0)

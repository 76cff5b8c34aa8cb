"""The wall clock jumps an hour, both ways: only monotonic time decides when something leaves or is tried again."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.support.collector import Rule
from tests.support.crashes import end_aggregators
from tests.support.engine import Engine, engine, impression, numbers, route, wait_for
from tests.support.zygote import Zygote, shim

HOUR = 3600
INTERVAL = 1.0

Jump = Callable[[int], None]


@pytest.fixture
def jump(tmp_path: Path) -> Iterator[tuple[Zygote, Jump]]:
    """A zygote whose children have a wall clock that is off by what the test says."""
    file = tmp_path / "jump"

    def jump_by(seconds: int) -> None:
        with file.open("r+b") as opened:
            opened.write(struct.pack("=q", seconds))

    file.write_bytes(bytes(8))
    zygote = Zygote(shim("clock"), VF_CLOCK_FILE=str(file))
    yield zygote, jump_by
    zygote.close()


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made
        end_aggregators(made, 15)


@pytest.mark.parametrize("seconds", [HOUR, -HOUR], ids=["forward", "back"])
def test_an_interval_is_neither_shorter_nor_longer(jump: tuple[Zygote, Jump], shop: Engine, seconds: int) -> None:
    """A batch that is open while the clock jumps leaves after its interval, not at once and not an hour later."""
    zygote, jump_by = jump
    queue = shop.queue(events_per_request=1000, request_time_interval=INTERVAL)
    zygote.start("aggregator", folder=str(queue.folder))
    wait_for(shop.is_running)
    for number in range(2):
        started = time.monotonic()
        assert queue.producer(route()).enqueue(impression(number))
        wait_for(lambda: queue.stats().queued == 1)
        jump_by(seconds if number == 0 else 0)
        assert shop.collector.wait(lambda c, number=number: numbers(c.events)[-1:] == [number])  # type: ignore[misc]
        assert time.monotonic() - started >= INTERVAL * 0.9


@pytest.mark.parametrize("seconds", [HOUR, -HOUR], ids=["forward", "back"])
def test_an_outage_ends_whatever_the_clock_says(jump: tuple[Zygote, Jump], shop: Engine, seconds: int) -> None:
    """What waits in the spool, and for a date in Retry-After, is sent when the server's clock says so."""
    zygote, jump_by = jump
    shop.collector.rules.append(Rule(status=503))
    queue = shop.queue(events_per_request=5)
    zygote.start("aggregator", folder=str(queue.folder))
    wait_for(shop.is_running)
    for number in range(20):
        assert queue.producer(route()).enqueue(impression(number))
    wait_for(lambda: queue.stats().spooled == 20)
    jump_by(seconds)
    soon = formatdate(time.time() + 1, usegmt=True)
    date = formatdate(time.time(), usegmt=True)
    shop.collector.rules[:] = [Rule(status=429, times=1, headers={"Retry-After": soon, "Date": date})]
    assert shop.collector.wait(lambda c: len(c.events) == 20)
    stats = queue.stats()
    assert (stats.dropped, stats.dead) == ({}, 0)

"""Damage in a lane is counted once, wherever the aggregators that read it are killed."""

from __future__ import annotations

import itertools
import signal
from collections import Counter
from pathlib import Path

from tests.support.crashes import end_aggregators, start_aggregator
from tests.support.engine import engine, impression, numbers, route, wait_for

# Between the first and the last of the entry places the count and the note of it are made; at the others
# what was counted lies in a lane that nothing has released.
PLACES = [
    f"{place}#{passage}"
    for place, passage in itertools.product(
        ("entry: written", "entry: done, not counted", "entry: counted in part", "entry: counted, not cleared"),
        (1, 2, 3),
    )
] + ["read: moved#1", "read: moved#3", "turn: read", "turn: relieved", "start: redone", "start: counters"]

PER_LIFE = 12
SPOILED = (2, 5, 6, 7, 11)
"""Of the events that come before a life: one alone, three in a row, and the last, behind which the head is."""


def spoil(lane: Path, number: int) -> None:
    """Change a byte of the record of an event, as a stray write would."""
    at = lane.read_bytes().index(f"{number:032X}".encode())
    with lane.open("r+b") as file:
        file.seek(at)
        file.write(b"?")


def test_damage_is_counted_once_over_all_kills() -> None:
    """Each life counts new damage, is killed, and leaves the lane as it was: at the end the ledger balances exactly."""
    with engine() as shop:
        queue = shop.queue(
            events_per_request=5000,
            request_time_interval=3600,
            lane_bytes=1 << 20,
            idle_exit=0.1,
            aggregator="external",
        )
        producer = queue.producer(route())
        made = itertools.count()
        spoiled: set[int] = set()
        for target in PLACES:
            first = next(made)
            assert producer.enqueue(impression(first))
            (lane,) = (shop.run_dir / "shop").glob("lane-" + "[0-9a-f]" * 16)
            for number in itertools.islice(made, PER_LIFE - 1):
                assert producer.enqueue(impression(number))
            spoiled |= {first + index for index in SPOILED}
            for index in SPOILED:
                spoil(lane, first + index)
            process = start_aggregator(shop, target=target)
            process.join(60)
            assert process.exitcode == -signal.SIGKILL, target
            assert queue.stats().dropped.get("damaged", 0) <= len(spoiled)
        total = next(made)
        last = start_aggregator(shop)
        wait_for(lambda: queue.stats().dropped == {"damaged": len(spoiled)})
        queue.flush(30)
        wait_for(lambda: queue.stats().delivered == total - len(spoiled))
        arrived = Counter(numbers(shop.collector.events))
        assert arrived == Counter(set(range(total)) - spoiled)
        queue.close()
        wait_for(lambda: queue.stats().lanes == 0)
        stats = queue.stats()
        assert (stats.accepted, stats.delivered, stats.dropped) == (
            total,
            total - len(spoiled),
            {"damaged": len(spoiled)},
        )
        assert (stats.queued, stats.in_flight, stats.spooled, stats.dead) == (0, 0, 0, 0)
        end_aggregators(shop, signal.SIGKILL)
        last.join()

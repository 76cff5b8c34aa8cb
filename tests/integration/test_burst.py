"""A burst larger than a lane: the lane grows, order is kept, and memory goes back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.support.engine import Engine, engine, impression, numbers, route, wait_for
from vwo_fast import owner as owner_room


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made


def test_a_burst_before_the_aggregator_runs_is_accepted_whole(shop: Engine) -> None:
    """10 MB in one go, with the default settings and nobody reading yet: nothing is refused, the order is kept."""
    queue = shop.queue(events_per_request=5000, in_flight_max=1)
    producer = queue.producer(route())
    assert all(producer.enqueue(impression(n, visitor_ua="x" * 2000)) for n in range(5000))
    assert queue.flush(60)
    assert numbers(shop.collector.events) == list(range(5000))
    stats = queue.stats()
    assert stats.accepted == stats.delivered == 5000
    assert stats.refused == {}


def test_an_outgrown_lane_is_read_first_also_by_a_new_aggregator(shop: Engine) -> None:
    """Killed in the middle of a chain of lanes, the next aggregator reads them in the order they were written."""
    queue = shop.queue(events_per_request=5000, in_flight_max=1, lane_bytes=1 << 16)
    producer = queue.producer(route())
    for n in range(2000):
        assert producer.enqueue(impression(n, visitor_ua="y" * 500))
        if n == 700:
            shop.kill_aggregator()
    assert queue.flush(60)
    assert numbers(shop.collector.events) == list(range(2000))


def test_outgrown_lanes_are_removed_and_the_lane_shrinks_again(shop: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the burst one lane is left, of the usual size."""
    monkeypatch.setattr(owner_room, "SHRINK_SECONDS", 0.5)
    queue = shop.queue(events_per_request=100, lane_bytes=1 << 16)
    producer = queue.producer(route())
    largest = 0
    for n in range(2000):
        assert producer.enqueue(impression(n, visitor_ua="z" * 300))
        largest = max(largest, queue._owner.capacity)
    assert largest > 1 << 16
    assert queue.flush(60)
    later = itertools.count(2000)

    def has_shrunk() -> bool:
        # The lane is looked at with an event, about once a second.
        assert producer.enqueue(impression(next(later)))
        assert queue.flush(60)
        return [lane.stat().st_size for lane in queue.folder.glob("lane-*")] == [4096 + (1 << 16)]

    wait_for(has_shrunk)
    assert queue.flush(60)
    assert sorted(numbers(shop.collector.events)) == list(range(next(later)))


def test_a_lane_that_may_not_grow_refuses(shop: Engine) -> None:
    """lane_bytes_max bounds the memory of a process; what does not fit is refused and counted, the rest arrives."""
    queue = shop.queue(events_per_request=100, lane_bytes=1 << 16, lane_bytes_max=1 << 16)
    producer = queue.producer(route())
    accepted = [n for n in range(5000) if producer.enqueue(impression(n, visitor_ua="w" * 500))]
    assert queue.flush(60)
    assert len(accepted) < 5000
    assert sorted(numbers(shop.collector.events)) == accepted
    assert queue.stats().refused == {"lane_full": 5000 - len(accepted)}

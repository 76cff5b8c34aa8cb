"""Compressed bodies, from ``enqueue`` to a collector that unpacks and checks them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import vwo_fast
from tests.support.collector import Recorded, Rule
from tests.support.engine import Engine, engine, impression, numbers, route, wait_for

EVENTS = 120
PER_REQUEST = 30


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made


def sent(shop: Engine, **changes: Any) -> tuple[vwo_fast.Stats, list[Recorded]]:
    """The statistics and the requests, once all events have arrived, each once."""
    queue = shop.queue(**{"events_per_request": PER_REQUEST, "in_flight_max": 1, **changes})
    producer = queue.producer(route())
    assert all(producer.enqueue(impression(n)) for n in range(EVENTS))
    wait_for(lambda: queue.stats().delivered == EVENTS)
    assert numbers(shop.collector.events) == list(range(EVENTS))
    stats = queue.stats()
    assert (stats.dead, stats.dropped, stats.unknown_outcome) == (0, {}, 0)
    return stats, shop.collector.requests


def encodings(requests: list[Recorded]) -> list[str]:
    return [request.headers.get("Content-Encoding", "") for request in requests]


def test_compressed_bodies_arrive(shop: Engine) -> None:
    """With compression="gzip" every batch is compressed, to less than a third; its events are the same."""
    stats, requests = sent(shop, compression="gzip")
    assert encodings(requests) == ["gzip"] * (EVENTS // PER_REQUEST)
    assert all(3 * request.wire_bytes < len(request.body) for request in requests)
    assert stats.delivered_bytes == sum(len(request.body) for request in requests)


def test_nothing_is_compressed_unasked(shop: Engine) -> None:
    """Without the option no request says that it is compressed, and none is."""
    _, requests = sent(shop)
    assert encodings(requests) == [""] * (EVENTS // PER_REQUEST)
    assert all(request.wire_bytes == len(request.body) for request in requests)


def test_what_is_small_goes_plain(shop: Engine) -> None:
    """A body of less than 1,000 bytes is not worth it."""
    _, requests = sent(shop, compression="gzip", events_per_request=1)
    assert encodings(requests) == [""] * EVENTS


def test_limits_count_what_is_compressed(shop: Engine) -> None:
    """Batches are sealed by the bytes that the server will unpack, whatever they become on the way."""
    _, requests = sent(shop, compression="gzip", events_per_request=5000, request_time_interval=1, body_bytes_max=4000)
    sizes = [len(request.body) for request in requests]
    largest = max(len(request.body) for request in requests) / min(len(r.batch_events or []) for r in requests[:-1])
    assert all(size <= 4000 for size in sizes)
    assert all(size > 4000 - largest for size in sizes[:-1])
    assert set(encodings(requests[:-1])) == {"gzip"}


@pytest.mark.parametrize("status", [400, 415])
def test_a_server_that_does_not_take_it_gets_plain_requests(shop: Engine, status: int) -> None:
    """Refused once for its compression, the same batch goes plain at once, all others too, and the log says so once."""
    shop.collector.rules.append(Rule(status=status, encoding="gzip"))
    stats, requests = sent(shop, compression="gzip")
    assert encodings(requests) == ["gzip", *[""] * (EVENTS // PER_REQUEST)]
    assert requests[0].body == requests[1].body
    assert stats.retries == 0
    log = (shop.spool_dir / "shop" / "aggregator.log").read_text()
    assert log.count(f"a compressed request was answered with status {status}") == 1


def test_a_refusal_of_the_events_is_none_of_the_compression(shop: Engine) -> None:
    """Batches with an event that the server refuses are split, and the others stay compressed."""
    queue = shop.queue(events_per_request=PER_REQUEST, compression="gzip", in_flight_max=1)
    producer = queue.producer(route())
    refused = 7
    shop.collector.rules.append(Rule(status=400, min_bytes=100_000))
    for n in range(EVENTS):
        assert producer.enqueue(impression(n, visitor_ua="z" * 100_000 if n == refused else "short"))
    wait_for(lambda: queue.stats().delivered == EVENTS - 1)
    assert queue.stats().dead == 1
    assert numbers(shop.collector.events) == [n for n in range(EVENTS) if n != refused]
    assert "gzip" in encodings(shop.collector.batches[-1:])
    # Each that was refused had been tried both ways.
    tried = [request for request in shop.collector.requests if request.status == 400]
    assert encodings(tried) == ["gzip", ""] * (len(tried) // 2)

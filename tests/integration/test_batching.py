"""Counts, timers, limits, routes and flush, end to end: real lanes, a real aggregator, a real HTTP server."""

from __future__ import annotations

import datetime
import itertools
import json
import multiprocessing
import time
from collections.abc import Iterator
from typing import Any

import pytest

import vwo_fast
from tests.support.collector import Rule
from tests.support.engine import Engine, engine, impression, numbers, route, wait_for
from tests.support.pace import Pace


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made


def test_a_full_batch_leaves_by_count(shop: Engine) -> None:
    """events_per_request seals a batch; what is over it stays queued until flush."""
    queue = shop.queue(events_per_request=3)
    producer = queue.producer(route())
    assert all(producer.enqueue(impression(n)) for n in range(7))
    assert shop.collector.wait(lambda c: len(c.events) == 6)
    assert [len(request.batch_events or ()) for request in shop.collector.batches] == [3, 3]
    assert queue.stats().queued == 1
    assert queue.flush(60)
    assert sorted(numbers(shop.collector.events)) == list(range(7))


def test_one_request_at_a_time_keeps_the_order_of_the_process(shop: Engine) -> None:
    """With in_flight_max=1 the events of a process arrive in the order they were enqueued."""
    queue = shop.queue(events_per_request=3, in_flight_max=1)
    producer = queue.producer(route())
    assert all(producer.enqueue(impression(n)) for n in range(30))
    assert shop.collector.wait(lambda c: len(c.events) == 30)
    assert numbers(shop.collector.events) == list(range(30))


def test_the_request_is_what_the_official_sdk_sends(shop: Engine) -> None:
    """Path, query in order, Authorization, content type and the event's keys in order are the official ones."""
    queue = shop.queue(events_per_request=1)
    stats = {"eb": 1, "_l": 1}
    queue.producer(route(collection_prefix="eu01", usage_stats=stats)).enqueue(impression(5))
    assert shop.collector.wait(lambda c: len(c.events) == 1)
    (request,) = shop.collector.requests
    assert request.path == "/eu01/server-side/batch-events"
    assert request.query == [
        ("a", "888888"),
        ("sdk", "vwo-python-sdk"),
        ("sdk-v", "1.68.2"),
        ("env", "testkey0000000000000000000000001"),
        ("eb", "1"),
        ("_l", "1"),
    ]
    assert request.headers["Authorization"] == "testkey0000000000000000000000001"
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["User-Agent"] == "vwo-python-sdk"
    (event,) = request.json["ev"]
    assert list(event) == ["u", "sId", "visitor_ua", "visitor_ip", "c", "e", "eT"]
    assert request.body == json.dumps(request.json, separators=(",", ":")).encode()


def test_the_interval_starts_with_the_first_event(shop: Engine) -> None:
    """A batch leaves request_time_interval after its first event, not after the last one or the start."""
    queue = shop.queue(request_time_interval=1)
    producer = queue.producer(route())
    for attempt in itertools.count():
        shop.collector.clear()
        producer.enqueue(impression(0))
        assert queue.flush(60)
        time.sleep(1.2)
        started = time.time()
        producer.enqueue(impression(1))
        time.sleep(0.6)
        producer.enqueue(impression(2))
        is_in_time = time.time() - started < 0.9
        assert shop.collector.wait(lambda c: len(c.events) == 3)
        # A busy machine may wake this process too late; then it has tried something else.
        if is_in_time or attempt == 20:
            break
    second = shop.collector.batches[1]
    assert numbers(second.batch_events or []) == [1, 2]
    assert second.time - started >= 0.9


def test_flush_clears_the_timer(shop: Engine) -> None:
    """After a flush the next batch has an interval of its own; no empty request is ever sent."""
    queue = shop.queue(request_time_interval=1)
    producer = queue.producer(route())
    producer.enqueue(impression(0))
    time.sleep(0.7)
    assert queue.flush(60)
    started = time.time()
    producer.enqueue(impression(1))
    assert shop.collector.wait(lambda c: len(c.events) == 2)
    assert shop.collector.batches[1].time - started >= 0.9
    assert queue.flush(60)
    assert len(shop.collector.requests) == 2


def _enqueue_some(options: dict[str, Any], start: int, stop: int, account: int) -> None:
    queue = vwo_fast.Queue("shop", **options)
    producer = queue.producer(route(account))
    assert all(producer.enqueue(impression(n, account_id=account)) for n in range(start, stop))
    queue.close()


def test_the_count_holds_over_all_processes_of_the_host(shop: Engine) -> None:
    """Four processes that put 5 events each into one queue make one batch of 20."""
    options = shop.options(events_per_request=20)
    # Without a user that stays, the first to end might be the last one for a while, and nobody to wait for.
    shop.queue(events_per_request=20)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_enqueue_some, args=(options, n * 5, n * 5 + 5, 888888)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert shop.collector.wait(lambda c: len(c.events) == 20)
    assert len(shop.collector.batches) == 1
    assert sorted(numbers(shop.collector.events)) == list(range(20))


def test_a_batch_holds_events_of_one_route(shop: Engine) -> None:
    """Two accounts that alternate in one process leave in separate batches, each with its own query and count."""
    queue = shop.queue(events_per_request=10)
    first, second = queue.producer(route(1)), queue.producer(route(2, collection_prefix="as01"))
    for n in range(20):
        (first if n % 2 else second).enqueue(impression(n))
    assert shop.collector.wait(lambda c: len(c.events) == 20)
    by_account = {dict(request.query)["a"]: request for request in shop.collector.batches}
    assert len(shop.collector.batches) == 2
    assert numbers(by_account["1"].batch_events or []) == list(range(1, 20, 2))
    assert numbers(by_account["2"].batch_events or []) == list(range(0, 20, 2))
    assert by_account["2"].path == "/as01/server-side/batch-events"


def test_real_time_sends_each_impression_alone(shop: Engine) -> None:
    """With neither count nor interval each impression is one GET with the official query and headers."""
    queue = shop.queue()
    assert queue.real_time
    producer = queue.producer(route())
    producer.enqueue(impression(1))
    producer.enqueue(
        impression(2, url="https://dev.visualwebsiteoptimizer.com/server-side/track-goal", goal_id=9, r=None)
    )
    assert shop.collector.wait(lambda c: len([r for r in c.requests if r.accepted]) == 2)
    first, second = sorted(shop.collector.requests, key=lambda request: request.path)[::-1]
    assert (first.method, first.path) == ("GET", "/server-side/track-user")
    given = impression(1)
    url = given.pop("url")
    assert url.endswith(first.path)
    assert first.query == [(name, str(value)) for name, value in given.items()]
    assert first.headers["X-Device-User-Agent"] == "Mozilla/5.0"
    assert first.headers["VWO-X-Forwarded-For"] == "203.0.113.7"
    assert dict(second.query)["goal_id"] == "9"
    assert "r" not in dict(second.query)


def test_bodies_keep_the_byte_limit_exactly(shop: Engine) -> None:
    """No body is larger than body_bytes_max, and none could have taken the next event as well."""
    queue = shop.queue(events_per_request=5000, body_bytes_max=2000, in_flight_max=1)
    producer = queue.producer(route())
    for n in range(60):
        assert producer.enqueue(impression(n, visitor_ua="x" * (n * 7 % 90)))
    assert queue.flush(60)
    batches = shop.collector.batches
    assert numbers(shop.collector.events) == list(range(60))
    for request, following in itertools.pairwise(batches):
        assert len(request.body) <= 2000
        next_event = json.dumps((following.batch_events or [])[0], separators=(",", ":"))
        assert len(request.body) + 1 + len(next_event) > 2000


def test_five_thousand_events_is_the_most(shop: Engine) -> None:
    """A batch of exactly 5000 events goes out in one request."""
    queue = shop.queue(events_per_request=5000)
    producer = queue.producer(route())
    for n in range(5001):
        assert producer.enqueue(impression(n))
    assert shop.collector.wait(lambda c: len(c.events) == 5000)
    assert queue.flush(60)
    assert [len(request.batch_events or ()) for request in shop.collector.batches] == [5000, 1]


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
        b"bytes",
        {1, 2},
        object(),
    ],
    ids=["nan", "inf", "datetime", "bytes", "set", "object"],
)
def test_what_json_cannot_carry_is_refused_alone(shop: Engine, value: object) -> None:
    """One event that JSON cannot carry is refused with its reason; those before and after it arrive."""
    queue = shop.queue(events_per_request=2)
    producer = queue.producer(route())
    assert producer.enqueue(impression(0))
    assert producer.enqueue(impression(1, combination={"deep": [value]})) is False
    assert producer.enqueue(impression(2))
    assert shop.collector.wait(lambda c: len(c.events) == 2)
    assert numbers(shop.collector.events) == [0, 2]
    wait_for(lambda: queue.stats().delivered == 2)
    assert queue.stats().refused == {"not_json": 1}
    assert queue.stats().accepted == 2


def test_an_event_larger_than_a_body_is_refused(shop: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """An event that alone exceeds body_bytes_max is refused, counted, and logged once."""
    queue = shop.queue(events_per_request=2)
    producer = queue.producer(route())
    for _ in range(3):
        assert producer.enqueue(impression(0, visitor_ua="x" * 10_000_001)) is False
    assert queue.stats().refused == {"too_large": 3}
    assert len([record for record in caplog.records if "too_large" in record.message]) == 1
    assert "xxx" not in caplog.text


def test_an_event_larger_than_a_lane_arrives(shop: Engine) -> None:
    """An event of 9 MB goes through although the lane has 64 KiB, in order with the small ones around it."""
    queue = shop.queue(events_per_request=100, lane_bytes=1 << 16)
    producer = queue.producer(route())
    assert producer.enqueue(impression(0))
    assert producer.enqueue(impression(1, visitor_ua="y" * 9_000_000))
    assert producer.enqueue(impression(2))
    assert queue.flush(60)
    assert numbers(shop.collector.events) == [0, 1, 2]
    assert len(shop.collector.events[1]["visitor_ua"]) == 9_000_000
    assert not list(queue.folder.glob("big-*"))


def test_flush_answers_false_while_the_server_refuses_and_true_after(shop: Engine) -> None:
    """flush is True only when VWO has accepted all; what it could not send is kept and sent later."""
    queue = shop.queue(events_per_request=100)
    producer = queue.producer(route())
    rule = Rule(status=503)
    shop.collector.rules.append(rule)
    assert all(producer.enqueue(impression(n)) for n in range(10))
    assert queue.flush(1) is False
    assert shop.collector.events == []
    shop.collector.rules.clear()
    assert queue.flush(60)
    assert numbers(shop.collector.events) == list(range(10))
    assert queue.stats().delivered == 10


def test_flush_covers_the_events_of_other_processes(shop: Engine) -> None:
    """The barrier holds for all that any process had accepted before it."""
    options = shop.options(events_per_request=1000)
    worker = multiprocessing.get_context("spawn").Process(target=_enqueue_some, args=(options, 0, 50, 888888))
    worker.start()
    worker.join(60)
    queue = shop.queue(events_per_request=1000)
    assert queue.flush(60)
    assert sorted(numbers(shop.collector.events)) == list(range(50))


def test_a_413_is_split_down_to_the_event_that_is_refused(shop: Engine) -> None:
    """The server's own limit is met by halving; only an event that is refused alone becomes a dead letter."""
    shop.collector.rules.append(Rule(status=413, min_bytes=1500))
    queue = shop.queue(events_per_request=32)
    producer = queue.producer(route())
    for n in range(32):
        assert producer.enqueue(impression(n, visitor_ua="z" * 2000 if n == 13 else "short"))
    assert queue.flush(60) is False
    assert sorted(numbers(shop.collector.events)) == [n for n in range(32) if n != 13]
    stats = queue.stats()
    assert (stats.delivered, stats.dead, stats.queued) == (31, 1, 0)


@pytest.mark.parametrize("status", [302, 404, 408, 429, 500, 502])
def test_any_other_answer_is_retried(shop: Engine, status: int) -> None:
    """Nothing but 2xx counts as accepted; the batch is sent again, unchanged, until it is."""
    headers = {"Location": "/elsewhere"} if status == 302 else {}
    shop.collector.rules.append(Rule(status=status, times=2, headers=headers))
    queue = shop.queue(events_per_request=5)
    producer = queue.producer(route())
    assert all(producer.enqueue(impression(n)) for n in range(5))
    assert shop.collector.wait(lambda c: len(c.events) == 5)
    assert len({request.body for request in shop.collector.requests}) == 1
    assert [request.status for request in shop.collector.requests] == [status, status, 200]
    assert {request.path for request in shop.collector.requests} == {"/server-side/batch-events"}


def test_any_2xx_counts_as_accepted(shop: Engine) -> None:
    """A 202 with a body that is no JSON is a delivery, not a duplicate in the making."""
    shop.collector.rules.append(Rule(status=202, body=b"<garbage"))
    queue = shop.queue(events_per_request=5)
    producer = queue.producer(route())
    assert all(producer.enqueue(impression(n)) for n in range(5))
    assert queue.flush(60)
    assert len(shop.collector.requests) == 1


def test_several_batches_are_in_flight_and_one_visitor_keeps_its_order(shop: Engine) -> None:
    """Batches of three visitors are on their way at once, never two of one; each visitor's events keep their order."""
    pace = Pace(shop.collector, lambda pace: pace.most < 3)
    queue = shop.queue(events_per_request=1, in_flight_max=4)
    producer = queue.producer(route())
    for n in range(24):
        assert producer.enqueue(impression(n % 3, sId=n))
    assert queue.flush(60)
    assert pace.most == 3
    for visitor in range(3):
        order = [event["sId"] for event in shop.collector.events if int(event["u"], 16) == visitor]
        assert order == sorted(order)
        assert len(order) == 8


def test_the_ledger_balances_at_rest(shop: Engine) -> None:
    """accepted = delivered + queued + in flight + spooled + dead + dropped, and refusals are counted beside it."""
    queue = shop.queue(events_per_request=7)
    producer = queue.producer(route())
    for n in range(100):
        producer.enqueue(impression(n, combination={1} if n % 10 == 0 else 1))
    wait_for(lambda: queue.stats().delivered == 84)
    stats = queue.stats()
    assert stats.refused == {"not_json": 10}
    assert stats.accepted == 90
    assert stats.queued == 6
    assert stats.accepted == (
        stats.delivered + stats.queued + stats.in_flight + stats.spooled + stats.dead + sum(stats.dropped.values())
    )

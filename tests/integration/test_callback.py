"""flush_callback tells the real outcome, once per batch, in the process that registered it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.collector import Rule
from tests.support.engine import Engine, engine, impression, numbers, route, wait_for
from vwo_fast import DeliveryError


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made


class Calls:
    """A callback that remembers."""

    def __init__(self) -> None:
        self.calls: list[tuple[DeliveryError | None, list[dict[str, Any]], str]] = []

    def __call__(self, err: DeliveryError | None, events: list[dict[str, Any]]) -> None:
        self.calls.append((err, events, threading.current_thread().name))


def test_a_delivered_batch_is_reported_once_with_its_events(shop: Engine) -> None:
    """err is None after 2xx; the events are those of the batch; it runs on a thread of its own."""
    callback = Calls()
    queue = shop.queue(events_per_request=3, flush_callback=callback)
    producer = queue.producer(route())
    for n in range(6):
        producer.enqueue(impression(n))
    assert queue.flush(60)
    wait_for(lambda: len(callback.calls) == 2)
    assert [err for err, _, _ in callback.calls] == [None, None]
    assert sorted(n for _, events, _ in callback.calls for n in numbers(events)) == list(range(6))
    assert {name for _, _, name in callback.calls} == {"vwo_fast-flush_callback"}


def test_flush_returns_after_the_callbacks_of_its_batches(shop: Engine) -> None:
    """A script may flush and exit: its callbacks have been called by then."""
    callback = Calls()
    queue = shop.queue(events_per_request=100, flush_callback=callback)
    producer = queue.producer(route())
    for n in range(10):
        producer.enqueue(impression(n))
        assert queue.flush(60)
        assert len(callback.calls) == n + 1


def test_a_refused_event_is_reported_with_status_message_and_attempts(shop: Engine) -> None:
    """An event that VWO refuses for good is reported with an error that tells what happened."""
    shop.collector.rules.append(Rule(status=400, body=b'{"error": "no such account"}'))
    callback = Calls()
    queue = shop.queue(events_per_request=1, flush_callback=callback)
    queue.producer(route()).enqueue(impression(4))
    wait_for(lambda: callback.calls)
    ((err, events, _),) = callback.calls
    assert isinstance(err, DeliveryError)
    assert err.status == 400
    assert err.attempts >= 1
    assert "400" in str(err)
    assert numbers(events) == [4]


def test_a_callback_that_raises_changes_nothing(shop: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """The exception is logged; the next batches are delivered once and reported."""
    seen = []

    def callback(err: DeliveryError | None, events: list[dict[str, Any]]) -> None:
        seen.extend(numbers(events))
        raise SystemExit("from the callback")

    queue = shop.queue(events_per_request=1, flush_callback=callback)
    producer = queue.producer(route())
    for n in range(3):
        producer.enqueue(impression(n))
    assert queue.flush(60)
    wait_for(lambda: len(seen) == 3)
    assert sorted(numbers(shop.collector.events)) == [0, 1, 2]
    assert "flush_callback raised" in caplog.text


def test_a_callback_may_flush(shop: Engine) -> None:
    """flush called inside the callback does not wait for the callback itself."""
    answers = []
    queue = shop.queue(events_per_request=1, flush_callback=lambda err, events: answers.append(queue.flush(60)))
    queue.producer(route()).enqueue(impression(1))
    wait_for(lambda: answers)
    assert answers == [True]


def test_each_process_hears_of_its_own_events(shop: Engine) -> None:
    """Two queues of one process share batches, and each callback receives the events of its own lane."""
    first, second = Calls(), Calls()
    one = shop.queue(events_per_request=4, flush_callback=first)
    two = shop.queue(events_per_request=4, flush_callback=second)
    one_producer, two_producer = one.producer(route()), two.producer(route())
    for n in range(4):
        (one_producer if n % 2 else two_producer).enqueue(impression(n))
    assert one.flush(60)
    wait_for(lambda: first.calls and second.calls)
    assert sorted(numbers(first.calls[0][1])) == [1, 3]
    assert sorted(numbers(second.calls[0][1])) == [0, 2]
    assert len(shop.collector.batches) == 1


def test_reports_go_on_after_the_aggregator_was_killed(shop: Engine) -> None:
    """A new aggregator reports to the listeners of the old one."""
    callback = Calls()
    queue = shop.queue(events_per_request=1, flush_callback=callback)
    producer = queue.producer(route())
    producer.enqueue(impression(0))
    wait_for(lambda: len(callback.calls) == 1)
    shop.kill_aggregator()
    producer.enqueue(impression(1))
    wait_for(lambda: len(callback.calls) == 2)
    assert numbers(callback.calls[1][1]) == [1]

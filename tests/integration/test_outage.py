"""The server is away, in each way a server can be, and comes back: everything arrives, the oldest first."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import vwo_fast
from benchmarks import outage
from tests.support.collector import Rule
from tests.support.engine import ACCOUNT, Engine, engine, impression, numbers, route, wait_for
from tests.support.pace import Pace
from tests.support.proxy import Fault, Proxy
from vwo_fast.client import Link

BEFORE, DURING, AFTER = 40, 300, 40
ALL = BEFORE + DURING + AFTER

Switch = Callable[[Engine, Proxy], None]


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made


def answer_with(status: int) -> Switch:
    return lambda shop, proxy: shop.collector.rules.append(Rule(status=status))


OUTAGES: dict[str, tuple[Switch, Switch]] = {
    "refused": (lambda shop, proxy: proxy.refuse(), lambda shop, proxy: proxy.listen()),
    "no connection": (lambda shop, proxy: proxy.ignore(), lambda shop, proxy: proxy.accept_again()),
    "no answer": (
        lambda shop, proxy: setattr(proxy, "fault", Fault(black_hole=True)),
        lambda shop, proxy: setattr(proxy, "fault", Fault()),
    ),
    "answers cut off": (
        lambda shop, proxy: setattr(proxy, "fault", Fault(cut_before_answer=True)),
        lambda shop, proxy: setattr(proxy, "fault", Fault()),
    ),
    "500": (answer_with(500), lambda shop, proxy: shop.collector.rules.clear()),
    "429": (answer_with(429), lambda shop, proxy: shop.collector.rules.clear()),
}

# Short only where it is what ends a try: elsewhere a busy machine must not look like a silent server.
TIMEOUTS: dict[str, dict[str, Any]] = {"no connection": {"connect_timeout": 0.2}, "no answer": {"read_timeout": 1}}


def is_in_order(arrived: list[int], *, batch: int) -> bool:
    """Whether all came in the order they were made. The one batch that found the server well may be any."""
    first = list(dict.fromkeys(arrived))
    probe = first[BEFORE : BEFORE + batch]
    rest = [n for n in first if n not in probe]
    return rest == sorted(rest) and probe == sorted(probe) and sorted(first) == list(range(ALL))


def enqueue_steadily(producer: vwo_fast.Producer, events: range, seconds: float) -> None:
    for n in events:
        assert producer.enqueue(impression(n))
        time.sleep(seconds / len(events))


@pytest.mark.parametrize("kind", OUTAGES)
def test_an_outage_costs_nothing_but_time(shop: Engine, kind: str) -> None:
    """Whatever is wrong with the server: enqueue goes on, the spool fills, and all arrives in the order it was made."""
    leave, come_back = OUTAGES[kind]
    with Proxy(shop.collector.port) as proxy:
        queue = shop.queue(base_url=proxy.url, events_per_request=10, in_flight_max=1, **TIMEOUTS.get(kind, {}))
        producer = queue.producer(route())
        enqueue_steadily(producer, range(BEFORE), 0.1)
        wait_for(lambda: queue.stats().delivered == BEFORE)
        leave(shop, proxy)
        enqueue_steadily(producer, range(BEFORE, BEFORE + DURING), 1.0)
        wait_for(lambda: queue.stats().spooled > 0)
        assert queue.stats().delivered == BEFORE
        come_back(shop, proxy)
        enqueue_steadily(producer, range(BEFORE + DURING, ALL), 0.1)
        wait_for(lambda: queue.stats().delivered == ALL)
        stats = queue.stats()
    arrived = numbers(shop.collector.events)
    assert is_in_order(arrived, batch=10)
    assert (stats.accepted, stats.queued, stats.spooled, stats.dead) == (ALL, 0, 0, 0)
    assert (stats.refused, stats.dropped) == ({}, {})
    assert len(arrived) - ALL <= stats.unknown_outcome
    if kind in ("refused", "no connection", "500", "429"):
        assert stats.unknown_outcome == 0
        assert len(arrived) == ALL


def test_a_name_that_does_not_resolve_is_an_outage(shop: Engine) -> None:
    """A failure of DNS is retried like any other; nothing was sent, so nothing is unknown."""
    queue = shop.queue(base_url="http://vwo-fast.invalid", events_per_request=1)
    assert queue.producer(route()).enqueue(impression(0))
    # A resolver that nobody answers may take a minute to say so.
    wait_for(lambda: queue.stats().retries >= 2, timeout=240)
    stats = queue.stats()
    assert stats.unknown_outcome == 0
    assert stats.accepted == 1 == stats.queued + stats.in_flight + stats.spooled


def test_a_backlog_does_not_starve_another_route(shop: Engine) -> None:
    """While a route's long backlog is sent to a slow server, fresh events of another route take their turn."""
    shop.collector.rules.append(Rule(status=503))
    queue = shop.queue(events_per_request=10, in_flight_max=1)
    old, fresh = queue.producer(route(1)), queue.producer(route(ACCOUNT))
    assert all(old.enqueue(impression(n)) for n in range(500))
    wait_for(lambda: queue.stats().spooled >= 400)
    is_offered = threading.Event()
    pace = Pace(shop.collector, lambda pace: len(shop.collector.events) >= 100 and not is_offered.is_set())
    shop.collector.rules[:] = [Rule(delay=0.03)]
    assert shop.collector.wait(lambda c: len(c.events) >= 100)
    assert all(fresh.enqueue(impression(n)) for n in range(500, 510))
    is_offered.set()
    pace.look_again()
    wait_for(lambda: queue.stats().delivered == 510)
    arrived = numbers(shop.collector.events)
    assert sorted(arrived) == list(range(510))
    assert arrived.index(500) < 450


def test_fresh_events_of_the_route_itself_follow_its_backlog(shop: Engine) -> None:
    """Events made while a backlog is sent wait for it and no longer: it goes faster than they come."""
    shop.collector.rules.append(Rule(status=503))
    queue = shop.queue(events_per_request=10)
    producer = queue.producer(route())
    assert all(producer.enqueue(impression(n)) for n in range(400))
    wait_for(lambda: queue.stats().spooled >= 300)
    shop.collector.rules[:] = [Rule(delay=0.01)]
    enqueue_steadily(producer, range(400, 500), 0.5)
    wait_for(lambda: queue.stats().delivered == 500)
    assert sorted(numbers(shop.collector.events)) == list(range(500))


def test_an_outage_outlives_aggregators(shop: Engine) -> None:
    """One killed with -9 and one stopped with SIGTERM in an outage: the third sends everything, once and in order."""
    shop.collector.rules.append(Rule(status=503))
    queue = shop.queue(events_per_request=10, in_flight_max=1, shutdown_timeout=1)
    producer = queue.producer(route())
    for number, how in enumerate((signal.SIGKILL, signal.SIGTERM)):
        assert all(producer.enqueue(impression(n)) for n in range(number * 100, number * 100 + 100))
        wait_for(lambda spooled=number * 100 + 50: queue.stats().spooled >= spooled)
        shop.kill_aggregator(number=how)
    assert producer.enqueue(impression(200))
    shop.collector.rules.clear()
    assert queue.flush(60)
    assert numbers(shop.collector.events) == list(range(201))
    stats = queue.stats()
    assert (stats.delivered, stats.queued, stats.spooled) == (201, 0, 0)


def test_the_state_is_visible_and_logged_once(shop: Engine) -> None:
    """In an outage status says "failing" with the reason, and the log has one warning, not one for each try."""
    shop.collector.rules.append(Rule(status=503))
    queue = shop.queue(events_per_request=1)
    producer = queue.producer(route())
    assert all(producer.enqueue(impression(n)) for n in range(10))
    wait_for(lambda: queue.stats().retries >= 5)
    answer: dict[str, Any] = Link(queue.folder, queue.name, auto=False).ask({"op": "status"}, 5) or {}
    assert (answer["state"], answer["last_error"]) == ("failing", "VWO answered with status 503")
    log = (shop.spool_dir / "shop" / "aggregator.log").read_text()
    assert log.count("not delivered yet") == 1


def test_a_scripted_outage_at_a_steady_rate() -> None:
    """Healthy, slow, 429, 500, down and back in one run: lost 0, refused 0, duplicated only what was unknown."""
    seconds = {"healthy": 0.5, "slow": 1.2, "429": 1.0, "500": 1.0, "down": 1.5, "back": 0.5}
    run, found = outage.play(300, seconds, lambda text: None)
    assert found.offered == found.delivered > 1000
    assert (found.lost, found.refused, found.dropped, found.dead) == (0, 0, 0, 0)
    assert found.duplicated <= found.unknown_outcome
    assert found.spooled_at_most > 0
    assert [band.name for band in run.bands] == list(seconds)
    assert outage.picture(run, 300).count("<polyline") == 5

"""A bad network between the aggregator and the server: nothing is lost, and duplicates only where nobody can tell."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from email.utils import formatdate
from typing import Any

import pytest

import vwo_fast
from tests.support.collector import Recorded, Rule
from tests.support.engine import ACCOUNT, Engine, engine, impression, numbers, route, wait_for
from tests.support.pace import Pace
from tests.support.proxy import Fault, Proxy
from vwo_fast.client import Link

EVENTS = 40
PER_REQUEST = 10


@dataclass(frozen=True, slots=True)
class Net:
    """An engine whose queues reach their collector through a proxy."""

    engine: Engine
    proxy: Proxy

    def queue(self, **changes: Any) -> vwo_fast.Queue:
        return self.engine.queue(**{"base_url": self.proxy.url, "events_per_request": PER_REQUEST, **changes})

    def arrived(self) -> Counter[int]:
        """How often each impression was accepted by the collector."""
        return Counter(numbers(self.engine.collector.events))


@pytest.fixture
def net() -> Iterator[Net]:
    with engine() as made, Proxy(made.collector.port) as proxy:
        yield Net(made, proxy)


def put(queue: vwo_fast.Queue, events: range = range(EVENTS), **changes: Any) -> None:
    producer = queue.producer(route())
    assert all(producer.enqueue(impression(n, **changes)) for n in events)


def settled(queue: vwo_fast.Queue, events: int = EVENTS) -> vwo_fast.Stats:
    """The statistics once all is delivered; nothing is left anywhere else."""
    wait_for(lambda: queue.stats().delivered >= events)
    wait_for(lambda: queue.stats().in_flight == 0)
    stats = queue.stats()
    assert (stats.accepted, stats.delivered) == (events, events)
    assert (stats.queued, stats.spooled, stats.dead, stats.dropped) == (0, 0, 0, {})
    return stats


def duplicates(arrived: Counter[int]) -> int:
    assert sorted(arrived) == list(range(len(arrived)))
    return sum(arrived.values()) - len(arrived)


# ---- faults of a connection


@pytest.mark.parametrize(
    "fault",
    [
        Fault(reset=True, times=3),
        Fault(cut_request_after=100, times=3),
        Fault(cut_request_after=900, times=3),
        Fault(black_hole=True, times=3),
    ],
    ids=["reset", "cut in the head", "cut in the body", "black hole"],
)
def test_a_request_that_does_not_get_through_is_sent_again(net: Net, fault: Fault) -> None:
    """Reset, cut or swallowed on its way, a request is repeated until it arrives: lost 0, duplicated 0."""
    net.proxy.fault = fault
    queue = net.queue(**({"read_timeout": 2} if fault.black_hole else {}))
    put(queue)
    stats = settled(queue)
    assert duplicates(net.arrived()) == 0
    assert len(net.arrived()) == EVENTS
    assert stats.retries >= 3
    assert fault.times == 0


@pytest.mark.parametrize("cut", ["before the answer", "in the status line"])
def test_an_answer_that_is_lost_is_an_unknown_outcome(net: Net, cut: str) -> None:
    """The server took the batch and the answer was lost: it is sent again, and each such event is counted."""
    is_before = cut == "before the answer"
    net.proxy.fault = Fault(cut_before_answer=is_before, cut_answer_after=None if is_before else 7, times=2)
    queue = net.queue(in_flight_max=1)
    put(queue)
    stats = settled(queue)
    assert duplicates(net.arrived()) == stats.unknown_outcome == 2 * PER_REQUEST
    assert stats.retries == 2


@pytest.mark.parametrize("size", [25, 60, 115], ids=["in the head", "later in the head", "in the body"])
def test_an_answer_that_breaks_off_after_its_status_is_an_answer(net: Net, size: int) -> None:
    """A status of 200 decides, whatever follows is cut: delivered once, nothing unknown."""
    net.proxy.fault = Fault(cut_answer_after=size, times=2)
    queue = net.queue()
    put(queue)
    stats = settled(queue)
    assert duplicates(net.arrived()) == 0
    assert (stats.unknown_outcome, stats.retries) == (0, 0)


def test_a_body_that_was_cut_off_while_it_was_sent_has_not_arrived(net: Net) -> None:
    """A request that could not be written to its end is known not to be delivered: nothing is unknown."""
    net.proxy.fault = Fault(cut_request_after=100_000, times=2)
    queue = net.queue(events_per_request=2)
    put(queue, range(2), visitor_ua="x" * 4_500_000)
    stats = settled(queue, 2)
    assert duplicates(net.arrived()) == 0
    assert stats.retries == 2
    assert stats.unknown_outcome == 0


def test_the_read_timeout_applies(net: Net) -> None:
    """An answer that comes later than read_timeout is an unknown outcome; the batch that was late arrives again."""
    net.proxy.fault = Fault(delay=1.5, times=1)
    queue = net.queue(read_timeout=0.3, in_flight_max=1)
    started = time.monotonic()
    put(queue, range(PER_REQUEST))
    stats = settled(queue, PER_REQUEST)
    assert time.monotonic() - started >= 0.3
    assert stats.unknown_outcome == PER_REQUEST * stats.retries
    assert stats.retries >= 1
    assert net.engine.collector.wait(lambda c: len(c.events) >= 2 * PER_REQUEST)
    assert duplicates(net.arrived()) <= stats.unknown_outcome


def test_the_connect_timeout_applies(net: Net) -> None:
    """A server that lets connections wait is given up after connect_timeout, again and again; nothing is unknown."""
    net.proxy.ignore()
    queue = net.queue(connect_timeout=0.3, read_timeout=60)
    put(queue)
    wait_for(lambda: queue.stats().retries >= 2)
    assert net.engine.collector.requests == []
    net.proxy.accept_again()
    stats = settled(queue)
    assert duplicates(net.arrived()) == 0
    assert stats.unknown_outcome == 0


def test_a_slow_line_is_not_a_dead_one(net: Net) -> None:
    """A body that takes longer than each of the timeouts arrives at the first try, as long as bytes move."""
    net.proxy.fault = Fault(bytes_per_second=1_000_000)
    queue = net.queue(connect_timeout=2, read_timeout=2, events_per_request=2)
    started = time.monotonic()
    put(queue, range(2), visitor_ua="x" * 1_500_000)
    stats = settled(queue, 2)
    assert time.monotonic() - started > 2.5
    assert stats.requests == 1
    assert duplicates(net.arrived()) == 0


def test_an_answer_without_end_holds_nothing_up(net: Net) -> None:
    """The status alone decides; an answer of 100 MB that trickles is left alone after read_timeout."""
    net.engine.collector.rules.append(Rule(body=b"x" * 100_000_000, times=1))
    net.proxy.fault = Fault(bytes_per_second=5000)
    queue = net.queue(in_flight_max=1, read_timeout=3, events_per_request=1)
    put(queue, range(3))
    settled(queue, 3)
    assert duplicates(net.arrived()) == 0


# ---- connections


def test_connections_are_kept_alive(net: Net) -> None:
    """Batches one after the other travel on one connection."""
    queue = net.queue(in_flight_max=1)
    put(queue, range(200))
    settled(queue, 200)
    assert len(net.engine.collector.batches) == 20
    assert net.proxy.connections == 1


def test_several_batches_are_in_flight_on_a_pool_of_connections(net: Net) -> None:
    """A slow server gets in_flight_max requests at a time, on as many connections as that, not one per request."""
    pace = Pace(net.engine.collector, lambda pace: pace.most < 4)
    queue = net.queue(in_flight_max=4)
    put(queue, range(400))
    settled(queue, 400)
    assert pace.most == 4
    assert net.proxy.connections == 4


def test_a_connection_that_the_server_closed_is_replaced(net: Net) -> None:
    """A server that closed an idle connection costs neither a retry nor a doubt."""
    queue = net.queue()
    put(queue, range(PER_REQUEST))
    settled(queue, PER_REQUEST)
    net.proxy.close_all()
    put(queue, range(PER_REQUEST, 2 * PER_REQUEST))
    stats = settled(queue, 2 * PER_REQUEST)
    assert (stats.retries, stats.unknown_outcome) == (0, 0)
    assert net.proxy.connections == 2


def most_at_once(requests: list[Recorded], duration: float) -> int:
    """How many requests the server had at the same time, when it took ``duration`` over each."""
    return max(
        sum(first.time <= request.time < first.time + duration * 0.9 for first in requests) for request in requests
    )


# ---- what an answer means


def test_one_probe_while_the_server_is_down_then_a_gentle_ramp(net: Net) -> None:
    """A failing server gets one request at a time; back, it gets one, and only after its answers more at once."""
    collector = net.engine.collector
    collector.rules.append(Rule(status=503, delay=0.1))
    queue = net.queue(in_flight_max=8, retry_delay_max=0.1)
    put(queue, range(400))
    assert collector.wait(lambda c: sum(request.status == 503 for request in c.requests) >= 24)
    down = [request for request in collector.requests if request.status == 503]
    # Those that were on their way at the first failure may come late.
    probes = down[16:]
    assert most_at_once(probes, 0.1) == 1
    collector.rules[:] = [Rule(delay=0.3)]
    settled(queue, 400)
    back = collector.batches
    assert all(request.time >= back[0].time + 0.3 * 0.9 for request in back[1:])
    widths = [sum(first.time <= r.time < first.time + 0.3 * 0.9 for first in back) for r in back]
    assert max(widths[:3]) <= 2
    assert max(widths) > 4


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_in_seconds(net: Net, status: int) -> None:
    """The server's own wait is kept, even when somebody flushes."""
    net.engine.collector.rules.append(Rule(status=status, headers={"Retry-After": "1"}, times=1))
    queue = net.queue()
    put(queue, range(PER_REQUEST))
    assert queue.flush(0.3) is False
    settled(queue, PER_REQUEST)
    first, second = net.engine.collector.requests
    assert second.time - first.time >= 0.99


def test_retry_after_as_a_date(net: Net) -> None:
    """A date is understood as well; it has whole seconds."""
    until = int(time.time()) + 3
    rule = Rule(status=503, headers={"Retry-After": formatdate(until, usegmt=True)}, times=1)
    net.engine.collector.rules.append(rule)
    queue = net.queue()
    put(queue, range(PER_REQUEST))
    settled(queue, PER_REQUEST)
    assert net.engine.collector.requests[1].time >= until - 0.05


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_holds_its_route_alone(net: Net, status: int) -> None:
    """401 and 403 hold one account, visibly; the other goes on, and the held one follows when its key is taken."""
    net.engine.collector.rules.append(Rule(status=status, query={"a": "1"}))
    queue = net.queue()
    held, other = queue.producer(route(1)), queue.producer(route(ACCOUNT))
    for n in range(0, 100, 2):
        assert held.enqueue(impression(n))
        assert other.enqueue(impression(n + 1))
    assert net.engine.collector.wait(lambda c: len(c.events) == 50)
    assert sorted(net.arrived()) == list(range(1, 100, 2))
    wait_for(lambda: queue.stats().delivered == 50)
    answer = Link(queue.folder, queue.name, auto=False).ask({"op": "status"}, 5)
    assert answer is not None
    assert {line["account_id"]: line["held"] for line in answer["routes"]} == {1: True, ACCOUNT: False}
    assert str(status) in answer["last_error"]
    net.engine.collector.rules.clear()
    settled(queue, 100)
    assert duplicates(net.arrived()) == 0


def test_redirects_are_never_followed(net: Net) -> None:
    """Neither body nor key goes where a redirect points; the batch is kept and tried again where it belongs."""
    with engine() as elsewhere:
        location = {"Location": f"{elsewhere.collector.url}/server-side/batch-events"}
        for status in (301, 302, 303, 307, 308):
            net.engine.collector.rules.append(Rule(status=status, headers=location, times=1))
        queue = net.queue()
        put(queue)
        settled(queue)
        assert elsewhere.collector.requests == []
    assert {request.method for request in net.engine.collector.requests} == {"POST"}
    assert duplicates(net.arrived()) == 0


GARBAGE = [
    Rule(status=200, body=b"\x00\xff<html>"),
    Rule(status=202, body=b""),
    Rule(status=204, body=b""),
    Rule(status=200, body=b"not gzip", headers={"Content-Encoding": "gzip"}),
    Rule(status=200, body=b'{"status": "error"}', headers={"Content-Type": "a/b; charset=nonsense"}),
]


def test_a_2xx_with_garbage_is_a_delivery(net: Net) -> None:
    """Whatever stands in the body of a 2xx, the batch is not sent twice."""
    net.engine.collector.rules += [replace(rule, times=1) for rule in GARBAGE]
    queue = net.queue()
    put(queue, range(len(GARBAGE) * PER_REQUEST))
    stats = settled(queue, len(GARBAGE) * PER_REQUEST)
    assert (stats.requests, stats.retries) == (len(GARBAGE), 0)
    assert duplicates(net.arrived()) == 0


def test_the_callback_tells_delivered_not_delivered_and_unknown(net: Net) -> None:
    """Refused at once is not delivered, refused after a try without an answer is unknown; statistics say as much."""
    told: list[tuple[str, list[int]]] = []

    def callback(err: vwo_fast.DeliveryError | None, events: list[dict[str, Any]]) -> None:
        told.append(("delivered" if err is None else err.outcome, numbers(events)))

    queue = net.queue(events_per_request=1, in_flight_max=1, flush_callback=callback)
    collector = net.engine.collector
    put(queue, range(1))
    wait_for(lambda: len(told) == 1)
    collector.rules.append(Rule(status=400))
    put(queue, range(1, 2))
    wait_for(lambda: len(told) == 2)
    collector.rules.insert(0, Rule(drop=True, times=1))
    put(queue, range(2, 3))
    wait_for(lambda: len(told) == 3)
    assert told == [("delivered", [0]), ("not delivered", [1]), ("unknown", [2])]
    stats = queue.stats()
    assert (stats.delivered, stats.dead, stats.unknown_outcome) == (1, 2, 1)


def test_a_batch_keeps_its_body_through_all_its_tries(net: Net) -> None:
    """However often a batch is sent and whatever went wrong, its bytes are the same."""
    collector = net.engine.collector
    collector.rules[:] = [Rule(status=500, times=1), Rule(status=429, times=1), Rule(drop=True, times=1)]
    net.proxy.fault = Fault(cut_before_answer=True, times=1)
    queue = net.queue(in_flight_max=1)
    put(queue, range(PER_REQUEST))
    settled(queue, PER_REQUEST)
    assert len(collector.requests) == 4
    assert all(one.body == next_.body for one, next_ in itertools.pairwise(collector.requests))

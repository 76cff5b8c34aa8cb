"""After an outage: small batches share requests, fresh events are not kept waiting, and no kill changes the account."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator

import pytest

import vwo_fast
from tests.support.collector import Rule
from tests.support.crashes import OPTIONS, Account, end_aggregators, settle, start_aggregator
from tests.support.engine import Engine, engine, impression, numbers, route, wait_for

ANSWER_PLACES = [
    "post: noted",
    "post: handed out",
    "answer: in the thread",
    "answer: before",
    "ack: released",
    "spool: before the commit",
    "spool: committed",
    "ack: forgotten",
    "entry: done, not counted",
    "entry: counted in part",
    "entry: counted, not cleared",
    "ack: told",
]


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made


def many_small_batches(shop: Engine, account: Account, queue: vwo_fast.Queue, batches: int) -> None:
    """VWO is away; each batch of 5 events is sealed by a flush, and all wait in the spool of a killed aggregator."""
    shop.collector.rules[:] = [Rule(status=503)]
    producer = queue.producer(route())
    for n in range(5 * batches):
        account.offer(lambda n: producer.enqueue(impression(n)), n)
        if n % 5 == 4:
            # Each flush that finds nobody launches another aggregator.
            wait_for(shop.is_running)
            queue.flush(0.01)
    wait_for(lambda: queue.stats().spooled == 5 * batches)
    end_aggregators(shop, signal.SIGKILL)
    shop.collector.requests.clear()
    shop.collector.rules.clear()


def sizes(shop: Engine) -> list[int]:
    return [len(request.json["ev"]) for request in shop.collector.requests if request.accepted]


def test_small_batches_are_uploaded_in_full_requests(shop: Engine) -> None:
    """Forty batches of five events, and a limit of forty events: at most half a dozen requests, all full but one."""
    queue = shop.queue(**OPTIONS, in_flight_max=1)
    account = Account(shop)
    many_small_batches(shop, account, queue, 40)
    stats = settle(queue)
    assert account.check(stats) == 0
    assert max(sizes(shop)) == 40
    assert len(sizes(shop)) <= 6
    assert numbers(shop.collector.events) == sorted(account.accepted), "in the order of the calls"
    assert stats.delivered_batches == len(sizes(shop))


@pytest.mark.parametrize("place", ANSWER_PLACES)
def test_a_kill_around_the_answer_to_a_joint_request(shop: Engine, place: str) -> None:
    """Killed there: each batch of the request is sent again or not, as a whole; the ledger balances, and twice is only
    what is counted as unknown."""
    queue = shop.queue(**OPTIONS)
    account = Account(shop)
    many_small_batches(shop, account, queue, 8)
    victim = start_aggregator(shop, target=place)
    stats = settle(queue)
    wait_for(lambda: victim.exitcode is not None or not queue.stats().spooled)
    account.check(stats)
    assert victim.exitcode == -signal.SIGKILL
    assert max(sizes(shop)) == 40


def test_fresh_events_arrive_before_a_backlog_is_done(shop: Engine) -> None:
    """VWO is back and slow, and more waits on disk than fits into memory: what is made now arrives while the backlog
    is being sent, over a kill as well, and all of it arrives."""
    shop.collector.rules[:] = [Rule(status=503)]
    queue = shop.queue(events_per_request=10, in_flight_max=2, idle_exit=0.1)
    account = Account(shop)
    producer = queue.producer(route())
    backlog = 8000
    for n in range(backlog):
        account.offer(lambda n: producer.enqueue(impression(n)), n)
    wait_for(lambda: queue.stats().spooled == backlog)
    shop.collector.rules[:] = [Rule(delay=0.01)]
    queue.flush(0.01)
    wait_for(lambda: queue.stats().delivered >= 200)
    for n in range(backlog, backlog + 100):
        account.offer(lambda n: producer.enqueue(impression(n)), n)
    wait_for(lambda: backlog + 99 in numbers(shop.collector.events))
    assert queue.stats().spooled > backlog // 2
    end_aggregators(shop, signal.SIGKILL)
    for n in range(backlog + 100, backlog + 200):
        account.offer(lambda n: producer.enqueue(impression(n)), n)
    wait_for(lambda: backlog + 199 in numbers(shop.collector.events))
    assert queue.stats().spooled > backlog // 4
    shop.collector.rules.clear()
    stats = settle(queue)
    account.check(stats)
    order = list(dict.fromkeys(numbers(shop.collector.events)))
    fresh = [n for n in order if n >= backlog]
    assert fresh == sorted(fresh), "the fresh ones arrive in their own order"
    assert Counter(order).keys() == set(account.accepted)

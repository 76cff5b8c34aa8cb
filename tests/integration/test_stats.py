"""What ``Queue.stats`` says while everything moves."""

from __future__ import annotations

import itertools

from tests.support.collector import Rule
from tests.support.engine import engine, impression, route
from vwo_fast.stats import Stats

ROUNDS = 200


def _balances(stats: Stats) -> bool:
    settled = stats.delivered + stats.dead + sum(stats.dropped.values())
    return stats.accepted == settled + stats.queued + stats.in_flight + stats.spooled


def test_every_snapshot_balances() -> None:
    """Read in the middle of deliveries, retries from the spool included, no event is in two places or in none."""
    with engine() as shop:
        queue = shop.queue(events_per_request=4, retry_delay_min=0.01, retry_delay_max=0.05)
        producer = queue.producer(route())
        numbers = itertools.count()
        for failing in (False, True, False):
            shop.collector.rules[:] = [Rule(status=503)] if failing else []
            for _ in range(ROUNDS):
                for _ in range(20):
                    assert producer.enqueue(impression(next(numbers)))
                for _ in range(30):
                    stats = queue.stats()
                    assert _balances(stats), stats
        assert queue.flush(60)
        stats = queue.stats()
        assert stats.accepted == stats.delivered == next(numbers)

"""The N-th system call fails: the aggregator may stop for it, and nothing accepted is lost.

``VWO_FAST_TEST_SOAK=1`` takes every N; the short form takes some of them.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vwo_fast
from tests.support.collector import Rule
from tests.support.crashes import Account, end_aggregators, settle
from tests.support.engine import Engine, engine, impression, route, wait_for
from tests.support.zygote import EVER, FailBlock, Zygote, shim

IS_LONG = bool(os.environ.get("VWO_FAST_TEST_SOAK"))
ERRORS = (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.ENOMEM, 0)
"""0: a write that is short."""

OPTIONS: dict[str, Any] = {
    "events_per_request": 10,
    "request_time_interval": 600,
    "lane_bytes": 1 << 16,
    "idle_exit": 600,
    "shutdown_timeout": 2,
    "retry_delay_min": 0.01,
    "retry_delay_max": 0.02,
}


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    made = Zygote(shim("fail"))
    yield made
    made.close()


def _small_run(shop: Engine, zygote: Zygote, block: FailBlock) -> Account:
    """An outage with a spool and an open batch, then deliveries, then a stop, all while calls fail; then none does."""
    queue = shop.queue(**OPTIONS)
    account = Account(shop)
    small, large = queue.producer(route(1)), queue.producer(route(2))
    shop.collector.rules[:] = [Rule(status=503, times=6)]
    zygote.start("aggregator", folder=str(queue.folder), block=str(block.path))
    left = wait_for(lambda: zygote.ended() or shop.is_running())
    for n in range(20):
        account.offer(lambda n: small.enqueue(impression(n)), n)
    for n in range(20, 38):
        account.offer(lambda n: large.enqueue(impression(n, visitor_ua="x" * 2500)), n)
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: queue.flush(0.5), timeout=1.0)
    block.disarm()
    assert queue.flush(60)
    if not isinstance(left, dict):
        left = zygote.ended()
    stats = settle(queue)
    account.check(stats)
    end_aggregators(shop, signal.SIGTERM)
    if left is None:
        wait_for(lambda: zygote.ended())
    return account


def test_the_nth_system_call_of_an_aggregator_fails(zygote: Zygote, tmp_path: Path) -> None:
    """Once, or from then on: after the fault is gone all that was accepted is delivered, and the ledger balances."""
    block = FailBlock(tmp_path / "block")
    with engine() as shop:
        block.arm()
        _small_run(shop, zygote, block)
    total = block.count
    assert total > 100
    stride = 1 if IS_LONG else max(1, total // 14)
    runs = failed = 0
    for index, first in enumerate(range(1, total + 1, stride)):
        error = ERRORS[index % len(ERRORS)]
        last = EVER if index % 2 and error else first
        with engine() as shop:
            block.arm(first=first, last=last, error=error)
            try:
                _small_run(shop, zygote, block)
            except (AssertionError, TimeoutError) as exc:
                raise AssertionError(f"call {first} to {last} ({block.name}), error {error}") from exc
        runs += 1
        failed += block.failed
    print(f"\n{runs} runs of about {total} calls, {failed} of them failed: lost 0")


def test_the_nth_system_call_of_a_worker_fails(zygote: Zygote, tmp_path: Path) -> None:
    """Opening the queue may be refused with a reason; enqueue never raises, and what it took is delivered."""
    block = FailBlock(tmp_path / "block")
    with engine() as shop:
        options = {name: str(v) if isinstance(v, Path) else v for name, v in shop.options(**OPTIONS).items()}
        queue = shop.queue(**OPTIONS)
        accepted: list[int] = []
        first, index, runs = 1, 0, 0
        while True:
            error = ERRORS[index % 4]
            last = EVER if index % 2 else first
            start = index * 100
            values = {"options": options, "first": first, "last": last, "error": error, "start": start}
            zygote.start("worker", folder="", block=str(block.path), **values)
            ended = wait_for(lambda: zygote.ended())
            assert ended["code"] == 0
            said = json.loads(ended["said"])
            assert not said["raised"], f"call {first} ({block.name}), error {error}: {said['raised']}"
            accepted += said["accepted"]
            runs += 1
            if not block.failed:
                break
            index += 1
            first += 1 if IS_LONG else 4
        assert len(accepted) >= 20
        assert queue.flush(60)
        arrived = sorted(int(event["u"], 16) for event in shop.collector.events)
        assert arrived == sorted(accepted)
    print(f"\n{runs} runs, {len(accepted)} events accepted: lost 0, raised 0")


def test_a_worker_without_descriptors_lives_on() -> None:
    """Whatever number is left when it first rings: it is not ended for it, and what it took is delivered."""
    with engine() as shop:
        queue = shop.queue(**OPTIONS)
        producer = queue.producer(route())
        assert producer.enqueue(impression(0))
        wait_for(shop.is_running)
        pids = [_forked_without(queue, left) for left in range(20)]
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * 20
        assert queue.flush(60)
        assert sorted(int(event["u"], 16) for event in shop.collector.events) == list(range(21))


def _forked_without(queue: vwo_fast.Queue, left: int) -> int:
    """A child that enqueues once, and rings, with so many descriptors left. Its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    with contextlib.suppress(BaseException):
        producer = queue.producer(route())
        queue._owner.hook_attach()
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        taken = []
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for fd in taken[:left]:
            os.close(fd)
        assert producer.enqueue(impression(left + 1))
        queue._owner.hook_ring()
        code = 0
    os._exit(code)

"""Lives of an aggregator that a test ends: a scenario that passes through every room, and its account at the end."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import vwo_fast
from tests.support.collector import Recorded, Rule
from tests.support.engine import Engine, impression, route, wait_for
from vwo_fast.aggregator import failpoint
from vwo_fast.stats import Stats

__all__ = ["LIVES", "Account", "end_aggregators", "run_scenario", "settle", "start_aggregator"]

LIVES = 3
POISON = "poison"
BODY_BYTES_MAX = 6000
"""The collector refuses larger bodies with 413."""
DOOM_SECONDS = 5
"""Time that a life gets to come to its place, though it has done what the others wait for."""

OPTIONS: dict[str, Any] = {
    "events_per_request": 40,
    "lane_bytes": 1 << 16,
    "idle_exit": 0.1,
    "shutdown_timeout": 3,
    "retry_delay_min": 0.01,
    "retry_delay_max": 0.02,
}

# A child of a server that has imported the aggregator is there at once; an interpreter takes half a second.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.support.crashes", "vwo_fast.aggregator.loop", "vwo_fast.config"])


def _live(folder: Path, target: str | None, record: str | None) -> None:
    from vwo_fast.aggregator.loop import run
    from vwo_fast.folder import read_settings

    if target is not None:
        failpoint.watch(failpoint.killer(target))
    if record is not None:

        def note(name: str) -> None:
            with open(record, "a", encoding="ascii") as file:
                file.write(f"{name}\n")

        failpoint.watch(note)
    settings = read_settings(folder)
    assert settings is not None
    os._exit(run(folder, settings, foreground=False))


def start_aggregator(shop: Engine, *, target: str | None = None, record: str | None = None) -> ForkServerProcess:
    """Start the aggregator of queue ``shop``; it dies at ``target``, or writes the places it reaches to ``record``."""
    while True:
        process = _SERVER.Process(target=_live, args=(shop.run_dir / "shop", target, record))
        process.start()
        wait_for(lambda process=process: process.exitcode is not None or shop.aggregator_pid() == process.pid)  # type: ignore[misc]
        if process.exitcode != 0:
            return process
        # One that an event had launched was quicker, and this one has left it the queue.
        end_aggregators(shop, signal.SIGKILL)


class Account:
    """What was accepted, what arrived, and whether the ledger agrees."""

    def __init__(self, shop: Engine) -> None:
        self.shop = shop
        self.accepted: list[int] = []
        self.poisoned: set[int] = set()

    def offer(self, enqueue: Callable[[int], bool], number: int) -> None:
        """Put one event in; a full lane is waited for."""
        wait_for(lambda: enqueue(number))
        self.accepted.append(number)

    def arrived(self) -> Counter[int]:
        """How often each number came to the collector in an accepted request."""
        found: Counter[int] = Counter(int(event["u"], 16) for event in self.shop.collector.events)
        for request in self.shop.collector.requests:
            if request.path == "/events/t" and request.accepted:
                found[request.json["n"]] += 1
        return found

    def check(self, stats: Stats) -> int:
        """Nothing lost, the ledger balances, a duplicate only where the outcome was unknown. Returns the duplicates."""
        arrived = self.arrived()
        lost = set(self.accepted) - set(arrived) - self.poisoned
        assert not lost, f"lost {sorted(lost)[:20]} of {len(self.accepted)}; {stats}"
        duplicated = sum(count - 1 for count in arrived.values())
        assert duplicated <= stats.unknown_outcome, f"{duplicated} sent twice; {stats}"
        assert stats.accepted == len(self.accepted), stats
        assert stats.dead == len(self.poisoned), stats
        assert stats.delivered == len(self.accepted) - len(self.poisoned), stats
        assert (stats.queued, stats.in_flight, stats.spooled, stats.dropped) == (0, 0, 0, {}), stats
        return duplicated


def end_aggregators(shop: Engine, number: int, name: str = "shop") -> None:
    """Signal the aggregator until none lives: one that was launched beside it may only now find the lock free."""

    def is_over() -> bool:
        pid = shop.aggregator_pid(name)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return not shop.is_running(name)

    wait_for(is_over)


def settle(queue: vwo_fast.Queue) -> Stats:
    """Flush until nothing waits anywhere, and every dead producer's lane has been given back."""

    def is_settled() -> bool:
        queue.flush(5)
        stats = queue.stats()
        return not (stats.queued or stats.in_flight or stats.spooled) and stats.aggregator_pid is not None

    wait_for(is_settled, timeout=60)
    return queue.stats()


@contextlib.contextmanager
def refusing(shop: Engine) -> Iterator[None]:
    """The collector answers 413 to what is large, and 400 to what holds the poisoned word."""
    receive = shop.collector.receive

    def refuse(request: Recorded) -> Any:
        if POISON.encode() in request.body:
            shop.collector.rules.insert(0, Rule(status=400, times=1))
        return receive(request)

    shop.collector.rules[:] = [Rule(status=413, min_bytes=BODY_BYTES_MAX)]
    shop.collector.receive = refuse  # type: ignore[method-assign]
    try:
        yield
    finally:
        shop.collector.receive = receive  # type: ignore[method-assign]
        shop.collector.rules.clear()


def run_scenario(
    shop: Engine, start: Callable[[int], ForkServerProcess], *, leaves: bool = True, doomed: Collection[int] = ()
) -> tuple[list[int | None], int, Stats]:
    """Three lives of an aggregator. ``start(n)`` begins the n-th; those in ``doomed`` die by themselves.

    1: VWO is away, the spool fills, a batch stays open; killed.  2: VWO is back and refuses some, then it is told to
    stop.  3: everything is sent; it is killed, unless it ``leaves`` by itself, as nobody uses the queue.  An aggregator
    that died before its time is replaced by the next event.
    Returns the exit codes of those that died by themselves, the duplicates, the ledger.
    """
    queue = shop.queue(**OPTIONS)
    account = Account(shop)
    small, large = queue.producer(route(1)), queue.producer(route(2))
    deaths: list[int | None] = []
    shop.collector.rules[:] = [Rule(status=503)]

    first = start(0)
    for n in range(30):
        account.offer(lambda n: small.enqueue(impression(n)), n)
        if n % 6 == 5:
            # Seals what is open: small batches, which the next life sends together.
            queue.flush(0.05)
    account.poisoned.add(30)
    account.offer(lambda n: small.enqueue(impression(n, visitor_ua=POISON)), 30)
    account.offer(lambda n: small.enqueue_request("POST", "/events/t", [], {}, {"n": n}), 31)
    for n in range(32, 60):
        account.offer(lambda n: large.enqueue(impression(n, visitor_ua="x" * 2500)), n)
    wait_for(lambda: _has_died(first) or queue.stats().spooled >= 40)
    deaths.append(_end(shop, first, signal.SIGKILL, is_doomed=0 in doomed))

    with refusing(shop):
        second = start(1)
        _deliver_what_came_later(shop, account, queue)
        for n in range(60, 80):
            account.offer(lambda n: small.enqueue(impression(n)), n)
        wait_for(lambda: queue.flush(0.5) or queue.stats().dead == 1)
        settle(queue)
    shop.collector.rules[:] = [Rule(status=503)]
    for n in range(80, 90):
        account.offer(lambda n: small.enqueue(impression(n)), n)
    time.sleep(0.05)
    deaths.append(_end(shop, second, signal.SIGTERM, is_doomed=1 in doomed))

    shop.collector.rules.clear()
    third = start(2)
    for n in range(90, 100):
        account.offer(lambda n: small.enqueue(impression(n)), n)
    settle(queue)
    queue.close()
    if leaves:
        wait_for(lambda: not shop.is_running())
    deaths.append(_end(shop, third, signal.SIGKILL, is_doomed=2 in doomed))

    with shop.queue(**OPTIONS) as again:
        account.offer(lambda n: again.producer(route(1)).enqueue(impression(n)), 100)
        settle(again)
        stats = again.stats()
        duplicated = account.check(stats)
    return deaths, duplicated, stats


def _deliver_what_came_later(shop: Engine, account: Account, queue: vwo_fast.Queue) -> None:
    """What came first stays in an open batch; what came behind it in the same lane is sent, and marked as done."""
    first, later = queue.producer(route(3)), queue.producer(route(4))
    account.offer(lambda n: first.enqueue(impression(n)), 101)
    for n in range(102, 142):
        account.offer(lambda n: later.enqueue(impression(n)), n)
    wait_for(lambda: not shop.is_running() or 141 in account.arrived())


def _has_died(process: ForkServerProcess) -> bool:
    return process.exitcode is not None


def _end(shop: Engine, process: ForkServerProcess, number: int, *, is_doomed: bool) -> int | None:
    """End a life, or that of the one that took its place. Returns its exit code if it ended before."""
    # The kernel gives a dead one's lock back before anybody can ask for its exit code.
    if shop.aggregator_pid() != process.pid or (is_doomed and number == signal.SIGKILL):
        process.join(DOOM_SECONDS)
    code = process.exitcode
    if code is not None:
        end_aggregators(shop, number)
        return code
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)
    process.join(DOOM_SECONDS)
    return process.exitcode if number == signal.SIGTERM else None

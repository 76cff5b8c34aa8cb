"""The aggregator as a process: outages, refusals, full lanes, kills and restarts, seen from both ends."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import vwo_fast
from benchmarks.support.peers import cpu_seconds
from tests.support.collector import Rule
from tests.support.engine import Engine, engine, impression, numbers, route, wait_for
from vwo_fast import _lane
from vwo_fast.counters import ControlCounter
from vwo_fast.locks import USERS_LOCK, lock_file

VISITORS = 7


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made


def spool(shop: Engine) -> Path:
    return shop.spool_dir / "shop" / "spool.sqlite"


def rows(shop: Engine, query: str) -> list[tuple[Any, ...]]:
    """What a query of the spool answers."""
    with contextlib.closing(sqlite3.connect(f"file:{spool(shop)}?mode=ro", uri=True)) as db:
        return db.execute(query).fetchall()


def send(producer: vwo_fast.Producer, first: int, last: int, **changes: Any) -> None:
    for n in range(first, last):
        assert producer.enqueue(impression(n, **changes))


def send_patiently(producer: vwo_fast.Producer, first: int, last: int) -> None:
    """The same through a lane that may be full for a moment."""
    for n in range(first, last):
        wait_for(partial(producer.enqueue, impression(n)))


def ledger(queue: vwo_fast.Queue) -> int:
    """What became of the accepted events, added up."""
    stats = queue.stats()
    where = stats.delivered + stats.queued + stats.in_flight + stats.spooled + stats.dead
    return where + sum(stats.dropped.values())


def events_per_visitor(events: list[dict[str, Any]]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for event in events:
        found.setdefault(event["u"], []).append(event["sId"])
    return found


def test_an_outage_moves_batches_to_the_spool_and_back(shop: Engine) -> None:
    """While VWO answers 503 everything waits on disk; when it answers again everything arrives once."""
    shop.collector.rules.append(Rule(status=503))
    queue = shop.queue(events_per_request=10)
    send(queue.producer(route()), 0, 200)
    wait_for(lambda: queue.stats().spooled == 200)
    assert ledger(queue) == 200
    shop.collector.rules.clear()
    assert queue.flush(60)
    assert Counter(numbers(shop.collector.events)) == Counter(range(200))
    assert queue.stats().spooled == 0
    assert rows(shop, "SELECT COUNT(*) FROM batch") == [(0,)]


def test_one_request_at_a_time_while_the_server_is_away(shop: Engine) -> None:
    """After the first failures no two requests are on their way at once."""
    shop.collector.rules.append(Rule(status=500, delay=0.05))
    queue = shop.queue(events_per_request=1)
    send(queue.producer(route()), 0, 50)
    assert shop.collector.wait(lambda c: len(c.requests) >= 16)
    # Those that were on their way at the first failure may come late.
    started = [request.time for request in shop.collector.requests][8:16]
    assert all(later - earlier >= 0.045 for earlier, later in pairwise(started))


def test_retry_after_is_kept(shop: Engine) -> None:
    """A server that says when to come again is not asked before."""
    shop.collector.rules.append(Rule(status=429, times=1, headers={"Retry-After": "1"}))
    queue = shop.queue(events_per_request=1)
    send(queue.producer(route()), 0, 1)
    assert shop.collector.wait(lambda c: len(c.events) == 1)
    first, second = shop.collector.requests
    assert second.time - first.time >= 0.99


def test_a_refused_batch_is_split_down_to_the_event_that_is_refused(shop: Engine) -> None:
    """400 for whatever holds one event: that one becomes a dead letter, the others arrive once, in order."""
    queue = shop.queue(events_per_request=64)
    poison = "poison"
    refuse = _refusing(shop, poison)
    producer = queue.producer(route())
    for n in range(64):
        assert producer.enqueue(impression(n, visitor_ua=poison if n == 37 else "fine"))
    assert not queue.flush(60)
    refuse()
    arrived = numbers(shop.collector.events)
    assert sorted(arrived) == [n for n in range(64) if n != 37]
    stats = queue.stats()
    assert (stats.dead, stats.delivered, stats.spooled, stats.queued) == (1, 63, 0, 0)
    ((body, status, excerpt),) = rows(shop, "SELECT body, status, excerpt FROM dead")
    assert numbers(json.loads(body)["ev"]) == [37]
    assert status == 400
    assert "poison" in excerpt


def _refusing(shop: Engine, word: str) -> Any:
    """Have the collector answer 400 to every body that holds a word; returns how to stop that."""
    receive = shop.collector.receive

    def refuse(request: Any) -> Any:
        if word.encode() in request.body:
            shop.collector.rules.insert(0, Rule(status=400, times=1, body=f"no {word} please".encode()))
        return receive(request)

    shop.collector.receive = refuse  # type: ignore[method-assign]
    return lambda: setattr(shop.collector, "receive", receive)


def test_an_oversized_batch_is_split_until_it_fits(shop: Engine) -> None:
    """413 for bodies above a limit of the server's own: all events arrive, each once."""
    shop.collector.rules.append(Rule(status=413, min_bytes=3000))
    queue = shop.queue(events_per_request=200)
    send(queue.producer(route()), 0, 200)
    assert queue.flush(60)
    assert Counter(numbers(shop.collector.events)) == Counter(range(200))
    assert all(len(request.body) < 3000 for request in shop.collector.batches)


def test_a_refused_key_holds_its_route_and_nobody_else(shop: Engine) -> None:
    """403 for one account: its events are kept, the other account's arrive; nothing is thrown away."""
    shop.collector.rules.append(Rule(status=403, query={"a": "1"}))
    queue = shop.queue(events_per_request=10)
    send(queue.producer(route(1)), 0, 100)
    send(queue.producer(route(2)), 100, 200)
    assert shop.collector.wait(lambda c: len(c.events) == 100)
    assert sorted(numbers(shop.collector.events)) == list(range(100, 200))
    assert ledger(queue) == 200
    shop.collector.rules.clear()
    assert queue.flush(60)
    assert Counter(numbers(shop.collector.events)) == Counter(range(200))


def test_no_visitor_is_reordered(shop: Engine) -> None:
    """Batches fly in parallel, fail and are tried again, and each visitor's events arrive in the order of the calls."""
    shop.collector.rules += [Rule(status=503, times=3), Rule(delay=0.05, times=20), Rule(status=502, times=2)]
    queue = shop.queue(events_per_request=3)
    producer = queue.producer(route())
    for n in range(150):
        assert producer.enqueue(impression(n % VISITORS, sId=n))
    assert queue.flush(60)
    found = events_per_visitor(shop.collector.events)
    assert sorted(n for sent in found.values() for n in sent) == list(range(150))
    assert all(sent == sorted(sent) for sent in found.values())


def test_an_open_batch_outgrows_its_lane(shop: Engine) -> None:
    """A batch of 3000 events that waits for its interval needs more than a lane of 64 KiB: it moves to the spool in
    parts, is not sealed early, and arrives as one request."""
    queue = shop.queue(events_per_request=3000, request_time_interval=600, lane_bytes=65536, lane_bytes_max=65536)
    producer = queue.producer(route())
    send_patiently(producer, 0, 2999)
    wait_for(lambda: queue.stats().spooled > 1000)
    assert shop.collector.requests == []
    send_patiently(producer, 2999, 3000)
    assert shop.collector.wait(lambda c: len(c.events) == 3000)
    assert numbers(shop.collector.events) == list(range(3000))
    assert len(shop.collector.requests) == 1
    wait_for(lambda: queue.stats().delivered == 3000)
    assert queue.stats().spooled == 0


def test_a_killed_aggregator_leaves_parts_of_an_open_batch(shop: Engine) -> None:
    """kill -9 while a part of the open batch is in the spool and the rest in the lane: each event arrives once."""
    queue = shop.queue(events_per_request=5000, request_time_interval=600, lane_bytes=65536, lane_bytes_max=65536)
    producer = queue.producer(route())
    send_patiently(producer, 0, 1000)
    wait_for(lambda: queue.stats().spooled > 300)
    shop.kill_aggregator()
    assert queue.flush(60)
    assert Counter(numbers(shop.collector.events)) == Counter(range(1000))
    assert numbers(shop.collector.events) == list(range(1000))


@pytest.mark.parametrize("pause", [0.0, 0.02, 0.1, 0.3])
def test_a_killed_aggregator_loses_nothing(shop: Engine, pause: float) -> None:
    """kill -9 at some moment of an outage: after it everything arrives; what is twice had an unknown outcome."""
    shop.collector.rules.append(Rule(status=503, times=6))
    queue = shop.queue(events_per_request=10, in_flight_max=2)
    producer = queue.producer(route())
    send(producer, 0, 300)
    shop.collector.wait(lambda c: len(c.requests) >= 4)
    time.sleep(pause)
    shop.kill_aggregator()
    send(producer, 300, 400)
    assert queue.flush(60)
    arrived = Counter(numbers(shop.collector.events))
    assert set(arrived) == set(range(400))
    assert sum(arrived.values()) - 400 <= 2 * 10


def test_a_stopped_aggregator_saves_what_it_cannot_send(shop: Engine) -> None:
    """SIGTERM while VWO is away: sealed, open and unread events are on disk, and survive the loss of shared memory."""
    shop.collector.rules.append(Rule(status=503))
    queue = shop.queue(events_per_request=100, request_time_interval=600)
    send(queue.producer(route()), 0, 250)
    shop.collector.wait(lambda c: len(c.requests) >= 2)
    shop.kill_aggregator(number=signal.SIGTERM)
    assert rows(shop, "SELECT SUM(events) FROM batch") == [(250,)]
    assert rows(shop, "SELECT COUNT(*) FROM fragment") == [(0,)]
    queue.close()
    for path in (shop.run_dir / "shop").iterdir():
        path.unlink()
    shop.collector.rules.clear()
    assert shop.queue(events_per_request=100, request_time_interval=600).flush(60)
    assert Counter(numbers(shop.collector.events)) == Counter(range(250))


def test_a_stopped_aggregator_delivers_what_it_can(shop: Engine) -> None:
    """SIGTERM with a healthy server: open batches are sealed and delivered before it ends."""
    queue = shop.queue(events_per_request=1000, request_time_interval=600)
    send(queue.producer(route()), 0, 250)
    shop.kill_aggregator(number=signal.SIGTERM)
    assert numbers(shop.collector.events) == list(range(250))
    stats = queue.stats()
    assert (stats.delivered, stats.spooled, stats.queued) == (250, 0, 0)


def test_a_damaged_spool_never_stops_a_start(shop: Engine) -> None:
    """Garbage in place of the database is put aside and named in the log; new events are delivered."""
    spool(shop).parent.mkdir(mode=0o700, parents=True)
    shop.spool_dir.chmod(0o700)
    spool(shop).write_bytes(b"garbage" * 1000)
    queue = shop.queue(events_per_request=1)
    send(queue.producer(route()), 0, 5)
    assert queue.flush(60)
    assert len(shop.collector.events) == 5
    (aside,) = spool(shop).parent.glob("spool.sqlite.*.bad")
    assert aside.read_bytes().startswith(b"garbage")
    assert aside.name in (spool(shop).parent / "aggregator.log").read_text()


def test_a_full_spool_holds_back_and_loses_nothing(shop: Engine) -> None:
    """With spool_max_bytes reached, lanes fill and enqueue refuses; what was accepted arrives when VWO is back."""
    shop.collector.rules.append(Rule(status=503))
    queue = shop.queue(events_per_request=10, lane_bytes=65536, lane_bytes_max=65536, spool_max_bytes=65536)
    producer = queue.producer(route())
    accepted: list[int] = []
    taken_at = time.monotonic()

    def is_full() -> bool:
        nonlocal taken_at
        while producer.enqueue(impression(len(accepted))):
            accepted.append(len(accepted))
            taken_at = time.monotonic()
        return queue.stats().spooled > 0 and time.monotonic() - taken_at > 0.5

    wait_for(is_full)
    assert queue.stats().refused["lane_full"] >= 1
    shop.collector.rules.clear()
    assert queue.flush(60)
    assert Counter(numbers(shop.collector.events)) == Counter(accepted)


def test_an_event_larger_than_a_lane_travels_in_a_file(shop: Engine) -> None:
    """300 kB in a lane of 64 KiB: it arrives whole, in its place, and its file is gone."""
    queue = shop.queue(events_per_request=3, lane_bytes=65536)
    producer = queue.producer(route())
    for n in range(3):
        assert producer.enqueue(impression(n, visitor_ua="x" * (300_000 if n == 1 else 10)))
    assert shop.collector.wait(lambda c: len(c.events) == 3)
    assert numbers(shop.collector.events) == [0, 1, 2]
    assert len(shop.collector.events[1]["visitor_ua"]) == 300_000
    wait_for(lambda: not list((shop.run_dir / "shop").glob("big-*")))


def test_a_lane_that_cannot_be_right_is_put_aside(shop: Engine) -> None:
    """A file of garbage named as a lane stops nothing: it is renamed, counted, and the others are read."""
    queue = shop.queue(events_per_request=1)
    folder = shop.run_dir / "shop"
    bad = folder / f"lane-{5:016x}"
    bad.write_bytes(os.urandom(8192))
    bad.chmod(0o600)
    send(queue.producer(route()), 0, 3)
    assert queue.flush(60)
    assert len(shop.collector.events) == 3
    assert len(list(folder.glob(f"{bad.name}.*.bad"))) == 1
    assert not bad.exists()


def test_records_of_an_unknown_route_are_counted(shop: Engine) -> None:
    """A route whose file is gone: its events are dropped, counted as damaged, and the others arrive."""
    queue = shop.queue(events_per_request=2)
    lost, kept = queue.producer(route(1)), queue.producer(route(2))
    (shop.run_dir / "shop" / f"route-{lost.route.key:016x}").unlink()
    for n in range(4):
        assert lost.enqueue(impression(100 + n))
        assert kept.enqueue(impression(n))
    assert not queue.flush(60)
    assert sorted(numbers(shop.collector.events)) == [0, 1, 2, 3]
    assert queue.stats().dropped == {"damaged": 4}
    assert queue.flush(60), "a loss is told once"
    assert ledger(queue) == 8


def test_an_idle_aggregator_sleeps_and_wakes_for_an_event(shop: Engine) -> None:
    """Without events it announces its sleep; an event wakes it long before its next look around."""
    queue = shop.queue(events_per_request=1)
    producer = queue.producer(route())
    send(producer, 0, 1)
    assert queue.flush(60)
    control = _lane.Control.attach(str(shop.run_dir / "shop" / "control"))
    wait_for(lambda: control.sleeping)
    pid = wait_for(shop.aggregator_pid)
    before = _switches(pid)
    time.sleep(2.0)
    assert _switches(pid) - before <= 40
    wait_for(lambda: control.sleeping)
    send(producer, 1, 2)
    assert shop.collector.wait(lambda c: len(c.events) == 2)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="optional: limits of another process are Linux's")
def test_a_lane_that_waits_for_another_costs_no_processor(shop: Engine) -> None:
    """A process outgrew a lane for which the aggregator has no descriptor: what it wrote after that waits, and
    the loop sleeps meanwhile."""
    queue = shop.queue(events_per_request=1)
    producer = queue.producer(route())
    send(producer, 0, 1)
    assert queue.flush(60)
    folder, first, later = shop.run_dir / "shop", 1 << 40, 1 << 41
    control = _lane.Control.attach(str(folder / "control"))
    lanes = control.counter(ControlCounter.GAUGE_LANES)
    for lane in (first, later):
        assert lock_file(folder / USERS_LOCK).acquire(lane)
    owner = _lane.LaneOwner(control)
    path = folder / f"lane-{later:016x}"
    owner.open_lane(str(path), later, 1, 1 << 16, False, first)
    path.with_suffix(".tmp").rename(path)
    control.bump_generation()
    wait_for(lambda: control.counter(ControlCounter.GAUGE_LANES) == lanes + 1)
    pid = wait_for(shop.aggregator_pid)
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(fd) for fd in os.listdir(f"/proc/{pid}/fd")}
    # One for the folder that is listed, none for what is found in it.
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(set(range(len(used) + 1)) - used) + 1, limits[1]))
    outgrown = folder / f"lane-{first:016x}"
    _lane.LaneOwner(control).open_lane(str(outgrown), first, 1, 1 << 16, False)
    outgrown.with_suffix(".tmp").rename(outgrown)
    key = int(next(folder.glob("route-*")).name.removeprefix("route-"), 16)
    assert _lane.Producer(owner, key, _lane.SHAPE_FULLSTACK, _lane.KIND_EVENT).enqueue(impression(1))
    control.bump_generation()
    time.sleep(1.0)
    begin, spent = time.monotonic(), cpu_seconds(pid)
    time.sleep(1.0)
    spent, took = cpu_seconds(pid) - spent, time.monotonic() - begin
    assert control.counter(ControlCounter.GAUGE_LANES) == lanes + 1
    assert numbers(shop.collector.events) == [0]
    assert spent < 0.3 * took
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    assert shop.collector.wait(lambda c: len(c.events) == 2)


def _switches(pid: int) -> int:
    """Times that the loop's thread gave up the processor by itself; 0 where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0
    return int(text.split("voluntary_ctxt_switches:")[1].split()[0])


def test_logs_and_status_tell_no_secrets(shop: Engine) -> None:
    """Neither the SDK key nor a visitor's address or browser is in the log after failures of every kind."""
    shop.collector.rules += [Rule(status=500, times=1), Rule(drop=True, times=1), Rule(status=403, times=1)]
    queue = shop.queue(events_per_request=1)
    send(queue.producer(route()), 0, 10)
    assert queue.flush(60)
    log = (spool(shop).parent / "aggregator.log").read_text()
    assert "403" in log
    assert not any(secret in log for secret in ("testkey", "203.0.113.7", "Mozilla"))


def test_two_queues_cannot_share_a_spool(shop: Engine) -> None:
    """A queue of the same name in another run_dir does not send the same spool a second time: it has none until the
    first one ends, and delivers all the same."""
    queue = shop.queue(events_per_request=1)
    send(queue.producer(route()), 0, 1)
    assert queue.flush(60)
    other = shop.queue(events_per_request=1, run_dir=shop.root / "other")
    send(other.producer(route()), 1, 2)
    assert other.flush(60)
    assert "in use by another" in (spool(shop).parent / "aggregator.log").read_text()
    control = _lane.Control.attach(str(shop.root / "other" / "shop" / "control"))
    assert control.counter(ControlCounter.GAUGE_NO_SPOOL) == 1
    shop.kill_aggregator(number=signal.SIGTERM)
    wait_for(lambda: control.counter(ControlCounter.GAUGE_NO_SPOOL) == 0)
    send(other.producer(route()), 2, 3)
    assert other.flush(60)
    assert numbers(shop.collector.events) == [0, 1, 2]
    other.close()
    wait_for(lambda: other.stats().aggregator_pid is None)

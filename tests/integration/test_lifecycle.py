"""Processes that start, fork, die and come back: nothing accepted is lost, and one aggregator serves all."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vwo_fast
from tests.support.collector import Rule
from tests.support.engine import Engine, engine, impression, numbers, route, wait_for

FORK = multiprocessing.get_context("fork")
SPAWN = multiprocessing.get_context("spawn")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made


def _forked(function: Callable[[], object]) -> int:
    """Run ``function`` in a forked child; its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            function()
            code = 0
        os._exit(code)
    return pid


def _status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_events_of_the_parent_are_sent_once_whatever_is_forked(shop: Engine) -> None:
    """Events enqueued before the fork are not copied into children; children enqueue into lanes of their own."""
    queue = shop.queue(events_per_request=1000)
    producer = queue.producer(route())
    assert all(producer.enqueue(impression(n)) for n in range(20))

    def child(start: int) -> Callable[[], object]:
        def work() -> None:
            assert all(producer.enqueue(impression(n)) for n in range(start, start + 10))

        return work

    pids = [_forked(child(100)), _forked(child(200)), _forked(lambda: None)]
    assert [_status(pid) for pid in pids] == [0, 0, 0]
    assert producer.enqueue(impression(20))
    assert queue.flush(60)
    assert sorted(numbers(shop.collector.events)) == [*range(21), *range(100, 110), *range(200, 210)]


def test_a_child_can_flush_and_its_own_child_too(shop: Engine) -> None:
    """A ZeroMQ context of the parent is never used by a child: a flush works in each generation."""
    queue = shop.queue(events_per_request=1000)
    producer = queue.producer(route())
    producer.enqueue(impression(0))
    assert queue.flush(60)

    def grandchild() -> None:
        assert producer.enqueue(impression(2))
        assert queue.flush(60)

    def child() -> None:
        assert producer.enqueue(impression(1))
        assert queue.flush(60)
        assert _status(_forked(grandchild)) == 0
        assert queue.flush(60)

    assert _status(_forked(child)) == 0
    assert producer.enqueue(impression(3))
    assert queue.flush(60)
    assert sorted(numbers(shop.collector.events)) == [0, 1, 2, 3]


def test_a_queue_that_was_made_before_the_fork_and_first_used_after(shop: Engine) -> None:
    """--preload without an event in the master: each worker gets its lane at its first event."""
    queue = shop.queue(events_per_request=1000)
    producer = queue.producer(route())
    pids = [
        _forked(lambda start=start: [producer.enqueue(impression(start + n)) for n in range(25)])
        for start in (0, 25, 50, 75)
    ]
    assert [_status(pid) for pid in pids] == [0, 0, 0, 0]
    assert queue.flush(60)
    assert sorted(numbers(shop.collector.events)) == list(range(100))


def test_threads_of_one_process_share_its_lane(shop: Engine) -> None:
    """Eight threads enqueue at once; every event arrives once, each thread's in order."""
    queue = shop.queue(events_per_request=500)
    producer = queue.producer(route())

    def work(thread: int) -> None:
        for n in range(250):
            assert producer.enqueue(impression(thread, sId=n))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert queue.flush(60)
    assert queue.stats().lanes == 1
    for thread_number in range(8):
        order = [event["sId"] for event in shop.collector.events if int(event["u"], 16) == thread_number]
        assert order == list(range(250))


def _start_at_once(options: dict[str, Any], barrier: Any, number: int) -> None:
    barrier.wait(120)
    queue = vwo_fast.Queue("shop", **options)
    assert queue.producer(route()).enqueue(impression(number))
    queue.close()


def test_one_aggregator_under_concurrent_starts(shop: Engine) -> None:
    """Eight processes that open the queue at the same moment get one aggregator between them."""
    options = shop.options(events_per_request=1)
    barrier = SPAWN.Barrier(8)
    workers = [SPAWN.Process(target=_start_at_once, args=(options, barrier, n)) for n in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert shop.collector.wait(lambda c: len(c.events) == 8)
    assert sorted(numbers(shop.collector.events)) == list(range(8))
    queue = shop.queue(events_per_request=1)
    wait_for(lambda: queue.stats().delivered == 8)
    assert queue.stats().requests == 8


def test_a_second_aggregator_leaves_at_once(shop: Engine) -> None:
    """The command line's aggregator sees that one runs, says so, and changes nothing."""
    queue = shop.queue(events_per_request=1)
    queue.producer(route()).enqueue(impression(0))
    pid = wait_for(lambda: shop.aggregator_pid())
    second = subprocess.run(
        [sys.executable, "-m", "vwo_fast", "run", "--queue", "shop", "--run-dir", str(shop.run_dir)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert str(pid) in second.stderr + second.stdout
    assert shop.aggregator_pid() == pid


def test_the_next_enqueue_brings_a_killed_aggregator_back(shop: Engine) -> None:
    """kill -9 of the aggregator loses nothing that was accepted, sent or not."""
    queue = shop.queue(events_per_request=10)
    producer = queue.producer(route())
    for n in range(15):
        assert producer.enqueue(impression(n))
    # Killed before it had read the answer, it would have to send the batch again.
    wait_for(lambda: queue.stats().delivered == 10)
    first = shop.kill_aggregator()
    time.sleep(0.05)
    for n in range(15, 20):
        assert producer.enqueue(impression(n))
    assert shop.collector.wait(lambda c: len(c.events) == 20)
    assert shop.aggregator_pid() != first
    assert sorted(numbers(shop.collector.events)) == list(range(20))


def test_flush_brings_a_killed_aggregator_back(shop: Engine) -> None:
    """A flush with nobody there starts the aggregator and gives its true answer."""
    queue = shop.queue(events_per_request=1000)
    producer = queue.producer(route())
    for n in range(5):
        producer.enqueue(impression(n))
    shop.kill_aggregator()
    assert queue.flush(60)
    assert numbers(shop.collector.events) == [0, 1, 2, 3, 4]


def test_a_batch_that_was_answered_is_not_sent_again_after_a_kill(shop: Engine) -> None:
    """Delivered records are marked in the lane, also behind one that waits: a restart skips them."""
    shop.collector.rules.append(Rule(status=503, query={"a": "1"}))
    queue = shop.queue(events_per_request=1)
    stuck, free = queue.producer(route(1)), queue.producer(route(2))
    stuck.enqueue(impression(0))
    for n in range(1, 10):
        free.enqueue(impression(n))
    assert shop.collector.wait(lambda c: len(c.events) == 9)
    wait_for(lambda: queue.stats().delivered == 9)
    shop.kill_aggregator()
    shop.collector.rules.clear()
    assert queue.flush(60)
    assert sorted(numbers(shop.collector.events)) == list(range(10))


def test_the_aggregator_leaves_when_nobody_uses_the_queue(shop: Engine) -> None:
    """After the last user it sends what is there, gives the lanes back and ends."""
    queue = shop.queue(events_per_request=1000, request_time_interval=600)
    producer = queue.producer(route())
    for n in range(5):
        producer.enqueue(impression(n))
    wait_for(shop.is_running)
    queue.close()
    wait_for(lambda: not shop.is_running())
    assert numbers(shop.collector.events) == [0, 1, 2, 3, 4]
    assert not list(queue.folder.glob("lane-*"))


def test_the_aggregator_stays_while_a_user_lives(shop: Engine) -> None:
    """An idle queue keeps its aggregator as long as a process holds it open."""
    queue = shop.queue(events_per_request=1, idle_exit=0.2)
    queue.producer(route()).enqueue(impression(0))
    assert shop.collector.wait(lambda c: len(c.events) == 1)
    time.sleep(2.5)
    assert shop.is_running()


def _enqueue_until_killed(options: dict[str, Any], start: int, record: str) -> None:
    producer = vwo_fast.Queue("shop", **options).producer(route())
    with open(record, "ab", buffering=0) as accepted:
        for n in range(start, start + 100_000):
            if producer.enqueue(impression(n)):
                accepted.write(b"%d\n" % n)


def test_what_a_killed_worker_had_accepted_arrives(shop: Engine) -> None:
    """Workers killed with -9 at random moments: each event for which enqueue returned True arrives exactly once."""
    rng = random.Random(20261121)
    options = shop.options(events_per_request=500)
    accepted: set[int] = set()
    for round_number in range(12):
        record = shop.root / f"accepted-{round_number}"
        worker = FORK.Process(target=_enqueue_until_killed, args=(options, round_number * 1_000_000, str(record)))
        worker.start()
        wait_for(lambda record=record: record.exists() and record.stat().st_size > 0)
        time.sleep(rng.uniform(0.0, 0.05))
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        worker.join(20)
        accepted.update(int(line) for line in record.read_bytes().split(b"\n")[:-1])
    queue = shop.queue(events_per_request=500)
    assert queue.flush(60)
    arrived = numbers(shop.collector.events)
    assert len(arrived) == len(set(arrived))
    assert accepted <= set(arrived)
    # A worker may die between the acceptance and its own note of it: one event a round at most.
    assert len(set(arrived) - accepted) <= 12
    wait_for(lambda: queue.stats().lanes <= 1)


def test_other_settings_on_a_running_queue_are_refused(shop: Engine) -> None:
    """The error names the option and both values."""
    queue = shop.queue(events_per_request=10)
    queue.producer(route()).enqueue(impression(0))
    with pytest.raises(vwo_fast.ConfigError, match=r"base_url.*127\.0\.0\.1.*example\.org"):
        shop.queue(events_per_request=10, base_url="http://example.org")
    with pytest.raises(vwo_fast.ConfigError, match=r"events_per_request.*10.*11"):
        shop.queue(events_per_request=11)


def test_a_queue_that_nobody_uses_takes_new_settings(shop: Engine) -> None:
    """Once the last user and the aggregator are gone, the next opener decides."""
    queue = shop.queue(events_per_request=10, idle_exit=0.1)
    queue.producer(route()).enqueue(impression(0))
    wait_for(shop.is_running)
    queue.close()
    wait_for(lambda: not shop.is_running())
    again = shop.queue(events_per_request=1)
    again.producer(route()).enqueue(impression(1))
    assert shop.collector.wait(lambda c: len(c.events) == 2)


def test_another_layout_version_is_refused_with_both_versions(shop: Engine) -> None:
    """A control file of another version in use is not touched; the error names both versions and a way out."""
    queue = shop.queue(events_per_request=10)
    control = queue.folder / "control"
    data = bytearray(control.read_bytes())
    data[8] = 99
    control.write_bytes(data)
    with pytest.raises(vwo_fast.QueueError, match=r"99.*\b1\b|\b1\b.*99"):
        shop.queue(events_per_request=10)


def test_a_script_that_just_ends_loses_nothing(shop: Engine) -> None:
    """An interpreter that exits with events queued does not hang, and all of them arrive."""
    code = (
        "import json, sys, vwo_fast\n"
        "from tests.support.engine import impression, route\n"
        "queue = vwo_fast.Queue('shop', **json.loads(sys.argv[1]))\n"
        "producer = queue.producer(route())\n"
        "assert all(producer.enqueue(impression(n)) for n in range(50))\n"
    )

    options = {name: str(value) if isinstance(value, Path) else value for name, value in shop.options().items()}
    subprocess.run(
        [sys.executable, "-c", code, json.dumps({**options, "events_per_request": 1000})],
        check=True,
        timeout=60,
        cwd=ROOT,
    )
    assert shop.collector.wait(lambda c: len(c.events) == 50)


def test_a_worker_stays_light(shop: Engine) -> None:
    """Without a callback a worker starts no Python thread and imports neither requests nor sqlite3."""
    code = (
        "import json, sys, threading, vwo_fast\n"
        "from vwo_fast import Route\n"
        "queue = vwo_fast.Queue('shop', **json.loads(sys.argv[1]))\n"
        "producer = queue.producer(Route.fullstack(account_id=1, sdk_key='k', sdk_version='1'))\n"
        "assert producer.enqueue({'u': 'A', 'url': 'https://x/server-side/track-user'})\n"
        "assert queue.flush(60)\n"
        "print(threading.active_count(), sorted({'requests', 'sqlite3', 'urllib3'} & set(sys.modules)))\n"
    )

    options = {name: str(value) if isinstance(value, Path) else value for name, value in shop.options().items()}
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps({**options, "events_per_request": 10})],
        check=True,
        timeout=60,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "1 []"


def test_a_spool_folder_that_others_may_enter_is_refused(shop: Engine) -> None:
    """The application hears of it when it opens the queue, not the log of a process it does not watch."""
    shop.spool_dir.mkdir(mode=0o755)
    with pytest.raises(vwo_fast.QueueError, match=r"spool.*others may enter.*chmod 700"):
        shop.queue(events_per_request=1)


def test_a_spool_folder_that_cannot_be_made_stops_nothing(shop: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """While VWO answers, no spool is needed: the queue works, and the log says what is missing."""
    shop.spool_dir = Path("/proc/no-such-place")
    queue = shop.queue(events_per_request=1)
    assert "no spool for now" in caplog.text
    assert queue.producer(route()).enqueue(impression(0))


def test_without_an_interpreter_nothing_is_lost(shop: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No aggregator can be started: events are accepted until the lane is full, then refused with the reason, which the
    log tells; all that was accepted arrives once one can be."""
    python = tmp_path / "python"
    queue = shop.queue(events_per_request=100, lane_bytes=1 << 16, lane_bytes_max=1 << 16, python=str(python))
    producer = queue.producer(route())
    accepted = 0
    while producer.enqueue(impression(accepted)):
        accepted += 1
    assert accepted > 50
    assert queue.stats().refused == {"lane_full": 1}
    assert (queue.stats().accepted, queue.stats().queued) == (accepted, accepted)
    assert any("lane_full" in record.getMessage() for record in caplog.records)
    assert not shop.is_running()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o700)
    wait_for(lambda: queue.flush(5))
    assert sorted(numbers(shop.collector.events)) == list(range(accepted))


def test_a_folder_that_is_deleted_stops_nobody(shop: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """The aggregator saves what it has read and goes on in a new folder, for whoever opens the queue again; a process
    that had it open moves there, and says so."""
    shop.collector.rules.append(Rule(status=503))
    queue = shop.queue(events_per_request=5)
    producer = queue.producer(route())
    assert all(producer.enqueue(impression(n)) for n in range(20))
    wait_for(lambda: queue.stats().spooled == 20)
    shutil.rmtree(queue.folder)
    wait_for(lambda: (queue.folder / "control").exists() and shop.is_running())
    shop.collector.rules.clear()
    with shop.queue(events_per_request=5) as again:
        assert all(again.producer(route()).enqueue(impression(n)) for n in range(20, 30))
        assert again.flush(30)
        assert sorted(numbers(shop.collector.events)) == list(range(30))

    def is_told() -> bool:
        producer.enqueue(impression(99))
        return any("folder was deleted" in record.getMessage() for record in caplog.records)

    wait_for(is_told)

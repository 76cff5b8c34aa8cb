"""What a flush leaves behind, which is nothing, and whom it launches, which is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vwo_fast
from tests.support.collector import Rule
from tests.support.engine import Engine, engine, impression, numbers, route, wait_for
from tests.support.servers import ROOT
from vwo_fast import launch
from vwo_fast._sdk import FlushRequest

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="optional: threads are counted in /proc")

SCRIPT = """
import json, os, signal, sys, threading, time, warnings
import vwo_fast
from tests.support.engine import impression, route

given = json.loads(sys.argv[1])
queue = vwo_fast.Queue("shop", events_per_request=1000, **given)
producer = queue.producer(route())
assert producer.enqueue(impression(0))

def left():
    # The descriptor that lists them is among them.
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")) - 1

{body}
print(json.dumps(result), flush=True)
"""


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made


def run(shop: Engine, body: str) -> Any:
    """Run ``body`` in a process of its own that has a queue with one event; its value of ``result``."""
    options = json.dumps(shop.options(), default=str)
    command = [sys.executable, "-W", "error", "-c", SCRIPT.replace("{body}", body), options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout.splitlines()[-1])


@on_linux
def test_nothing_is_left_of_a_flush(shop: Engine) -> None:
    """After the first, which opens a lock file for good, and after ten more: one thread, no other descriptor."""
    body = """
assert queue.flush(60)
first = left()
for number in range(1, 11):
    assert producer.enqueue(impression(number))
    assert queue.flush(60)
result = [first, left()]
"""
    (threads, descriptors), after = run(shop, body)
    assert threads == 1
    assert after == [threads, descriptors]


@on_linux
def test_nothing_is_left_of_a_flush_that_timed_out(shop: Engine) -> None:
    """VWO is silent: the flush says False, and its threads and descriptors are gone all the same."""
    shop.collector.rules.append(Rule(delay=120))
    body = """
queue.flush(0.5)
first = left()
result = [[queue.flush(0.2) for _ in range(3)], first, left()]
"""
    answers, first, after = run(shop, body)
    assert answers == [False, False, False]
    assert first[0] == 1
    assert after == first


@on_linux
def test_signals_leave_nothing_of_a_flush(shop: Engine) -> None:
    """A timer that fires all the time, as a profiler's does, interrupts none of its ends."""
    body = """
assert queue.flush(60)
first = left()
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
for number in range(1, 101):
    assert queue.flush(60)
signal.setitimer(signal.ITIMER_REAL, 0)
result = [first, left()]
"""
    first, after = run(shop, body)
    assert after == first


@on_linux
def test_threads_that_flush_at_once_leave_nothing(shop: Engine) -> None:
    """Four threads, each with events of its own: every flush is true, and the last leaves one thread."""
    body = """
assert queue.flush(60)
first, answers = left(), []
def work(base):
    for number in range(base, base + 5):
        assert producer.enqueue(impression(number))
        answers.append(queue.flush(60))
threads = [threading.Thread(target=work, args=(100 * number,)) for number in range(1, 5)]
for thread in threads: thread.start()
for thread in threads: thread.join()
# A thread that was joined may still be on its last steps in the system.
until = time.monotonic() + 60
while left() != first and time.monotonic() < until:
    time.sleep(0.01)
result = [answers, first, left()]
"""
    answers, first, after = run(shop, body)
    assert answers == [True] * 20
    assert after == first
    assert len(set(numbers(shop.collector.events))) == 21


def test_a_fork_right_after_a_flush(shop: Engine) -> None:
    """Python 3.12 and later warn of a fork with threads, and here a warning is an error; the child flushes as well."""
    body = """
assert queue.flush(60)
pid = os.fork()
if pid == 0:
    os._exit(0 if producer.enqueue(impression(1)) and queue.flush(60) else 1)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
result = [code, producer.enqueue(impression(2)), queue.flush(60)]
"""
    assert run(shop, body) == [0, True, True]
    assert sorted(numbers(shop.collector.events)) == [0, 1, 2]


def test_a_fork_during_a_flush(shop: Engine) -> None:
    """A child of a process that waits for an answer has nothing of that; it flushes by itself, its parent goes on."""
    shop.collector.rules.append(Rule(delay=2, times=1))
    body = """
answers = []
thread = threading.Thread(target=lambda: answers.append(queue.flush(60)))
thread.start()
while not queue.stats().in_flight:
    time.sleep(0.01)
warnings.simplefilter("ignore", DeprecationWarning)
pid = os.fork()
if pid == 0:
    os._exit(0 if producer.enqueue(impression(1)) and queue.flush(60) else 1)
thread.join()
result = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), answers]
"""
    assert run(shop, body) == [0, [True]]
    assert sorted(numbers(shop.collector.events)) == [0, 1]


# ---- without waiting


@on_linux
def test_a_flush_that_is_only_asked_for_brings_no_library(shop: Engine) -> None:
    """The aggregator listens: the request goes as a ring does, over one connection, and VWO gets the events."""
    body = """
from vwo_fast._sdk import FlushRequest
assert queue.flush(60)
del sys.modules["zmq"]
ask = FlushRequest(queue)
assert ask()
first, answers = left(), []
for number in range(1, 200):
    assert producer.enqueue(impression(number))
    answers.append(ask())
result = [answers, first, left(), "zmq" in sys.modules]
"""
    answers, first, after, is_loaded = run(shop, body)
    assert all(answers)
    assert after == first
    assert not is_loaded
    assert shop.collector.wait(lambda c: len(c.events) == 200)


def test_one_that_is_asked_for_too_early_waits(shop: Engine) -> None:
    """There is no aggregator yet: the request waits for the one that comes, and nothing is started for it."""
    queue = shop.queue(events_per_request=1000, request_time_interval=600, aggregator="external")
    ask = FlushRequest(queue)
    assert queue.producer(route()).enqueue(impression(1))
    assert ask()
    assert ask()
    assert not shop.is_running()
    launch.launch(queue.folder, "shop")
    assert shop.collector.wait(lambda c: len(c.events) == 1)
    # Now it listens: the one that waited is let go of.
    [caller] = ask._callers.values()
    assert caller._waiting is not None
    assert ask()
    assert caller._waiting is None


def test_an_interpreter_ends_with_a_request_that_waits(shop: Engine) -> None:
    """Quietly: the request is let go of, and the event arrives with whoever comes next."""
    options = json.dumps(shop.options(aggregator="external"), default=str)
    code = SCRIPT.replace("{body}", "from vwo_fast._sdk import FlushRequest\nask = FlushRequest(queue)\nresult = ask()")
    command = [sys.executable, "-c", code, options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert (done.returncode, done.stdout) == (0, "true\n")
    assert [line for line in done.stderr.splitlines() if "no aggregator runs" not in line] == []
    assert shop.queue(events_per_request=1000).flush(60)
    assert numbers(shop.collector.events) == [0]


# ---- who launches


def launched(shop: Engine) -> int:
    """How many aggregators have come up: each says in the log that it has started, or that another has."""
    text = "".join(log.read_text() for log in shop.root.rglob("aggregator.log*"))
    return text.count(": started") + text.count("another aggregator is at work")


def wait_until_gone(shop: Engine, queue: vwo_fast.Queue) -> None:
    """Nobody is under way any more, so whoever was launched has said so in the log."""
    queue.close()
    wait_for(lambda: not launch.is_under_way(queue.folder) and not shop.is_running())


def test_a_queue_that_is_flushed_at_once_launches_one(shop: Engine) -> None:
    """The event launches the aggregator, and the flush waits for that one."""
    queue = shop.queue(events_per_request=1000)
    assert queue.producer(route()).enqueue(impression(1))
    assert queue.flush(60)
    # It has the lock from its launcher as long as it lives.
    assert launch.is_under_way(queue.folder)
    wait_until_gone(shop, queue)
    assert launched(shop) == 1


def flushed_together(queue: vwo_fast.Queue) -> list[bool]:
    """What three threads are answered that flush at once."""
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(queue.flush(60))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_processes_that_flush_at_once_launch_one(shop: Engine) -> None:
    """Six threads of two processes ask together, and nobody has enqueued."""
    queue = shop.queue(events_per_request=1000)
    pids = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if flushed_together(queue) == [True] * 3 else 1)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0]
    wait_until_gone(shop, queue)
    assert launched(shop) == 1


def test_a_launch_that_fails_at_once_is_not_waited_out(
    shop: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event's aggregator dies before it is one: the flush launches another, long before the claim is free."""
    monkeypatch.setattr(launch, "LAUNCH_INTERVAL_NS", 3600 * 10**9)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nmkdir "{tmp_path}/first" 2>/dev/null && exit 1\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o700)
    queue = shop.queue(events_per_request=1000, python=str(python))
    assert queue.producer(route()).enqueue(impression(1))
    assert queue.flush(60)
    assert (tmp_path / "first").is_dir()
    wait_until_gone(shop, queue)
    assert launched(shop) == 1


def test_one_that_is_slow_to_start_is_waited_for(shop: Engine, tmp_path: Path) -> None:
    """The lock that it has from its launcher tells that it lives: nobody launches another because of it."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nsleep 1\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o700)
    queue = shop.queue(events_per_request=1000, python=str(python))
    assert queue.producer(route()).enqueue(impression(1))
    assert launch.is_under_way(queue.folder)
    assert queue.flush(60)
    wait_until_gone(shop, queue)
    assert launched(shop) == 1


def test_what_lies_in_the_place_of_the_lock_stops_no_launch(shop: Engine) -> None:
    """A folder there: the aggregator comes up without it, and the flush is true."""
    queue = shop.queue(events_per_request=1000)
    (queue.folder / "launch.lock").mkdir()
    assert queue.producer(route()).enqueue(impression(1))
    assert queue.flush(60)


# ---- how long


@pytest.mark.parametrize("timeout", [None, 10**9, 1e300])
def test_a_flush_without_a_limit(shop: Engine, timeout: Any) -> None:
    """None, as in requests, and times that no clock reaches: it waits as long as VWO takes, callbacks included."""
    told: list[object] = []
    shop.collector.rules.append(Rule(status=503, times=3))
    queue = shop.queue(events_per_request=1000, flush_callback=lambda err, events: told.append(err))
    assert queue.producer(route()).enqueue(impression(1))
    assert queue.flush(timeout)
    assert told == [None]


def test_a_flush_of_no_seconds(shop: Engine) -> None:
    """0 is a time: the answer is False at once, and nothing is harmed."""
    queue = shop.queue(events_per_request=1000)
    assert queue.producer(route()).enqueue(impression(1))
    assert queue.flush(0) is False
    assert queue.flush(60)

"""vwo_fast across fork and spawn of plain Python processes, nested, threaded and killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import vwo_fast
from tests.support.engine import engine, impression, numbers, route
from tests.support.servers import QUEUE, ROOT, assert_exactly_once, queue_environment

EACH = 60


def _enqueue(producer: vwo_fast.Producer, begin: int, end: int) -> None:
    for number in range(begin, end):
        if not producer.enqueue(impression(number)):
            raise RuntimeError(f"impression {number} was refused")


def _open_and_enqueue(options: dict[str, Any], begin: int, end: int) -> None:
    """The body of a spawned process, which shares nothing with its parent but the queue's name."""
    queue = vwo_fast.Queue(QUEUE, **options)
    _enqueue(queue.producer(route()), begin, end)


def _enqueue_and_fork(producer: vwo_fast.Producer, begin: int) -> None:
    _enqueue(producer, begin, begin + EACH)
    child = multiprocessing.get_context("fork").Process(
        target=_enqueue, args=(producer, begin + EACH, begin + 2 * EACH)
    )
    child.start()
    child.join()


def _run(processes: list[Any]) -> None:
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * len(processes)


@pytest.mark.parametrize("early", [0, EACH], ids=["first-in-child", "first-in-parent"])
def test_forked_children_share_the_queue(early: int) -> None:
    """Children of a fork enqueue through what they inherited; the parent's own events are not sent again."""
    with engine() as made:
        queue = made.queue(QUEUE, events_per_request=25, request_time_interval=1)
        producer = queue.producer(route())
        _enqueue(producer, 0, early)
        context = multiprocessing.get_context("fork")
        ranges = [(1000 * child, 1000 * child + EACH) for child in (1, 2, 3)]
        _run([context.Process(target=_enqueue, args=(producer, *bounds)) for bounds in ranges])
        _enqueue(producer, early, early + 10)
        wanted = set(range(early + 10)).union(*(range(*bounds) for bounds in ranges))
        assert queue.flush(timeout=60)
        queue.close()
        assert_exactly_once(made, wanted)


def test_a_child_of_a_child_has_a_lane_of_its_own() -> None:
    """Parent, child and grandchild enqueue one after the other; each event arrives once."""
    with engine() as made:
        queue = made.queue(QUEUE, events_per_request=25, request_time_interval=1)
        producer = queue.producer(route())
        _enqueue(producer, 0, EACH)
        _run([multiprocessing.get_context("fork").Process(target=_enqueue_and_fork, args=(producer, EACH))])
        queue.close()
        assert_exactly_once(made, set(range(3 * EACH)))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_spawned_processes_share_the_queue(method: str) -> None:
    """Processes that share nothing but the name put their events into one queue."""
    with engine() as made:
        options = made.options(events_per_request=25, request_time_interval=1)
        context: Any = multiprocessing.get_context(method)
        ranges = [(1000 * child, 1000 * child + EACH) for child in range(3)]
        _run([context.Process(target=_open_and_enqueue, args=(options, *bounds)) for bounds in ranges])
        assert_exactly_once(made, set().union(*(range(*bounds) for bounds in ranges)))


def test_threads_of_forked_children_enqueue_together() -> None:
    """Several threads of several children enqueue at once: everything arrives once."""
    with engine() as made:
        queue = made.queue(QUEUE, events_per_request=25, request_time_interval=1)
        producer = queue.producer(route())
        context = multiprocessing.get_context("fork")
        _run([context.Process(target=_enqueue_in_threads, args=(producer, 10_000 * child)) for child in (1, 2)])
        queue.close()
        begins = [10_000 * child + 1000 * thread for child in (1, 2) for thread in range(4)]
        assert_exactly_once(made, {number for begin in begins for number in range(begin, begin + EACH)})


def _enqueue_in_threads(producer: vwo_fast.Producer, base: int) -> None:
    bounds = [(base + 1000 * number, base + 1000 * number + EACH) for number in range(4)]
    threads = [threading.Thread(target=_enqueue, args=(producer, *pair)) for pair in bounds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_child_killed_at_a_random_moment_loses_nothing_it_was_told_of() -> None:
    """kill -9 while a child enqueues without pause: every number that it had reported as accepted arrives once."""
    with engine() as made:
        queue = made.queue(QUEUE, events_per_request=200, request_time_interval=1, lane_bytes=1 << 20)
        producer = queue.producer(route())
        made_numbers: set[int] = set()
        possible: set[int] = set()
        for round_number in range(20):
            last, next_number = _kill_while_enqueuing(producer, 100_000 * round_number, 0.002 * (round_number % 7))
            made_numbers.update(range(100_000 * round_number, last))
            possible.add(next_number)
        assert queue.flush(timeout=60)
        queue.close()
        assert_exactly_once(made, made_numbers, possible=possible)


def _kill_while_enqueuing(producer: vwo_fast.Producer, begin: int, delay: float) -> tuple[int, int]:
    """One past the last number that the child reported, and the one that it may have been at."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            for number in range(begin, begin + 1500):
                if not producer.enqueue(impression(number)):
                    os._exit(1)
                os.write(writer, b".")
            signal.pause()
        finally:
            os._exit(2)
    os.close(writer)
    os.read(reader, 1)
    threading.Event().wait(delay)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    reported = 1
    while chunk := os.read(reader, 65536):
        reported += len(chunk)
    os.close(reader)
    return begin + reported, begin + reported


FOOTPRINT = """
import sys, threading
import vwo_fast
loaded = {"requests", "sqlite3", "urllib3", "ssl"} & sys.modules.keys()
assert not loaded, f"importing vwo_fast loads {loaded}"
from tests.support.engine import impression, route
queue = vwo_fast.Queue("served", flush_callback=CALLBACK)
producer = queue.producer(route())
for number in range(50):
    assert producer.enqueue(impression(number))
assert queue.flush(timeout=60)
queue.stats()
loaded = {"requests", "sqlite3", "urllib3"} & sys.modules.keys()
assert not loaded, f"using vwo_fast loads {loaded}"
assert len(threading.enumerate()) == THREADS, threading.enumerate()
queue.close()
"""


@pytest.mark.parametrize(("callback", "threads"), [("None", 1), ("print", 2)], ids=["", "flush-callback"])
def test_a_process_that_uses_the_queue_stays_light(callback: str, threads: int) -> None:
    """No requests, no sqlite3, and no thread but the one of a registered flush_callback."""
    with engine() as made:
        program = FOOTPRINT.replace("CALLBACK", callback).replace("THREADS", str(threads))
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=queue_environment(made), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert_exactly_once(made, set(range(50)))


def test_a_script_that_just_ends_delivers(tmp_path: Path) -> None:
    """A program that neither flushes nor closes ends at once, and its events arrive."""
    program = """
import vwo_fast
from tests.support.engine import impression, route
producer = vwo_fast.Queue("served").producer(route())
for number in range(50):
    assert producer.enqueue(impression(number))
"""
    with engine() as made:
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=queue_environment(made), check=True)
        assert_exactly_once(made, set(range(50)))
        assert len(numbers(made.collector.events)) == 50

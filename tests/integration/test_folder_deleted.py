"""The folder of a queue is deleted under its processes: they go on in a new one, with what nobody has read."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vwo_fast
from tests.support.collector import Rule
from tests.support.crashes import end_aggregators
from tests.support.engine import Engine, engine, impression, numbers, route, wait_for
from tests.support.lanes import in_child
from vwo_fast.aggregator.loop import run

OPTIONS: dict[str, Any] = {"events_per_request": 10}


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made


def send(queue: vwo_fast.Queue, first: int, last: int) -> None:
    producer = queue.producer(route())
    assert all(producer.enqueue(impression(n)) for n in range(first, last))


def delete(folder: Path) -> None:
    """All of it, also what is made in it meanwhile."""
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


def balances(queue: vwo_fast.Queue) -> bool:
    stats = queue.stats()
    return stats.accepted >= stats.delivered and not (stats.queued or stats.in_flight or stats.spooled or stats.dropped)


def test_a_flush_after_it_takes_everything_along(shop: Engine) -> None:
    """The aggregator was killed with events unread, and its folder deleted: they arrive, each once, with the rest."""
    queue = shop.queue(**OPTIONS)
    send(queue, 0, 20)
    assert queue.flush(20)
    end_aggregators(shop, signal.SIGKILL)
    send(queue, 20, 25)
    delete(queue.folder)
    assert queue.flush(30)
    assert sorted(numbers(shop.collector.events)) == list(range(25))
    send(queue, 25, 40)
    assert queue.flush(20)
    assert sorted(numbers(shop.collector.events)) == list(range(40))
    assert balances(queue)


def test_events_that_go_on_coming_all_arrive(shop: Engine) -> None:
    """Threads enqueue while the folder is deleted, several times, with an aggregator at work: none is refused, all
    arrive, and none twice."""
    queue = shop.queue(**OPTIONS)
    producer = queue.producer(route())
    made = [0]
    stop = threading.Event()
    lock = threading.Lock()
    refused: list[int] = []

    def work() -> None:
        while not stop.is_set():
            with lock:
                number, made[0] = made[0], made[0] + 1
                if not producer.enqueue(impression(number)):
                    refused.append(number)
            time.sleep(0.0005)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            before = made[0]
            wait_for(lambda before=before: made[0] > before + 200 and shop.is_running())  # type: ignore[misc]
            delete(queue.folder)
            wait_for(lambda: (queue.folder / "control").exists())
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    wait_for(lambda: queue.flush(10))
    assert refused == []
    assert sorted(numbers(shop.collector.events)) == list(range(made[0]))


def test_a_saved_outage_is_delivered(shop: Engine) -> None:
    """VWO is away: what was read goes to the spool, what was not moves along; once it is back all arrive."""
    shop.collector.rules.append(Rule(status=503))
    queue = shop.queue(**OPTIONS)
    send(queue, 0, 30)
    wait_for(lambda: queue.stats().spooled == 30)
    delete(queue.folder)
    send(queue, 30, 50)
    assert not queue.flush(2)
    shop.collector.rules.clear()
    wait_for(lambda: queue.flush(10))
    assert sorted(numbers(shop.collector.events)) == list(range(50))


def test_the_folder_is_made_again_after_a_refusal(shop: Engine) -> None:
    """A producer that has lost its lane refuses while there is no place for another, and goes on when there is."""
    queue = shop.queue(**OPTIONS)
    producer = queue.producer(route())
    assert producer.enqueue(impression(0))
    assert queue.flush(20)
    end_aggregators(shop, signal.SIGKILL)
    delete(shop.run_dir)
    shop.run_dir.write_bytes(b"no folder")
    count = iter(range(1, 1_000_000))
    accepted = [0]

    def is_refused() -> bool:
        number = next(count)
        if producer.enqueue(impression(number)):
            accepted.append(number)
            return False
        return True

    wait_for(is_refused)
    assert not producer.enqueue(impression(0))
    shop.run_dir.unlink()

    def is_accepted() -> bool:
        number = next(count)
        if producer.enqueue(impression(number)):
            accepted.append(number)
            return True
        return False

    wait_for(is_accepted)
    assert queue.flush(20)
    assert sorted(numbers(shop.collector.events)) == accepted


def test_a_child_leaves_its_parents_events_to_the_parent(shop: Engine) -> None:
    """Forked after the folder was deleted, it opens the queue anew for its own events alone."""
    queue = shop.queue(**OPTIONS)
    producer = queue.producer(route())
    assert producer.enqueue(impression(0))
    assert queue.flush(20)
    end_aggregators(shop, signal.SIGKILL)
    delete(queue.folder)
    with_parent = producer.enqueue(impression(1))

    def work() -> None:
        assert producer.enqueue(impression(2))
        queue.close()

    assert in_child(work) == 0
    assert with_parent
    wait_for(lambda: queue.flush(10))
    wait_for(lambda: len(shop.collector.events) >= 3)
    assert sorted(numbers(shop.collector.events)) == [0, 1, 2]


def test_an_aggregator_that_comes_late_makes_no_folder(tmp_path: Path) -> None:
    """One that was launched for a queue whose folder is gone by then ends, and leaves nothing."""
    queue = vwo_fast.Queue("shop", run_dir=tmp_path / "run", spool_dir=tmp_path / "spool")
    settings, folder = queue.settings, queue.folder
    queue.close()
    delete(folder)

    def late() -> None:
        assert run(folder, settings, foreground=False) == 0

    # In a process of its own, whose umask it changes.
    assert in_child(late) == 0
    assert not folder.exists()


def test_a_queue_in_use_does_not_look_old(shop: Engine) -> None:
    """What a cleaner of temporary folders would delete by its age is touched by an aggregator that starts."""
    queue = shop.queue(events_per_request=10)
    producer = queue.producer(route())
    assert producer.enqueue(impression(0))
    assert queue.flush(60)
    shop.end_aggregators()
    folders = (queue.folder, shop.spool_dir / queue.name)
    files = [path for folder in folders for path in (folder, *folder.iterdir())]
    assert len(files) > 8
    for path in files:
        os.utime(path, (1e9, 1e9), follow_symlinks=False)
    assert queue.flush(60)
    wait_for(lambda: all(time.time() - path.lstat().st_mtime < 600 for path in files if path.exists()))

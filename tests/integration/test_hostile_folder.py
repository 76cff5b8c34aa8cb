"""What else may lie in the queue's folder: nothing hangs, it is refused with the reason, or put aside and counted."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import vwo_fast
from tests.support.engine import Engine, engine, impression, numbers, route, wait_for
from vwo_fast._lane import Control
from vwo_fast.aggregator.aside import KEPT
from vwo_fast.counters import ControlCounter
from vwo_fast.errors import QueueError

FOREIGN = 0x1234
OTHER_USER = 12345


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made


def send(queue: vwo_fast.Queue, first: int, count: int = 5) -> None:
    """Enqueue some events and have them delivered."""
    producer = queue.producer(route())
    assert all(producer.enqueue(impression(number)) for number in range(first, first + count))
    assert queue.flush(60)


def quarantined(folder: Path) -> int:
    control = Control.attach(str(folder / "control"))
    try:
        return control.counter(ControlCounter.QUARANTINED_LANES)
    finally:
        control.close()


def announce(folder: Path) -> None:
    """Say that a lane got its name, as its producer would."""
    control = Control.attach(str(folder / "control"))
    control.bump_generation()
    control.close()


def make_socket(path: Path) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as made:
        made.bind(str(path))


def make_link_to_lane(path: Path) -> None:
    path.symlink_to(next(found for found in path.parent.glob("lane-*") if found != path).name)


def make_hard_link(path: Path) -> None:
    os.link(next(found for found in path.parent.glob("lane-*") if found != path), path)


def make_copy(path: Path) -> None:
    source = next(found for found in path.parent.glob("lane-*") if found != path)
    path.write_bytes(source.read_bytes())


def make_short(path: Path) -> None:
    source = next(found for found in path.parent.glob("lane-*") if found != path)
    path.write_bytes(source.read_bytes()[:5000])


def make_foreign(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("optional: only root can give a file away")
    make_copy(path)
    os.chown(path, OTHER_USER, -1)


THINGS: dict[str, Callable[[Path], object]] = {
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "link to nowhere": lambda path: path.symlink_to("nowhere"),
    "link to a lane": make_link_to_lane,
    "pipe": os.mkfifo,
    "folder": lambda path: path.mkdir(),
    "socket": make_socket,
    "hard link": make_hard_link,
    "copy": make_copy,
    "short": make_short,
    "empty": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(os.urandom(100_000)),
    "of another owner": make_foreign,
}


@pytest.mark.parametrize("thing", THINGS)
def test_what_is_no_lane_is_put_aside(shop: Engine, thing: str) -> None:
    """Links, pipes, folders, copies in the place of a lane: aside and counted; statistics and others go on."""
    queue = shop.queue(events_per_request=100)
    send(queue, 0)
    path = queue.folder / f"lane-{FOREIGN:016x}"
    THINGS[thing](path)
    announce(queue.folder)
    assert queue.stats().accepted >= 5
    send(queue, 5)
    wait_for(lambda: quarantined(queue.folder) == 1)
    wait_for(lambda: not os.path.lexists(path))
    assert len(list(queue.folder.glob("lane-*.bad"))) == 1
    send(queue, 10)
    assert sorted(numbers(shop.collector.events)) == list(range(15))


def test_what_is_put_aside_does_not_fill_the_memory(shop: Engine) -> None:
    """Only the latest lanes that were put aside are kept."""
    queue = shop.queue(events_per_request=100)
    send(queue, 0)
    for number in range(KEPT + 4):
        (queue.folder / f"lane-{number + 1:016x}").write_bytes(b"bad")
    announce(queue.folder)
    wait_for(lambda: quarantined(queue.folder) == KEPT + 4)
    wait_for(lambda: len(list(queue.folder.glob("lane-*.bad"))) == KEPT)
    send(queue, 5)


@pytest.mark.parametrize("thing", ["folder", "pipe", "link to nowhere", "socket", "noise"])
def test_the_socket_takes_its_place(shop: Engine, thing: str) -> None:
    """Whatever lies at ``ctl`` when an aggregator starts makes way for its socket."""
    queue = shop.queue(events_per_request=100)
    path = queue.folder / "ctl"
    THINGS[thing](path)
    send(queue, 0)
    assert stat.S_ISSOCK(os.lstat(path).st_mode)
    assert sorted(numbers(shop.collector.events)) == list(range(5))


CONFIGS: dict[str, Callable[[Path], object]] = {
    **{name: THINGS[name] for name in ("link to a device", "link to nowhere", "pipe", "socket", "noise", "empty")},
    "deep": lambda path: path.write_bytes(b"[" * 200_000),
    "of other types": lambda path: path.write_bytes(b'{"queue": "shop", "base_url": [1], "lane_bytes": {}}'),
}


@pytest.mark.parametrize("thing", CONFIGS)
def test_settings_that_cannot_be_read_are_written_anew(shop: Engine, thing: str) -> None:
    """Whatever lies at ``config.json`` of a queue, in use or not: opening it neither hangs nor fails."""
    queue = shop.queue(events_per_request=100)
    path = queue.folder / "config.json"
    for _ in range(2):
        path.unlink()
        CONFIGS[thing](path)
        queue = shop.queue(events_per_request=100)
        assert stat.S_ISREG(os.lstat(path).st_mode)
    send(queue, 0)
    assert sorted(numbers(shop.collector.events)) == list(range(5))


@pytest.mark.parametrize("name", ["config.json", "control", "open.lock", "users.lock", "aggregator.lock"])
def test_a_folder_in_the_place_of_a_file_is_named(shop: Engine, name: str) -> None:
    """The error says which file of the queue cannot be used."""
    folder = shop.run_dir / "shop"
    folder.mkdir(parents=True, mode=0o700)
    shop.run_dir.chmod(0o700)
    (folder / name).mkdir()
    with pytest.raises(QueueError, match=name):
        shop.queue(events_per_request=100)


@pytest.mark.parametrize("name", ["control", "open.lock", "users.lock", "aggregator.lock"])
@pytest.mark.parametrize("thing", ["link to nowhere", "pipe", "link to a device"])
def test_links_and_pipes_in_the_place_of_locks_are_refused_or_replaced(shop: Engine, name: str, thing: str) -> None:
    """No link is followed and no pipe waited for: the queue says no, or makes the file anew."""
    folder = shop.run_dir / "shop"
    folder.mkdir(parents=True, mode=0o700)
    shop.run_dir.chmod(0o700)
    THINGS[thing](folder / name)
    if name == "control":
        send(shop.queue(events_per_request=100), 0)
        assert stat.S_ISREG(os.lstat(folder / name).st_mode)
    else:
        with pytest.raises(QueueError, match=name):
            shop.queue(events_per_request=100)
    assert not (folder / "nowhere").exists()


@pytest.mark.parametrize("thing", ["link to nowhere", "pipe", "noise", "empty", "socket"])
def test_a_route_that_is_not_one_is_written_anew(shop: Engine, thing: str) -> None:
    """A producer makes sure of the file that its records will name."""
    queue = shop.queue(events_per_request=100)
    path = queue.folder / f"route-{route().key:016x}"
    THINGS[thing](path)
    send(queue, 0)
    assert path.read_bytes() == route().encode()
    assert sorted(numbers(shop.collector.events)) == list(range(5))


def test_a_folder_in_the_place_of_a_route_is_told(shop: Engine) -> None:
    """Before any event is accepted for it."""
    queue = shop.queue(events_per_request=100)
    (queue.folder / f"route-{route().key:016x}").mkdir()
    with pytest.raises(QueueError, match="route cannot be stored"):
        queue.producer(route())


@pytest.mark.parametrize("thing", ["link to a device", "pipe", "folder", "empty", "noise", "socket"])
def test_a_large_event_that_was_replaced_costs_itself(shop: Engine, thing: str) -> None:
    """The event whose file is not what its record says is counted as damaged; those around it arrive."""
    queue = shop.queue(events_per_request=100, lane_bytes=1 << 16)
    producer = queue.producer(route())
    send(queue, 0)
    pid = wait_for(shop.aggregator_pid)
    os.kill(pid, signal.SIGSTOP)
    assert producer.enqueue(impression(5))
    assert producer.enqueue(impression(6, visitor_ua="x" * 40_000))
    (path,) = queue.folder.glob("big-*")
    path.unlink()
    THINGS[thing](path)
    assert producer.enqueue(impression(7))
    os.kill(pid, signal.SIGCONT)
    assert not queue.flush(60)
    assert queue.stats().dropped == {"damaged": 1}
    assert sorted(numbers(shop.collector.events)) == [0, 1, 2, 3, 4, 5, 7]
    assert shop.aggregator_pid() == pid


def test_a_foreign_or_open_folder_is_refused_with_the_reason(shop: Engine) -> None:
    """Others may enter, another owner, a link: the queue is not opened, and the text says why and what to do."""
    shop.queue(events_per_request=100).close()
    for folder in (shop.run_dir, shop.run_dir / "shop", shop.spool_dir, shop.spool_dir / "shop"):
        folder.chmod(0o750)
        with pytest.raises(QueueError, match=r"others may enter it .*chmod 700"):
            shop.queue(events_per_request=100)
        folder.chmod(0o700)
        aside = folder.with_name("aside")
        folder.rename(aside)
        folder.symlink_to(aside)
        with pytest.raises(QueueError, match="symbolic link"):
            shop.queue(events_per_request=100)
        folder.unlink()
        aside.rename(folder)
        if os.geteuid() == 0:
            os.chown(folder, OTHER_USER, -1)
            with pytest.raises(QueueError, match=f"belongs to user id {OTHER_USER}"):
                shop.queue(events_per_request=100)
            os.chown(folder, 0, -1)
    send(shop.queue(events_per_request=100), 0)


@pytest.mark.parametrize(
    ("name", "thing"),
    [
        ("aggregator.log", "pipe"),
        ("aggregator.log", "folder"),
        ("spool.lock", "pipe"),
        ("spool.sqlite", "pipe"),
        ("spool.sqlite", "folder"),
        ("spool.sqlite", "link to nowhere"),
        ("spool.sqlite-wal", "folder"),
    ],
)
def test_the_spool_folder_is_no_reason_not_to_send(shop: Engine, name: str, thing: str) -> None:
    """Whatever lies in the place of log, lock or database: nothing hangs, no link is followed, events are delivered."""
    queue = shop.queue(events_per_request=100)
    THINGS[thing](shop.spool_dir / "shop" / name)
    send(queue, 0)
    assert sorted(numbers(shop.collector.events)) == list(range(5))
    assert not os.path.lexists(shop.spool_dir / "shop" / "nowhere")


def test_what_the_dead_left_unfinished_is_removed(shop: Engine) -> None:
    """Large events without a record, files that never got their name, lanes that were never completed."""
    queue = shop.queue(events_per_request=100)
    send(queue, 0)
    old = time.time() - 3600
    leftovers = [
        f"big-{FOREIGN:016x}-{7:016x}",
        f"big-{FOREIGN:016x}-{8:016x}.{1:016x}.new",
        f"route-{FOREIGN:016x}.{1:016x}.new",
        f"lane-{FOREIGN:016x}.tmp",
    ]
    for name in leftovers:
        (queue.folder / name).write_bytes(b"left")
        os.utime(queue.folder / name, (old, old))
    fresh = queue.folder / f"big-{FOREIGN:016x}-{9:016x}"
    fresh.write_bytes(b"being written")
    (queue.folder / f"lane-{FOREIGN + 1:016x}.tmp").mkdir()
    os.utime(queue.folder / f"lane-{FOREIGN + 1:016x}.tmp", (old, old))
    wait_for(lambda: not any((queue.folder / name).exists() for name in leftovers))
    assert fresh.exists()
    send(queue, 5)
    assert sorted(numbers(shop.collector.events)) == list(range(10))

"""Whoever may connect to the control socket can neither fill the aggregator's memory nor silence it."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import pytest

import vwo_fast
from tests.support.engine import Engine, engine, impression, numbers, route, wait_for
from tests.support.zmtp_peer import FLOODS, connect, hello
from vwo_fast._options import OPTIONS
from vwo_fast._zmtp import frame

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="optional: reads /proc")

ROOT = Path(__file__).resolve().parents[2]
GROWTH_MAX = 64 << 20
FLOOD_SECONDS = 1.5
IDLE_PEERS = 10_000


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def flushes(queue: vwo_fast.Queue, producer: vwo_fast.queue.Producer, first: int, count: int) -> list[float]:
    """Enqueue and flush this often; how long each flush took."""
    took = []
    for number in range(first, first + count):
        assert producer.enqueue(impression(number))
        begin = time.monotonic()
        assert queue.flush(60)
        took.append(time.monotonic() - begin)
    return took


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_costs_little_and_flushes_are_answered(
    shop: Engine, kind: str, record_property: Callable[[str, object], None]
) -> None:
    """Noise, garbage, endless messages, doorbells, questions: memory stays within 64 MB, every event is delivered."""
    queue = shop.queue(events_per_request=100)
    producer = queue.producer(route())
    calm = flushes(queue, producer, 0, 20)
    pid = wait_for(shop.aggregator_pid)
    before = memory(pid)
    command = [sys.executable, "-m", "tests.support.zmtp_peer", kind, str(queue.folder / "ctl"), str(FLOOD_SECONDS)]
    flood = subprocess.Popen(command, cwd=ROOT)
    took: list[float] = []
    most = before
    while flood.poll() is None:
        took += flushes(queue, producer, 20 + len(took), 1)
        most = max(most, memory(pid))
    assert flood.returncode == 0
    record_property("calm", statistics.median(calm))
    record_property("flooded", statistics.median(took))
    assert most - before < GROWTH_MAX
    assert shop.aggregator_pid() == pid
    assert sorted(numbers(shop.collector.events)) == list(range(20 + len(took)))


def test_ten_thousand_silent_peers_are_carried(shop: Engine, record_property: Callable[[str, object], None]) -> None:
    """As many idle connections as descriptors allow: memory stays within 64 MB, flushes go on, all is given back."""
    queue = shop.queue(events_per_request=100)
    producer = queue.producer(route())
    calm = flushes(queue, producer, 0, 20)
    pid = wait_for(shop.aggregator_pid)
    before, open_before = memory(pid), descriptors(pid)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(IDLE_PEERS, hard - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, count + 400)), hard))
    peers = []
    try:
        peers = [hello(queue.folder / "ctl") for _ in range(count)]
        assert descriptors(pid) > count
        took = flushes(queue, producer, 20, 20)
        assert memory(pid) - before < GROWTH_MAX
        record_property("peers", count)
        record_property("bytes", memory(pid) - before)
        record_property("calm", statistics.median(calm))
        record_property("crowded", statistics.median(took))
    finally:
        for peer in peers:
            peer.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    wait_for(lambda: descriptors(pid) <= open_before + 5)
    flushes(queue, producer, 40, 1)
    assert shop.aggregator_pid() == pid


def test_when_there_is_no_room_the_silent_make_it(shop: Engine) -> None:
    """An aggregator that may open few files lets go of the longest silent peers; whoever asks is answered."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    queue = shop.queue(events_per_request=100)
    producer = queue.producer(route())
    flushes(queue, producer, 0, 1)
    pid = wait_for(shop.aggregator_pid)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors(pid) + 30, hard))
    peers = [connect(queue.folder / "ctl") for _ in range(100)]
    flushes(queue, producer, 1, 5)
    assert shop.aggregator_pid() == pid
    for peer in peers:
        peer.close()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


def test_who_says_nothing_at_all_is_cut_off(shop: Engine) -> None:
    """A connection without a greeting is closed after some seconds; one that has greeted stays."""
    queue = shop.queue(events_per_request=100)
    flushes(queue, queue.producer(route()), 0, 1)
    silent, greeted = connect(queue.folder / "ctl"), hello(queue.folder / "ctl")
    silent.settimeout(60)
    while silent.recv(4096):
        pass
    greeted.sendall(frame(msgpack.packb({"op": "ping", "id": 5})))
    greeted.settimeout(60)
    assert msgpack.unpackb(greeted.recv(4096)[2:])["id"] == 5
    silent.close()
    greeted.close()


def test_answers_that_nobody_reads_do_not_pile_up(shop: Engine) -> None:
    """A peer that asks and does not read has a bounded number of answers waiting."""
    queue = shop.queue(events_per_request=100)
    producer = queue.producer(route())
    flushes(queue, producer, 0, 1)
    pid = wait_for(shop.aggregator_pid)
    before = memory(pid)
    peers = [hello(queue.folder / "ctl") for _ in range(20)]
    asked = frame(msgpack.packb({"op": "status", "id": 1})) * 2000
    for peer in peers:
        peer.settimeout(0.05)
        try:
            peer.sendall(asked)
        except TimeoutError:
            continue
    flushes(queue, producer, 1, 20)
    assert memory(pid) - before < GROWTH_MAX
    for peer in peers:
        peer.close()


def test_nothing_listens_on_a_network(shop: Engine) -> None:
    """The aggregator has no listening socket but its Unix one: there is no TCP endpoint, and no option for one."""
    queue = shop.queue(events_per_request=100)
    flushes(queue, queue.producer(route()), 0, 1)
    pid = wait_for(shop.aggregator_pid)
    links = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd") if os.path.lexists(entry.path)]
    own = {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}
    listening = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" or table.startswith("udp"):
                listening.add(fields[9])
    assert own
    assert not own & listening
    assert not [name for name in OPTIONS if "endpoint" in name or "port" in name or "listen" in name]

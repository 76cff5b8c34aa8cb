"""What a loss of power leaves of the spool: copies of it at many moments of a run, and logs that end in torn writes.

Power itself is not cut.  A copy is taken while the aggregator is stopped, so it is what had been written at one moment;
shared memory is gone with it.  Of the write-ahead log, what had not been moved into the database may be torn anywhere:
the disk is asked to keep it only with ``durable``.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vwo_fast
from tests.support.collector import Collector, Rule
from tests.support.engine import FAST, Engine, engine, impression, numbers, route, wait_for

MOMENTS = 4
TORN_PER_COPY = 2
WAL_HEADER, WAL_FRAME = 32, 24 + 4096
MOVED_FRAMES = 96
"""Where the log's index says how many of its frames are in the database and on the disk."""

OPTIONS: dict[str, Any] = {"events_per_request": 10, "request_time_interval": 600, "lane_bytes": 1 << 16}


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made


class Copies:
    """Copies of one queue's spool: folder, events made by then, what VWO had been sent, what it had accepted."""

    def __init__(self, shop: Engine) -> None:
        self._shop = shop
        self.taken: list[tuple[Path, int, set[int], set[int]]] = []

    def take(self, made: int) -> None:
        """Copy the spool as it is at one moment."""
        shop, folder = self._shop, self._shop.root / f"copy-{len(self.taken)}"
        pid = int(wait_for(shop.aggregator_pid))
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
            shutil.copytree(shop.spool_dir, folder)
            requests = list(shop.collector.requests)
        finally:
            os.kill(pid, signal.SIGCONT)
        sent = {n for request in requests for n in numbers(request.json["ev"])}
        accepted = {n for request in requests if request.accepted for n in numbers(request.json["ev"])}
        self.taken.append((folder, made, sent, accepted))


def tear(spool: Path, chance: random.Random) -> None:
    """Cut the log where a write may have been torn: behind what the database was brought up to date with."""
    log = Path(f"{spool}-wal")
    moved = struct.unpack_from("=I", Path(f"{spool}-shm").read_bytes(), MOVED_FRAMES)[0]
    low, size = WAL_HEADER + moved * WAL_FRAME, log.stat().st_size
    os.truncate(log, chance.randint(min(low, size), size))


def restart(folder: Path) -> Counter[int]:
    """What an aggregator sends that starts on this spool alone, after shared memory is gone."""
    root = folder.with_name(f"{folder.name}-run")
    with Collector() as collector:
        options = {**FAST, **OPTIONS, "run_dir": root, "spool_dir": folder, "base_url": collector.url}
        queue = vwo_fast.Queue("shop", **options)
        try:
            wait_for(lambda: queue.flush(5))
            stats = queue.stats()
            arrived = Counter(numbers(collector.events))
            assert (stats.delivered, stats.spooled, stats.dead, stats.dropped) == (arrived.total(), 0, 0, {})
            assert not list((folder / "shop").glob("*.bad")), "what is torn is no damage"
        finally:
            queue.close()
            pid = queue.stats().aggregator_pid
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
    return arrived


@pytest.mark.parametrize("durable", ["none", "seal", "always"])
def test_whatever_a_loss_of_power_leaves_is_delivered(shop: Engine, durable: str) -> None:
    """From each copy an aggregator starts and sends what is in it, each event once. With ``seal`` nothing that had been
    sent is missing, with ``always`` nothing that had been accepted by enqueue a moment before; of a torn log it sends
    no more than the whole one holds and what had been delivered from it."""
    chance = random.Random(durable)
    copies = Copies(shop)
    queue = shop.queue(**OPTIONS, durable=durable)
    producer = queue.producer(route())
    made = 0
    for moment in range(MOMENTS):
        shop.collector.rules[:] = [Rule(status=503, delay=0.002)] if moment % 2 else [Rule(delay=0.002)]
        for _ in range(chance.randint(30, 120)):
            assert producer.enqueue(impression(made))
            made += 1
        if durable == "always":
            wait_for(lambda: not queue.stats().queued)
        wait_for((shop.spool_dir / "shop" / "spool.sqlite-shm").exists)
        copies.take(made)
    for folder, made_then, sent, accepted in copies.taken:
        torn = []
        for number in range(TORN_PER_COPY):
            torn.append(folder.with_name(f"{folder.name}-torn-{number}"))
            shutil.copytree(folder, torn[-1])
            tear(torn[-1] / "shop" / "spool.sqlite", chance)
            (torn[-1] / "shop" / "spool.sqlite-shm").unlink()
        whole = restart(folder)
        assert max(whole.values(), default=1) == 1
        assert set(whole) <= set(range(made_then))
        if durable != "none":
            assert sent <= set(whole) | accepted
        if durable == "always":
            assert set(whole) | accepted == set(range(made_then))
        for each in torn:
            arrived = restart(each)
            assert max(arrived.values(), default=1) == 1
            assert set(arrived) <= set(whole) | accepted | sent

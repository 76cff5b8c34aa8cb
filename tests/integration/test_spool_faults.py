"""The disk of the spool fails in every way a test can arrange; deliveries go on, and the ledger balances."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vwo_fast
from tests.support.collector import Collector, Rule
from tests.support.engine import Engine, engine, impression, numbers, route, wait_for
from tests.support.namespace import run_with
from vwo_fast import _lane, cli
from vwo_fast.counters import ControlCounter
from vwo_fast.stats import Stats


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made


def spool(shop: Engine) -> Path:
    return shop.spool_dir / "shop" / "spool.sqlite"


def counter(shop: Engine, index: ControlCounter) -> int:
    return _lane.Control.attach(str(shop.run_dir / "shop" / "control")).counter(index)


def send(queue: vwo_fast.Queue, first: int, last: int) -> None:
    producer = queue.producer(route())
    assert all(producer.enqueue(impression(n)) for n in range(first, last))


def ledger(stats: Stats) -> int:
    where = stats.delivered + stats.queued + stats.in_flight + stats.spooled + stats.dead
    return where + sum(stats.dropped.values())


def spooled(shop: Engine, batches: int, **options: Any) -> vwo_fast.Queue:
    """A queue whose aggregator has ended with so many batches of 3 events in the spool."""
    shop.collector.rules.append(Rule(status=503))
    queue = shop.queue(events_per_request=3, **options)
    send(queue, 0, 3 * batches)
    wait_for(lambda: queue.stats().spooled == 3 * batches)
    shop.kill_aggregator(number=signal.SIGTERM)
    return queue


def folder_instead(path: Path) -> None:
    path.mkdir()


def link_instead(path: Path) -> None:
    path.symlink_to("/dev/null")


@pytest.mark.parametrize("spoil", [folder_instead, link_instead], ids=["folder", "link"])
def test_a_spool_that_cannot_be_opened_stops_nothing(shop: Engine, spoil: Callable[[Path], None]) -> None:
    """Something else lies in its place: events are delivered, the status says so, and once it is gone the spool is
    used again, without a restart and without a duplicate."""
    spool(shop).parent.mkdir(mode=0o700, parents=True)
    shop.spool_dir.chmod(0o700)
    spoil(spool(shop))
    queue = shop.queue(events_per_request=2)
    send(queue, 0, 10)
    assert queue.flush(60)
    assert sorted(numbers(shop.collector.events)) == list(range(10))
    assert counter(shop, ControlCounter.GAUGE_NO_SPOOL) == 1
    assert counter(shop, ControlCounter.SPOOL_FAILURES) >= 1
    assert "there is no spool" in (spool(shop).parent / "aggregator.log").read_text()
    pid = shop.aggregator_pid()
    if spool(shop).is_symlink():
        spool(shop).unlink()
    else:
        spool(shop).rmdir()
    shop.collector.rules.append(Rule(status=503))
    send(queue, 10, 20)
    wait_for(lambda: queue.stats().spooled == 10)
    wait_for(lambda: counter(shop, ControlCounter.GAUGE_NO_SPOOL) == 0)
    assert shop.aggregator_pid() == pid
    shop.collector.rules.clear()
    assert queue.flush(60)
    assert Counter(numbers(shop.collector.events)) == Counter(range(20))


def test_without_a_spool_nothing_leaves_the_lanes_unanswered(shop: Engine) -> None:
    """VWO and the spool are both away: lanes fill, enqueue refuses, and all that was accepted arrives later, also over
    a kill of the aggregator."""
    spool(shop).parent.mkdir(mode=0o700, parents=True)
    shop.spool_dir.chmod(0o700)
    spool(shop).mkdir()
    shop.collector.rules.append(Rule(status=503))
    queue = shop.queue(events_per_request=10, lane_bytes=65536, lane_bytes_max=65536)
    producer = queue.producer(route())
    accepted = 0
    while producer.enqueue(impression(accepted)):
        accepted += 1
    wait_for(lambda: shop.aggregator_pid() is not None)
    assert not queue.flush(0.5)
    assert ledger(queue.stats()) == accepted
    shop.kill_aggregator()
    shop.collector.rules.clear()
    assert queue.flush(60)
    assert Counter(numbers(shop.collector.events)) == Counter(range(accepted))


def test_a_spool_that_is_locked_stops_nothing(shop: Engine) -> None:
    """Another program holds the database: fresh events are delivered, what is in the spool waits and is then sent."""
    queue = spooled(shop, 4)
    shop.collector.rules.clear()
    other = sqlite3.connect(spool(shop), isolation_level=None)
    other.execute("PRAGMA locking_mode=EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    send(queue, 12, 18)
    assert shop.collector.wait(lambda c: len(c.events) >= 6)
    assert set(numbers(shop.collector.events)) == set(range(12, 18))
    stats = queue.stats()
    assert (stats.spooled, ledger(stats)) == (12, 18)
    assert not queue.flush(0.5), "what is in the spool has not been delivered"
    other.execute("ROLLBACK")
    other.close()
    assert queue.flush(60)
    assert Counter(numbers(shop.collector.events)) == Counter(range(18))


def test_a_spool_that_is_locked_for_a_while_under_way(shop: Engine) -> None:
    """Rows that could not be deleted while it was locked are deleted later; nothing is sent twice."""
    shop.collector.rules.append(Rule(status=503))
    queue = shop.queue(events_per_request=3)
    send(queue, 0, 30)
    wait_for(lambda: queue.stats().spooled == 30)
    other = sqlite3.connect(spool(shop), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    shop.collector.rules.clear()
    wait_for(lambda: queue.stats().delivered == 30, 60)
    other.execute("ROLLBACK")
    wait_for(lambda: other.execute("SELECT COUNT(*) FROM batch").fetchone() == (0,))
    other.close()
    assert queue.flush(60)
    assert Counter(numbers(shop.collector.events)) == Counter(range(30))


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_spool_is_accounted_for(shop: Engine, seed: int) -> None:
    """Bytes are changed or cut off at random in a spool of 20 batches: the start goes on, each event is delivered once,
    or counted as dropped or dead, and the next events arrive."""
    queue = spooled(shop, 20)
    chance = random.Random(seed)
    data = bytearray(spool(shop).read_bytes())
    if seed % 3 == 0:
        del data[chance.randrange(len(data)) :]
    for _ in range(seed % 4):
        if data:
            data[chance.randrange(len(data))] ^= chance.randrange(1, 256)
    spool(shop).write_bytes(data)
    shop.collector.rules.clear()
    queue.flush(60)
    send(queue, 60, 66)
    queue.flush(60)
    stats = queue.stats()
    arrived = Counter(numbers(shop.collector.events))
    assert all(times == 1 for times in arrived.values())
    assert set(range(60, 66)) <= set(arrived)
    assert stats.delivered == len(arrived)
    assert (stats.queued, stats.in_flight, stats.spooled) == (0, 0, 0)
    assert stats.delivered + stats.dead + sum(stats.dropped.values()) == 66
    if len(arrived) < 66:
        assert queue.flush(60), "a loss is told once"


def test_a_changed_body_is_not_sent(shop: Engine) -> None:
    """A bit of one batch's payload flips on the disk, and SQLite sees nothing wrong: that batch becomes a dead letter
    that cannot be sent again, the others arrive."""
    queue = spooled(shop, 5)
    # Everywhere: a page that was freed may still hold an earlier copy.
    spool(shop).write_bytes(spool(shop).read_bytes().replace(f"{7:032X}".encode(), f"Z{7:031X}".encode()))
    shop.collector.rules.clear()
    assert not queue.flush(60)
    assert sorted(numbers(shop.collector.events)) == [n for n in range(15) if not 6 <= n <= 8]
    assert queue.stats().dead == 3
    words = ["--queue", "shop", "--run-dir", str(shop.run_dir)]
    assert cli.main(["dead", "replay", "--all", *words]) == 1
    assert counter(shop, ControlCounter.QUARANTINED_SPOOLS) == 0


def test_a_spool_of_another_version_is_read(shop: Engine) -> None:
    """Its file is put aside and named in the log; what can be read of it is delivered."""
    queue = spooled(shop, 5)
    with sqlite3.connect(spool(shop)) as db:
        db.execute("PRAGMA user_version=99")
        db.execute("ALTER TABLE batch ADD COLUMN novelty TEXT")
    db.close()
    shop.collector.rules.clear()
    assert queue.flush(60)
    assert Counter(numbers(shop.collector.events)) == Counter(range(15))
    (aside,) = spool(shop).parent.glob("spool.sqlite.*.bad")
    assert aside.name in (spool(shop).parent / "aggregator.log").read_text()
    assert counter(shop, ControlCounter.QUARANTINED_SPOOLS) == 1
    assert counter(shop, ControlCounter.SALVAGED) == 15


def test_damage_under_way_starts_the_rooms_again(shop: Engine) -> None:
    """The file is overwritten while the aggregator uses it: the same process goes on with what can be read, and
    everything is delivered or counted."""
    shop.collector.rules.append(Rule(status=503))
    queue = shop.queue(events_per_request=3)
    send(queue, 0, 300)
    wait_for(lambda: queue.stats().spooled == 300)
    pid = shop.aggregator_pid()
    with sqlite3.connect(spool(shop)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    db.close()
    with spool(shop).open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        for place in range(4096, size, 4096 * 7):
            file.seek(place)
            file.write(b"\xa5" * 2048)
    shop.collector.rules.clear()
    queue.flush(60)
    send(queue, 300, 303)
    wait_for(lambda: set(range(300, 303)) <= set(numbers(shop.collector.events)))
    wait_for(lambda: (stats := queue.stats()).queued + stats.in_flight + stats.spooled == 0)
    stats = queue.stats()
    assert stats.delivered + stats.dead + sum(stats.dropped.values()) == 303
    assert max(Counter(numbers(shop.collector.events)).values()) == 1
    assert shop.aggregator_pid() == pid


DISK = """
import json, os, subprocess, sys, time
import vwo_fast
from tests.support.engine import impression, route

url, base, then = sys.argv[1:4]
queue = vwo_fast.Queue("shop", base_url=url, run_dir=f"{base}/r", spool_dir=f"{base}/s/own", events_per_request=5,
    idle_exit=0)
producer = queue.producer(route())
accepted = sum(producer.enqueue(impression(n)) for n in range(100))
flushed = queue.flush(60)
if then:
    subprocess.run(then, shell=True, check=True)
    accepted += sum(producer.enqueue(impression(n)) for n in range(100, 200))
    flushed = flushed and queue.flush(60)
stats = queue.stats()
folder = queue.folder
logs = [path for path in (f"{base}/s/own/shop/aggregator.log", f"{folder}/aggregator.log") if os.path.exists(path)]
print(json.dumps({"accepted": accepted, "flushed": flushed, "delivered": stats.delivered,
    "log": "".join(open(path).read() for path in logs)}))
queue.close()
while queue.stats().aggregator_pid is not None: time.sleep(0.05)
"""


@pytest.mark.parametrize(
    ("script", "then"),
    [
        ("mount -t tmpfs -o size=1m none {base}/s\nmount -o remount,ro {base}/s", ""),
        ("mount -t tmpfs -o size=16k none {base}/s", ""),
        ("mount -t tmpfs -o size=8m none {base}/s", "dd if=/dev/zero of={base}/s/filler bs=4k 2>/dev/null || true"),
    ],
    ids=["read-only", "tiny", "fills up"],
)
def test_a_disk_that_cannot_be_written_to(tmp_path_factory: pytest.TempPathFactory, script: str, then: str) -> None:
    """Read-only or full at the start or later: everything is delivered while VWO is up, with or without a log."""
    base = tmp_path_factory.mktemp("d")
    script = f"mkdir {base}/r {base}/s\nchmod 700 {base}/r\n" + script.format(base=base)
    with Collector() as collector:
        found = run_with(script, DISK, collector.url, str(base), then.format(base=base))
        wanted = 200 if then else 100
        assert found["accepted"] == wanted
        assert found["flushed"]
        assert Counter(numbers(collector.events)) == Counter(range(wanted))
    assert found["delivered"] == wanted
    if "ro " in script:
        assert "no spool" in found["log"], "the log is beside the queue when the disk does not take it"
    assert json.dumps(found).count("Traceback") == 0

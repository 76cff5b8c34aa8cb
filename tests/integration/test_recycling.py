"""Workers that come and go: a lane each, and none stays behind.

``VWO_FAST_TEST_SOAK=n``: a hundred thousand workers instead of the short form's.
"""

from __future__ import annotations

import os
from pathlib import Path

import vwo_fast
from tests.support.engine import Engine, engine, impression, route, wait_for
from vwo_fast.queue import Queue

WORKERS = 100_000 if os.environ.get("VWO_FAST_TEST_SOAK") else 1500
LIVING_MAX = 64
"""Workers that may wait for the aggregator to take their lanes back before the next one starts."""


def _recycle(queue: Queue, number: int) -> None:
    """One worker's life: an event, and then an end, polite or not."""
    assert queue.producer(route()).enqueue(impression(number))
    if number % 2:
        queue.close()
        return
    # As the kernel ends a killed process: its locks go, its lane stays, it says goodbye to nobody.
    owner = queue._owner
    lane_id = owner.lane_id
    queue._finalizer.detach()
    owner.close_lane()
    owner.member.users.release(lane_id)
    owner.member.leave()


def _footprint(shop: Engine) -> tuple[int, int]:
    pid = shop.aggregator_pid()
    rss = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return len(os.listdir(f"/proc/{pid}/fd")), rss


def test_no_lane_is_left_by_recycled_workers() -> None:
    """Each worker makes one event and ends: all arrive, all lanes are given back, descriptors and memory stay flat."""
    with engine() as shop:
        keeper = shop.queue(events_per_request=8, request_time_interval=1, lane_bytes=1 << 16)
        options = shop.options(events_per_request=8, request_time_interval=1, lane_bytes=1 << 16)
        before = None
        arrived: set[int] = set()
        for number in range(WORKERS):
            _recycle(vwo_fast.Queue("shop", **options), number)
            if number % LIVING_MAX == 0:
                wait_for(lambda: len(list(keeper.folder.glob("lane-*"))) < LIVING_MAX)
            if number == WORKERS // 3:
                before = _footprint(shop)
            if number % 10_000 == 0:
                arrived.update(int(event["u"], 16) for event in shop.collector.take())
        assert keeper.flush(60)
        wait_for(lambda: keeper.stats().lanes == 0)
        assert before is not None
        fds, rss = _footprint(shop)
        arrived.update(int(event["u"], 16) for event in shop.collector.take())
        stats = keeper.stats()
        left = sorted(path.name for path in keeper.folder.iterdir() if path.name.startswith(("lane-", "big-")))
    assert arrived == set(range(WORKERS))
    assert (stats.accepted, stats.delivered, stats.queued) == (WORKERS, WORKERS, 0)
    assert left == []
    assert fds <= before[0] + 4
    assert rss <= before[1] + (8 << 20)
    print(
        f"\n{WORKERS} workers: lanes left 0, descriptors {before[0]} -> {fds}, RSS {before[1] >> 20} -> {rss >> 20} MiB"
    )

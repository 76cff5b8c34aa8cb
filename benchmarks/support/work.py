"""A queue with an aggregator that sends, in folders of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import vwo_fast
from benchmarks.support import events
from vwo_fast.stats import read_stats

__all__ = ["drained", "folders", "queue_on", "route", "wait_until"]

DEADLINE_SECONDS = 60.0


def route() -> vwo_fast.Route:
    return vwo_fast.Route.fullstack(account_id=events.ACCOUNT, sdk_key=events.SDK_KEY, sdk_version="1.68.2")


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Raises TimeoutError."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come in {DEADLINE_SECONDS:.0f} s")
        time.sleep(0.002)


@contextlib.contextmanager
def folders() -> Iterator[dict[str, Path]]:
    """``run_dir`` in shared memory and ``spool_dir``, for one queue; aggregators left there are ended."""
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    root = Path(tempfile.mkdtemp(prefix="vfb-", dir=shared))
    try:
        yield {"run_dir": root / "run", "spool_dir": root / "spool"}
    finally:
        for control in (root / "run").glob("*/control"):
            pid = read_stats(control.parent).aggregator_pid
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
                with contextlib.suppress(TimeoutError, FileNotFoundError):
                    wait_until(lambda folder=control.parent: read_stats(folder).aggregator_pid is None, "its end")
        shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def queue_on(url: str, **options: Any) -> Iterator[vwo_fast.Queue]:
    """A queue whose aggregator is up and sends to ``url``."""
    with folders() as places:
        given = {"events_per_request": 5000, "lane_bytes": 1 << 24, "idle_exit": 1, **places, **options}
        with vwo_fast.Queue("bench", base_url=url, **given) as queue:
            queue.producer(route()).enqueue(events.impression(0))
            if not queue.flush(30):
                raise RuntimeError(f"nothing arrives at {url}: {queue.stats()}")
            yield queue


def drained(queue: vwo_fast.Queue) -> None:
    """Wait until the aggregator has read and delivered everything."""

    def is_done() -> bool:
        stats = queue.stats()
        return stats.accepted == stats.delivered

    queue.flush(DEADLINE_SECONDS)
    wait_until(is_done, "the delivery of everything")

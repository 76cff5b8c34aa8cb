"""What ``durable`` costs: events through a queue with "seal" and with "always", each beside "none".

The clock runs from the first enqueue until the server has answered for the last event.  The spool is
on the disk of the temporary folder (``--spool``), because that disk's fsync is what is paid for.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import vwo_fast
from benchmarks.support.events import impression
from benchmarks.support.rounds import Way, alternate
from benchmarks.support.rows import Row, finish, options, pair_row
from benchmarks.support.sink import sink
from benchmarks.support.work import drained, queue_on, route

SIZES = ((20_000, 5000), (20_000, 100), (200, 1))
"""Events in a round, and events per request."""


def way(queue: vwo_fast.Queue, events: list[dict[str, Any]]) -> Way:
    """Microseconds per event until all are delivered."""
    enqueue = queue.producer(route()).enqueue

    def run(_: object) -> float:
        begin = time.perf_counter()
        for event in events:
            while not enqueue(event):
                time.sleep(0.001)
        drained(queue)
        return (time.perf_counter() - begin) * 1e6 / len(events)

    return Way(run=run)


@contextlib.contextmanager
def queues(url: str, spool: Path, per_request: int) -> Iterator[dict[str, vwo_fast.Queue]]:
    with contextlib.ExitStack() as stack:
        yield {
            durable: stack.enter_context(
                queue_on(url, spool_dir=spool / durable, durable=durable, events_per_request=per_request)
            )
            for durable in ("none", "seal", "always")
        }


def rows(given: argparse.Namespace, url: str, spool: Path) -> Iterator[Row]:
    for count, per_request in SIZES:
        events = [impression(n) for n in range(count)]
        with queues(url, spool / str(per_request), per_request) as opened:
            for durable in ("seal", "always"):
                pair = alternate(way(opened[durable], events), way(opened["none"], events), given.rounds)
                yield pair_row(
                    pair,
                    what=f"durable={durable}, {per_request} events per request",
                    against="durable=none",
                    unit="µs per event",
                    at_most=None,
                )


def main() -> int:
    parser = options(__doc__, rounds=7)
    parser.add_argument("--spool", type=Path, help="folder on the disk to measure (default: a temporary one)")
    given = parser.parse_args()
    spool = Path(tempfile.mkdtemp(prefix="vfb-", dir=given.spool))
    try:
        with sink() as server:
            return finish("durable", rows(given, f"http://127.0.0.1:{server.port}", spool), given.json)
    finally:
        shutil.rmtree(spool, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())

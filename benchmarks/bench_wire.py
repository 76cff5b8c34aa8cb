"""Bytes on the wire per event, headers included, for the same impressions in batches of 100 and of 5000."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.contenders import official_fullstack
from benchmarks.support.events import impression
from benchmarks.support.rows import Row, finish, options, skipped
from benchmarks.support.sink import Sink, sink
from benchmarks.support.venv import NotMeasuredError, run_in
from benchmarks.support.work import drained, queue_on, route

EVENTS = 10_000


def send_officially(url: str, per_request: int) -> None:
    dispatcher = official_fullstack(url, 5000).event_dispatcher
    for number in range(EVENTS):
        dispatcher.dispatch(impression(number))
        if number % per_request == per_request - 1:
            dispatcher.flush_queue(manual=True, mode="sync")


def send(url: str, per_request: int, compression: str) -> None:
    with queue_on(url, events_per_request=per_request, compression=compression) as queue:
        enqueue = queue.producer(route()).enqueue
        for number in range(EVENTS):
            enqueue(impression(number))
        drained(queue)


def row(server: Sink, per_request: int, compression: str) -> Row:
    send(server.url, per_request, compression)
    ours = server.traffic()
    against = "official FullStack SDK"
    is_plain = compression == "none"
    what = f"bytes on the wire per event, {per_request} per request{'' if is_plain else f', {compression}'}"
    try:
        run_in("fullstack", Path(__file__), ["--official", server.url, "--per-request", str(per_request)])
    except NotMeasuredError as exc:
        return skipped(what, against, str(exc))
    theirs = server.traffic()
    # The queue is tried out with one event more, in a request of its own.
    mine, other = ours.wire_bytes / (EVENTS + 1), theirs.wire_bytes / EVENTS
    return Row(
        what=what,
        against=against,
        ours=f"{mine:.1f} B",
        theirs=f"{other:.1f} B",
        ratio=f"{mine / other:.3f}",
        goal="≤ 0.9" if is_plain else "",
        met=mine / other <= 0.9 if is_plain else None,
        note="no compression; the difference is the white space in the SDK's JSON"
        if is_plain
        else "an option, for a server that accepts it; the impressions are more alike than those of real visitors",
        figures={"ours": mine, "theirs": other, "ratio": mine / other},
    )


def main() -> int:
    parser = options(__doc__, rounds=1)
    parser.add_argument("--official", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--per-request", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.official:
        send_officially(given.official, given.per_request)
        print("{}", flush=True)
        return 0
    with sink(counts_bodies=True) as server:
        return finish(
            "wire",
            [row(server, size, how) for how in ("none", "gzip") for size in (5000, 100)],
            given.json,
            sink=server.kind,
        )


if __name__ == "__main__":
    sys.exit(main())

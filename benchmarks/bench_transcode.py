"""From records in a lane to a sealed JSON body, on one core: the compiled way beside json, orjson and a copy.

``LaneReader.drain`` and ``Batch.seal`` begin at shared memory, check every record, and run without the
GIL.  ``json`` and ``orjson`` begin at Python objects that were unpacked for them, which is not timed:
their figure is for ``dumps`` of each event and one join; the rows with ``unpackb`` begin at msgpack, as we
do, and time that too.  Memory is kept as the aggregator keeps it.  The copy moves the same msgpack bytes from the
lane's memory into other memory.  Batches of 100 events too, because a batch has a cost of its own.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import msgpack
import orjson

from benchmarks.support.events import AGENT, SDK_KEY, impression
from benchmarks.support.facts import versions
from benchmarks.support.rounds import Way, alternate
from benchmarks.support.rows import Row, finish, options, pair_row
from vwo_fast import _batch, _lane
from vwo_fast._batch import Batch

ROUTE = 77
LANE = 1 << 24


def fullstack(number: int) -> dict[str, Any]:
    event: dict[str, Any] = msgpack.unpackb(_lane.pack_fullstack(impression(number)))
    return event


def revenue(number: int) -> dict[str, Any]:
    """A goal with a float in each event."""
    return {**fullstack(number), "eT": 2, "r": round(number * 1.37, 2)}


def fme(number: int) -> dict[str, Any]:
    """What FME's endpoint takes for one variation shown."""
    visitor = f"{number:032X}"
    props = {"vwo_sdkName": "vwo-fme-python-sdk", "vwo_sdkVersion": "1.65.0", "vwo_envKey": SDK_KEY, "id": 12}
    return {
        "d": {
            "msgId": f"{visitor}-1700000000{number:03d}",
            "visId": visitor,
            "sessionId": 1700000000 + number,
            "event": {"props": props, "name": "vwo_variationShown", "time": 1700000000000 + number},
            "visitor_ua": AGENT,
            "visitor_ip": "203.0.113.7",
            "visitor": {"props": {"vwo_fs_environment": SDK_KEY}},
        }
    }


SHAPES = {"FullStack": fullstack, "FullStack goal with revenue": revenue, "FME": fme}


class Lane:
    """A lane of this process, written and read by it."""

    def __init__(self, folder: Path) -> None:
        self._owner = _lane.LaneOwner(_lane.Control.create(str(folder / "control")))
        self._owner.open_lane(str(folder / "lane"), 5, 6, LANE, False)
        self._put = _lane.Producer(self._owner, ROUTE, _lane.SHAPE_PLAIN, _lane.KIND_EVENT).enqueue
        self._reader = _lane.LaneReader.attach(str(folder / "lane.tmp"))

    def fill(self, events: list[Any]) -> None:
        self._reader.release(self._reader.cursor)
        if not all(map(self._put, events)):
            raise RuntimeError("the lane is full")

    def read(self, batch: Batch) -> bytes:
        """One body of the next events, as many as the batch takes."""
        self._reader.drain(batch, ROUTE, self._reader.head)
        return batch.seal()[0]


def with_json(events: list[Any]) -> bytes:
    return ('{"ev":[' + ",".join([json.dumps(event, separators=(",", ":")) for event in events]) + "]}").encode()


def with_orjson(events: list[Any]) -> bytes:
    return b'{"ev":[' + b",".join([orjson.dumps(event) for event in events]) + b"]}"


def timed(work: Callable[[], object], events: int) -> float:
    begin = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - begin) / events


def way_of_lane(lane: Lane, events: list[Any], per_body: int) -> Way:
    batch = Batch(per_body)

    def prepare() -> None:
        lane.fill(events)

    def run(_: object) -> float:
        def work() -> None:
            for _ in range(len(events) // per_body):
                lane.read(batch)

        return timed(work, len(events))

    return Way(run=run, prepare=prepare)


def way_of_dumps(dumps: Callable[[list[Any]], bytes], events: list[Any], per_body: int) -> Way:
    parts = [events[at : at + per_body] for at in range(0, len(events), per_body)]
    return Way(run=lambda _: timed(lambda: [dumps(part) for part in parts], len(events)))


def way_of_copy(events: list[Any]) -> Way:
    source = b"".join(map(_lane.pack, events))
    target = memoryview(bytearray(len(source)))

    def work() -> None:
        target[:] = source

    # One copy is far shorter than a scheduler's tick, so each round takes the mean of many.
    return Way(run=lambda _: timed(lambda: [work() for _ in range(20)], 20 * len(events)))


def rows_of(shape: str, folder: Path, rounds: int, count: int) -> list[Row]:
    events = [SHAPES[shape](number) for number in range(count)]
    lane = Lane(folder)
    lane.fill(events)
    body = lane.read(Batch(count))
    if body != with_json(events) or body != with_orjson(events):
        raise SystemExit("the ways do not give the same body")
    what = f"lane to JSON body, {shape} event of {len(body) // count} B"
    main = shape == "FullStack"
    rows = []
    for name, dumps, goal in (("json.dumps", with_json, 20), ("orjson.dumps", with_orjson, 6)):
        for per_body in (count, 100):
            pair = alternate(way_of_lane(lane, events, per_body), way_of_dumps(dumps, events, per_body), rounds)
            at_most = 1 / goal if main else None
            what_here = f"{what}, {per_body} per body"
            rows.append(pair_row(pair, what=what_here, against=name, unit="ns", at_most=at_most, times_faster=True))
            if main and per_body == count and goal == 20:
                rows.append(rate_row(what_here, pair.ours.median))
        packed = [_lane.pack(event) for event in events]
        for per_body in (count, 100) if main else ():
            theirs = way_of_dumps(lambda part, dumps=dumps: dumps(list(map(msgpack.unpackb, part))), packed, per_body)
            pair = alternate(way_of_lane(lane, events, per_body), theirs, rounds)
            what_here, against = f"{what}, {per_body} per body", f"{name} with msgpack.unpackb"
            at_most = 1 / goal
            rows.append(pair_row(pair, what=what_here, against=against, unit="ns", at_most=at_most, times_faster=True))
    pair = alternate(way_of_lane(lane, events, count), way_of_copy(events), rounds)
    at_most = 6 if main else None
    rows.append(pair_row(pair, what=what, against="copy of the same bytes", unit="ns", at_most=at_most))
    return rows


def rate_row(what: str, nanoseconds: float) -> Row:
    rate = 1e9 / nanoseconds
    return Row(
        what=what,
        ours=f"{rate / 1e6:.2f} million events/s",
        goal="≥ 3 million/s",
        met=rate >= 3e6,
        figures={"events_per_second": round(rate)},
    )


def main() -> int:
    # As the aggregator does when it starts; all ways share it.
    _batch.keep_memory()
    parser = options(__doc__, rounds=40)
    parser.add_argument("--events", type=int, default=5000, help="events of a large body (default 5000)")
    given = parser.parse_args()
    rows: list[Row] = []
    for shape in SHAPES:
        with tempfile.TemporaryDirectory(prefix="vfb-") as folder:
            rows += rows_of(shape, Path(folder), given.rounds, given.events)
    return finish("transcode", rows, given.json, versions=versions("msgpack", "orjson"))


if __name__ == "__main__":
    sys.exit(main())

"""Impressions through ``Producer.enqueue`` with nothing around it, for counting instructions: EVENTS FOLDER.

The first event, which makes whatever is remembered, is one of those counted.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.support.events import impression
from vwo_fast import _lane


def main() -> None:
    count, folder = int(sys.argv[1]), Path(sys.argv[2])
    owner = _lane.LaneOwner(_lane.Control.create(str(folder / "control")))
    owner.open_lane(str(folder / "lane"), 5, 6, 1 << 20, False)
    producer = _lane.Producer(owner, 77, _lane.SHAPE_FULLSTACK, _lane.KIND_EVENT)
    events = [impression(number) for number in range(count)]
    assert all(map(producer.enqueue, events))


if __name__ == "__main__":
    main()

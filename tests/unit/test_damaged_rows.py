"""A damaged row of the spool: its events are dead letters, or dropped by reason, and at no moment both or neither."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.lanes import in_child
from tests.support.rooms import ROUTE, Rooms, sealed
from vwo_fast._lane import Control
from vwo_fast.aggregator import failpoint
from vwo_fast.aggregator.ground import prepare
from vwo_fast.aggregator.journal import FILE_NAME, Journal
from vwo_fast.aggregator.metrics import Metrics
from vwo_fast.aggregator.spool import Spool
from vwo_fast.aggregator.spool_clock import SpoolClock
from vwo_fast.counters import ControlCounter
from vwo_fast.locks import AGGREGATOR_LOCK, lock_file
from vwo_fast.stats import Stats, read_stats

EVENTS = 8
DAMAGED = 2


class Watched:
    """A control file that tells after each change."""

    def __init__(self, control: Control, tell: Callable[[], None]) -> None:
        self._control = control
        self._tell = tell

    def __getattr__(self, name: str) -> Any:
        return getattr(self._control, name)

    def add(self, index: int, amount: int) -> None:
        self._control.add(index, amount)
        self._tell()

    def set(self, index: int, value: int) -> None:
        self._control.set(index, value)
        self._tell()


def whole(stats: Stats) -> int:
    """Events that are somewhere by name; ``queued`` is only what is left over."""
    return stats.delivered + stats.dead + sum(stats.dropped.values()) + stats.in_flight + stats.spooled


class Scene:
    """Four batches of two events in the spool, all accepted, and one of them damaged on the disk."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.rooms = rooms = Rooms(root, **options)
        self.moments: list[Stats] = []
        rooms.metrics = Metrics(cast(Control, Watched(rooms.control, self.look)), Journal(rooms.folder / FILE_NAME))
        rooms.spool.close()
        clock = SpoolClock(boot="this one", monotonic=rooms.clock, wall=rooms.clock)
        rooms.spool = Spool(root / "spool.sqlite", clock=clock)
        prepare(rooms.folder, rooms.control, rooms.spool)
        rooms.shipper = rooms.new_shipper()
        rooms.add_route()
        rooms.control.set(ControlCounter.RETIRED_ACCEPTED, EVENTS)
        for ordinal in range(EVENTS // 2):
            rooms.shipper.accept(sealed(ordinal, events=2, size=400), ROUTE)
        rooms.shipper.fresh.spill_all()
        rooms.shipper.set_gauges()
        rooms.shipper.lines[ROUTE.key].evict(0)
        with sqlite3.connect(root / "spool.sqlite") as db:
            db.execute("UPDATE batch SET body=REPLACE(body, 'x', 'y') WHERE ordinal=1")
        db.close()
        lock_file(rooms.folder / AGGREGATOR_LOCK).acquire(0)
        self.is_looking = True

    is_looking = False

    def look(self) -> None:
        """Note what anybody would read now; while totals change together, nobody reads."""
        if self.is_looking and self.rooms.control.counter(ControlCounter.TOTALS_SEQUENCE) % 2 == 0:
            self.moments.append(read_stats(self.rooms.folder))

    def send(self) -> None:
        """The batches are read back, sent and delivered."""
        self.rooms.shipper.dispatch()
        while self.rooms.senders.sent:
            self.rooms.senders.reply(status=200)
            self.rooms.shipper.collect()
            self.rooms.shipper.dispatch()
        self.rooms.shipper.set_gauges()

    def expire(self) -> None:
        """The batches are dropped, since they are too old."""
        self.rooms.clock.now += 1000
        self.rooms.shipper.bounds.expire()
        self.rooms.shipper.set_gauges()


WAYS: dict[str, tuple[Callable[[Scene], None], dict[str, Any]]] = {
    "sent": (Scene.send, {"events_per_request": 2}),
    "expired": (Scene.expire, {"spool_max_age": 60}),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_moment_balances(tmp_path: Path, way: str) -> None:
    """Whoever reads the totals between any two changes finds each event in one place."""
    run, options = WAYS[way]
    scene = Scene(tmp_path, **options)
    run(scene)
    assert len(scene.moments) >= 5
    for stats in scene.moments:
        assert (whole(stats), stats.queued) == (EVENTS, 0), stats
    last = scene.moments[-1]
    assert last.dead == DAMAGED
    assert last.delivered + sum(last.dropped.values()) == EVENTS - DAMAGED
    assert scene.rooms.control.counter(ControlCounter.SPOOL_HOLDS) == 0
    scene.rooms.close()


PLACES = ("before", "entry: written", "entry: done, not counted", "entry: counted in part")


@pytest.mark.parametrize("place", PLACES)
def test_a_kill_leaves_it_in_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, place: str) -> None:
    """Killed around the count of the damage, it is a dead letter that is counted, or dropped as damaged."""
    run, options = WAYS[way]

    def die() -> None:
        scene = Scene(tmp_path, **options)
        if place == "before":
            monkeypatch.setattr(Metrics, "unreadable", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        failpoint.watch(failpoint.killer(place))
        run(scene)

    assert in_child(die) == -signal.SIGKILL
    folder = tmp_path / "run"
    control = Control.attach(str(folder / "control"))
    clock = SpoolClock(boot="this one", monotonic=lambda: 2000.0, wall=lambda: 2000.0)
    spool = Spool(tmp_path / "spool.sqlite", clock=clock)
    ground = prepare(folder, control, spool)
    stats = read_stats(folder)
    assert stats.delivered + stats.dead + sum(stats.dropped.values()) + spool.totals.events_held == EVENTS, stats
    assert control.counter(ControlCounter.SPOOL_HOLDS) == spool.totals.events_held
    ground.journal.close()
    spool.close()

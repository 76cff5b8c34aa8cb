"""How old rows of the spool are, whoever sets the clock of the machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.rooms import ROUTE, Clock, sealed
from vwo_fast.aggregator.spool import Spool
from vwo_fast.aggregator.spool_clock import SpoolClock, boot_id

ROUTES = [(ROUTE.key, ROUTE.encode())]
HOUR = 3600.0


class Machine:
    """A machine whose clocks a test sets."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.monotonic = Clock()
        self.wall = Clock()
        self.wall.now = 1_700_000_000.0
        self.boots = 1
        self._spools: list[Spool] = []

    def reboot(self, seconds: float) -> None:
        """Off for a while; the monotonic clock starts again."""
        self.wall.now += seconds
        self.monotonic.now = 5.0
        self.boots += 1

    def sleep(self, seconds: float) -> None:
        self.monotonic.now += seconds
        self.wall.now += seconds

    def spool(self) -> Spool:
        clock = SpoolClock(boot=f"boot {self.boots}", monotonic=self.monotonic, wall=self.wall)
        self._spools.append(Spool(self.path, clock=clock))
        return self._spools[-1]

    def ages(self, spool: Spool) -> list[float]:
        return [old.age for old in spool.oldest(10)]

    def close(self) -> None:
        for spool in self._spools:
            spool.close()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "s")
    yield made
    made.close()


def test_age_is_that_of_the_monotonic_clock(machine: Machine) -> None:
    """While the machine runs no setting of its clock makes a row older or younger, also over a restart of ours."""
    spool = machine.spool()
    spool.add([sealed(1)], ROUTES)
    machine.sleep(60)
    for jump in (HOUR, -2 * HOUR, 30 * HOUR):
        machine.wall.now += jump
        assert machine.ages(spool) == [60.0]
    spool.close()
    again = machine.spool()
    assert machine.ages(again) == [60.0]


def test_a_reboot_is_bridged_by_the_wall_clock(machine: Machine) -> None:
    """A row of an earlier life of the machine is as old as the wall clock says at the opening, and ages on."""
    spool = machine.spool()
    spool.add([sealed(1)], ROUTES)
    machine.sleep(10)
    spool.close()
    machine.reboot(1000)
    again = machine.spool()
    again.add([sealed(2)], ROUTES)
    assert machine.ages(again) == [1010.0, 0.0]
    machine.sleep(5)
    machine.wall.now += HOUR
    assert machine.ages(again) == [1015.0, 5.0]


def test_a_clock_that_was_set_back_makes_nothing_older(machine: Machine) -> None:
    """After a reboot into the past a row is young, and a row that is younger still is not below zero."""
    spool = machine.spool()
    spool.add([sealed(1)], ROUTES)
    machine.sleep(30)
    spool.add([sealed(2)], ROUTES)
    spool.close()
    machine.reboot(-5 * HOUR)
    again = machine.spool()
    assert machine.ages(again) == [30.0, 0.0]
    machine.sleep(7)
    assert machine.ages(again) == [37.0, 7.0]


def test_halves_are_as_old_as_their_parent(machine: Machine) -> None:
    """A split does not make a batch young again."""
    spool = machine.spool()
    parent = sealed(1, events=4)
    spool.add([parent], ROUTES)
    machine.sleep(50)
    spool.split(parent, parent.split())
    assert machine.ages(spool) == [50.0, 50.0]


def test_this_life_of_the_machine_has_a_name() -> None:
    """It stays the same as long as the process looks."""
    assert boot_id() == boot_id()
    assert len(boot_id()) >= 32

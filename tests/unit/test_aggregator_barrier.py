"""Flush barriers and delivery reports: who is told what, and when."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.rooms import Clock, sealed
from vwo_fast._lane import Control
from vwo_fast.aggregator.barrier import BARRIERS_MAX, PER_CLIENT_MAX, Barrier, Barriers
from vwo_fast.aggregator.metrics import Metrics
from vwo_fast.aggregator.outcome import Reply
from vwo_fast.aggregator.reports import KEEP_BYTES, KEEP_SECONDS, Reports


def read(barriers: Barriers, read_to: dict[int, int], ordinal: int) -> list[Barrier]:
    found = barriers.read_up_to(read_to)
    for barrier in found:
        barrier.ordinal = ordinal
    return found


def test_a_barrier_waits_for_reading_and_then_for_outcomes() -> None:
    """Every lane is read up to its head of that moment, then all sealed up to there is settled; later ones are not."""
    barriers = Barriers(Clock())
    barriers.add(b"c", 1, 0, {7: 100, 8: 50})
    assert read(barriers, {7: 100, 8: 49}, 0) == []
    barriers.settled(3, 10, delivered=True)
    assert len(read(barriers, {7: 100, 8: 56}, 5)) == 1
    barriers.settled(6, 1000, delivered=False)
    assert barriers.finished(5) == []
    barriers.settled(5, 1, delivered=True)
    (done,) = barriers.finished(6)
    assert (done.ok, done.delivered, done.failed) == (True, 11, 0)
    assert len(barriers) == 0


def test_a_dead_letter_makes_the_answer_no() -> None:
    """One event that VWO refuses, or that was lost while reading: False, with the number."""
    barriers = Barriers(Clock())
    barriers.add(b"c", 1, 0, {})
    barriers.lost(2)
    read(barriers, {}, 5)
    barriers.settled(5, 1, delivered=False)
    (done,) = barriers.finished(None)
    assert (done.ok, done.failed) == (False, 3)


def test_a_loss_before_the_question_is_told_once() -> None:
    """Whether it was lost just before or just after the question makes no difference; the next answer is clean."""
    barriers = Barriers(Clock())
    barriers.lost(2)
    barriers.settled(1, 1, delivered=False)
    for number in (1, 2):
        barriers.add(b"c", number, 0, {})
    read(barriers, {}, 5)
    assert [done.failed for done in barriers.finished(None)] == [3, 3]
    barriers.add(b"c", 3, 0, {})
    read(barriers, {}, 6)
    assert [done.ok for done in barriers.finished(None)] == [True]


def test_a_failure_after_the_barrier_is_left_to_the_next() -> None:
    """What was sealed later and refused is not this answer's, and is the next one's."""
    barriers = Barriers(Clock())
    barriers.add(b"c", 1, 0, {})
    read(barriers, {}, 5)
    barriers.settled(6, 4, delivered=False)
    assert [done.ok for done in barriers.finished(6)] == [True]
    barriers.add(b"c", 2, 0, {})
    read(barriers, {}, 7)
    assert [done.failed for done in barriers.finished(None)] == [4]


def test_a_lane_put_aside_spoils_the_answer() -> None:
    """Nobody knows what was in it, so it was not all delivered; a lane retired meanwhile was read to its end."""
    barriers = Barriers(Clock())
    barriers.add(b"c", 1, 0, {7: 100, 8: 100})
    barriers.lane_lost(7)
    assert len(read(barriers, {}, 1)) == 1
    assert [done.ok for done in barriers.finished(None)] == [False]


def test_forgotten_barriers_are_bounded() -> None:
    """Neither many questions, of one client or of many, nor old ones stay for ever."""
    clock = Clock()
    barriers = Barriers(clock)
    for number in range(PER_CLIENT_MAX + 10):
        barriers.add(b"c", number, 0, {1: 1})
    assert len(barriers) == PER_CLIENT_MAX
    for number in range(BARRIERS_MAX + 10):
        barriers.add(b"%d" % number, number, 0, {1: 1})
    assert len(barriers) == BARRIERS_MAX
    clock.now += 4000
    barriers.finished(None)
    assert len(barriers) == 0


class Post:
    """Clients, some of which can be reached."""

    def __init__(self) -> None:
        self.reachable = {b"c"}
        self.got: list[tuple[bytes, dict[str, Any]]] = []

    def __call__(self, client: bytes, message: dict[str, Any]) -> bool:
        if client in self.reachable:
            self.got.append((client, message))
        return client in self.reachable


@pytest.fixture
def post() -> Post:
    return Post()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reports(post: Post, clock: Clock, tmp_path: Path) -> Reports:
    return Reports(post, Metrics(Control.create(str(tmp_path / "control"))), clock=clock)


def test_each_owner_is_told_of_its_own_events(reports: Reports, post: Post) -> None:
    """Status, message, attempts and outcome, with the owner's events as they were sent."""
    reports.register(9, b"c")
    made = sealed(1, events=2, owner=9)
    made.attempts = 3
    reports.tell(made, Reply(status=200), delivered=True)
    reports.tell(sealed(2, owner=5), Reply(status=200), delivered=True)
    dead = sealed(3, owner=9)
    reports.tell(dead, Reply(status=400), delivered=False)
    (_, first), (_, second) = post.got
    assert (first["report"], first["status"], first["attempts"], first["outcome"]) == (made.id, 200, 3, "delivered")
    assert [json.loads(event)["n"] for event in first["events"]] == [1000, 1001]
    assert (second["outcome"], second["message"]) == ("not delivered", "VWO answered with status 400")
    assert (reports.made_for(9), reports.made_for(5), reports.made_for(1)) == (2, 1, 0)


def test_a_report_waits_for_its_owner(reports: Reports, post: Post) -> None:
    """An owner that registers late, or cannot be reached for a moment, gets its reports in order, each once."""
    for n in range(3):
        reports.tell(sealed(n, owner=9), Reply(status=200), delivered=True)
    post.reachable.clear()
    reports.register(9, b"c")
    assert post.got == []
    post.reachable.add(b"c")
    reports.keep_house({9})
    assert [json.loads(message["events"][0])["n"] for _, message in post.got] == [0, 1000, 2000]
    reports.keep_house({9})
    assert len(post.got) == 3


def test_what_nobody_takes_is_dropped(reports: Reports, clock: Clock) -> None:
    """Reports for the dead go at once, for the silent after a while; nobody is made to wait for them."""
    reports.tell(sealed(1, owner=9), Reply(status=200), delivered=True)
    reports.tell(sealed(1, owner=5), Reply(status=200), delivered=True)
    reports.keep_house({9})
    assert (reports.made_for(9), reports.made_for(5)) == (1, 0)
    clock.now += KEEP_SECONDS + 1
    reports.keep_house({9})
    assert reports.made_for(9) == 0


def test_waiting_reports_are_bounded_in_bytes(reports: Reports) -> None:
    """An owner that never comes costs a limited amount of memory."""
    size = 1_000_000
    for n in range(KEEP_BYTES // size + 10):
        reports.tell(sealed(n, owner=9, size=size), Reply(status=200), delivered=True)
    assert reports.made_for(9) < KEEP_BYTES // size

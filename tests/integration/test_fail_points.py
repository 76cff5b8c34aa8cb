"""The aggregator killed at every named place: nothing is lost, and the ledger says what may have arrived twice.

``VWO_FAST_TEST_SOAK=n`` takes each place n times, each time at another passage.
"""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from itertools import zip_longest
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.support.crashes import LIVES, run_scenario, start_aggregator
from tests.support.engine import engine
from vwo_fast.aggregator.failpoint import VARIABLE, killer, reach

ROOT = Path(__file__).resolve().parents[2]
PLACES_MIN = 40
TIMES = int(os.environ.get("VWO_FAST_TEST_SOAK", "1"))


def named_places() -> set[str]:
    """Every place that the sources name."""
    sources = (ROOT / "vwo_fast").rglob("*.py")
    return {name for path in sources for name in re.findall(r'\breach\("([^"]+)"\)', path.read_text("utf-8"))}


def places_by_life() -> list[list[tuple[str, int]]]:
    """The named places, each with one of the lives that pass through it every time, and how often that life does.

    Lives get about equally many.
    """
    once, again = _places_passed(), _places_passed()
    # What a life passes only when the machine is slow or quick would be waited for in vain.
    passed = [first & second for first, second in zip(once, again, strict=True)]
    assert not (named_places() - set().union(*passed)), "the scenario passes these by"
    chosen: list[list[tuple[str, int]]] = [[] for _ in range(LIVES)]
    for name in sorted(named_places(), key=lambda name: (sum(name in places for places in passed), name)):
        lives = [life for life in range(LIVES) if name in passed[life]]
        # The last life is the one that is let leave, and gives the lanes back on its way.
        life = lives[-1] if _leaves(name) else min(lives, key=lambda life: len(chosen[life]))
        chosen[life].append((name, passed[life][name]))
    return chosen


def _places_passed() -> list[Counter[str]]:
    """How often each life of an undisturbed run passes each place."""
    with engine() as shop:
        records = [shop.root / f"places-{life}" for life in range(LIVES)]

        def start(life: int) -> ForkServerProcess:
            return start_aggregator(shop, record=str(records[life]))

        run_scenario(shop, start)
        return [Counter(record.read_text("ascii").splitlines()) for record in records]


def _target(place: tuple[str, int] | None, time: int) -> str | None:
    """Another passage each time; not the last ones, which another life may not come to."""
    return None if place is None else f"{place[0]}#{1 + time % (1 + place[1] // 2)}"


def _leaves(target: str | None) -> bool:
    return target is not None and target.startswith(("leaving", "retire"))


def test_there_are_enough_places() -> None:
    """Between read, seal, spool, POST, answer, ack, release, rotate, start and leaving there are at least 40."""
    assert len(named_places()) >= PLACES_MIN


def test_without_the_variable_a_place_does_nothing() -> None:
    """A place that no test watches is passed by."""
    assert VARIABLE not in os.environ
    reach("read: moved")
    kill = killer("read: moved#3")
    kill("read: moved")
    kill("seal: before")
    kill("read: moved")


def test_a_kill_at_each_named_place() -> None:
    """kill -9 there: lost 0, twice only what was counted as of unknown outcome, and the ledger balances afterwards."""
    total = Counter[str]()
    never: list[str] = []
    lives = places_by_life()
    for time in range(TIMES):
        missed: list[tuple[int, str]] = []
        for places in zip_longest(*lives):
            missed += _kill_at([_target(place, time) for place in places], total)
        # A life that died may have left its work to the one that took its place. So once more, as the only one to die.
        for life, target in missed:
            never += [name for _, name in _kill_at([target if n == life else None for n in range(LIVES)], total)]
    print(f"\n{total['kills']} kills at {len(named_places())} places: lost 0, twice {total['twice']}", end=" ")
    print(f"of {total['unknown']} unknown")
    assert not [target for target in never if target.endswith("#1")]
    # A later passage may not come again in each run.
    assert len(never) <= TIMES * len(named_places()) * 0.1, never


def _kill_at(targets: list[str | None], total: Counter[str]) -> list[tuple[int, str]]:
    """The scenario with each life killed at its target. Returns the targets that were not reached, with their lives."""
    with engine() as shop:

        def start(life: int) -> ForkServerProcess:
            return start_aggregator(shop, target=targets[life])

        doomed = [life for life, target in enumerate(targets) if target is not None]
        try:
            deaths, duplicated, stats = run_scenario(shop, start, leaves=_leaves(targets[-1]), doomed=doomed)
        except (AssertionError, TimeoutError) as exc:
            raise AssertionError(f"killed at {targets}") from exc
    missed = [(life, str(targets[life])) for life in doomed if deaths[life] != -signal.SIGKILL]
    total.update(kills=len(doomed) - len(missed), twice=duplicated, unknown=stats.unknown_outcome)
    return missed

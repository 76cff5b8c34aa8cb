"""The parts of the benchmarks that are no measurements: pairs of rounds, plots, the table."""

from __future__ import annotations

import math
import random
import xml.etree.ElementTree as ET

import pytest

from benchmarks.report import table
from benchmarks.support.rounds import Interval, Way, alternate, line_through, median_interval, spread
from benchmarks.support.rows import NOT_TOLD, pair_row
from vwo_fast.tuning.plot import Bar, Line, Mark, bar_chart, line_chart


def test_spread_of_known_values() -> None:
    """The median and the outer tenths; a single round is its own spread."""
    found = spread([float(value) for value in range(1, 12)])
    assert (found.median, found.low, found.high, found.rounds) == (6.0, 2.0, 10.0, 11)
    assert spread([3.0]).high == 3.0
    with pytest.raises(ValueError, match="no rounds"):
        spread([])


def test_ways_take_turns_and_each_pair_gives_a_ratio() -> None:
    """A warm-up of each, then A B B A, and what is prepared reaches the round it was prepared for."""
    heard: list[str] = []

    def way(name: str, took: float) -> Way:
        def run(work: str) -> float:
            heard.append(work)
            return took

        return Way(run=run, prepare=lambda: name, settle=lambda: heard.append("-"))

    pair = alternate(way("a", 1.0), way("b", 4.0), rounds=2)
    assert "".join(heard) == "a-b-a-b-b-a-"
    assert (pair.ours.median, pair.theirs.median, pair.ratio.median) == (1.0, 4.0, 0.25)


def test_a_goal_is_met_or_missed_by_the_median_ratio() -> None:
    """The row says so, in either way of telling the ratio."""
    work = Way(run=lambda _: 2.0)
    slow = Way(run=lambda _: 8.0)
    pair = alternate(work, slow, rounds=1)
    met = pair_row(pair, what="w", against="a", unit="ns", at_most=0.25)
    missed = pair_row(pair, what="w", against="a", unit="ns", at_most=1 / 8, times_faster=True)
    assert met.met is True
    assert met.ratio.startswith("0.25 ")
    assert missed.met is False
    assert missed.ratio.startswith("4.0 x faster")
    assert missed.goal == "≥ 8 x faster"


@pytest.mark.parametrize(
    ("count", "k", "reached"), [(6, 1, 0.9688), (10, 2, 0.9785), (20, 6, 0.9586), (60, 22, 0.9727)]
)
def test_the_interval_of_a_median_is_that_of_the_binomial_tables(count: int, k: int, reached: float) -> None:
    """Its ends are the k-th values from both ends, k and its probability those of the sign test."""
    values = [float(value) for value in range(1, count + 1)]
    random.Random(1).shuffle(values)
    found = median_interval(values)
    assert (found.low, found.high) == (k, count + 1 - k)
    assert found.confidence == pytest.approx(reached, abs=5e-5)


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    """Drawn often from a distribution that is anything but normal, whose median is ln 2."""
    source = random.Random(2)
    drawn = [median_interval([source.expovariate(1) for _ in range(20)]) for _ in range(4000)]
    held = sum(one.low <= math.log(2) <= one.high for one in drawn) / len(drawn)
    assert held == pytest.approx(drawn[0].confidence, abs=0.015)


def test_few_values_say_nothing_of_a_median() -> None:
    """With five the outermost enclose it in 94 % of all cases only."""
    found = median_interval([1.0, 1.01, 1.02, 1.03, 1.04])
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert found.is_at_most(100.0) is None


def test_a_goal_is_met_or_missed_only_by_all_of_an_interval() -> None:
    """An end of it on the limit is within."""
    found = Interval(0.95, 0.99, 0.95)
    assert [found.is_at_least(limit) for limit in (0.95, 0.97, 0.99, 1.0)] == [True, None, None, False]
    assert [found.is_at_most(limit) for limit in (0.94, 0.95, 0.97, 0.99)] == [False, None, None, True]


def test_a_line_through_a_fixed_cost_and_one_per_event() -> None:
    """Found exactly where there is one, over any range; else the error of small values counts as that of large ones."""
    exact = line_through({x: 500.0 + 0.25 * x for x in (1e3, 1e5, 1e8)})
    assert exact.fixed == pytest.approx(500)
    assert exact.slope == pytest.approx(0.25)
    assert exact.off < 1e-9
    bent = line_through({1.0: 100.0, 1e6: 1.0e6, 1e7: 1.2e7})
    assert 0.09 < bent.off < 0.1
    assert bent.fixed == pytest.approx(99, abs=1)
    with pytest.raises(ValueError, match="two values"):
        line_through({1.0: 1.0})


@pytest.mark.parametrize("log", [False, True])
def test_plots_are_well_formed_and_hold_what_they_were_given(log: bool) -> None:
    """An SVG that a parser reads, with every name, however odd, and one path per line."""
    lines = [Line(name="a<b", points=[(1, 5), (10, 50), (100, 20)]), Line(name="c", points=[(1, 0), (100, 7)])]
    marks = [Mark(name="down & back", begin=10, end=50)]
    drawn = line_chart(lines, title="T", x_name="x", y_name="y", marks=marks, log_x=log, log_y=log)
    bars = bar_chart(
        [Bar(name="we", value=5, low=4, high=9, is_ours=True), Bar(name="x", value=900)], title="T", unit="ns", log=log
    )
    texts = {text for picture in (drawn, bars) for text in ET.fromstring(picture).itertext()}
    assert {"a<b", "c", "down & back", "we", "5 ns", "900 ns"} <= texts
    assert drawn.count("<polyline") == 2


@pytest.mark.parametrize(("first", "last"), [(4000, 9000), (4000, 5500), (1, 64), (100, 5000), (1000, 1e8)])
def test_an_axis_can_be_read_however_little_of_it_is_shown(first: float, last: float) -> None:
    """At least four numbers stand at a logarithmic axis, all within it."""
    drawn = line_chart([Line(name="a", points=[(first, 1), (last, 2)])], title="T", x_name="x", y_name="y", log_x=True)
    elements = [element for element in ET.fromstring(drawn).iter() if element.get("text-anchor") == "middle"]
    assert 4 <= len(elements) <= 12
    places = [float(element.get("x", "")) for element in elements]
    assert places == sorted(set(places))
    assert 64 <= places[0] <= places[-1] <= 760 - 16


def test_nothing_cannot_be_drawn() -> None:
    """An error, not an empty picture."""
    with pytest.raises(ValueError, match="nothing"):
        line_chart([Line(name="a", points=[])], title="T", x_name="x", y_name="y")
    with pytest.raises(ValueError, match="nothing"):
        bar_chart([], title="T", unit="ns")


def test_the_table_has_every_row_and_its_facts() -> None:
    """Misses stand out, and a bar in a text does not end its cell."""
    row = {"what": "a|b", "against": "c", "ours": "1", "theirs": "2", "ratio": "0.5", "goal": "≤ 0.1", "met": False}
    facts = {"cpu": "X", "cpus": 2, "system": "S", "python": "3", "commit": "abc", "taken": "now", "load": [1.0]}
    open_ = {**row, "met": None, "goal": "≤ 7", "note": ""}
    text = table({"tail": {"facts": facts, "rows": [{**row, "note": "n"}, open_, {**open_, "goal": ""}]}})
    assert "a\\|b" in text
    assert "**no**" in text
    assert text.count(NOT_TOLD) == 1
    assert "commit abc" in text

"""Every case of tests/cases through the unmodified SDK and through vwo_fast: what arrives is the same.

Compared are what the calls gave back, what callbacks, hooks and storages were told, each request with its headers,
the events, and their order per visitor.  Where a case is marked as a quirk of the SDK, it says
itself in what the two differ, and nothing else may (docs/compatibility.md).
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from typing import Any

import pytest

from tests.support import sdk_runs
from tests.support.sdk_play import Case, Outcome, cases, play

FAMILIES = {"fullstack": "fullstack", "fme165": "fme", "fme121": "fme", "wfme165": "fme"}
# The two 1.65 have the same code, and 1.21 most of it.  VWO_FAST_TEST_EVERY_CASE=1 plays all under each.
EVERY = {"fme121": 3, "wfme165": 8} if not os.environ.get("VWO_FAST_TEST_EVERY_CASE") else {}
CASES = [
    pytest.param(label, case, id=f"{label}-{case['case']}")
    for label, family in FAMILIES.items()
    for number, case in enumerate(cases(family))
    if (label in case["labels"] if "labels" in case else number % EVERY.get(label, 1) == 0)
]
CLASSIC_NAMES = {1: "track-user", 2: "track-goal", 3: "push"}


class Player:
    """Plays the chosen cases of a label together when the first is asked for: alone, each would wait for processes."""

    def __init__(self, chosen: dict[str, list[Case]]) -> None:
        self._chosen = chosen
        self._found: dict[str, dict[str, Outcome]] = {}

    def outcome(self, label: str, case: Case) -> Outcome:
        if label not in self._found:
            self._found[label] = play(label, self._chosen[label])
        return self._found[label][case["case"]]


@pytest.fixture(scope="module")
def player(request: pytest.FixtureRequest) -> Player:
    chosen: dict[str, list[Case]] = defaultdict(list)
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.function is test_both_ways_are_the_same:
            parameters: dict[str, Any] = item.callspec.params
            chosen[parameters["label"]].append(parameters["case"])
    return Player(chosen)


def name_of(event: dict[str, Any]) -> str:
    """What kind of event it is, whatever its shape."""
    if "d" in event:
        return str(event["d"]["event"]["name"])
    if "eT" in event:
        return CLASSIC_NAMES[event["eT"]]
    return "push" if "tags" in event else "track-goal" if "goal_id" in event else "track-user"


def only(some: list[Any], others: list[Any]) -> list[str]:
    """Names of the events that are in the one and not in the other, key order included."""
    left = Counter(map(json.dumps, some)) - Counter(map(json.dumps, others))
    return sorted(name_of(json.loads(event)) for event in left.elements())


def sizes(collector: sdk_runs.HasRequests) -> list[int]:
    return sorted(len(request.batch_events or [{}]) for request in sdk_runs.tracking(collector))


def returned(case: Case, outcome: Outcome) -> list[Any]:
    """What our calls should give back."""
    found = list(outcome.official["returns"])
    for number, value in case.get("ours", {}).get("returns", {}).items():
        assert found[int(number)] != value
        found[int(number)] = value
    return found


@pytest.mark.parametrize(("label", "case"), CASES)
def test_both_ways_are_the_same(player: Player, label: str, case: Case) -> None:
    """But for what a quirk names."""
    outcome = player.outcome(label, case)
    error = case.get("ours", {}).get("error")
    if error is not None:
        assert outcome.fast["error"].startswith(error)
        assert "error" not in outcome.official
        return
    assert outcome.fast.get("error") == outcome.official.get("error"), outcome.fast.get("trace")
    if "error" in outcome.official:
        # The SDK refused the options, so that there is no client to call.
        assert outcome.official["error"].startswith("AttributeError: 'NoneType'")
        return
    assert outcome.fast["returns"] == returned(case, outcome)
    # The FME SDK also reports the batches without events that it posts.
    assert outcome.fast["told"] == [told for told in outcome.official["told"] if told[1]]
    assert outcome.fast["hooked"] == outcome.official["hooked"]
    assert outcome.fast["stored"] == outcome.official["stored"]
    if case.get("others", True):
        assert sdk_runs.others(outcome.ours) == sdk_runs.others(outcome.theirs)
    assert_same_events(case, outcome)


def assert_same_events(case: Case, outcome: Outcome) -> None:
    ours, theirs = sdk_runs.events(outcome.ours), sdk_runs.events(outcome.theirs)
    differs = [case.get(name, []) for name in ("only_official", "only_ours")]
    assert [only(theirs, ours), only(ours, theirs)] == differs
    if case.get("requests", True):
        assert sdk_runs.exchanges(outcome.ours) == sdk_runs.exchanges(outcome.theirs)
    if any(differs):
        return
    if case.get("order", True):
        assert sdk_runs.by_visitor(ours) == sdk_runs.by_visitor(theirs)
    if case.get("batches", True):
        assert sizes(outcome.ours) == sizes(outcome.theirs)

"""Cases of ``tests/cases``, played through the unmodified SDK and through vwo_fast at the same time.

Most of what a case costs is the start of its aggregator, so cases that can use the same one do.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import sdk_runs, sdk_settings
from tests.support.collector import Collector, Recorded, Rule
from tests.support.engine import Engine, engine

__all__ = ["Arrived", "Case", "Outcome", "cases", "play"]

FOLDER = sdk_runs.REPOSITORY / "tests" / "cases"
TIMEOUT_SECONDS = 300

Case = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """What a collector got of one case."""

    requests: list[Recorded]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one case on both ways: what the calls gave back, and what arrived."""

    official: dict[str, Any]
    fast: dict[str, Any]
    theirs: Arrived
    ours: Arrived


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Cases that need the same settings, rules and batches: they share a collector, and a queue with its aggregator."""

    cases: list[Case]
    theirs: Collector
    made: Engine

    def jobs(self, through: str) -> list[dict[str, Any]]:
        if through == "official":
            return [_job(case, self.theirs, {}) for case in self.cases]
        return [_job(case, self.made.collector, sdk_runs.variables_of(self.made)) for case in self.cases]

    def outcomes(self, results: dict[str, dict[str, dict[str, Any]]]) -> Iterator[tuple[str, Outcome]]:
        for case, theirs, ours in zip(self.cases, _parts(self.theirs), _parts(self.made.collector), strict=True):
            name = case["case"]
            found = Outcome(
                official=results["official"][name], fast=results["vwo_fast"][name], theirs=theirs, ours=ours
            )
            yield name, found


def cases(family: str) -> list[Case]:
    """The cases of ``fullstack.json`` or ``fme.json``."""
    found: list[Case] = json.loads((FOLDER / f"{family}.json").read_text())
    return found


def play(label: str, chosen: list[Case]) -> dict[str, Outcome]:
    """Play the cases under the SDK ``label``; the outcomes by name."""
    python = sdk_runs.environment(label)
    with contextlib.ExitStack() as stack:
        rooms = [stack.enter_context(_room(each, label)) for each in _by_room(chosen, label)]
        running = {
            through: _start(
                python, {"label": label, "through": through, "rooms": [room.jobs(through) for room in rooms]}
            )
            for through in ("official", "vwo_fast")
        }
        results = {through: _results(process) for through, process in running.items()}
        return dict(outcome for room in rooms for outcome in room.outcomes(results))


def _by_room(chosen: list[Case], label: str) -> list[list[Case]]:
    """Those first that take long: where something waits, and the largest, as the cases of one follow each other."""
    rooms: dict[str, list[Case]] = defaultdict(list)
    for case in chosen:
        options = _options(case)
        batching = [options.get("batch_events"), options.get("batch_event_data"), options.get("gateway_service")]
        key = [_served(case, label), case.get("server_rules"), batching]
        rooms[json.dumps(key)].append(case)
    return sorted(rooms.values(), key=lambda room: (any(map(_waits, room)), len(room)), reverse=True)


def _waits(case: Case) -> bool:
    """Whether a server fails, so that the SDK waits before it tries again, or the case itself waits."""
    return "server_rules" in case or any(call[0] == "@sleep" for call in case["calls"])


@contextlib.contextmanager
def _room(some: list[Case], label: str) -> Iterator[Room]:
    settings = _served(some[0], label)
    with Collector(settings=settings) as theirs, engine(settings=settings) as made:
        theirs.rules[:] = _rules(some[0])
        made.collector.rules[:] = _rules(some[0])
        yield Room(cases=some, theirs=theirs, made=made)


def _parts(collector: Collector) -> Iterator[Arrived]:
    """The requests of each case; a request to /done ends it."""
    part: list[Recorded] = []
    for request in collector.requests:
        if request.path == "/done":
            yield Arrived(requests=part)
            part = []
        else:
            part.append(request)


def _settings(case: Case) -> dict[str, Any]:
    """The settings that a case names, with its own keys; a key that is null is left out."""
    given = case["settings"]
    named = {"fullstack": sdk_settings.FULLSTACK, "fme": sdk_settings.FME}.get(given["name"])
    if named is None:
        named = json.loads((FOLDER / "settings.json").read_text())[given["name"]]
    return {name: value for name, value in {**named, **given["override"]}.items() if value is not None}


def _served(case: Case, label: str) -> dict[str, Any] | None:
    """What the settings endpoints answer."""
    if label != "fullstack":
        return _settings(case)
    return {**_settings(case), **case["fetches_settings"]} if "fetches_settings" in case else None


def _rules(case: Case) -> list[Rule]:
    return [
        Rule(path=rule["path"], status=rule.get("status", 200), times=rule.get("times"), body=_body(rule))
        for rule in case.get("server_rules", ())
    ]


def _body(rule: dict[str, Any]) -> bytes | None:
    return json.dumps(rule["body"]).encode() if "body" in rule else None


def _options(case: Case) -> dict[str, Any]:
    config = case["config"]
    options: dict[str, Any] = config["launch"] if "launch" in config else config["options"]
    return options


def _job(case: Case, collector: Collector, variables: dict[str, str]) -> dict[str, Any]:
    return {
        **case,
        "settings": _settings(case),
        "options": _options(case),
        "collector": collector.url,
        "variables": variables,
    }


def _start(python: Path, job: dict[str, Any]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [str(python), "-m", "tests.support.sdk_case_driver"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # What the SDKs print of the errors that some cases are about.
        stderr=subprocess.DEVNULL,
        cwd=sdk_runs.REPOSITORY,
        env=dict(os.environ),
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(job))
    process.stdin.close()
    process.stdin = None
    return process


def _results(process: subprocess.Popen[str]) -> dict[str, dict[str, Any]]:
    output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0
    lines = [json.loads(line) for line in output.splitlines() if line.startswith('{"case"')]
    return {line.pop("case"): line for line in lines}

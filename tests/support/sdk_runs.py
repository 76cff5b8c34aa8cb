"""Runs of an official SDK, plain or through vwo_fast, and what of their requests can be compared.

Clocks and random numbers differ between two runs of anything; :func:`exchanges` and
:func:`events` take them out and leave the rest.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.support import venvs
from tests.support.collector import Recorded
from tests.support.engine import Engine

__all__ = [
    "HasRequests",
    "by_visitor",
    "environment",
    "events",
    "exchanges",
    "others",
    "run",
    "script",
    "variables_of",
    "without_clock",
]

REPOSITORY = Path(__file__).resolve().parents[2]

CLOCK_QUERY = {"random", "eTime", "sId"}
CLOCK_PROPS = {"settingsFetchTime", "sdkInitTime"}
CLOCK_START = 1_750_000_000
"""Seconds: what is later is the clock's, what is earlier a test has chosen."""
IGNORED_HEADERS = {"Host", "Content-Length"}
TRACKING = ("/server-side/batch-events", "/server-side/batch-events-v2", "/events/t")
TRACKING_GET = ("/server-side/track-user", "/server-side/track-goal", "/server-side/push")

Exchange = tuple[str, str, tuple[tuple[str, str], ...], frozenset[tuple[str, str]]]


class HasRequests(Protocol):
    """A collector, or what one got of a case."""

    @property
    def requests(self) -> list[Recorded]: ...


def environment(label: str) -> Path:
    """Interpreter with the SDK ``label``; the test is skipped when it cannot be made."""
    try:
        return venvs.ensure(label)
    except subprocess.CalledProcessError as exc:
        pytest.skip(f"the environment {label!r} with the official SDK cannot be made: {exc}")


def run(label: str, job: dict[str, Any], variables: dict[str, str] | None = None) -> dict[str, Any]:
    """Run ``tests.support.sdk_driver`` with this job in the SDK's environment; its result."""
    result: dict[str, Any] = _run(label, ["-m", "tests.support.sdk_driver"], {"label": label, **job}, variables)
    return result


def script(label: str, source: str, given: dict[str, Any], variables: dict[str, str] | None = None) -> Any:
    """Run Python source in the SDK's environment. It has ``given``, and its value of ``result`` is returned.

    Unless it says otherwise a flush may take as long as a busy machine needs.
    """
    lines = [
        "import functools, json, os, sys",
        "from vwo_fast import fme, fullstack",
        "fme.init = functools.partial(fme.init, flush_timeout=60)",
        "fullstack.launch = functools.partial(fullstack.launch, flush_timeout=60)",
        "given = json.load(sys.stdin)",
        source,
        "print('\\n' + json.dumps(result), flush=True)",
        "os._exit(0)",
    ]
    return _run(label, ["-c", "\n".join(lines)], given, variables)


def _run(label: str, arguments: list[str], given: dict[str, Any], variables: dict[str, str] | None) -> Any:
    done = subprocess.run(
        [str(environment(label)), *arguments],
        input=json.dumps(given),
        cwd=REPOSITORY,
        env={**os.environ, **(variables or {})},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def variables_of(made: Engine) -> dict[str, str]:
    """Environment with which vwo_fast works on this engine's folders and collector."""
    return {f"VWO_FAST_{name.upper()}": str(value) for name, value in made.options().items()}


def tracking(collector: HasRequests) -> list[Recorded]:
    """The accepted requests that carry events; the FME SDK also posts batches without any."""
    return [
        request
        for request in collector.requests
        if request.accepted and _is_tracking(request) and request.batch_events != []
    ]


def others(collector: HasRequests) -> list[Any]:
    """The requests for something else, in order: settings, aliases, what a gateway knows of a browser."""
    return [
        [request.method, request.path, [pair for pair in request.query if pair[0] != "r"], request.json, request.status]
        for request in collector.requests
        if not _is_tracking(request)
    ]


def exchanges(collector: HasRequests) -> set[Exchange]:
    """Method, path, query and headers of the requests that carried events, each once."""
    return {_exchange(request) for request in tracking(collector)}


def events(collector: HasRequests) -> list[Any]:
    """What the requests carried, in order of arrival: batch events, single events, or the query of a GET."""
    found: list[Any] = []
    for request in tracking(collector):
        body = request.json
        if body is None:
            found.append({name: value for name, value in request.query if name not in CLOCK_QUERY})
        else:
            found += [without_clock(event) for event in body.get("ev", [body])]
    return found


def by_visitor(found: list[Any]) -> dict[str, list[Any]]:
    """The events of each visitor, in order. The SDK's own reports of errors have no order, so they are left out."""
    visitors: dict[str, list[Any]] = defaultdict(list)
    for event in found:
        if "d" in event and event["d"]["event"]["name"] == "vwo_sdkDebug":
            continue
        visitors[event["u"] if "u" in event else event["d"]["visId"]].append(event)
    return visitors


def without_clock(event: dict[str, Any]) -> dict[str, Any]:
    """The event without what a clock wrote into it; key order is kept."""
    event = copy.deepcopy(event)
    if "d" not in event:
        return {name: value for name, value in event.items() if name != "sId"}
    data = event["d"]
    data["msgId"] = data["msgId"].rsplit("-", 1)[0]
    data["event"]["time"] = 0
    if isinstance(data["sessionId"], int) and data["sessionId"] >= CLOCK_START:
        data["sessionId"] = 0
    if data["event"]["name"] == "vwo_sdkDebug":
        data["event"]["props"]["vwoMeta"].update(eventId=0, sId=0)
    details = data["event"]["props"].get("data")
    if isinstance(details, dict):
        for name in CLOCK_PROPS & set(details):
            details[name] = 0
        # The two runs have collectors of their own.
        config = details.get("initConfig", {})
        if "proxy_url" in config:
            config["proxy_url"] = "collector"
        if "gateway_service" in config:
            config["gateway_service"] = sorted(config["gateway_service"])
    return event


def _is_tracking(request: Recorded) -> bool:
    return request.path.endswith(TRACKING if request.method == "POST" else TRACKING_GET)


def _exchange(request: Recorded) -> Exchange:
    # The query of a GET is an event, which is compared as such; here its names stand for it.
    query = tuple(
        (name, value if request.method == "POST" and name not in CLOCK_QUERY else "") for name, value in request.query
    )
    headers = frozenset((name, value) for name, value in request.headers.items() if name not in IGNORED_HEADERS)
    return request.method, request.path, query, headers

"""Every captured case through the whole engine: what is accepted is what the official SDK got accepted.

Compared are path, query, Authorization and the visitor's headers of each request, the events as a multiset, and
their order per visitor.  Where a case is marked as a quirk of the SDK, the measure is instead that every event
that can be encoded is accepted or kept as a dead letter (docs/compatibility.md).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.collector import Recorded
from tests.support.engine import Engine, engine, wait_for
from tests.support.sdk_cases import Case, Request, Response, batch_event, cases, find, is_json
from vwo_fast import Queue, fme, fullstack
from vwo_fast._wire import text_pairs

if find() is None:
    pytest.skip("optional: no folder of captured cases (VWO_FAST_CONFORMANCE)", allow_module_level=True)

HEADERS = ("Authorization", "X-Device-User-Agent", "VWO-X-Forwarded-For")
KINDS = {"dispatch": "impression", "dispatch_events": "impression", "enqueue": "payload"}
NAMES = (f"case-{number}" for number in range(10_000))


@pytest.fixture(scope="module")
def made() -> Iterator[Engine]:
    """One engine for all cases; each has a queue of its own on it."""
    with engine() as made:
        yield made


class Replay:
    """Feeds the impressions of a case where the SDK fed its own sending layer."""

    def __init__(self, case: Case, queue: Queue) -> None:
        self.case = case
        self.queue = queue
        self.route = case.route()
        producer = queue.producer(self.route)
        self._dispatcher = fullstack.Dispatcher(producer, flush_timeout=5) if case.is_fullstack else None
        self._transport = fme.Transport(producer, flush_timeout=5)
        self._network = fme.NetworkClient(None, producer, Response)

    def feed(self, impression: dict[str, Any]) -> None:
        methods: dict[str, Callable[[dict[str, Any]], object]] = {
            "dispatch": self._dispatch,
            "dispatch_events": self._dispatch_events,
            "enqueue": lambda given: self._transport.enqueue(given["payload"]),
            "send_post_api_request": self._post_event,
            "send_event": self._post_event,
            "send_post_batch_request": self._post_batch,
        }
        methods[impression["method"]](impression)

    def _dispatch(self, given: dict[str, Any]) -> object:
        assert self._dispatcher is not None
        return self._dispatcher.dispatch(given["impression"])

    def _dispatch_events(self, given: dict[str, Any]) -> object:
        assert self._dispatcher is not None
        return self._dispatcher.dispatch_events(params=given["params"], impression=given["impression"])

    def _post_event(self, given: dict[str, Any]) -> object:
        data = given["payload"]["d"]
        headers = {
            name: data[key].strip()
            for name, key in (("X-Device-User-Agent", "visitor_ua"), ("VWO-X-Forwarded-For", "visitor_ip"))
            if isinstance(data.get(key), str) and data[key].strip()
        }
        return self._network.post(Request(self.case.event_path(), given["properties"], headers, given["payload"]))

    def _post_batch(self, given: dict[str, Any]) -> object:
        query = {
            "a": given["account_id"],
            "env": given["sdk_key"],
            "sn": self.route.sdk_name,
            "sv": self.route.sdk_version,
        }
        headers = {"Authorization": given["sdk_key"], "Content-Type": "application/json"}
        return self._network.post(Request(self.case.batch_path(), query, headers, {"ev": given["payloads"]}))

    def run(self, wait_for_batches: Callable[[int], object]) -> None:
        """The calls in order: each with its impressions, flushes where there was one."""
        by_call: dict[int | None, list[dict[str, Any]]] = defaultdict(list)
        for impression in self.case.impressions():
            by_call[impression.get("call")].append(impression)
        for impression in by_call.pop(None, ()):
            self.feed(impression)
        number = 0
        for method, args, _ in self.case.data["calls"]:
            # A bulk call stands for many, which are numbered each.
            for _ in range(args[0] if method == "@bulk" else 1):
                for impression in by_call.pop(number, ()):
                    self.feed(impression)
                number += 1
            if method == "flush_events":
                self.queue.flush(1.5 if self.case.refuses_for_ever else 20)
            elif method == "@wait" and args:
                wait_for_batches(int(args[0]))
        assert not by_call


def shown(request: Recorded) -> str:
    """What of a request is compared, as text that two equal requests share."""
    headers = {name: request.headers.get(name) for name in HEADERS}
    events = request.batch_events
    body = [] if events is not None else request.json
    return json.dumps([request.method, request.path, request.query, headers, body])


def official(case: Case) -> list[Recorded]:
    """The requests that the SDK got accepted, empty batches left out."""
    found = []
    omitted = every_event(case) if case.data["bodies"] == "omitted" else []
    for each in case.data["requests"]:
        if each["response"]["status"] != 200 or ("n_events" in each and not each["n_events"]):
            continue
        body = each.get("body")
        if omitted and "n_events" in each:
            body = {"ev": omitted[: each["n_events"]]}
            del omitted[: each["n_events"]]
        found.append(
            Recorded(
                method=each["method"],
                target=each["target"],
                headers=dict(each["headers"]),
                header_pairs=[],
                body=b"" if body is None else json.dumps(body).encode(),
                time=0.0,
                status=200,
            )
        )
    return found


def events_of(requests: list[Recorded]) -> list[Any]:
    """Events in order: of batches, alone in a POST, or the query of a GET."""
    found: list[Any] = []
    for request in requests:
        batched = request.batch_events
        found += batched if batched is not None else [request.json or dict(request.query)]
    return found


def size(request: Recorded) -> int:
    """Events of a batch, 0 for a single event."""
    return len(request.batch_events or [])


def visitor(event: dict[str, Any]) -> Any:
    return event["u"] if "u" in event else event["d"]["visId"]


def in_order(events: list[Any]) -> dict[str, list[str]]:
    """The events of each visitor, in order, as text."""
    found: dict[str, list[str]] = defaultdict(list)
    for event in events:
        found[visitor(event)].append(json.dumps(event))
    return found


def every_event(case: Case) -> list[Any]:
    """What each impression says, the order of the SDK's own sending left aside."""
    found: list[Any] = []
    for each in case.impressions():
        if each["method"] == "send_post_batch_request":
            found += each["payloads"]
        else:
            event = each[KINDS.get(each["method"], "payload")]
            is_classic = each["method"] == "dispatch" and case.sealing
            found.append(batch_event(event) if is_classic else event)
    return [event for event in found if is_json(event)]


def replayed(case: Case, made: Engine) -> tuple[list[Recorded], int]:
    """The accepted requests of this engine, and how many events became dead letters."""
    if case.refuses_for_ever:
        # What stays undelivered would be tried again during the next case.
        with engine() as own:
            return _replayed(case, own)
    return _replayed(case, made)


def _replayed(case: Case, made: Engine) -> tuple[list[Recorded], int]:
    collector = made.collector
    collector.rules[:] = case.rules
    collector.clear()
    queue = made.queue(next(NAMES), **case.sealing)
    try:
        Replay(case, queue).run(lambda count: collector.wait(lambda c: len(c.batches) >= count))
        expected = 0 if case.quirk else len(events_of(official(case)))
        if not expected:
            queue.flush(2 if case.refuses_for_ever else 20)
        else:
            wait_for(lambda: len(events_of(accepted(made))) >= expected)
        return accepted(made), queue.stats().dead
    finally:
        queue.flush(0.1 if case.refuses_for_ever else 20)
        queue.close()


def accepted(made: Engine) -> list[Recorded]:
    return [request for request in made.collector.requests if request.accepted]


@pytest.mark.parametrize("case", [case for case in cases() if not case.quirk], ids=lambda case: case.name)
def test_what_arrives_is_what_the_sdk_sends(case: Case, made: Engine) -> None:
    """Requests, events and their order are those of the unmodified SDK."""
    if case.options.get("is_development_mode"):
        # Then the adapter opens no queue, and the SDK's own dispatcher sends nothing.
        assert case.data["requests"] == []
        return
    ours, _ = replayed(case, made)
    theirs = official(case)
    assert Counter(map(shown, ours)) == Counter(map(shown, theirs))
    assert in_order(events_of(ours)) == in_order(events_of(theirs))
    assert sorted(map(size, ours)) == sorted(map(size, theirs))


@pytest.mark.parametrize("case", [case for case in cases() if case.quirk], ids=lambda case: case.name)
def test_where_the_sdk_fails_nothing_is_lost(case: Case, made: Engine) -> None:
    """Where the SDK loses, repeats or empties: each event is accepted once, or is a dead letter; no batch is empty."""
    ours, dead = replayed(case, made)
    events = Counter(json.dumps(event) for event in events_of(ours))
    expected = Counter(json.dumps(event) for event in every_event(case))
    assert events <= expected
    assert (expected - events).total() == dead
    if not case.rules:
        assert dead == 0
    assert all(request.batch_events != [] for request in ours)
    routes = {(request.path, request.headers.get("Authorization")) for request in ours}
    assert routes <= {(each["path"], dict(each["headers"]).get("Authorization")) for each in case.data["requests"]}


@pytest.mark.parametrize(
    "case", [case for case in cases() if case.name.endswith("rt_user_agent_needs_encoding")], ids=lambda case: case.name
)
def test_the_query_says_what_the_sdk_meant(case: Case, made: Engine) -> None:
    """Where the SDK breaks the query by not encoding it, ours decodes to the values that it had."""
    ours, _ = replayed(case, made)
    expected = [text_pairs(each["properties"].items()) for each in case.impressions()]
    assert sorted(request.query for request in ours) == sorted(expected)

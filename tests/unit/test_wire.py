"""Requests of one event: the parts that the official SDKs send."""

from __future__ import annotations

from typing import Any

import pytest

from vwo_fast import _wire
from vwo_fast.route import Route

KEY = "0123456789abcdef0123456789abcdef"
FULLSTACK = Route.fullstack(
    account_id=7, sdk_key=KEY, sdk_version="1.68.2", collection_prefix="eu01", usage_stats={"ig": 1, "_l": 1}
)
FME = Route.fme(
    account_id=7, sdk_key=KEY, sdk_name="vwo-fme-python-sdk", sdk_version="1.65.0", collection_prefix="as01"
)


def impression(endpoint: str = "track-user", **changes: Any) -> dict[str, Any]:
    made = {"random": 0.5, "u": "A" * 32, "visitor_ua": "", "visitor_ip": "", "experiment_id": 3}
    return {**made, "url": f"https://host.example/other/server-side/{endpoint}", **changes}


def payload(name: str = "custom", **data: Any) -> dict[str, Any]:
    return {"d": {"visId": "A" * 32, "event": {"props": {"a": 1}, "name": name, "time": 1700000000123}, **data}}


@pytest.mark.parametrize("endpoint", ["track-user", "track-goal", "push"])
def test_an_impression_gets_the_prefix_of_its_route(endpoint: str) -> None:
    """The SDK writes the prefix of the instance launched last; the route has its own."""
    own = _wire.fullstack_impression(FULLSTACK, impression(endpoint))
    assert own["url"] == f"/eu01/server-side/{endpoint}"


def test_usage_statistics_are_those_of_the_route() -> None:
    """What another instance left in the impression is replaced; only track-user has statistics."""
    shown = _wire.fullstack_impression(FULLSTACK, impression(eb=1, ll=1, _l=1))
    assert list(shown)[-2:] == ["ig", "_l"]
    assert not {"eb", "ll"} & set(shown)
    goal = _wire.fullstack_impression(FULLSTACK, impression("track-goal"))
    assert not {"ig", "_l"} & set(goal)


def test_the_given_impression_is_not_changed() -> None:
    """The SDK still reads the dict after it has handed it over."""
    given = impression(eb=1)
    before = dict(given)
    _wire.fullstack_impression(FULLSTACK, given)
    _wire.fullstack_impression_request(FULLSTACK, given)
    assert given == before


@pytest.mark.parametrize("given", [None, 3, {}, {"url": 5}, {"url": "https://host.example/server-side/batch-events"}])
def test_what_is_no_impression_is_refused(given: Any) -> None:
    """Only the three tracking endpoints are known."""
    with pytest.raises(ValueError, match="not a FullStack impression"):
        _wire.fullstack_impression(FULLSTACK, given)
    with pytest.raises(ValueError, match="not a FullStack impression"):
        _wire.fullstack_impression_request(FULLSTACK, given)


def test_an_impression_becomes_the_get_of_the_sdk() -> None:
    """The pairs in order without url and None, the visitor also in headers, no body."""
    given = impression(visitor_ua="Agent", visitor_ip="203.0.113.7", r=None, combination=2)
    method, path, query, headers, body = _wire.fullstack_impression_request(FULLSTACK, given)
    assert (method, path, body) == ("GET", "/eu01/server-side/track-user", None)
    assert [name for name, _ in query] == ["random", "u", "visitor_ua", "visitor_ip", "experiment_id", "combination"]
    assert dict(query)["random"] == "0.5"
    assert headers == {
        "User-Agent": "vwo-python-sdk",
        "X-Device-User-Agent": "Agent",
        "VWO-X-Forwarded-For": "203.0.113.7",
    }


def test_an_event_of_the_event_architecture_is_posted() -> None:
    """Query as given, statistics of the route for vwo_variationShown alone, the body untouched."""
    params = {"en": "vwo_variationShown", "a": 7, "env": KEY, "eTime": 5, "visitor_ua": "", "visitor_ip": "", "eb": 1}
    body = {"d": {"visId": "A"}}
    method, path, query, headers, sent = _wire.fullstack_event_request(FULLSTACK, params, body)
    assert (method, path) == ("POST", "/eu01/events/t")
    assert [name for name, _ in query] == ["en", "a", "env", "eTime", "visitor_ua", "visitor_ip", "ig", "_l"]
    assert sent is body
    assert "X-Device-User-Agent" not in headers
    query = _wire.fullstack_event_request(FULLSTACK, {**params, "en": "purchase"}, body)[2]
    assert not {"ig", "_l", "eb"} & {name for name, _ in query}


def test_query_values_become_text_as_requests_makes_them() -> None:
    """None is left out, a list becomes one pair per item, other values their text."""
    given = {"none": None, "flag": True, "float": 12.5, "list": [1, None, "b"], "text": "a&b#c"}
    assert _wire.query_pairs(given.items()) == [
        ("flag", "True"),
        ("float", "12.5"),
        ("list", "1"),
        ("list", "b"),
        ("text", "a&b#c"),
    ]


def test_a_lone_surrogate_does_not_stop_a_query() -> None:
    """It has no UTF-8; the pair must still be sendable."""
    (pair,) = _wire.query_pairs([("text", "a\ud800b")])
    pair[1].encode("utf-8")


@pytest.mark.parametrize("value", ["日本", "a\r\nX-Other: b", " leading", "", None, 5])
def test_a_header_that_http_cannot_carry_is_left_out(value: Any) -> None:
    """The event itself still goes."""
    assert _wire.visitor_headers(value, value) == {}


def test_an_agent_in_bytes_is_text() -> None:
    """As requests takes it, in the query and in the header."""
    assert _wire.query_pairs([("visitor_ua", "é".encode())]) == [("visitor_ua", "é")]
    assert _wire.visitor_headers(b"A", None) == {"X-Device-User-Agent": "A"}


def test_visitor_headers_are_stripped_for_fme() -> None:
    """FME strips them, FullStack does not."""
    assert _wire.visitor_headers(" A ", "1 ", strip=True) == {"X-Device-User-Agent": "A", "VWO-X-Forwarded-For": "1"}
    assert _wire.visitor_headers("A ", None) == {"X-Device-User-Agent": "A "}


def test_fme_impressions_go_to_the_batch_endpoint() -> None:
    """Without batching get_flag posts a batch of its own."""
    given = payload("vwo_variationShown")
    method, path, query, headers, body = _wire.fme_realtime_request(FME, given)
    assert (method, path) == ("POST", "/as01/server-side/batch-events-v2")
    assert query == FME.batch_query
    assert headers["Authorization"] == KEY
    assert body == {"ev": [given]}


def test_other_fme_events_go_to_events_t() -> None:
    """The query is made again from the payload, in the SDK's order; the payload is unchanged."""
    given = payload(visitor_ua=" Agent ", visitor_ip="203.0.113.7")
    method, path, query, headers, body = _wire.fme_realtime_request(FME, given)
    assert (method, path) == ("POST", "/as01/events/t")
    assert [name for name, _ in query] == [
        "en",
        "a",
        "eTime",
        "random",
        "p",
        "visitor_ua",
        "visitor_ip",
        "sn",
        "sv",
        "env",
    ]
    assert dict(query)["eTime"] == "1700000000123"
    assert 0 <= float(dict(query)["random"]) < 1
    assert headers["X-Device-User-Agent"] == "Agent"
    assert body == given


@pytest.mark.parametrize(("name", "text"), [("custom", "None"), ("vwo_fmeSdkInit", ""), ("vwo_sdkUsageStats", "")])
def test_an_absent_visitor_is_told_as_the_sdk_tells_it(name: str, text: str) -> None:
    """The text None for a visitor's event, empty for an event of the SDK itself."""
    query = dict(_wire.fme_realtime_request(FME, payload(name))[2])
    assert (query["visitor_ua"], query["visitor_ip"]) == (text, text)


@pytest.mark.parametrize("given", [None, 3, [], {}, {"d": None}, {"d": {"event": 5}}])
def test_what_is_no_payload_is_refused(given: Any) -> None:
    """A payload has an event."""
    with pytest.raises(ValueError, match="not an FME payload"):
        _wire.fme_realtime_request(FME, given)

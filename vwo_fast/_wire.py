"""Requests that carry one event, as the official SDKs send them without batching.

Each function returns the parts of a request: method, path, query, headers, body.
The query is percent-encoded by whoever sends it; the FME SDK does not do that, so
there an "&" or a "#" in a user agent damages the query (docs/compatibility.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from vwo_fast.route import USAGE_STATS_ORDER, Route, fits_header

__all__ = [
    "Request",
    "fme_event_request",
    "fme_realtime_request",
    "fullstack_event_request",
    "fullstack_impression",
    "fullstack_impression_request",
    "is_impression",
    "query_pairs",
    "sendable_headers",
    "text_pairs",
    "visitor_headers",
]

Request = tuple[str, str, list[tuple[str, str]], dict[str, str], "dict[str, Any] | None"]

EVENTS_PATH = "/events/t"
VARIATION_SHOWN = "vwo_variationShown"
USAGE_STATS_EVENT = "vwo_sdkUsageStats"
WITHOUT_VISITOR = frozenset({"vwo_fmeSdkInit", USAGE_STATS_EVENT, "vwo_sdkDebug"})
"""Events of the SDK itself: their visitor_ua and visitor_ip are empty, where others say "None"."""

_USAGE_STATS = frozenset(USAGE_STATS_ORDER)
_FULLSTACK_ENDPOINTS = frozenset({"track-user", "track-goal", "push"})


def fullstack_impression(route: Route, impression: Mapping[str, Any]) -> dict[str, Any]:
    """The impression with what the SDK keeps once per process replaced by what ``route`` says.

    The collection prefix in the url and the usage statistics are those of the instance launched
    last; with two instances in one process they would be another account's.
    Raises ValueError when it is not an impression.
    """
    endpoint = _endpoint(impression)
    own = {key: value for key, value in impression.items() if key not in _USAGE_STATS}
    own["url"] = route.path(endpoint)
    if endpoint == "track-user":
        own.update(route.usage_stats)
    return own


def is_impression(value: Any) -> bool:
    """Whether it is one of the FullStack SDK's: a request can be made of it."""
    try:
        _endpoint(value)
    except Exception:  # of a mapping with code of its own, any
        return False
    return True


def fullstack_impression_request(route: Route, impression: Mapping[str, Any]) -> Request:
    """GET ``/server-side/{track-user,track-goal,push}``. Raises ValueError when it is not an impression."""
    endpoint = _endpoint(impression)
    query = query_pairs((key, value) for key, value in impression.items() if key != "url")
    headers = {
        "User-Agent": route.sdk_name,
        **visitor_headers(impression.get("visitor_ua"), impression.get("visitor_ip")),
    }
    return "GET", route.path(endpoint), query, headers, None


def fullstack_event_request(route: Route, params: Mapping[str, Any], impression: dict[str, Any]) -> Request:
    """POST ``/events/t`` of the event architecture, from what ``dispatch_events`` receives."""
    own = {key: value for key, value in params.items() if key not in _USAGE_STATS}
    if own.get("en") == VARIATION_SHOWN:
        own.update(route.usage_stats)
    headers = {
        "User-Agent": route.sdk_name,
        "Content-Type": "application/json",
        **visitor_headers(params.get("visitor_ua"), params.get("visitor_ip")),
    }
    return "POST", route.prefix + EVENTS_PATH, query_pairs(own.items()), headers, impression


def fme_realtime_request(route: Route, payload: Mapping[str, Any]) -> Request:
    """What the FME SDK sends for one payload when it does not batch.

    ``get_flag`` posts its impressions to the batch endpoint, all else goes to ``/events/t``.
    Raises ValueError when it is not a payload.
    """
    name = _event(payload).get("name")
    if name == VARIATION_SHOWN:
        return "POST", route.batch_path, route.batch_query, route.batch_headers, {"ev": [payload]}
    return fme_event_request(route, payload)


def fme_event_request(route: Route, payload: Mapping[str, Any]) -> Request:
    """POST ``/events/t`` with the query that the SDK makes, read back from the payload."""
    event = _event(payload)
    data = payload["d"]
    name = event.get("name")
    absent = "" if name in WITHOUT_VISITOR else None
    user_agent = data.get("visitor_ua", absent)
    address = data.get("visitor_ip", absent)
    pairs = [
        ("en", name),
        ("a", route.account_id),
        ("eTime", event.get("time")),
        ("random", _random()),
        ("p", "FS"),
        ("visitor_ua", user_agent),
        ("visitor_ip", address),
        ("sn", route.sdk_name),
        ("sv", route.sdk_version),
        ("env", route.sdk_key),
    ]
    headers = {"Content-Type": "application/json", **visitor_headers(user_agent, address, strip=True)}
    return "POST", route.prefix + EVENTS_PATH, text_pairs(pairs), headers, dict(payload)


def text_pairs(items: Iterable[tuple[str, Any]]) -> list[tuple[str, str]]:
    """Pairs as the FME SDK makes them, where a value that is absent is the text "None"."""
    return [(_text(key), _text(value)) for key, value in items]


def sendable_headers(headers: Mapping[str, Any]) -> dict[str, str]:
    """The headers that HTTP can carry."""
    return {name: value for name, value in headers.items() if isinstance(value, str) and value and fits_header(value)}


def query_pairs(items: Iterable[tuple[str, Any]]) -> list[tuple[str, str]]:
    """Pairs as ``requests`` makes them of ``params=``: None is left out, a list becomes one pair per item."""
    pairs: list[tuple[str, str]] = []
    for key, value in items:
        values = value if isinstance(value, (list, tuple, set, frozenset, dict)) else (value,)
        texts = [item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in values]
        pairs += [(_text(key), _text(item)) for item in texts if item is not None]
    return pairs


def visitor_headers(user_agent: object, address: object, *, strip: bool = False) -> dict[str, str]:
    """The headers that tell the visitor's browser and address, those that are given.

    A value that HTTP cannot carry in a header is left out: the event still says it in its
    query or body, and the official SDK, which tries, loses the event.
    """
    given = {"X-Device-User-Agent": user_agent, "VWO-X-Forwarded-For": address}
    texts = {name: value.decode("latin-1") if isinstance(value, bytes) else value for name, value in given.items()}
    return sendable_headers(
        {name: value.strip() if strip else value for name, value in texts.items() if isinstance(value, str)}
    )


def _text(value: object) -> str:
    # A lone surrogate has no UTF-8, so no place in a query.
    return str(value).encode("utf-8", "replace").decode("utf-8")


def _random() -> float:
    """From 0 to 1, of the system: another one in each child of a fork, whoever forks."""
    return (int.from_bytes(os.urandom(7), "big") >> 3) / (1 << 53)


def _endpoint(impression: Mapping[str, Any]) -> str:
    url = impression.get("url") if isinstance(impression, Mapping) else None
    endpoint = url.rsplit("/", 1)[-1] if isinstance(url, str) else None
    if endpoint not in _FULLSTACK_ENDPOINTS:
        raise ValueError("not a FullStack impression: its url names no endpoint")
    return endpoint


def _event(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    data = payload.get("d") if isinstance(payload, Mapping) else None
    event = data.get("event") if isinstance(data, Mapping) else None
    if not isinstance(event, Mapping):
        raise ValueError("not an FME payload: it has no event")
    return event

"""The synthetic impressions that are measured with."""

from __future__ import annotations

from typing import Any

from vwo_fast import _batch, _lane
from vwo_fast.route import Route

__all__ = ["EVENT_BYTES_MAX", "EVENT_BYTES_MIN", "impression", "route"]

EVENT_BYTES_MIN = 160
EVENT_BYTES_MAX = 100_000

ACCOUNT = 999999
SDK_KEY = "0" * 32
"""A key that is no one's, so that a server which checks keys refuses what is sent to it by mistake."""


def route() -> Route:
    """The route of all synthetic events."""
    return Route.fullstack(account_id=ACCOUNT, sdk_key=SDK_KEY, sdk_version="0.0.0-bench")


def impression(number: int, event_bytes: int) -> dict[str, Any]:
    """What FullStack's dispatcher receives, of a visitor of its own; in a request it takes ``event_bytes``.

    ``event_bytes``: EVENT_BYTES_MIN to EVENT_BYTES_MAX.
    """
    # What is longer in one event than in another is, in life, the user agent.
    return _impression(number, "m" * (event_bytes - _BARE_BYTES))


def _impression(number: int, agent: str) -> dict[str, Any]:
    return {
        "random": 0.25,
        "sdk": "vwo-python-sdk",
        "sdk-v": "0.0.0-bench",
        "ap": "server",
        "sId": 1_700_000_000 + number % 1_000_000,
        "u": f"{number:032X}",
        "account_id": ACCOUNT,
        "env": SDK_KEY,
        "visitor_ua": agent,
        "visitor_ip": "203.0.113.7",
        "experiment_id": 200 + number % 50,
        "combination": 1 + number % 4,
        "ed": '{"p": "server"}',
        "url": "https://dev.visualwebsiteoptimizer.com/server-side/track-user",
    }


_BARE_BYTES = _batch.json_size(_lane.pack_fullstack(_impression(0, "")))

"""Routes: where a batch goes, and what it has in common."""

from __future__ import annotations

from typing import Any

import pytest

from vwo_fast.errors import ConfigError
from vwo_fast.route import Route, route_key

KEY = "0123456789abcdef0123456789abcdef"


def fullstack(**changes: Any) -> Route:
    return Route.fullstack(**{"account_id": 1, "sdk_key": KEY, "sdk_version": "1.68.2", **changes})


def fme(**changes: Any) -> Route:
    given = {"account_id": 1, "sdk_key": KEY, "sdk_name": "vwo-fme-python-sdk", "sdk_version": "1.65.0"}
    return Route.fme(**{**given, **changes})


def test_fullstack_query_is_that_of_the_sdk() -> None:
    """Account, SDK, version, key, then the usage statistics in their order, however they were given."""
    route = fullstack(usage_stats={"_l": 1, "ig": 1, "eb": 1})
    assert route.batch_query == [
        ("a", "1"),
        ("sdk", "vwo-python-sdk"),
        ("sdk-v", "1.68.2"),
        ("env", KEY),
        ("eb", "1"),
        ("ig", "1"),
        ("_l", "1"),
    ]


def test_fme_query_is_that_of_the_sdk() -> None:
    """a, env, sn, sv, in this order."""
    assert fme().batch_query == [("a", "1"), ("env", KEY), ("sn", "vwo-fme-python-sdk"), ("sv", "1.65.0")]


def test_batches_are_authorised_by_the_sdk_key() -> None:
    """Both SDKs send the key; only FullStack names itself as user agent."""
    assert fullstack().batch_headers == {
        "Authorization": KEY,
        "Content-Type": "application/json",
        "User-Agent": "vwo-python-sdk",
    }
    assert fme().batch_headers == {"Authorization": KEY, "Content-Type": "application/json"}


def test_without_an_sdk_key_no_request_names_one() -> None:
    """FullStack settings need not have one; the SDK then leaves out env and Authorization."""
    route = fullstack(sdk_key=None)
    assert Route.decode(route.encode()) == route
    assert [name for name, _ in route.batch_query] == ["a", "sdk", "sdk-v"]
    assert route.batch_headers == {"Content-Type": "application/json", "User-Agent": "vwo-python-sdk"}
    with pytest.raises(ConfigError, match="sdk_key"):
        fme(sdk_key=None)


@pytest.mark.parametrize(("prefix", "start"), [(None, ""), ("", ""), ("eu01", "/eu01"), ("/eu01/", "/eu01")])
def test_the_prefix_is_the_first_segment(prefix: str | None, start: str) -> None:
    """A collection prefix comes before every endpoint; slashes around it do not matter."""
    assert fullstack(collection_prefix=prefix).batch_path == f"{start}/server-side/batch-events"
    assert fme(collection_prefix=prefix).batch_path == f"{start}/server-side/batch-events-v2"
    assert fullstack(collection_prefix=prefix).path("push") == f"{start}/server-side/push"


@pytest.mark.parametrize("prefix", ["a b", "a?b", "a#b", "//", "a//b", "é"])
def test_a_prefix_that_would_change_the_request_is_refused(prefix: str) -> None:
    """Only plain path segments: the error names the option and the value."""
    with pytest.raises(ConfigError, match="collection_prefix="):
        fullstack(collection_prefix=prefix)


@pytest.mark.parametrize(
    "route",
    [
        fullstack(),
        fullstack(account_id="77", collection_prefix="eu01", usage_stats={"eb": 1}, base_url="http://localhost:1"),
        fme(collection_prefix="as01"),
    ],
)
def test_a_route_survives_its_encoding(route: Route) -> None:
    """decode is the inverse of encode, and equal routes have equal bytes and keys."""
    again = Route.decode(route.encode())
    assert again == route
    assert again.encode() == route.encode()
    assert again.key == route.key == route_key(route.encode())


def test_different_routes_have_different_keys() -> None:
    """Each field takes part in the key, the type of the account included."""
    routes = [
        fullstack(),
        fullstack(account_id="1"),
        fullstack(account_id=2),
        fullstack(sdk_key="other"),
        fullstack(sdk_version="1.68.3"),
        fullstack(collection_prefix="eu01"),
        fullstack(usage_stats={"eb": 1}),
        fullstack(base_url="http://localhost:1"),
        fme(),
        fme(sdk_name="wingify-fme-python-sdk"),
    ]
    assert len({route.key for route in routes}) == len(routes)
    assert all(0 < route.key < 1 << 62 for route in routes)


@pytest.mark.parametrize("data", [b"", b"\xc0", b"\x90", b"\xa3abc", fme().encode()[:-1], fme().encode() + b"\xc0"])
def test_bytes_that_are_no_route_are_refused(data: bytes) -> None:
    """Route files come from shared memory: anything else is a ValueError."""
    with pytest.raises(ValueError, match="not a route"):
        Route.decode(data)


def test_the_sdk_key_is_not_shown() -> None:
    """repr, and so logs, leave the key out."""
    assert KEY not in repr(fullstack())


@pytest.mark.parametrize("key", ["a\nb", "日本", " key"])
def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    """No request could be made with it; the key itself is not shown."""
    with pytest.raises(ConfigError, match="sdk_key: expected text that an HTTP header can carry"):
        fullstack(sdk_key=key)

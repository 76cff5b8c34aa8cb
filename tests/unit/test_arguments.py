"""What the public functions say of an argument that is wrong: its name, and what was expected."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from vwo_fast import ConfigError, Producer, Queue, Route, cli, fme
from vwo_fast.cli_spool import _age
from vwo_fast.config import load_settings
from vwo_fast.counters import Reason

FME: dict[str, Any] = {"account_id": 7, "sdk_key": "k", "sdk_name": "vwo-fme-python-sdk", "sdk_version": "1.65.0"}
FULLSTACK: dict[str, Any] = {"account_id": 7, "sdk_key": "k", "sdk_version": "1.68.2"}
ENDLESS = 10**6000
"""Python shows no integer of so many digits."""


class Sulky:
    """It cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


def odd(value: object) -> Any:
    """What no type checker lets pass."""
    return value


@pytest.fixture(scope="module")
def queue() -> Iterator[Queue]:
    with tempfile.TemporaryDirectory(prefix="vfa-") as folder:
        places: dict[str, Any] = {
            "run_dir": f"{folder}/run",
            "spool_dir": f"{folder}/spool",
            "base_url": "http://127.0.0.1:9",
        }
        with Queue("shop", aggregator="external", **places) as made:
            yield made


TIMES: list[Any] = ["10", b"1", -1, -0.001, True, float("nan"), float("inf"), [], Sulky(), -ENDLESS]


@pytest.mark.parametrize("timeout", TIMES, ids=range(len(TIMES)))
def test_a_flush_says_what_a_timeout_is(queue: Queue, timeout: Any) -> None:
    """Text, a truth value, what is no number or below 0: an error at the call, which names the range."""
    with pytest.raises(ConfigError, match=r"timeout=.*expected a number of seconds, at least 0, or None for no limit"):
        queue.flush(timeout)


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "a callback that cannot be called": (
        lambda: Queue("q", flush_callback=odd(5)),
        "flush_callback=5: expected a call",
    ),
    "a name that is none": (lambda: Queue(odd(5)), "queue=5: expected 1 to 64"),
    "a name that cannot be shown": (lambda: Queue(odd(ENDLESS)), "queue=<int without a repr"),
    "a file that is no path": (
        lambda: load_settings("q", environ={}, config_file=0),
        "config_file=0 .* path of a TOML",
    ),
    "an option that cannot be shown": (lambda: Queue("q", lane_bytes=Sulky()), "lane_bytes=<Sulky without a repr"),
    "options that are no dict": (lambda: fme.init(odd("x")), "options: expected a dict, not str"),
    "an account of no bits": (lambda: Route.fme(**{**FME, "account_id": True}), "account_id: expected a number"),
    "an account of many bits": (lambda: Route.fme(**{**FME, "account_id": 1 << 64}), "account_id: .* at most 64 bits"),
    "a version that cannot be sent": (
        lambda: Route.fme(**{**FME, "sdk_version": "1\ud800"}),
        "sdk_version: .* UTF-8 can carry",
    ),
    "a name for no header": (lambda: Route.fme(**{**FME, "sdk_name": "a\nb"}), "sdk_name: .* HTTP header can carry"),
    "a place that is none": (
        lambda: Route.fme(**FME, base_url="example.com"),
        "base_url='example.com': .*http or http",
    ),
    "a place with a password": (
        lambda: Route.fullstack(**FULLSTACK, base_url="https://me:secret@example.com"),
        r"base_url='\*\*\*@example.com': .* without user",
    ),
    "statistics that are no dict": (
        lambda: Route.fullstack(**FULLSTACK, usage_stats=odd([1])),
        "usage_stats: expected a d",
    ),
    "a statistic of many bits": (
        lambda: Route.fullstack(**FULLSTACK, usage_stats={"gt": 1 << 64}),
        "usage_stats: .* 64",
    ),
    "an unknown SDK": (lambda: Route(sdk=odd("php"), **FME), "sdk='php': expected 'fullstack' or 'fme'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_is_named(case: str) -> None:
    """With what was expected, before anything is made; no secret is shown."""
    call, message = WRONG[case]
    with pytest.raises(ConfigError, match=message) as caught:
        call()
    assert "secret" not in str(caught.value)


def test_a_producer_is_for_a_route(queue: Queue) -> None:
    """Anything else is refused by its type, for its value may hold a key."""
    with pytest.raises(ConfigError, match=r"route: expected a vwo_fast\.Route, not dict"):
        queue.producer(odd({"sdk_key": "secret"}))


GOOD: dict[str, Any] = {
    "method": "POST",
    "path": "/events/t",
    "query": [("a", "7")],
    "headers": {"X": "y"},
    "body": {"d": 1},
}
BAD: list[tuple[str, Any]] = [
    *[("method", value) for value in (None, 5, "", "PATCH", b"GET", ["GET"])],
    *[("path", value) for value in (None, 5, "", "events/t", b"/events/t", "/\ud800")],
    *[("query", value) for value in (None, 5, "ab", [1], [("a",)], [("a", 7)], [("a", None)], [("a", "\ud800")])],
    *[("headers", value) for value in (None, 5, "X: y", [("X", "y")], {"X": None}, {5: "y"}, {"X": "\ud800"})],
    *[("body", value) for value in (5, "text", b"bytes", [1], {"when": object()}, {"d": float("nan")})],
]


@pytest.fixture
def producer(queue: Queue) -> Producer:
    return queue.producer(Route.fme(**FME))


@pytest.mark.parametrize(("name", "value"), BAD, ids=[f"{name}-{at}" for at, (name, _) in enumerate(BAD)])
def test_what_is_no_request_is_refused_at_the_call(producer: Producer, name: str, value: Any) -> None:
    """Nothing is raised, and nothing is accepted of which the aggregator could make no request."""
    before = refused(producer)
    assert producer.enqueue_request(**{**GOOD, name: value}) is False
    assert refused(producer) == before + 1


def test_a_request_is_accepted(producer: Producer) -> None:
    """With and without a body, its texts in pairs of any kind."""
    before = refused(producer)
    assert producer.enqueue_request(**GOOD)
    assert producer.enqueue_request("GET", "/x", odd((("a", "b"), ["c", "d"])), {}, None)
    assert refused(producer) == before


def refused(producer: Producer) -> int:
    found = producer.queue.stats().refused
    assert found.keys() <= {Reason.NOT_JSON.name.lower(), Reason.BAD_IMPRESSION.name.lower()}
    return sum(found.values())


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf", ""])
def test_the_command_line_names_the_range_of_a_timeout(text: str) -> None:
    """And not only the name of a function."""
    with pytest.raises(argparse.ArgumentTypeError, match=r"expected a number of seconds, at least 0"):
        cli.seconds(text)


def test_the_command_line_shows_how_an_age_is_written() -> None:
    """With the units that there are."""
    with pytest.raises(argparse.ArgumentTypeError, match=r"'1w': not a time; expected .* s, m, h or d"):
        _age("1w")

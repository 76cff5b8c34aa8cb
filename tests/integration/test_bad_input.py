"""Objects, records and lanes that nobody should make: refused with a reason, or they harm no other."""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vwo_fast
from tests.support.engine import SDK_KEY, Engine, engine, impression, numbers, route, wait_for
from vwo_fast import _lane

ROOT = Path(__file__).resolve().parents[2]
LANE_HEADER = 4096


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def circular_dict() -> dict[str, Any]:
    made: dict[str, Any] = {}
    made["self"] = made
    return made


def circular_list() -> list[Any]:
    made: list[Any] = []
    made.append([made, made])
    return made


class Liar:
    """Says that it is a dict."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return dict

    def items(self) -> Any:
        return [("a", 1)]


class Endless(dict):  # type: ignore[type-arg]
    """A dict whose items never end."""

    def items(self) -> Any:
        number = 0
        while True:
            number += 1
            yield (str(number), number)


class EndlessList(list):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        while True:
            yield 0


class Raising(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        raise RuntimeError(SDK_KEY)


class NoPairs(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        return [1, (2, 3, 4), "ab"]


class Exiting(dict):  # type: ignore[type-arg]
    def __len__(self) -> int:
        raise ZeroDivisionError

    def items(self) -> Any:
        yield from ()
        raise ZeroDivisionError


class Meta(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("a class without a name")


class Nameless(metaclass=Meta):
    pass


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "deep": (lambda: nested(200), "too_deep"),
    "very deep": (lambda: nested(100_000), "too_deep"),
    "circular dict": (circular_dict, "too_deep"),
    "circular list": (circular_list, "too_deep"),
    "a string of 11 MB": (lambda: "x" * 11_000_000, "too_large"),
    "a string of 2 MB that escapes to 12": (lambda: "\x01" * 2_000_000, "too_large"),
    "a million keys": (lambda: {f"key {n}": n for n in range(1_000_000)}, "too_large"),
    "twelve million elements": (lambda: [0] * 12_000_000, "too_large"),
    "an int of 11 million digits": (lambda: 1 << 36_600_000, "too_large"),
    "a key of ten million digits": (lambda: {1 << 40_000_000: 1}, "too_large"),
    "endless items": (Endless, "too_large"),
    "an endless list": (lambda: EndlessList([1]), "too_large"),
    "nan": (lambda: float("nan"), "not_json"),
    "infinite key": (lambda: {float("inf"): 1}, "not_json"),
    "bytes": (lambda: b"x", "not_json"),
    "bytes as a key": (lambda: {b"x": 1}, "not_json"),
    "a generator": (lambda: (n for n in range(3)), "not_json"),
    "a set": (lambda: {1}, "not_json"),
    "a liar": (Liar, "not_json"),
    "items that raise": (lambda: Raising(a=1), "not_json"),
    "items that are no pairs": (lambda: NoPairs(a=1), "not_json"),
    "items that end in an error": (lambda: Exiting(a=1), "not_json"),
    "a class without a name": (Nameless, "not_json"),
    "a class": (lambda: dict, "not_json"),
    "a module": (lambda: json, "not_json"),
}


def test_objects_that_are_no_events_are_refused_each_with_its_reason(
    shop: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is refused at enqueue and counted by reason; what is enqueued between them arrives, in order."""
    queue = shop.queue(events_per_request=1000, lane_bytes=1 << 20)
    producer = queue.producer(vwo_fast.Route.fme(account_id=1, sdk_key=SDK_KEY, sdk_name="fme", sdk_version="1"))
    expected: dict[str, int] = {}
    for number, (name, (make, reason)) in enumerate(BAD.items()):
        assert producer.enqueue({"n": number, "d": {"event": {"name": "a"}}})
        assert producer.enqueue({"n": -1, "d": make()}) is False, name
        expected[reason] = expected.get(reason, 0) + 1
        assert queue.stats().refused == expected, name
    assert queue.flush(60)
    assert [event["n"] for event in shop.collector.events] == list(range(len(BAD)))
    assert SDK_KEY not in caplog.text
    assert queue.stats().dropped == {}


@pytest.fixture
def long_integers() -> Iterator[None]:
    """The collector and json.dumps of this process read and write integers of any size."""
    if not hasattr(sys, "set_int_max_str_digits"):
        yield
        return
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    yield
    sys.set_int_max_str_digits(limit)


@pytest.mark.usefixtures("long_integers")
def test_heavy_objects_arrive_as_json_writes_them(shop: Engine) -> None:
    """What is large, odd or ambiguous but JSON arrives as json.dumps would write it, beside light ones."""
    queue = shop.queue(events_per_request=1000, lane_bytes=1 << 20)
    producer = queue.producer(vwo_fast.Route.fme(account_id=1, sdk_key=SDK_KEY, sdk_name="fme", sdk_version="1"))
    heavy = [
        "x" * 9_900_000,
        {f"k{n}": 0 for n in range(700_000)},
        [[]] * 1_000_000,
        10**50_000,
        {1: "a", "1": "b", False: "c", "false": "d", None: "e", "null": "f"},
        "\ud800 lone \udfff",
        nested(120),
        {"": {"": {"": ""}}},
        [1e308, -0.0, 5e-324, 2**63, -(2**63), 2**64],
    ]
    for number, value in enumerate(heavy):
        assert producer.enqueue({"n": number, "v": value})
        assert producer.enqueue({"n": -number - 1})
    assert queue.flush(60)
    got = {event["n"]: event.get("v") for event in shop.collector.events}
    assert sorted(got) == list(range(-len(heavy), len(heavy)))
    for number, value in enumerate(heavy):
        assert got[number] == json.loads(json.dumps(value)), number


@pytest.mark.parametrize("batched", [True, False])
def test_impressions_that_are_none_harm_no_other(shop: Engine, batched: bool) -> None:
    """Anything given as an impression, with and without batching: refused, sent or counted; others arrive."""
    queue = shop.queue(events_per_request=100 if batched else None)
    producer = queue.producer(route())
    odd: list[Any] = [None, 1, "text", [], {}, {"url": 5}, {"url": "x/track-user/"}, {"url": ["push"]}, ["url", "push"]]
    users: list[Any] = [None, [], {}, nested(60), "\ud800", "\r\nX: y", 10**5000]
    odd += [impression(0, u=user) for user in users]
    odd += [impression(0, visitor_ua=value, visitor_ip=value) for value in (None, [1], {"a": 1}, "\n", "\u20ac", 5)]
    odd += [{**impression(0), name: 1} for name in ("", "\ud800", "a&b=c#d", "x" * 5000)]
    odd += [{**impression(0), key: 1} for key in (None, 5, True)]
    accepted = 0
    for number, value in enumerate(odd):
        accepted += producer.enqueue(value)
        assert producer.enqueue(impression(1000 + number))
    queue.flush(60)
    wait_for(lambda: queue.stats().queued == 0)
    stats = queue.stats()
    assert stats.accepted == accepted + len(odd)
    assert sum(stats.refused.values()) == len(odd) - accepted
    assert stats.accepted == stats.delivered + stats.dead + sum(stats.dropped.values())
    assert shop.aggregator_pid() is not None
    assert stats.delivered >= len(odd)


def test_records_of_a_hostile_producer_are_dropped_and_counted(shop: Engine) -> None:
    """Requests and impressions that no producer of ours writes: those around them arrive."""
    queue = shop.queue(events_per_request=100)
    honest = queue.producer(route())
    assert honest.enqueue(impression(0))
    assert queue.flush(60)
    pid = wait_for(shop.aggregator_pid)
    requests: list[Any] = [
        None, 5, "x", {}, [], ["GET"], ["GET", "/", [], {}, None, 0, 0], ["PUT", "/", [], {}, None, 0],
        ["GET", 5, [], {}, None, 0], ["GET", "http://127.0.0.1:1/", [], {}, None, 0], ["GET", "/", 5, {}, None, 0],
        ["GET", "/", [1], {}, None, 0], ["GET", "/", [["a"]], {}, None, 0], ["GET", "/", [["a", 1]], {}, None, 0],
        ["GET", "/", [], [], None, 0], ["GET", "/", [], {"a": 1}, None, 0], ["GET", "/", [], {}, 5, 0],
        ["GET", "/", [], {}, "\ud800", 0], ["GET", "/", [], {}, None, -1], ["GET", "/", [], {}, None, 2**64],
        ["GET", "/", [], {}, None, True], ["GET", "/", [], {}, None, "0"], ["POST", "/", [], {"": ""}, "{}", 0],
        ["POST", "/\r\nX: y", [], {"a\r\nb": "c"}, "not json", 0], ["GET", "/x", [], {"Host": "\ud800"}, None, 0],
    ]  # fmt: skip
    for kind in (_lane.KIND_REQUEST, _lane.KIND_IMPRESSION, _lane.KIND_EVENT):
        hostile = _lane.Producer(queue._owner, route().key, _lane.SHAPE_PLAIN, kind)
        for value in requests:
            hostile.enqueue(value)
            assert honest.enqueue(impression(1))
    unknown = _lane.Producer(queue._owner, 12345, _lane.SHAPE_PLAIN, _lane.KIND_EVENT)
    assert unknown.enqueue({"of": "no route"})
    queue.flush(60)
    wait_for(lambda: queue.stats().queued == 0)
    stats = queue.stats()
    assert shop.aggregator_pid() == pid
    assert stats.accepted == stats.delivered + stats.dead + stats.spooled + sum(stats.dropped.values())
    arrived = [event for event in shop.collector.events if isinstance(event, dict) and event.get("u")]
    assert len(arrived) == 1 + 3 * len(requests)


def lane_of(folder: Path, pid: int) -> Path:
    for path in folder.glob("lane-" + "[0-9a-f]" * 16):
        reader = _lane.LaneReader.attach(str(path))
        found = reader.pid
        reader.close()
        if found == pid:
            return path
    raise AssertionError("the process has no lane")


VICTIM = """
import json, sys, time
import vwo_fast
from tests.support.engine import impression, route
queue = vwo_fast.Queue("shop", **json.loads(sys.argv[1]))
producer = queue.producer(route())
print(producer.enqueue(impression(10**6)), flush=True)
number = 10**6
while True:
    number += 1
    producer.enqueue(impression(number))
    time.sleep(0.0005)
"""


@pytest.fixture
def neighbour(shop: Engine) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts processes that enqueue without a pause."""
    made: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        options = {name: str(value) if isinstance(value, Path) else value for name, value in shop.options().items()}
        arguments = [sys.executable, "-c", VICTIM, json.dumps({**options, "events_per_request": 100})]
        made.append(subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        assert made[-1].stdout is not None
        assert made[-1].stdout.readline() == "True\n"
        return made[-1]

    yield start
    for process in made:
        process.kill()
        process.communicate()


def scribble(path: Path, seed: int, rounds: int) -> None:
    """Write over a lane's ring and, now and then, its header, while others use it."""
    rng = random.Random(seed)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        for number in range(rounds):
            in_header = number % 50 == 49
            at = rng.randrange(0, 1024) if in_header else rng.randrange(LANE_HEADER, len(view) - 64)
            view[at : at + 16] = rng.randbytes(16)
            time.sleep(0.0005)


def test_a_scribbled_lane_costs_only_its_own_events(
    shop: Engine, neighbour: Callable[[], subprocess.Popen[str]]
) -> None:
    """Random bytes over ring and header of one process's lane, while it is read: those of others arrive once."""
    queue = shop.queue(events_per_request=100)
    producer = queue.producer(route())
    assert producer.enqueue(impression(0))
    assert queue.flush(60)
    pid = wait_for(shop.aggregator_pid)
    sent = 1
    for seed in range(4):
        victim = neighbour()
        path = lane_of(queue.folder, victim.pid)
        for part in range(5):
            scribble(path, 10 * seed + part, 60)
            assert all(producer.enqueue(impression(sent + n)) for n in range(20))
            sent += 20
        victim.kill()
        victim.wait()
    queue.flush(60)
    mine = [number for number in numbers_of_ours(shop) if number < 10**6]
    assert mine == list(range(sent))
    assert shop.aggregator_pid() == pid


def numbers_of_ours(shop: Engine) -> list[int]:
    return sorted(numbers([event for event in shop.collector.events if len(event.get("u") or "") == 32]))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="optional: a cut mapping is tried on Linux")
def test_a_lane_cut_short_while_it_is_mapped_is_survived(
    shop: Engine, neighbour: Callable[[], subprocess.Popen[str]]
) -> None:
    """Whoever truncates a lane kills whoever reads it: the next one puts it aside and sends what others have."""
    queue = shop.queue(events_per_request=100)
    producer = queue.producer(route())
    victim = neighbour()
    assert all(producer.enqueue(impression(n)) for n in range(20))
    path = lane_of(queue.folder, victim.pid)
    victim.send_signal(signal.SIGSTOP)
    os.truncate(path, LANE_HEADER + 100)
    assert all(producer.enqueue(impression(20 + n)) for n in range(20))
    victim.kill()

    def all_arrived() -> bool:
        queue.flush(5)
        return [number for number in numbers_of_ours(shop) if number < 10**6] == list(range(40))

    wait_for(all_arrived, 60)
    wait_for(lambda: list(queue.folder.glob(f"{path.name}.*.bad")))


class Trap(dict[str, Any]):
    """An impression whose code fails."""

    def get(self, *_: Any) -> Any:
        raise RuntimeError("a trap")


@pytest.mark.parametrize(
    "given", ["text", None, {}, {"url": 5}, {"url": "https://host/other"}, Trap(url="x")], ids=repr
)
def test_in_real_time_what_is_no_impression_is_refused_at_the_call(shop: Engine, given: Any) -> None:
    """False, counted with its reason; it is not accepted first and lost by the aggregator."""
    queue = shop.queue()
    producer = queue.producer(route())
    assert producer.enqueue(given) is False
    assert producer.enqueue(impression(1)) is True
    assert queue.flush(60)
    stats = queue.stats()
    assert (stats.accepted, stats.delivered, stats.dropped) == (1, 1, {})
    assert stats.refused == {"bad_impression": 1}

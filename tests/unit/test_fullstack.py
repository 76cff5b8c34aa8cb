"""The FullStack adapter's own parts; what it does under the real SDK is in tests/integration/test_differential.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.sdk_fakes import FakeProducer, FakeQueue, package, producer_of, queue_of
from vwo_fast import fullstack
from vwo_fast._sdk import Batching, check, check_arguments, open_queue
from vwo_fast.errors import ConfigError, UnsupportedSdkError
from vwo_fast.route import Route

ROUTE = Route.fullstack(account_id=7, sdk_key="k", sdk_version="1.68.2", collection_prefix="eu01")
BATCHED = {"events_per_request": 10, "request_time_interval": 60}


def impression() -> dict[str, Any]:
    return {"u": "A", "url": "https://host.example/server-side/track-user", "eb": 1}


@pytest.fixture(autouse=True)
def _no_vwo_left() -> Iterator[None]:
    """Fake packages of one test are not found by the next."""
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in ("vwo", "wingify")]:
        del sys.modules[name]


def dispatcher(**options: Any) -> tuple[fullstack.Dispatcher, FakeProducer]:
    fake = FakeProducer(FakeQueue(**options), ROUTE)
    return fullstack.Dispatcher(producer_of(fake), flush_timeout=3.5), fake


def test_a_batched_impression_goes_straight_to_the_producer() -> None:
    """The very dict, by the very method of the producer: nothing is added to the way of an event."""
    made, fake = dispatcher(**BATCHED)
    given = impression()
    assert made.dispatch(given) is True
    assert fake.events[0] is given
    assert made.dispatch == fake.enqueue


def test_a_real_time_impression_gets_its_own_prefix() -> None:
    """Without batching the impression is sent whole, with this instance's prefix."""
    made, fake = dispatcher()
    assert made.dispatch(impression()) is True
    assert fake.events == [{"u": "A", "url": "/eu01/server-side/track-user"}]


def test_what_is_no_impression_is_left_to_the_producer() -> None:
    """It refuses and counts it; nothing is raised into the application."""
    made, fake = dispatcher()
    fake.refuses = True
    assert made.dispatch(None) is False
    assert fake.events == [None]


def test_events_of_the_event_architecture_are_requests() -> None:
    """dispatch_events hands over one POST to /events/t."""
    made, fake = dispatcher()
    assert made.dispatch_events(params={"en": "purchase"}, impression={"d": {}}) is True
    ((method, path, query, _, body),) = fake.requests
    assert (method, path, query, body) == ("POST", "/eu01/events/t", [("en", "purchase")], {"d": {}})


@pytest.mark.parametrize("answer", [True, False])
def test_a_synchronous_flush_waits_and_tells_the_truth(answer: bool) -> None:
    """flush_queue(mode="sync") is the queue's barrier with the adapter's timeout."""
    made, fake = dispatcher(**BATCHED)
    fake.queue.answer = answer
    assert made.flush_queue(manual=True, mode="sync") is answer
    assert fake.queue.flushed == [3.5]


def test_an_absent_sdk_is_named() -> None:
    """Without the SDK, launch says which distribution it wants."""
    with pytest.raises(UnsupportedSdkError, match=r"vwo-python-sdk \(not installed\)"):
        fullstack.launch("{}")


def test_missing_setuptools_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK imports pkg_resources, which new environments lack: the error says what to install."""
    source = "raise ModuleNotFoundError(\"No module named 'pkg_resources'\", name='pkg_resources')"
    package(tmp_path, "vwo-python-sdk", "1.68.2", {"vwo/__init__.py": source})
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UnsupportedSdkError, match="setuptools<81"):
        fullstack.launch("{}")


def test_another_sdk_with_the_same_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package "vwo" without the FullStack parts: nothing is half supported."""
    package(tmp_path, "vwo-fme-python-sdk", "1.21.1", {"vwo/__init__.py": "def init(options): ..."})
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UnsupportedSdkError, match="parts are not where they should be"):
        fullstack.launch("{}")


def test_a_changed_seam_is_refused_by_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An SDK whose dispatcher takes other arguments: the error names the version and the part."""
    files = {
        "vwo/__init__.py": (
            "def launch(settings_file, logger=None, user_storage=None, is_development_mode=False, **kwargs):\n"
            "    collect_usage_stats(); VWO()\n"
        ),
        "vwo/vwo.py": (
            "class VWO:\n    def __init__(self):\n"
            "        self.event_dispatcher = self.is_event_batching_enabled = self.is_event_arch_enabled = 1\n"
        ),
        "vwo/event/__init__.py": "",
        "vwo/event/event_dispatcher.py": (
            "class EventDispatcher:\n    def dispatch(self, parcel): ...\n"
            "    def dispatch_events(self, params, impression): ...\n    def flush_queue(self, manual, mode): ...\n"
        ),
        "vwo/services/__init__.py": "",
        "vwo/services/usage_stats_manager.py": "class UsageStats:\n    def get_usage_stats(): ...\n",
        "vwo/api/__init__.py": "",
    }
    for name, calls in {
        "flush_events": "x.flush_queue()",
        "set_opt_out": "x.flush_queue(); x.is_opted_out; x.event_dispatcher",
        "activate": "x.event_dispatcher.dispatch(); x.dispatch_events()",
        "is_feature_enabled": "x.event_dispatcher.dispatch(); x.dispatch_events()",
        "push": "x.event_dispatcher.dispatch(); x.dispatch_events()",
    }.items():
        files[f"vwo/api/{name}.py"] = f"def _{name}(x):\n    {calls}\n"
    package(tmp_path, "vwo-python-sdk", "1.99.0", files)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        UnsupportedSdkError, match=r"vwo-python-sdk 1\.99\.0 .*EventDispatcher\.dispatch does not take impression"
    ):
        fullstack.launch("{}")


def test_check_tells_what_a_seam_lacks() -> None:
    """Absent, without a name in its code, without a parameter, or in order."""

    def seam(one: object) -> object:
        return one.__doc__

    assert check(None) == "is absent"
    assert check(seam, names=("__doc__", "other")) == "does not use other"
    assert check(seam, parameters=("one", "two")) == "does not take two"
    assert check(seam, names=("__doc__",), parameters=("one",)) is None


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (5, "batch_events=5: expected a dict"),
        ({"events_per_reqest": 5}, "unknown option 'events_per_reqest'"),
        ({"events_per_request": 5, "flush_callback": 5}, "flush_callback=5: expected a callable"),
    ],
)
def test_a_wrong_batch_option_is_named(given: Any, match: str) -> None:
    """The error names the option and what was expected."""
    with pytest.raises(ConfigError, match=match):
        Batching.parse("batch_events", given)


def test_a_given_queue_must_agree() -> None:
    """Options that say the same are fine in either spelling; another value names both."""
    queue = queue_of(FakeQueue(events_per_request=10, request_time_interval=60))
    same = Batching.parse("batch_events", {"batch_min_size": 10, "batch_upload_time_interval": 60000})
    assert open_queue(queue, "unused", same) == (queue, False)
    with pytest.raises(ConfigError, match=r"events_per_request=20.*events_per_request=10"):
        open_queue(queue, "unused", Batching.parse("batch_events", {"events_per_request": 20}))
    with pytest.raises(ConfigError, match="flush_callback belongs to it"):
        open_queue(queue, "unused", Batching.parse("batch_events", {"flush_callback": print}))
    with pytest.raises(ConfigError, match="real time"):
        open_queue(queue_of(FakeQueue()), "unused", same)


@pytest.mark.parametrize(
    ("queue", "flush_timeout", "message"),
    [
        ("shop", 10, "queue='shop': expected a vwo_fast.Queue"),
        (None, "10", "flush_timeout='10'"),
        (None, -1, "flush_timeout=-1"),
        (None, True, "flush_timeout=True"),
        (None, float("nan"), "flush_timeout=nan"),
    ],
)
def test_a_wrong_argument_of_the_adapter_is_found_at_the_start(queue: Any, flush_timeout: Any, message: str) -> None:
    """And not by the first flush, in the middle of a request."""
    with pytest.raises(ConfigError, match=message):
        check_arguments(queue, flush_timeout)


def test_right_arguments_of_the_adapter_pass() -> None:
    """A queue, or none; any number of seconds from 0."""
    check_arguments(queue_of(FakeQueue()), 0)
    check_arguments(None, 2.5)

"""The FME adapter's own parts; what it does under the real SDKs is in tests/integration/test_differential.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.sdk_fakes import FakeProducer, FakeQueue, package, producer_of
from vwo_fast import fme
from vwo_fast.errors import ConfigError, UnsupportedSdkError
from vwo_fast.route import Route

ROUTE = Route.fme(account_id=7, sdk_key="k", sdk_name="vwo-fme-python-sdk", sdk_version="1.65.0")
BATCHED = {"events_per_request": 10, "request_time_interval": 60}


class Request:
    """An event request as the SDK gives it to its network client."""

    def __init__(self, path: str, headers: dict[str, Any] | None = None) -> None:
        self.path = path
        self.headers = headers

    def get_path(self) -> str:
        return self.path

    def get_query(self) -> dict[str, Any]:
        return {"en": "custom", "a": 7, "visitor_ua": None}

    def get_headers(self) -> dict[str, Any] | None:
        return self.headers

    def get_body(self) -> dict[str, Any]:
        return {"d": {}}


class Response:
    """What the SDK expects its network client to give back."""

    def __init__(self) -> None:
        self.status_code: int | None = None
        self.error: str | None = None

    def set_status_code(self, status_code: int) -> None:
        self.status_code = status_code

    def set_error(self, error: str) -> None:
        self.error = error


class OfficialClient:
    session = "the SDK's session"

    def get(self, request: Request) -> str:
        return f"fetched {request.path}"

    def post(self, request: Request) -> str:
        return f"posted {request.path}"


@pytest.fixture(autouse=True)
def _no_sdk_left() -> Iterator[None]:
    """Fake packages of one test are not found by the next."""
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in ("vwo", "wingify")]:
        del sys.modules[name]


def transport(**options: Any) -> tuple[fme.Transport, FakeProducer]:
    fake = FakeProducer(FakeQueue(**options), ROUTE)
    return fme.Transport(producer_of(fake), flush_timeout=3.5), fake


def network() -> tuple[fme.NetworkClient, FakeProducer]:
    fake = FakeProducer(FakeQueue(), ROUTE)
    return fme.NetworkClient(OfficialClient(), producer_of(fake), Response), fake


def test_a_payload_goes_straight_to_the_producer() -> None:
    """The transport's enqueue is the producer's: the payload is encoded at the call."""
    made, fake = transport(**BATCHED)
    assert made.enqueue == fake.enqueue
    assert made.enqueue({"d": {}}) is True


@pytest.mark.parametrize("answer", [True, False])
def test_flush_tells_the_truth(answer: bool) -> None:
    """What flush_events() returns is the barrier's answer."""
    made, fake = transport(**BATCHED)
    fake.queue.answer = answer
    assert made.flush_and_clear_timer() is answer
    assert fake.queue.flushed == [3.5]


def test_the_transport_is_true_and_has_a_length_to_log() -> None:
    """The SDK skips a queue that is falsy, and fails when the length is missing or raises."""
    made, _ = transport(**BATCHED)
    assert bool(made) is True
    assert len(made.batch_queue) == 0


@pytest.mark.parametrize("path", ["/events/t", "/eu01/events/t", "/server-side/batch-events-v2"])
def test_event_requests_go_to_the_aggregator(path: str) -> None:
    """Path, query, headers and body as the SDK made them; the SDK is told 200."""
    client, fake = network()
    response = client.post(Request(path, {"Authorization": "k", "X-Device-User-Agent": "日本"}))
    assert response.status_code == 200
    query = [("en", "custom"), ("a", "7"), ("visitor_ua", "None")]
    headers = {"Content-Type": "application/json", "Authorization": "k"}
    assert fake.requests == [("POST", path, query, headers, {"d": {}})]


def test_a_refused_request_is_told_to_the_sdk() -> None:
    """No status and an error, so that the SDK does not take it for sent."""
    client, fake = network()
    fake.refuses = True
    response = client.post(Request("/events/t"))
    assert response.status_code is None
    assert response.error == "refused by the queue"


def test_other_requests_stay_with_the_sdk() -> None:
    """Settings, gateway and alias requests need an answer: the official client makes them."""
    client, fake = network()
    assert client.get(Request("/server-side/v2-settings")) == "fetched /server-side/v2-settings"
    assert client.post(Request("/user-alias/setUserAlias")) == "posted /user-alias/setUserAlias"
    assert client.session == "the SDK's session"
    assert fake.requests == []


def test_an_absent_sdk_is_named() -> None:
    """Without an SDK, init says which distribution it wants."""
    with pytest.raises(UnsupportedSdkError, match=r"vwo-fme-python-sdk \(not installed\)"):
        fme.init({"sdk_key": "k", "account_id": 7})
    with pytest.raises(UnsupportedSdkError, match=r"wingify-fme-python-sdk \(not installed\)"):
        fme.init({"sdk_key": "k", "account_id": 7}, brand="wingify")


def test_another_sdk_with_the_same_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The FullStack SDK owns a package "vwo" too; the error names it with its version."""
    package(tmp_path, "vwo-python-sdk", "1.68.2", {"vwo/__init__.py": "", "vwo/vwo.py": "class VWO: ..."})
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UnsupportedSdkError, match=r"vwo-python-sdk 1\.68\.2 is not supported"):
        fme.init({"sdk_key": "k", "account_id": 7})


@pytest.mark.parametrize("brand", ["VWO", "", 5])
def test_an_unknown_brand_is_refused(brand: Any) -> None:
    """The hosts depend on it, so a mistake must not fall back to one of them."""
    with pytest.raises(ConfigError, match="brand="):
        fme.init({"sdk_key": "k", "account_id": 7}, brand=brand)

"""The stand-in for VWO, on whose answers the other tests rely."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support.collector import EVENTS_MAX, Collector, Rule, read_record

BATCH = "/server-side/batch-events?a=1&sdk=vwo-python-sdk"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


def test_a_batch_is_recorded_and_answered_as_vwo_does(collector: Collector) -> None:
    """Method, path, query, headers and events of an accepted batch are there when the client has its answer."""
    answer = requests.post(collector.url + BATCH, json={"ev": [{"u": "A"}, {"u": "B"}]}, timeout=60)
    assert (answer.status_code, answer.json()) == (200, {"status": "success"})
    (request,) = collector.requests
    assert (request.method, request.path) == ("POST", "/server-side/batch-events")
    assert request.query == [("a", "1"), ("sdk", "vwo-python-sdk")]
    assert request.headers["Content-Type"] == "application/json"
    assert collector.events == [{"u": "A"}, {"u": "B"}]


def test_rules_answer_in_order_and_their_events_do_not_count(collector: Collector) -> None:
    """A rule answers as often as it says, with its headers; only events of 2xx answers are accepted."""
    collector.rules.append(Rule(status=503, times=2, headers={"Retry-After": "1"}, path="batch-events"))
    with requests.Session() as session:
        answers = [session.post(collector.url + BATCH, json={"ev": [{"n": n}]}, timeout=60) for n in range(3)]
    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert answers[0].headers["Retry-After"] == "1"
    assert collector.events == [{"n": 2}]


def test_a_rule_can_choose_by_size_method_and_query(collector: Collector) -> None:
    """min_bytes, method and query restrict a rule to the requests that match all of them."""
    collector.rules.append(Rule(status=413, min_bytes=100, method="POST", query={"a": "1"}))
    post = [requests.post(collector.url + BATCH, json={"ev": [{"x": "x" * n}]}, timeout=60) for n in (1, 200)]
    other = requests.post(collector.url + BATCH.replace("a=1", "a=2"), json={"ev": [{"x": "x" * 200}]}, timeout=60)
    assert [answer.status_code for answer in (*post, other)] == [200, 413, 200]


def test_a_dropped_request_has_no_answer(collector: Collector) -> None:
    """drop closes the connection: the client sees an error, the request stays recorded without a status."""
    collector.rules.append(Rule(drop=True, times=1))
    with pytest.raises(requests.ConnectionError):
        requests.post(collector.url + BATCH, json={"ev": []}, timeout=60)
    assert [request.status for request in collector.requests] == [None]


@pytest.mark.parametrize(("body", "status"), [({"no": "ev"}, 400), ({"ev": [1] * (EVENTS_MAX + 1)}, 413)])
def test_what_vwo_refuses_is_refused(collector: Collector, body: object, status: int) -> None:
    """A body that is no batch is 400, one above VWO's limit of events 413."""
    assert requests.post(collector.url + BATCH, json=body, timeout=60).status_code == status
    assert collector.events == []


def test_close_cuts_connections_and_the_port_can_be_taken_again() -> None:
    """A collector that stops looks like a server that died; one on the same port looks like its return."""
    first = Collector()
    with requests.Session() as session:
        session.post(first.url + BATCH, json={"ev": []}, timeout=60)
        first.close()
        with pytest.raises(requests.ConnectionError):
            session.post(first.url + BATCH, json={"ev": []}, timeout=60)
        with Collector(port=first.port) as second:
            assert session.post(second.url + BATCH, json={"ev": []}, timeout=60).status_code == 200


def test_wait_ends_with_the_answer_or_the_deadline(collector: Collector) -> None:
    """wait is true as soon as its condition holds and false when it never does."""
    requests.post(collector.url + BATCH, json={"ev": [{}]}, timeout=60)
    assert collector.wait(lambda c: len(c.events) == 1, timeout=60)
    assert not collector.wait(lambda c: len(c.events) == 2, timeout=0.05)


def test_settings_are_served_to_an_sdk() -> None:
    """The settings endpoints answer with the given settings, and 404 without."""
    with Collector(settings={"accountId": 7}) as collector:
        assert requests.get(collector.url + "/server-side/v2-settings?i=k", timeout=60).json() == {"accountId": 7}


def test_the_program_writes_port_and_record(tmp_path: Path) -> None:
    """The command line serves, writes one line per request, and ends with 0 at SIGTERM."""
    port_file, record = tmp_path / "port", tmp_path / "record.jsonl"
    program = subprocess.Popen(
        [sys.executable, ROOT / "examples/collector.py", "--port=0", "--port-file", port_file, "--record", record],
        stdout=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 60
        while not port_file.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        url = f"http://127.0.0.1:{int(port_file.read_text())}"
        requests.post(url + BATCH, data=json.dumps({"ev": [{"u": "\ud800"}]}), timeout=60)
    finally:
        program.send_signal(signal.SIGTERM)
        program.communicate(timeout=60)
    assert program.returncode == 0
    (request,) = read_record(record)
    assert request.accepted
    assert request.batch_events == [{"u": "\ud800"}]


def test_a_port_that_is_taken_is_named(collector: Collector) -> None:
    """One line and an exit code, no traceback."""
    command = [sys.executable, "examples/collector.py", "--port", str(collector.port)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"port {collector.port}" in done.stderr

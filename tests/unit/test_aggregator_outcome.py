"""What a reply means, and when to try again."""

from __future__ import annotations

from datetime import datetime, timezone
from email.utils import format_datetime, formatdate

import pytest

from vwo_fast.aggregator.gate import Gate, backoff
from vwo_fast.aggregator.outcome import Reply, Verdict, judge, parse_retry_after


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, Verdict.DELIVERED),
        (202, Verdict.DELIVERED),
        (299, Verdict.DELIVERED),
        (400, Verdict.REFUSED),
        (413, Verdict.REFUSED),
        (401, Verdict.HELD),
        (403, Verdict.HELD),
        (408, Verdict.SERVER_FAILED),
        (425, Verdict.SERVER_FAILED),
        (429, Verdict.SERVER_FAILED),
        (500, Verdict.SERVER_FAILED),
        (503, Verdict.SERVER_FAILED),
        (599, Verdict.SERVER_FAILED),
        (301, Verdict.ROUTE_FAILED),
        (307, Verdict.ROUTE_FAILED),
        (404, Verdict.ROUTE_FAILED),
        (422, Verdict.ROUTE_FAILED),
        (None, Verdict.SERVER_FAILED),
    ],
)
def test_every_status_has_its_verdict(status: int | None, verdict: Verdict) -> None:
    """2xx is delivered, 400 and 413 split, 401 and 403 hold, the rest is tried again and never thrown away."""
    assert judge(Reply(status=status)) is verdict


def test_a_page_for_people_is_told_from_an_answer_of_vwo() -> None:
    """400 with HTML may be of whatever stands in front of VWO; nginx's about a client certificate names the option."""
    nginx = "<html>\r\n<head><title>400 No required SSL certificate was sent</title></head>\r\n<body>"
    assert Reply(status=400, excerpt=nginx).is_page
    assert "client_cert" in Reply(status=400, excerpt=nginx).message
    assert Reply(status=400, excerpt=" <!DOCTYPE html><title>Bad").is_page
    assert "client_cert" not in Reply(status=400, excerpt="<html>Bad Request").message
    for reply in (
        Reply(status=400),
        Reply(status=400, excerpt='{"error": "<html>"}'),
        Reply(status=413, excerpt=nginx),
        Reply(status=503, excerpt=nginx),
    ):
        assert not reply.is_page


def test_an_unknown_outcome_needs_a_request_that_left() -> None:
    """Only a request that was sent and had no answer, its server's own one, may have been accepted."""
    assert Reply(may_have_arrived=True).is_unknown
    assert not Reply(may_have_arrived=False).is_unknown
    assert not Reply(status=503, may_have_arrived=True).is_unknown
    assert Reply(status=502).is_unknown
    assert Reply(status=504).is_unknown
    assert judge(Reply(unsendable=True)) is Verdict.REFUSED


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("0", 0.0),
        (" 120 ", 120.0),
        ("999999", 3600.0),
        ("9" * 5000, 3600.0),
        ("\u0661\u0662", None),
        (formatdate(1000.0 + 90, usegmt=True), 90.0),
        (format_datetime(datetime.fromtimestamp(1090, timezone.utc)), 90.0),
        ("Thu, 01 Jan 1970 00:00:10", 0.0),
        (formatdate(1000.0 + 9_000_000, usegmt=True), 3600.0),
        ("Mon, 99 Foo 2020 99:99:99 GMT", None),
    ],
)
def test_retry_after_is_read_and_bounded(value: str | None, seconds: float | None) -> None:
    """Seconds and HTTP dates count, up to an hour; anything else is as if it were absent."""
    assert parse_retry_after(value, 1000.0) == seconds


def test_backoff_grows_to_its_limit_with_full_jitter() -> None:
    """The ceiling doubles with each failure; the wait is anywhere below it."""
    assert [backoff(n, 0.5, 60.0, lambda: 1.0) for n in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 32, 60]
    assert backoff(5000, 0.5, 60.0, lambda: 1.0) == 60.0
    assert backoff(3, 0.5, 60.0, lambda: 0.25) == 0.5


def gate(window: int = 4) -> Gate:
    return Gate(window_max=window, delay_min=1.0, delay_max=8.0, random=lambda: 1.0)


def test_one_request_at_a_time_after_a_failure() -> None:
    """The window closes to one, opens only after the wait, and doubles with every success."""
    made = gate()
    made.failed(10.0, started=9.0)
    assert not made.allows(10.5)
    assert made.allows(11.0)
    made.begin()
    assert not made.allows(99.0)
    made.end()
    made.succeeded()
    seen = []
    for _ in range(4):
        flying = 0
        while made.allows(99.0):
            made.begin()
            flying += 1
        seen.append(flying)
        for _ in range(flying):
            made.end()
        made.succeeded()
    assert seen == [1, 2, 4, 4]


def test_requests_that_fail_together_count_once() -> None:
    """Four in flight when the server goes away are one failure, not four doublings."""
    made = gate()
    for _ in range(4):
        made.failed(10.0, started=9.0)
    assert made.failures == 1
    made.failed(12.0, started=11.0)
    assert made.failures == 2
    assert made.retry_at == 14.0


def test_what_the_server_says_is_not_overridden() -> None:
    """A flush tries at once after a plain failure, but not before the time that Retry-After named."""
    made = gate()
    made.failed(10.0, started=9.0)
    made.kick()
    assert made.allows(10.0)
    made.failed(12.0, started=11.0, retry_after=30.0)
    made.kick()
    assert not made.allows(41.9)
    assert made.allows(42.0)

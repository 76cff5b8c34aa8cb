"""The same calls through the unmodified SDK and through vwo_fast: what arrives is the same.

Each run is a process in the SDK's own virtual environment, and both talk to a
collector.  Clocks and random numbers are left out of the comparison, nothing else.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import sdk_runs, sdk_settings
from tests.support.collector import Collector
from tests.support.engine import Engine, engine

FME_LABELS = ("fme121", "fme165", "wfme165")
BATCH = {"events_per_request": 100, "request_time_interval": 60}
TEXT = 'naïve 日本 😀 "q" \\ </script> \u2028 \x7f\x00'
PROPERTIES = {"price": 12.5, "n": -3, "big": 10**25, "tiny": 1e-7, "t": TEXT, "deep": {"l": [1, None, {"b": True}]}}
AGENT = "Mozilla/5.0 (X11; Linux x86_64; q=1) a/100"
# What a query must encode; the FME SDK does not, so there the two differ (docs/compatibility.md).
HARD_AGENT = "Agent/1 (a=b&c; +plus) #part 100%"

Calls = list[list[Any]]


def fullstack_calls() -> Calls:
    """Every call that sends, for visitors with and without a browser, with values of every kind."""
    calls: Calls = []
    for number in range(6):
        user = f"user {number} {TEXT if number == 3 else ''}"
        visitor = {"user_agent": HARD_AGENT, "user_ip_address": "203.0.113.7"} if number % 2 else {}
        calls += [
            ["activate", ["ab", user], visitor],
            ["track", ["ab", user, "purchase"], {"revenue_value": [10, 2.5, "7", 0, 1e22, True][number], **visitor}],
            ["track", ["ab", user, "order"], {"event_properties": {"amount": 3.25, "other": PROPERTIES}}],
            ["track", [["ab", "ab-too", "feature"], user, "sign-up"], visitor],
            ["push", [{"tag": "value", "tág": str(number)}, user], {}],
            ["push", ["key", f"value & {number}", user], {}],
            ["is_feature_enabled", ["feature", user], visitor],
            ["is_feature_enabled", ["rollout", user], {}],
            ["get_variation_name", ["ab", user], {}],
            ["get_feature_variable_value", ["feature", "colour", user], {}],
        ]
    return calls


def fme_calls() -> Calls:
    """Every call that sends, for visitors with and without a browser, with values of every kind."""
    calls: Calls = []
    for number in range(5):
        context: dict[str, Any] = {"id": f"user {number} {TEXT if number == 3 else ''}"}
        if number % 2:
            context.update(user_agent=AGENT, ip_address="203.0.113.7")
        calls += [
            ["get_flag", ["feature", context], {}],
            ["get_flag", ["off", context], {}],
            ["track_event", ["purchase", context, PROPERTIES if number else {}], {}],
            ["set_attribute", [{"plan": "pro", "age": 4, "vip": True, "score": 0.5}, context], {}],
            ["set_attribute", ["name", TEXT, context], {}],
        ]
    return calls


class Pair:
    """The two runs and their collectors."""

    def __init__(self, label: str, job: dict[str, Any], settings: dict[str, Any], made: Engine) -> None:
        self.theirs, self.ours = Collector(settings=settings), made.collector
        variables = sdk_runs.variables_of(made)
        adapter = job.pop("adapter", {})
        common = {"settings": settings, **job}
        self.official = sdk_runs.run(label, {**common, "through": "official", "collector": self.theirs.url})
        self.fast = sdk_runs.run(
            label, {**common, "through": "vwo_fast", "collector": self.ours.url, "adapter": adapter}, variables
        )
        expected = len(sdk_runs.events(self.theirs))
        assert self.ours.wait(lambda c: len(sdk_runs.events(c)) >= expected)

    def assert_same(self) -> None:
        """Returned values, requests, events and their order per visitor, key order included."""
        assert self.fast["returns"] == self.official["returns"]
        assert sdk_runs.exchanges(self.ours) == sdk_runs.exchanges(self.theirs)
        ours, theirs = sdk_runs.events(self.ours), sdk_runs.events(self.theirs)
        assert theirs
        assert sorted(map(json.dumps, ours)) == sorted(map(json.dumps, theirs))
        assert sdk_runs.by_visitor(ours) == sdk_runs.by_visitor(theirs)

    def close(self) -> None:
        self.theirs.close()


@contextlib.contextmanager
def both(label: str, settings: dict[str, Any], **job: Any) -> Iterator[Pair]:
    with engine(settings=settings) as made:
        pair = Pair(label, job, settings, made)
        try:
            yield pair
        finally:
            pair.close()


@pytest.mark.parametrize("prefix", [None, "eu01"])
@pytest.mark.parametrize("event_arch", [False, True], ids=["classic", "event-arch"])
def test_fullstack_batches(prefix: str | None, event_arch: bool) -> None:
    """Batching, with classic and with event-architecture settings, which are batched in the classic shape."""
    settings = sdk_settings.fullstack(collectionPrefix=prefix or "", isEventArchEnabled=event_arch)
    calls = [*fullstack_calls(), ["flush_events", [], {"mode": "sync"}]]
    with both("fullstack", settings, options={"batch_events": BATCH}, calls=calls, callback=True) as pair:
        pair.assert_same()
        assert pair.fast["told"] == pair.official["told"]


@pytest.mark.parametrize("options", [{}, {"log_level": 40, "goal_type_to_track": "ALL"}], ids=["plain", "statistics"])
@pytest.mark.parametrize("prefix", [None, "as01"])
@pytest.mark.parametrize("event_arch", [False, True], ids=["classic", "event-arch"])
def test_fullstack_in_real_time(prefix: str | None, event_arch: bool, options: dict[str, Any]) -> None:
    """Without batching: the same GET, or POST to /events/t, for each event."""
    settings = sdk_settings.fullstack(collectionPrefix=prefix or "", isEventArchEnabled=event_arch)
    with both("fullstack", settings, options=options, calls=fullstack_calls()) as pair:
        pair.assert_same()


def test_fullstack_keeps_every_property() -> None:
    """With keep_properties, batching sends what the SDK sends without batching, and eb=1 tells of the batching."""
    settings = sdk_settings.fullstack(isEventArchEnabled=True)
    calls = fullstack_calls()
    with engine() as made:
        job = {"settings": settings, "calls": calls}
        with Collector() as theirs:
            sdk_runs.run("fullstack", {**job, "options": {}, "through": "official", "collector": theirs.url})
            expected = sdk_runs.events(theirs)
        calls.append(["flush_events", [], {"mode": "sync"}])
        variables = sdk_runs.variables_of(made)
        fast = {"through": "vwo_fast", "options": {"batch_events": BATCH}, "adapter": {"keep_properties": True}}
        result = sdk_runs.run("fullstack", {**job, **fast, "collector": made.collector.url}, variables)
        assert result["returns"][-1] is True
        found = sdk_runs.events(made.collector)
        assert sdk_runs.by_visitor(found) == sdk_runs.by_visitor(expected)
        shown = [request for request in made.collector.requests if ("en", "vwo_variationShown") in request.query]
        assert shown
        assert all(request.query[-2:] == [("eb", "1"), ("_l", "1")] for request in shown)


def test_fullstack_development_mode_sends_nothing() -> None:
    """The calls answer as always, and neither run makes a request."""
    settings = sdk_settings.fullstack()
    job = {"settings": settings, "options": {"is_development_mode": True, "batch_events": BATCH}}
    calls = [["activate", ["ab", "u"], {}], ["track", ["ab", "u", "sign-up"], {}]]
    with engine() as made:
        results = [
            sdk_runs.run("fullstack", {**job, "calls": calls, "through": through, "collector": made.collector.url})
            for through in ("official", "vwo_fast")
        ]
        assert results[0]["returns"] == results[1]["returns"]
        assert results[1]["returns"][0] is not None
        assert made.collector.requests == []
        assert not made.run_dir.exists()


def test_fullstack_opt_out_sends_what_was_made_before() -> None:
    """set_opt_out flushes; calls after it answer as the SDK's and send nothing."""
    settings = sdk_settings.fullstack()
    calls = [["activate", ["ab", "u"], {}], ["set_opt_out", [], {}], ["activate", ["ab", "v"], {}]]
    calls.append(["flush_events", [], {"mode": "sync"}])
    with both("fullstack", settings, options={"batch_events": BATCH}, calls=calls) as pair:
        pair.assert_same()
        assert len(sdk_runs.events(pair.ours)) == 1


@pytest.mark.parametrize("label", FME_LABELS)
@pytest.mark.parametrize("is_first", [False, True], ids=["known", "first-init"])
def test_fme_batches(label: str, is_first: bool) -> None:
    """Batching: init and usage events too; flush_events() answers True, where the SDK always says False."""
    settings = sdk_settings.fme(collectionPrefix="eu01")
    if is_first:
        settings.update(sdkMetaInfo={}, usageStatsAccountId=424242)
    calls = [*fme_calls(), ["flush_events", [], {}]]
    with both(label, settings, options={"batch_event_data": BATCH}, calls=calls, callback=True) as pair:
        assert pair.official["returns"].pop() is False
        assert pair.fast["returns"].pop() is True
        pair.assert_same()
        # The SDK does not report the requests of its own error events, which go alone.
        assert [told for told in pair.fast["told"] if told[1] > 1] == pair.official["told"]


@pytest.mark.parametrize("label", FME_LABELS)
@pytest.mark.parametrize("proxy", [True, False], ids=["proxy", "hosts"])
def test_fme_in_real_time(label: str, proxy: bool) -> None:
    """Without batching: one batch per get_flag, a POST to /events/t for the rest, init and usage events included."""
    settings = sdk_settings.fme(collectionPrefix="eu01", sdkMetaInfo={}, usageStatsAccountId=424242)
    # Without threads the SDK's own run is in order and ends when its last call does.
    options = {"threading": {"enabled": False}}
    with both(label, settings, options=options, calls=fme_calls(), proxy=proxy) as pair:
        pair.assert_same()


@pytest.mark.parametrize("label", FME_LABELS)
def test_fme_with_a_gateway(label: str) -> None:
    """A gateway gets each event alone, with or without the prefix, as the installed version does it."""
    settings = sdk_settings.fme(collectionPrefix="eu01")
    with engine(settings=settings) as made, Collector(settings=settings) as theirs:
        for through, collector in (("official", theirs), ("vwo_fast", made.collector)):
            options = {
                "threading": {"enabled": False},
                "gateway_service": {"url": collector.url},
                "batch_event_data": BATCH,
            }
            calls = [call for call in fme_calls() if "user_agent" not in json.dumps(call)]
            job = {"settings": settings, "options": options, "calls": calls, "proxy": False, "through": through}
            sdk_runs.run(label, {**job, "collector": collector.url}, sdk_runs.variables_of(made))
        expected = sdk_runs.events(theirs)
        assert expected
        assert made.collector.wait(lambda c: len(sdk_runs.events(c)) >= len(expected))
        assert sdk_runs.exchanges(made.collector) == sdk_runs.exchanges(theirs)
        assert sdk_runs.by_visitor(sdk_runs.events(made.collector)) == sdk_runs.by_visitor(expected)

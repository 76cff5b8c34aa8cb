"""The adapters under the real SDKs, where there is nothing to compare with: several clients, refusals, processes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support import sdk_runs, sdk_settings
from tests.support.engine import engine

FME_LABELS = ("fme121", "fme165", "wfme165")


def fullstack_job(**changes: Any) -> dict[str, Any]:
    return {"settings": json.dumps(sdk_settings.fullstack(**changes))}


def fme_job(url: str) -> dict[str, Any]:
    settings = sdk_settings.fme()
    return {"options": {"sdk_key": settings["sdkKey"], "account_id": settings["accountId"], "proxy_url": url}}


@pytest.mark.parametrize("batch", [{"batch_events": {"events_per_request": 100}}, {}], ids=["batches", "real-time"])
def test_two_accounts_do_not_mix(batch: dict[str, Any]) -> None:
    """Two instances with other prefixes and statistics in one process: each sends as itself, whoever came last."""
    given = {
        "settings": [
            json.dumps(sdk_settings.fullstack(accountId=account, collectionPrefix=prefix))
            for account, prefix in ((1001, "eu01"), (1002, "as01"))
        ],
        "batch": batch,
    }
    source = """
from vwo_fast import fullstack
first = fullstack.launch(given["settings"][0], log_level=40, **given["batch"])
second = fullstack.launch(given["settings"][1], goal_type_to_track="ALL", **given["batch"])
for user in ("a", "b", "c"):
    for client in (first, second):
        client.activate("ab", user)
        client.track("ab", user, "sign-up")
result = [client.flush_events(mode="sync") for client in (first, second)]
"""
    with engine() as made:
        assert sdk_runs.script("fullstack", source, given, sdk_runs.variables_of(made)) == [True, True]
        seen: dict[str, set[Any]] = {"eu01": set(), "as01": set()}
        for request in made.collector.requests:
            prefix = request.path.split("/")[1]
            query = dict(request.query)
            account = query.get("a") or query.get("account_id")
            stats = tuple(name for name in ("eb", "ll", "gt", "_l") if name in query)
            if "track-goal" not in request.path:
                seen[prefix].add((account, stats))
        eb = ("eb",) if batch else ()
        assert seen == {"eu01": {("1001", (*eb, "ll", "_l"))}, "as01": {("1002", (*eb, "gt", "_l"))}}


def test_one_queue_may_serve_two_accounts() -> None:
    """queue= given: both instances use it, and each batch holds the events of one route."""
    given = {"settings": [json.dumps(sdk_settings.fullstack(accountId=account)) for account in (1001, 1002)]}
    source = """
import vwo_fast
from vwo_fast import fullstack
queue = vwo_fast.Queue("shared", events_per_request=100, request_time_interval=60)
for settings in given["settings"]:
    client = fullstack.launch(settings, queue=queue)
    for user in "abcd":
        client.activate("ab", user)
result = [queue.flush(60), client.is_event_batching_enabled]
"""
    with engine() as made:
        assert sdk_runs.script("fullstack", source, given, sdk_runs.variables_of(made)) == [True, True]
        sizes = sorted((dict(b.query)["a"], len(b.batch_events or [])) for b in made.collector.batches)
        assert sizes == [("1001", 4), ("1002", 4)]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_fullstack_flushes_in_both_modes(mode: str) -> None:
    """flush_events sends what waits; sync answers when it has arrived, async at once."""
    source = f"""
from vwo_fast import fullstack
client = fullstack.launch(given["settings"], batch_events={{"events_per_request": 100}})
client.activate("ab", "u")
result = client.flush_events(mode="{mode}")
import time; time.sleep(1 if "{mode}" == "async" else 0)
"""
    with engine() as made:
        assert sdk_runs.script("fullstack", source, fullstack_job(), sdk_runs.variables_of(made)) is True
        assert made.collector.wait(lambda c: len(c.events) == 1)


def test_a_flush_that_fails_says_so() -> None:
    """The collector is gone: flush_events answers False within its timeout, and the event is still there."""
    source = """
import vwo_fast
from vwo_fast import fullstack
queue = vwo_fast.Queue("shop", events_per_request=100, request_time_interval=60, base_url="http://127.0.0.1:9")
client = fullstack.launch(given["settings"], queue=queue, flush_timeout=1)
client.activate("ab", "u")
answer = client.flush_events(mode="sync")
stats = queue.stats()
result = [answer, stats.accepted, stats.delivered, stats.dead]
"""
    with engine() as made:
        found = sdk_runs.script("fullstack", source, fullstack_job(), sdk_runs.variables_of(made))
        assert found == [False, 1, 0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"events_per_request": 5001}, "events_per_request=5001"),
        ({"request_time_interval": 0}, "request_time_interval=0"),
        ({"events_per_request": 5, "batch_min_size": 5}, "batch_min_size"),
        ({"flush_callback": None}, "expected events_per_request or request_time_interval"),
    ],
)
def test_a_wrong_batch_option_is_an_error(options: dict[str, Any], message: str) -> None:
    """Where the SDK logs and returns None, launch raises ConfigError that names the option."""
    source = """
import vwo_fast
from vwo_fast import fullstack
try:
    result = str(fullstack.launch(given["settings"], batch_events=given["batch"]))
except vwo_fast.ConfigError as exc:
    result = "ConfigError: " + str(exc)
"""
    with engine() as made:
        given = {**fullstack_job(), "batch": options}
        found = sdk_runs.script("fullstack", source, given, sdk_runs.variables_of(made))
        assert found.startswith("ConfigError: ")
        assert message in found


def test_mobile_names_batch() -> None:
    """batch_min_size and batch_upload_time_interval (milliseconds) mean count and interval."""
    source = """
from vwo_fast import fullstack
client = fullstack.launch(given["settings"], batch_events={"batch_min_size": 2, "batch_upload_time_interval": 60000})
for user in "ab":
    client.activate("ab", user)
settings = client.event_dispatcher.producer.queue.settings
result = [settings.events_per_request, settings.request_time_interval]
"""
    with engine() as made:
        assert sdk_runs.script("fullstack", source, fullstack_job(), sdk_runs.variables_of(made)) == [2, 60]
        assert made.collector.wait(lambda c: [len(b.batch_events or []) for b in c.batches] == [2])


def test_invalid_settings_are_answered_as_by_the_sdk() -> None:
    """launch returns None, and no queue is left behind."""
    source = """
from vwo_fast import fullstack
result = [fullstack.launch(settings, batch_events={"events_per_request": 2}) for settings in ("{}", "no json", None)]
"""
    with engine() as made:
        found = sdk_runs.script("fullstack", source, {}, sdk_runs.variables_of(made))
        assert found == [None, None, None]
        assert not made.run_dir.exists() or not list(made.run_dir.iterdir())


def test_a_worker_with_the_sdk_starts_no_thread_of_ours() -> None:
    """FullStack, batched and flushed without a callback: one thread, and nothing of the sender's half imported."""
    settings = sdk_settings.fullstack()
    calls = [["activate", ["ab", "u"], {}], ["flush_events", [], {"mode": "sync"}]]
    with engine() as made:
        job = {"settings": settings, "options": {"batch_events": {"events_per_request": 5}}, "calls": calls}
        job.update(through="vwo_fast", collector=made.collector.url)
        result = sdk_runs.run("fullstack", job, sdk_runs.variables_of(made))
        assert result["threads"] == ["MainThread"]
        assert not {name for name in result["modules"] if name == "sqlite3" or name.startswith("vwo_fast.aggregator")}


@pytest.mark.parametrize("label", FME_LABELS)
def test_fme_real_time_starts_no_thread_per_event(label: str) -> None:
    """The SDK's pool per request is not used: beside its own polling timer there is one thread."""
    settings = sdk_settings.fme()
    calls = [["track_event", ["purchase", {"id": f"u{number}"}, {}], {}] for number in range(10)]
    with engine(settings=settings) as made:
        job = {"settings": settings, "options": {}, "calls": calls, "through": "vwo_fast"}
        result = sdk_runs.run(label, {**job, "collector": made.collector.url}, sdk_runs.variables_of(made))
        assert len(result["threads"]) <= 2
        assert made.collector.wait(lambda c: len(sdk_runs.events(c)) == 10)


@pytest.mark.parametrize("label", FME_LABELS)
def test_fme_flush_is_true_in_real_time_too(label: str) -> None:
    """flush_events() waits for the answers also where the SDK would have nothing to flush."""
    settings = sdk_settings.fme()
    calls = [["track_event", ["purchase", {"id": "u"}, {}], {}], ["flush_events", [], {}]]
    with engine(settings=settings) as made:
        job = {"settings": settings, "options": {}, "calls": calls, "through": "vwo_fast"}
        result = sdk_runs.run(label, {**job, "collector": made.collector.url}, sdk_runs.variables_of(made))
        assert result["returns"][-1] is True
        assert len(sdk_runs.events(made.collector)) == 1


@pytest.mark.parametrize("label", FME_LABELS)
def test_a_second_fme_account_is_refused(label: str) -> None:
    """Same account again: fine. Another account or key: ConfigError, before the SDK has changed anything."""
    source = """
import vwo_fast
from vwo_fast import fme
batch = {"batch_event_data": {"events_per_request": 100}}
first = fme.init({**given["options"], **batch})
again = fme.init({**given["options"], **batch})
errors = []
for change in ({"account_id": 5}, {"sdk_key": "f" * 32}):
    try:
        fme.init({**given["options"], **batch, **change})
    except vwo_fast.ConfigError as exc:
        errors.append(str(exc))
for client in (first, again):
    client.track_event("purchase", {"id": "u"}, {})
result = [errors, first.flush_events(), again.flush_events()]
"""
    with engine(settings=sdk_settings.fme()) as made:
        given = fme_job(made.collector.url)
        errors, *flushed = sdk_runs.script(label, source, given, sdk_runs.variables_of(made))
        assert flushed == [True, True]
        assert len(errors) == 2
        assert all("777002" in error and "0123456789abcdef" not in error for error in errors)
        assert len(made.collector.events) == 2


@pytest.mark.parametrize("label", FME_LABELS)
def test_events_from_before_are_taken_over(label: str) -> None:
    """A client of the plain SDK, then vwo_fast on the same account: what waited there is sent, once."""
    source = """
from importlib import import_module
from vwo_fast import fme
options = {**given["options"], "batch_event_data": {"events_per_request": 100}}
plain = import_module(given["module"]).init(options)
plain.track_event("purchase", {"id": "early"}, {})
client = fme.init(options)
client.track_event("purchase", {"id": "late"}, {})
plain.track_event("purchase", {"id": "later"}, {})
result = client.flush_events()
"""
    with engine(settings=sdk_settings.fme()) as made:
        given = {**fme_job(made.collector.url), "module": "wingify" if label == "wfme165" else "vwo"}
        assert sdk_runs.script(label, source, given, sdk_runs.variables_of(made)) is True
        assert len(made.collector.events) == 3


@pytest.mark.parametrize("label", FME_LABELS)
def test_nested_values_are_encoded_at_the_call(label: str) -> None:
    """A dict that the caller changes after track_event arrives as it was."""
    source = """
from vwo_fast import fme
client = fme.init({**given["options"], "batch_event_data": {"events_per_request": 100}})
basket = {"items": [1, 2]}
client.track_event("purchase", {"id": "u"}, {"basket": basket})
basket["items"].append(3)
result = client.flush_events()
"""
    with engine(settings=sdk_settings.fme()) as made:
        given = fme_job(made.collector.url)
        assert sdk_runs.script(label, source, given, sdk_runs.variables_of(made)) is True
        (event,) = made.collector.events
        assert event["d"]["event"]["props"]["basket"] == {"items": [1, 2]}


@pytest.mark.parametrize("label", FME_LABELS)
def test_what_json_cannot_carry_harms_nothing_else(label: str) -> None:
    """NaN in one event: that one is refused, the others arrive, and the API answers as always."""
    source = """
from vwo_fast import fme
client = fme.init({**given["options"], "batch_event_data": {"events_per_request": 100}})
answers = [client.track_event("purchase", {"id": "u"}, {"v": v}) for v in (1, float("nan"), {1, 2}, 2)]
result = [answers, client.flush_events()]
"""
    with engine(settings=sdk_settings.fme()) as made:
        given = fme_job(made.collector.url)
        answers, flushed = sdk_runs.script(label, source, given, sdk_runs.variables_of(made))
        assert answers == [{"purchase": True}] * 4
        assert flushed is True
        assert [event["d"]["event"]["props"]["v"] for event in made.collector.events] == [1, 2]


FORK = """
import time
def children(call):
    pids = []
    for child in range(3):
        pid = os.fork()
        if not pid:
            for number in range(20):
                call(f"{child}-{number}")
            os._exit(0)
        pids.append(pid)
    for number in range(20):
        call(f"parent-{number}")
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids)
"""


def test_fullstack_clients_survive_a_fork() -> None:
    """Launched and used before the fork, used by parent and children after it: each impression arrives once."""
    source = (
        FORK
        + """
from vwo_fast import fullstack
client = fullstack.launch(given["settings"], batch_events={"events_per_request": 7, "request_time_interval": 60})
client.activate("ab", "early")
children(lambda user: client.activate("ab", user))
result = client.flush_events(mode="sync")
"""
    )
    with engine() as made:
        assert sdk_runs.script("fullstack", source, fullstack_job(), sdk_runs.variables_of(made)) is True
        users = [event["u"] for event in made.collector.events]
        assert len(users) == len(set(users)) == 81


@pytest.mark.parametrize("label", FME_LABELS)
@pytest.mark.parametrize("batch", [True, False], ids=["batches", "real-time"])
def test_fme_clients_survive_a_fork(label: str, batch: bool) -> None:
    """Initialised and used before the fork, used by parent and children after it: each event arrives once."""
    source = (
        FORK
        + """
from vwo_fast import fme
client = fme.init({**given["options"], **given["batch"]})
client.track_event("purchase", {"id": "early"}, {})
children(lambda user: client.track_event("purchase", {"id": user}, {}))
result = client.flush_events()
"""
    )
    options = {"batch_event_data": {"events_per_request": 7, "request_time_interval": 60}} if batch else {}
    with engine(settings=sdk_settings.fme()) as made:
        given = {**fme_job(made.collector.url), "batch": options}
        assert sdk_runs.script(label, source, given, sdk_runs.variables_of(made)) is True
        users = [event["d"]["visId"] for event in sdk_runs.events(made.collector)]
        assert len(users) == len(set(users)) == 81


def test_wingify_and_vwo_have_their_own_hosts() -> None:
    """Without proxy the batch goes where the brand's SDK sends it; a base_url of the queue's own wins."""
    source = """
from importlib import import_module
from vwo_fast import fme
import_module("wingify.services.settings_manager").SettingsManager.get_settings = lambda self, force=False: (
    setattr(self, "is_settings_valid_on_init", True) or given["settings"])
client = fme.init({k: v for k, v in given["options"].items() if k != "proxy_url"} | {
    "batch_event_data": {"events_per_request": 100}}, brand=given["brand"])
route = client.batch_event_queue.producer.route
result = [route.sdk_name, route.base_url]
"""
    with engine() as made:
        given = {**fme_job(""), "settings": sdk_settings.fme()}
        variables = sdk_runs.variables_of(made)
        told = {"brand": "wingify", **given}, {"brand": "vwo", **given}
        assert sdk_runs.script("fme165", source, told[0], variables) == ["wingify-fme-python-sdk", None]
        del variables["VWO_FAST_BASE_URL"]
        found = [sdk_runs.script("fme165", source, each, variables) for each in told]
        assert found == [["wingify-fme-python-sdk", "https://collect.wingify.net"], ["vwo-fme-python-sdk", None]]


@pytest.mark.parametrize("label", FME_LABELS)
def test_a_changed_seam_is_refused_by_version(label: str) -> None:
    """An SDK whose client flushes another way: UnsupportedSdkError names distribution and version."""
    source = """
import vwo_fast
from importlib import import_module
from vwo_fast import fme
name = "wingify" if given["label"] != "fme121" else "vwo"
client = import_module(f"{name}.{name}_client")
getattr(client, "WingifyClient" if name == "wingify" else "VWOClient").flush_events = lambda self: None
try:
    result = str(fme.init(given["options"]))
except vwo_fast.UnsupportedSdkError as exc:
    result = str(exc)
"""
    with engine(settings=sdk_settings.fme()) as made:
        given = {**fme_job(made.collector.url), "label": label}
        found = sdk_runs.script(label, source, given, sdk_runs.variables_of(made))
        version = "1.21.1" if label == "fme121" else "1.65.0"
        assert f"{version} is not supported: client.flush_events does not use batch_event_queue" in found
        assert made.collector.requests == []

"""Every captured impression becomes, in compiled code, the very event that the official SDK sent."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from tests.support.sdk_cases import Case, batch_event, cases, find, is_json
from vwo_fast import _lane
from vwo_fast._batch import Batch

if find() is None:
    pytest.skip("optional: no folder of captured cases (VWO_FAST_CONFORMANCE)", allow_module_level=True)

BATCHED = [case for case in cases() if case.sealing and not case.options.get("is_development_mode")]


def packed(case: Case, impression: dict[str, Any]) -> bytes:
    if impression["method"] == "dispatch":
        return _lane.pack_fullstack(impression["impression"])
    return _lane.pack(impression["payload"])


def sealed(case: Case, impressions: list[dict[str, Any]]) -> list[bytes]:
    """Bodies of full batches, and of what is left."""
    batch, bodies = Batch(events_max=5000), []
    for impression in impressions:
        payload = packed(case, impression)
        if batch.append(payload) != 0:
            bodies.append(batch.seal()[0])
            assert batch.append(payload) == 0
    return [*bodies, batch.seal()[0]]


def usable(case: Case) -> list[dict[str, Any]]:
    kinds = {"dispatch": "impression", "enqueue": "payload"}
    return [each for each in case.impressions() if each["method"] in kinds and is_json(each[kinds[each["method"]]])]


@pytest.mark.parametrize("case", BATCHED, ids=lambda case: case.name)
def test_events_are_those_of_the_sdk(case: Case) -> None:
    """Content and key order of every event; the body is compact JSON within both limits."""
    impressions = usable(case)
    bodies = sealed(case, impressions)
    events = [event for body in bodies for event in json.loads(body)["ev"]]
    expected = [
        batch_event(each["impression"]) if each["method"] == "dispatch" else each["payload"] for each in impressions
    ]
    assert json.dumps(events) == json.dumps(expected)
    assert b"".join(bodies) == b"".join(
        json.dumps(json.loads(body), separators=(",", ":")).encode("ascii") for body in bodies
    )
    assert all(len(body) <= 10_000_000 for body in bodies)


@pytest.mark.parametrize(
    "case", [case for case in BATCHED if not case.quirk and not case.rules], ids=lambda case: case.name
)
def test_bodies_are_those_of_the_sdk(case: Case) -> None:
    """Cut where the SDK cut and written in its spacing, the bytes have the hash of what it sent."""
    impressions = usable(case)
    for request in case.data["requests"]:
        if not request["path"].endswith(case.batch_path()):
            continue
        count = request["n_events"]
        (body,) = sealed(case, impressions[:count])
        del impressions[:count]
        assert hashlib.sha256(json.dumps(json.loads(body)).encode()).hexdigest() == request["body_sha256"]

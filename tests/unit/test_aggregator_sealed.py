"""A sealed batch: its parts, its halves, its visitors."""

from __future__ import annotations

import json
import os
import uuid
import zlib

import pytest

from tests.support.rooms import offsets_of, sealed
from vwo_fast import _batch
from vwo_fast.aggregator.sealed import (
    ALL_VISITORS,
    NOBODY,
    RequestHead,
    Source,
    new_batch_id,
    pack_sources,
    pack_visitors,
    unpack_sources,
    unpack_visitors,
)


def test_halves_hold_every_event_once_and_in_order() -> None:
    """Splitting down to single events keeps bodies valid, offsets exact, ordinals equal, parts rising, ids new."""
    whole = sealed(3, events=7)
    parts = [whole]
    while any(part.events > 1 for part in parts):
        parts = [half for part in parts for half in (part.split() if part.events > 1 else (part,))]
    assert [json.loads(part.body)["ev"][0]["n"] for part in parts] == list(range(3000, 3007))
    assert [part.key for part in parts] == [(3, index) for index in range(7)]
    assert len({part.id for part in parts}) == 7
    assert all(part.body[o[0] : o[1] - 1] == json_event(part.body) for part in parts for o in [offsets_of(part)])
    assert all(sum(source.count for source in part.sources) == 1 for part in parts)


def json_event(body: bytes) -> bytes:
    return body[len(b'{"ev":[') : -len(b"]}")]


def test_an_owner_gets_its_own_events() -> None:
    """Events of several owners lie mixed in a batch; each is told of its own, in order, also after a split."""
    whole = sealed(1, events=6)
    whole.sources = (Source(1, 10, 0, 8, 2), Source(2, 20, 0, 8, 1), Source(3, 0, 0, 8, 1), Source(1, 10, 8, 16, 2))
    assert whole.owners() == {10, 20}
    assert [json.loads(event)["n"] for event in whole.events_of(10)] == [1000, 1001, 1004, 1005]
    assert [json.loads(event)["n"] for event in whole.events_of(20)] == [1002]
    first, second = whole.split()
    assert [json.loads(event)["n"] for event in first.events_of(10)] == [1000, 1001]
    assert [json.loads(event)["n"] for event in second.events_of(10)] == [1004, 1005]
    assert second.owners() == {10}


def test_values_survive_the_spool() -> None:
    """Sources, visitors and the head of a request come back as they were."""
    sources = (Source(2**62 - 1, 5, 2**63, 2**63 + 64, 9), Source(1, 0, 0, 8, 1))
    assert unpack_sources(pack_sources(sources)) == sources
    visitors = sealed(1, events=50).visitors
    assert unpack_visitors(pack_visitors(visitors)) == visitors
    assert len(pack_visitors(visitors)) < 1000
    assert unpack_visitors(None) == ALL_VISITORS
    assert unpack_visitors(pack_visitors(NOBODY)) == NOBODY
    with pytest.raises(ValueError, match="filter of visitors"):
        unpack_visitors(zlib.compress(b"too short"))
    head = RequestHead("POST", "/events/t", (("en", "x"), ("a", "1")), (("User-Agent", "y"),), True)
    assert RequestHead.decode(head.encode()) == head


def test_batches_of_the_same_visitor_meet_in_the_filter() -> None:
    """The filter tells whether two batches may share a visitor; nobody meets nobody."""
    of_a, of_b, of_both = (sealed(1, events=2, visitors=names).visitors for names in ("AA", "BB", "AB"))
    for first, second, expected in (
        (of_a, of_a, True),
        (of_a, of_b, False),
        (of_both, of_a, True),
        (of_b, of_both, True),
        (of_a, ALL_VISITORS, True),
        (ALL_VISITORS, NOBODY, False),
        (NOBODY, of_a, False),
    ):
        assert _batch.visitors_meet(first, bytearray(second)) is expected


def test_ids_are_uuids_and_differ_also_in_a_child() -> None:
    """Their random bytes are fetched for many at once; a child must not go on with its parent's."""
    made = {new_batch_id() for _ in range(1000)}
    assert len(made) == 1000
    assert all(uuid.UUID(one).version == 4 for one in made)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, "".join(new_batch_id() for _ in range(64)).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    of_child = {text[at : at + 32] for at in range(0, len(text), 32)}
    assert len(of_child) == 64
    assert not of_child & {new_batch_id() for _ in range(64)}

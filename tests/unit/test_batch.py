"""The compiled batch as the aggregator sees it; the C tests look closer."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgpack
import pytest

from vwo_fast import _batch
from vwo_fast._batch import Batch

EVENT = {
    "u": "A5B3C7D9E1F2A5B3C7D9E1F2A5B3C7D9",
    "sId": 1700000000,
    "visitor_ua": 'Mozilla/5.0 "x" \\ é',
    "c": 2,
    "r": 20.01,
    "eT": 1,
}
ENVELOPE = len('{"ev":[]}')


def dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, unicode_errors="surrogatepass")
    return packed


def cut(body: bytes, offsets: bytes) -> list[bytes]:
    """The events of a body, or of a snapshot, by its offsets."""
    positions = memoryview(offsets).cast("I").tolist()
    return [body[begin : end - 1] for begin, end in pairwise(positions)]


def test_a_sealed_batch_is_the_body_that_is_sent() -> None:
    """The body is what json.dumps writes for {"ev": events}, and sealing empties the batch."""
    batch = Batch()
    events = [{**EVENT, "sId": number} for number in range(1000)]
    for event in events:
        assert batch.append(pack(event)) == _batch.OK
    assert batch.count == 1000
    size = batch.size
    body, offsets, _ = batch.seal()
    assert body == dumps({"ev": events})
    assert len(body) == size
    assert cut(body, offsets) == [dumps(event) for event in events]
    assert (batch.count, batch.size) == (0, ENVELOPE)


def test_a_sealed_body_is_nobody_elses() -> None:
    """Small bodies are copied, large ones are handed over with their memory; neither changes when the batch goes on."""
    batch = Batch()
    bodies, expected = [], []
    for count in (3, 400, 5000, 4999, 20, 5000):
        events = [{**EVENT, "sId": number, "c": count} for number in range(count)]
        for event in events:
            assert batch.append(pack(event)) == _batch.OK
        bodies.append(batch.seal()[0])
        expected.append(dumps({"ev": events}))
    assert bodies == expected
    assert {hash(body) for body in bodies} == {hash(body) for body in expected}


def test_bodies_are_sound_objects_of_the_interpreter() -> None:
    """Its allocator, in the mode that checks each block and the bytes around it, finds nothing to complain about."""
    code = """
import msgpack
from vwo_fast._batch import Batch
batch = Batch()
for round in range(12):
    for number in range(4000 if round % 3 else 4):
        batch.append(msgpack.packb({"u": "x" * 200, "sId": number}))
    body = batch.seal()[0]
    assert body.endswith(b"]}") and body.count(b"sId") in (4, 4000), body[-20:]
    del body
del batch
"""
    environment = {**os.environ, "PYTHONMALLOC": "debug"}
    subprocess.run([sys.executable, "-X", "dev", "-c", code], check=True, env=environment, timeout=60)


def test_an_empty_batch_can_be_sealed() -> None:
    """No events give an empty list and no offsets but the end."""
    body, offsets, visitors = Batch().seal()
    assert body == b'{"ev":[]}'
    assert cut(body, offsets) == []
    assert visitors == bytes(16384)


def test_the_event_limit_is_exact() -> None:
    """The event after the last one is refused, and accepted again after sealing."""
    batch = Batch(events_max=3)
    assert [batch.append(b"\x01") for _ in range(4)] == [_batch.OK, _batch.OK, _batch.OK, _batch.FULL]
    assert batch.seal()[0] == b'{"ev":[1,1,1]}'
    assert batch.append(b"\x01") == _batch.OK


def test_the_byte_limit_is_exact() -> None:
    """A body may have bytes_max bytes, the comma and both brackets counted, and not one more."""
    batch = Batch(bytes_max=100)
    first = "x" * 40
    rest = "y" * (100 - ENVELOPE - len(dumps(first)) - len(',""'))
    assert batch.append(pack(first)) == _batch.OK
    assert batch.append(pack(rest + "y")) == _batch.FULL
    assert batch.append(pack(rest)) == _batch.OK
    assert batch.size == 100
    assert batch.append(pack("z" * 100)) == _batch.TOO_LARGE
    assert len(batch.seal()[0]) == 100


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        (b"", _batch.INVALID),
        (b"\xc1", _batch.INVALID),
        (b"\x01\x01", _batch.INVALID),
        (pack(b"bytes"), _batch.INVALID),
        (pack({1: 2}), _batch.INVALID),
        (pack(math.nan), _batch.INVALID),
        (pack(math.inf), _batch.INVALID),
        (b"\xa1\xff", _batch.INVALID),
        (b"\x91" * 128 + b"\x90", _batch.DEPTH),
    ],
)
def test_what_json_cannot_say_changes_nothing(payload: bytes, status: int) -> None:
    """A refused event leaves the batch as it was; to_json and json_size refuse it too."""
    batch = Batch()
    batch.append(pack(EVENT))
    assert batch.append(payload) == status
    assert batch.seal()[0] == dumps({"ev": [EVENT]})
    for function in (_batch.to_json, _batch.json_size):
        with pytest.raises(ValueError, match=r"JSON|deeper"):
            function(payload)


def test_depth_counts_containers() -> None:
    """128 containers inside each other are accepted."""
    payload = b"\x91" * 127 + b"\x90"
    assert _batch.to_json(payload) == b"[" * 128 + b"]" * 128


@pytest.mark.parametrize(("option", "value"), [("events_max", 0), ("events_max", 5001), ("bytes_max", 15)])
def test_limits_out_of_range_are_refused(option: str, value: int) -> None:
    """The text names the option, the value and the range."""
    with pytest.raises(ValueError, match=f"{option}={value}: allowed are"):
        Batch(**{option: value})


def test_json_from_the_spool_goes_on_where_events_left_off() -> None:
    """append_json and append share one body, one count and one visitor filter."""
    batch = Batch()
    batch.append(pack({"u": "one"}))
    events, offsets = batch.snapshot()
    batch.clear()
    visitor = _batch.visitor(pack({"u": "one"}))
    for event in cut(events, offsets):
        assert batch.append_json(event, visitor) == _batch.OK
    batch.append(pack({"u": "two"}))
    body, _, visitors = batch.seal()
    assert body == b'{"ev":[{"u":"one"},{"u":"two"}]}'
    assert visitors == _batch.visitor_filter([visitor, _batch.visitor(pack({"u": "two"}))])


def test_a_snapshot_copies_what_is_new() -> None:
    """A snapshot from ``start`` holds the events from there on and leaves the batch alone."""
    batch = Batch()
    events = [{"n": number, "text": "x" * number} for number in range(10)]
    for event in events:
        batch.append(pack(event))
    for start in range(12):
        taken = cut(*batch.snapshot(start))
        assert taken == [dumps(event) for event in events[start:]]
    assert batch.seal()[0] == dumps({"ev": events})


def test_the_visitor_is_found_in_both_shapes() -> None:
    """FullStack's "u" and FME's "d"."visId" of the same id are the same visitor; others have none."""
    visitor = _batch.visitor(pack({"e": 1, "u": "abc"}))
    assert visitor != 0
    assert _batch.visitor(pack({"d": {"msgId": "abc-1", "visId": "abc", "event": {"props": {}}}})) == visitor
    assert _batch.visitor(pack({"d": {"visId": "other"}, "u": "abc"})) == visitor
    others: list[Any] = [{}, [], {"u": 7}, {"d": {"visId": None}}, {"d": []}, "abc"]
    for event in others:
        assert _batch.visitor(pack(event)) == 0


def test_filters_of_the_same_visitors_are_equal() -> None:
    """A filter depends on the visitors alone, and no visitor sets no bit."""
    assert _batch.visitor_filter([]) == bytes(16384)
    assert _batch.visitor_filter([0]) == bytes(16384)
    assert _batch.visitor_filter([5, 2**63 + 9, 5]) == _batch.visitor_filter([2**63 + 9, 5])


def test_filters_meet_where_both_have_a_bit() -> None:
    """Each bit of a filter is looked at, and joining filters gives that of all their visitors."""
    joined = bytearray()
    for visitor in (*range(1, 131072, 997), 131071):
        one = _batch.visitor_filter([visitor])
        assert not _batch.visitors_meet(one, joined)
        _batch.visitors_join(joined, one)
        assert _batch.visitors_meet(one, joined)
    assert bytes(joined) == _batch.visitor_filter([*range(1, 131072, 997), 131071])


def test_the_empty_filter_is_nobody_and_no_other_size_is_a_filter() -> None:
    """It meets nothing and adds nothing; bytes of another size are refused."""
    one = _batch.visitor_filter([7])
    joined = bytearray()
    _batch.visitors_join(joined, b"")
    assert joined == b""
    assert not _batch.visitors_meet(b"", bytearray(one))
    assert not _batch.visitors_meet(one, bytearray())
    for size in (1, 16383, 16385):
        with pytest.raises(ValueError, match="a filter of visitors has 16384 bytes or none"):
            _batch.visitors_meet(bytes(size), bytearray(one))
        with pytest.raises(ValueError, match="a filter of visitors has 16384 bytes or none"):
            _batch.visitors_meet(one, bytearray(size))
        with pytest.raises(ValueError, match="a filter of visitors has 16384 bytes or none"):
            _batch.visitors_join(bytearray(size), one)
        with pytest.raises(ValueError, match="a filter of visitors has 16384 bytes or none"):
            _batch.visitors_join(bytearray(one), bytes(size))


def test_payloads_may_be_any_buffer() -> None:
    """bytes, bytearray and memoryview are read alike; text is refused."""
    for kind in (bytes, bytearray, memoryview):
        assert _batch.to_json(kind(pack(EVENT))) == dumps(EVENT)
    with pytest.raises(TypeError):
        _batch.to_json("text")  # type: ignore[arg-type]


def test_a_body_may_have_all_ten_million_bytes() -> None:
    """An event that alone fills the largest body is accepted, one byte more is too large."""
    batch = Batch()
    text = "x" * (_batch.BYTES_MAX - ENVELOPE - len('""'))
    assert batch.append(pack(text + "x")) == _batch.TOO_LARGE
    assert batch.append(pack(text)) == _batch.OK
    assert len(batch.seal()[0]) == _batch.BYTES_MAX


def test_powers_of_ten_are_exact() -> None:
    """Every entry of the table for doubles is what exact arithmetic gives."""
    header = Path(__file__).resolve().parents[2] / "csrc" / "vf_pow10.h"
    pairs = re.findall(r"\{0x([0-9a-f]{16}), 0x([0-9a-f]{16})\}", header.read_text())
    assert len(pairs) == 617
    for exponent, (high, low) in enumerate(pairs, start=-292):
        power = Fraction(10) ** exponent
        scaled = power * Fraction(2) ** (127 - _floor_log2(power))
        assert int(high + low, 16) == math.ceil(scaled), exponent


def _floor_log2(value: Fraction) -> int:
    guess = value.numerator.bit_length() - value.denominator.bit_length()
    return guess if Fraction(2) ** guess <= value else guess - 1

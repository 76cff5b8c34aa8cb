"""What the C writer writes is what json.dumps writes, whatever the value."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import msgpack
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vwo_fast import _batch

# All of Unicode, lone surrogates too; and ASCII alone, where most characters and all short escapes are.
texts = st.text(st.characters(), max_size=80) | st.text(st.characters(max_codepoint=0x7F), max_size=80)
integers = st.integers(-(2**63), 2**64 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | integers | floats | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(texts, inner, max_size=6),
    max_leaves=30,
)
EXT_BIGINT = 1


def dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, unicode_errors="surrogatepass")
    return packed


def from_bits(bits: int) -> float:
    number: float = struct.unpack("<d", struct.pack("<Q", bits))[0]
    return number


def check_double(number: float) -> None:
    if math.isfinite(number):
        assert _batch.to_json(pack(number)) == repr(number).encode()


@given(values)
def test_any_value_is_written_as_python_writes_it(value: Any) -> None:
    """Byte for byte, and its size is known without writing."""
    expected = dumps(value)
    assert _batch.to_json(pack(value)) == expected
    assert _batch.json_size(pack(value)) == len(expected)


@given(st.integers(0, 2**64 - 1))
@example(0)
@example(1)
@example(0x000FFFFFFFFFFFFF)
@example(0x0010000000000000)
@example(0x7FEFFFFFFFFFFFFF)
@settings(max_examples=1000)
def test_doubles_of_random_bits_are_written_as_repr(bits: int) -> None:
    """The shortest form that reads back, whatever the bits; the neighbours too."""
    for near in (bits - 1, bits, bits + 1):
        check_double(from_bits(near % 2**64))


def test_doubles_around_powers_of_two_are_written_as_repr() -> None:
    """The interval is lopsided at a power of two; all of them, with neighbours, down to the subnormals."""
    for exponent in range(-1074, 1024):
        bits = struct.unpack("<Q", struct.pack("<d", math.ldexp(1.0, exponent)))[0]
        for near in range(-3, 4):
            check_double(from_bits(max(bits + near, 0)))


def test_doubles_near_powers_of_ten_are_written_as_repr() -> None:
    """Short decimals at every exponent, where trailing zeros and the exponent form begin and end."""
    for exponent in range(-324, 309):
        for digits in (1, 2, 5, 9, 99, 101, 123456789012345, 1234567890123456, 12345678901234567):
            check_double(float(f"{digits}e{exponent}"))
            check_double(-float(f"{digits}e{exponent - 15}"))


@given(st.integers(-(10**12), 10**12), st.integers(0, 8))
@settings(max_examples=1000)
def test_revenue_is_written_as_repr(units: int, decimals: int) -> None:
    """Numbers with a few decimals take a shorter way to the same text."""
    check_double(units / 10**decimals)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_single_precision_is_widened(number: float) -> None:
    """A 32-bit float is written as the double of the same value."""
    assert _batch.to_json(msgpack.packb(number, use_single_float=True)) == repr(number).encode()


@given(st.integers(-(2**200), 2**200))
def test_large_integers_are_written_digit_by_digit(number: int) -> None:
    """The extension type for integers beyond 64 bits carries its digits unchanged."""
    digits = str(number).encode()
    assert _batch.to_json(msgpack.packb(msgpack.ExtType(EXT_BIGINT, digits))) == digits


@given(st.binary(max_size=60))
def test_bytes_that_are_no_text_are_refused(content: bytes) -> None:
    """A string is accepted exactly when Python could have encoded it; what is accepted reads back."""
    payload = b"\xd9" + bytes([len(content)]) + content
    try:
        text = content.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        text = None
    try:
        written: bytes | None = _batch.to_json(payload)
    except ValueError:
        written = None
    assert written == (None if text is None else dumps(text))


@given(st.binary(max_size=200))
@settings(max_examples=1000)
def test_any_bytes_give_json_or_a_refusal(payload: bytes) -> None:
    """Nothing but ValueError comes out of arbitrary input, and what comes out is JSON."""
    try:
        written = _batch.to_json(payload)
    except ValueError:
        return
    json.loads(written)


@given(values, st.data())
def test_a_cut_payload_is_refused(value: Any, data: st.DataObject) -> None:
    """No proper prefix of a value is a value."""
    payload = pack(value)
    cut = data.draw(st.integers(0, len(payload) - 1))
    try:
        _batch.to_json(payload[:cut])
    except ValueError:
        return
    raise AssertionError("a prefix was accepted")


@given(st.lists(values, max_size=20), st.integers(16, 2000))
def test_a_batch_never_breaks_its_limit(events: list[Any], bytes_max: int) -> None:
    """Sealing whenever the batch is full sends every event that fits alone, in order, in bodies within the limit."""
    batch = _batch.Batch(bytes_max=bytes_max)
    bodies = []
    for event in events:
        status = batch.append(pack(event))
        if status == _batch.FULL:
            bodies.append(batch.seal()[0])
            status = batch.append(pack(event))
        assert status == (_batch.OK if len(dumps({"ev": [event]})) <= bytes_max else _batch.TOO_LARGE)
    bodies.append(batch.seal()[0])
    assert all(len(body) <= bytes_max for body in bodies)
    sent = b",".join(inner for body in bodies if (inner := body[len('{"ev":[') : -len("]}")]))
    expected = [dumps(event) for event in events if len(dumps({"ev": [event]})) <= bytes_max]
    assert sent == b",".join(expected)

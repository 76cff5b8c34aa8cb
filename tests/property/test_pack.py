"""Packing and transcoding together are json.dumps."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import json
import sys
from typing import Any, NamedTuple

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vwo_fast import _batch, _lane


class Color(enum.IntEnum):
    RED = 7


class Text(str):
    pass


class Number(int):
    pass


class Real(float):
    def __repr__(self) -> str:
        return "not this"


class Pair(NamedTuple):
    left: Any
    right: Any


def dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


any_text = st.text(st.characters(), max_size=40)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(-300, 300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | any_text
    | st.sampled_from([Color.RED, Text("\ud800t"), Number(2**65), Real(2.5)]),
    lambda inner: (
        st.lists(inner, max_size=20)
        | st.lists(inner, max_size=4).map(tuple)
        | st.builds(Pair, inner, inner)
        | st.dictionaries(
            any_text
            | st.integers(-(2**66), 2**66)
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.none()
            # True and 1 are one key of a dict, so only one of them is drawn.
            | st.just(Color.RED),
            inner,
            max_size=20,
        )
        | st.dictionaries(any_text, inner, max_size=4).map(collections.OrderedDict)
        | st.dictionaries(any_text, inner, max_size=4).map(lambda items: collections.defaultdict(list, items))
    ),
    max_leaves=40,
)


@settings(max_examples=300)
@given(plain)
def test_the_bytes_are_those_of_json_dumps(value: Any) -> None:
    """Compact, ASCII only, in insertion order, subclasses as json takes them."""
    ours, theirs = _batch.to_json(_lane.pack(value)).decode(), dumps(value)
    # Not as one comparison: for each step on the way to a small example pytest would explain the difference.
    is_same = ours == theirs
    assert is_same


@settings(max_examples=100)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=300),
        lambda inner: st.lists(inner, max_size=70) | st.dictionaries(st.text(max_size=5), inner, max_size=40),
        max_leaves=60,
    )
)
def test_the_payload_is_msgpack_in_its_shortest_form(value: Any) -> None:
    """Any msgpack reader understands what is in a lane."""
    is_same = _lane.pack(value) == msgpack.packb(value)
    assert is_same


@pytest.mark.parametrize("bits", [63, 64, 65, 2000, 2001, 5000, 20_000, 100_003])
def test_integers_of_any_size(bits: int) -> None:
    """Also beyond the number of digits that the interpreter is willing to print."""
    for value in (2**bits, 2**bits - 1, -(2**bits), 10 ** (bits * 3 // 10), -(10 ** (bits * 3 // 10)) + 1):
        digits = _batch.to_json(_lane.pack({"n": value}))[5:-1].decode()
        limit = sys.get_int_max_str_digits() if hasattr(sys, "get_int_max_str_digits") else None
        if limit is not None:
            sys.set_int_max_str_digits(0)
        try:
            assert digits == str(value)
        finally:
            if limit is not None:
                sys.set_int_max_str_digits(limit)


def test_bool_keys_are_words() -> None:
    """As json.dumps writes them."""
    value = {True: 1, False: 2, None: 3, 4: {5.5: 6}}
    assert _batch.to_json(_lane.pack(value)).decode() == dumps(value)


def test_an_ordered_dict_keeps_its_own_order() -> None:
    """items() of a subclass decides, as in json.dumps."""
    ordered = collections.OrderedDict(a=1, b=2)
    ordered.move_to_end("a")
    assert _lane.pack(ordered) == _lane.pack({"b": 2, "a": 1})


@pytest.mark.parametrize("size", [15, 16, 31, 32, 255, 256, 1900, 65_535, 65_536, 70_000])
def test_sizes_at_the_edges_of_their_forms(size: int) -> None:
    """Strings, lists and maps around each length at which msgpack changes its form."""
    for value in ("x" * size, "\u00e9" * size, "\u20ac" * size, "\U0001f600" * size, [0] * size):
        assert _lane.pack(value) == msgpack.packb(value)
    mapping = {str(number): None for number in range(size)}
    assert _lane.pack(mapping) == msgpack.packb(mapping)


@pytest.mark.parametrize(
    "value",
    [b"", bytearray(), {1}, frozenset(), 1j, decimal.Decimal(1), datetime.date(2026, 1, 1), object(), type, ...,
     iter(()), range(3), float("nan"), float("-inf"), {b"": 1}, {(): 1}],
)  # fmt: skip
def test_what_json_refuses_is_refused(value: Any) -> None:
    """Wherever it stands, and only for that event."""
    for event in (value, [value], {"k": (1, value)}):
        with pytest.raises((TypeError, ValueError)):
            dumps(event)
        with pytest.raises(ValueError, match="not JSON"):
            _lane.pack(event)


def test_a_misbehaving_class_is_its_own_problem() -> None:
    """items() that raises or gives no pairs is an error of that event."""

    class Raises(dict[Any, Any]):
        def items(self) -> Any:
            raise RuntimeError("no")

    class NoPairs(dict[Any, Any]):
        def items(self) -> Any:
            return [1]

    with pytest.raises(ValueError, match=r"not JSON: RuntimeError while it was read at a\.0"):
        _lane.pack({"a": [Raises()]})
    with pytest.raises(ValueError, match="no pairs"):
        _lane.pack(NoPairs())


def test_a_dict_that_changes_while_it_is_packed() -> None:
    """Each container is packed as it was when packing reached it."""
    outer: dict[str, Any] = {}

    class Grows(dict[str, Any]):
        def items(self) -> Any:
            outer["later"] = 1
            return [("a", 1)]

    outer.update(x=Grows(), y=2)
    assert _batch.to_json(_lane.pack(outer)) == b'{"x":{"a":1},"y":2}'
    assert "later" in outer


def test_shared_containers_do_not_explode() -> None:
    """Sixty lists that hold each other twice are refused for their size, soon."""
    value: Any = []
    for _ in range(60):
        value = [value, value]
    with pytest.raises(ValueError, match="too large"):
        _lane.pack(value)

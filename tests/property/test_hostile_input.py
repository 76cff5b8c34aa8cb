"""Whatever comes over the control socket or out of a configuration: an answer or a refusal, never another exception."""

from __future__ import annotations

import contextlib
import itertools
import json
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vwo_fast._options import ALIASES, OPTIONS, environment_name
from vwo_fast._zmtp import COMMAND, MORE, frame
from vwo_fast.aggregator import control
from vwo_fast.aggregator.zmtp import HELLO, Incoming, ProtocolError
from vwo_fast.config import Settings, load_settings
from vwo_fast.errors import ConfigError
from vwo_fast.folder import read_settings
from vwo_fast.route import Route

BYTES_MAX = 300

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text(max_size=30)
    | st.binary(max_size=30)
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(scalars, inner, max_size=4))
bodies = st.binary(max_size=BYTES_MAX)
messages = st.lists(bodies, min_size=1, max_size=4)


def encoded(parts: list[bytes]) -> bytes:
    return b"".join(frame(part, MORE if index < len(parts) - 1 else 0) for index, part in enumerate(parts))


def heard(incoming: Incoming, pieces: list[bytes]) -> list[bytes]:
    found = []
    for piece in pieces:
        incoming.feed(piece)
        while (message := incoming.next_message()) is not None:
            found.append(message)
    return found


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[begin:end] for begin, end in itertools.pairwise(edges)]


@given(st.lists(messages, max_size=6), st.lists(st.integers(0, 10_000), max_size=12))
def test_messages_arrive_however_they_are_cut(sent: list[list[bytes]], places: list[int]) -> None:
    """Messages of one frame come out as they are; those of several, and commands, come out as nothing."""
    data = HELLO + b"".join(encoded(parts) for parts in sent) + frame(b"\x04PING", COMMAND)
    got = heard(Incoming(BYTES_MAX), cut(data, places))
    expected = [part if len(parts) == 1 else b"" for parts in sent for part in parts]
    assert got == [b"", *expected, b""]


@settings(max_examples=500)
@given(st.lists(st.binary(max_size=200), max_size=10), st.booleans())
def test_noise_is_refused_or_waits_for_more(pieces: list[bytes], has_greeted: bool) -> None:
    """Any bytes, before or after a greeting, are messages or a ProtocolError."""
    incoming = Incoming(BYTES_MAX)
    if has_greeted:
        heard(incoming, [HELLO])
    with contextlib.suppress(ProtocolError):
        for message in heard(incoming, pieces):
            assert len(message) <= BYTES_MAX


@given(st.binary(max_size=64) | values.map(lambda value: bytes(msgpack.packb(value))))
def test_any_message_is_a_question_or_none(data: bytes) -> None:
    """What is a question has an op and an id of the right types; any id asked of it is one or 0."""
    with contextlib.suppress(msgpack.exceptions.PackException):
        question = control._parse(b"c", data)
        if question is not None:
            assert isinstance(question.op, str)
            assert type(question.number) is int
            assert question.id_value("owner") >= 0


@given(st.dictionaries(st.sampled_from(["op", "id", "owner", "other"]), values))
def test_questions_with_values_of_all_types(value: dict[str, Any]) -> None:
    """Wrong types in the right places are no question."""
    question = control._parse(b"c", msgpack.packb(value))
    if question is not None:
        assert (question.op, question.number) == (value["op"], value["id"])


names = st.sampled_from([*OPTIONS, *ALIASES]) | st.text(max_size=12)


@given(st.dictionaries(names, values, max_size=4))
def test_settings_of_any_types_are_settings_or_an_error(given_options: dict[str, Any]) -> None:
    """Options from code: Settings or ConfigError."""
    given_options.pop("queue", None)
    given_options.pop("environ", None)
    with contextlib.suppress(ConfigError):
        assert isinstance(load_settings("shop", environ={}, **given_options), Settings)


@given(st.dictionaries(names.map(environment_name), st.text(max_size=20), max_size=4))
def test_an_environment_of_any_text_is_settings_or_an_error(environ: dict[str, str]) -> None:
    """Options from the environment: Settings or ConfigError."""
    with contextlib.suppress(ConfigError):
        assert isinstance(load_settings("shop", environ=environ), Settings)


@given(st.dictionaries(names | st.just("queue"), values, max_size=5) | values)
def test_written_settings_of_any_content_are_settings_or_an_error(data: Any) -> None:
    """What config.json may say: Settings or ConfigError."""
    with contextlib.suppress(ConfigError):
        assert isinstance(Settings.from_json_dict(data), Settings)


@settings(max_examples=50)
@given(data=st.binary(max_size=200))
def test_a_file_of_any_bytes_is_no_reason_to_fail(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """config.json is read as settings or as none; a TOML file as settings or a ConfigError."""
    read_both(tmp_path_factory.mktemp("any"), data)


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"queue": ' * 50_000, b"9" * 50_000, b"a = " + b"[" * 100_000])
def test_a_file_that_is_deep_or_long_is_no_reason_to_fail(tmp_path: Path, data: bytes) -> None:
    """Neither nesting nor digits without end escape as another error."""
    read_both(tmp_path, data)


def read_both(folder: Path, data: bytes) -> None:
    (folder / "config.json").write_bytes(data)
    read_settings(folder)
    with contextlib.suppress(ConfigError):
        load_settings("shop", environ={}, config_file=folder / "config.json")


fields = st.tuples(st.sampled_from(["fullstack", "fme", 1]), *[values | st.text(max_size=8)] * 7)


@settings(max_examples=500)
@given(values | fields)
def test_a_route_of_any_content_is_a_route_or_none(value: Any) -> None:
    """Bytes of a route file: what decodes has the types that requests are made of."""
    try:
        route = Route.decode(msgpack.packb(value))
    except (ValueError, OverflowError):
        return
    assert all(isinstance(text, str) for pair in route.batch_query for text in pair)
    assert all(isinstance(text, str) for text in route.batch_headers.values())
    assert route.base_url is None or isinstance(route.base_url, str)
    assert json.dumps(route.batch_path)

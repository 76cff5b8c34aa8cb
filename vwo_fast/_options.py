"""The table of options: the one place where an option's name, type, range, default and meaning are written.

``config.py`` reads values by it, docs/configuration.md is made from it, and a
test holds the fields of ``Settings`` against it.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any, Literal

from vwo_fast._value import Value
from vwo_fast.errors import ConfigError

__all__ = ["ALIASES", "OPTIONS", "Option", "environment_name", "in_short", "seconds_to_wait", "shown"]

Kind = Literal["bytes", "choice", "count", "file", "folder", "fraction", "power of two", "program", "seconds", "url"]

_INTEGERS = ("bytes", "count", "power of two")
_NUMBERS = ("fraction", "seconds")
# Compiled by those that come to need them, so that importing this costs little.
_INTEGER_TEXT = r"[+-]?[0-9]{1,24}\Z"
_NUMBER_TEXT = r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?\Z"
_URL = r"(https?)://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?((?:/[!-~]*)?)\Z"
_SHOWN_MAX = 200


class Option(Value):
    """One option. ``default`` is None where it is worked out; ``default_text`` then says how.

    ``scope``: an option of the "queue" must have one value in all processes of a
    running queue; an option of the "process" may differ.
    """

    name: str
    kind: Kind
    default: int | float | str | None
    default_text: str | None = None
    minimum: int | float | None = None
    maximum: int | float | None = None
    choices: tuple[str, ...] = ()
    unit: str = ""
    importance: Literal["high", "medium", "low"]
    scope: Literal["queue", "process"]
    doc: str

    @property
    def expected(self) -> str:
        """The allowed values, in words."""
        if self.kind == "choice":
            return " or ".join(repr(choice) for choice in self.choices)
        if self.kind in ("file", "folder", "program"):
            return f"the path of a {self.kind}"
        if self.kind == "url":
            return "an http or https URL without user, password, query and fragment"
        noun = {"fraction": "a number", "seconds": "a number", "power of two": "a power of two"}.get(
            self.kind, "an integer"
        )
        unit = f" {self.unit}" if self.unit else ""
        if self.maximum is None:
            return f"{noun}, at least {self.minimum}{unit}"
        return f"{noun}, {self.minimum} to {self.maximum}{unit}"

    def parse(self, raw: object, *, text: bool = False, base: str | None = None) -> Any:
        """The value of the option. Raises ValueError when it is of another type or out of range.

        ``text``: numbers may come as text (environment).  ``base``: the folder
        that relative paths start from, the current one when None.
        """
        if text and isinstance(raw, str):
            raw = raw.strip()
        if self.kind in ("file", "folder", "program"):
            path = _path(raw, base)
            return Path(path) if self.kind == "folder" else path
        if self.kind == "url":
            return _url(raw)
        if self.kind == "choice":
            if not isinstance(raw, str) or raw not in self.choices:
                raise ValueError("not one of the choices")
            return raw
        number = _integer(raw, text) if self.kind in _INTEGERS else _number(raw, text)
        if self.minimum is not None and number < self.minimum:
            raise ValueError("too small")
        if self.maximum is not None and number > self.maximum:
            raise ValueError("too large")
        if self.kind == "power of two" and int(number) & (int(number) - 1):
            raise ValueError("not a power of two")
        return number


class Alias(Value):
    """Another spelling of an option, which takes ``per_unit`` times the option's number."""

    name: str
    option: str
    per_unit: int
    unit: str


def _integer(raw: object, text: bool) -> int:
    if text and isinstance(raw, str) and re.match(_INTEGER_TEXT, raw):
        return int(raw)
    if isinstance(raw, bool) or not isinstance(raw, int):
        raise ValueError("not an integer")
    return int(raw)


def _number(raw: object, text: bool) -> float:
    if text and isinstance(raw, str) and re.match(_NUMBER_TEXT, raw):
        raw = float(raw)
    if isinstance(raw, bool) or not isinstance(raw, (int, float)):
        raise ValueError("not a number")
    try:
        number = float(raw)
    except OverflowError:
        raise ValueError("too large") from None
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def _path(raw: object, base: str | None) -> str:
    if not isinstance(raw, (str, os.PathLike)):
        raise ValueError("not a path")
    name = os.fspath(raw)
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError("not a path")
    return os.path.abspath(os.path.join(base or "", os.path.expanduser(name)))


def _url(raw: object) -> str:
    """The URL with its scheme and host in lower case and no slash at the end, so that equal ones compare equal."""
    found = re.match(_URL, raw, re.IGNORECASE) if isinstance(raw, str) else None
    if found is None:
        raise ValueError("not a URL of this form")
    scheme, host, port, path = found.groups()
    if any(mark in path for mark in "?#@"):
        raise ValueError("not a URL of this form")
    if port and not 1 <= int(port[1:]) <= 65535:
        raise ValueError("no such port")
    return f"{scheme.lower()}://{host.lower()}{port or ''}{path.rstrip('/')}"


def seconds_to_wait(name: str, raw: object) -> float:
    """How long a call may wait: None stands for no limit, as with ``requests``. Raises ConfigError."""
    if raw is None:
        return math.inf
    try:
        number = _number(raw, False)
        if number < 0:
            raise ValueError("too small")
    except ValueError as exc:
        raise ConfigError(
            f"{name}={in_short(raw)}: {exc}; expected a number of seconds, at least 0, or None for no limit"
        ) from None
    return number


def shown(option: Option, raw: object) -> str:
    """The value as an error may show it: short, and of a URL neither credentials nor query."""
    if option.kind == "url" and isinstance(raw, str):
        if "@" in raw:
            raw = "***@" + raw.rpartition("@")[2]
        raw = re.sub(r"([?#]).*", r"\1***", raw, flags=re.DOTALL)
    return in_short(raw)


def in_short(raw: object) -> str:
    """What an error shows of a value that may be anything."""
    try:
        text = repr(str(raw) if isinstance(raw, os.PathLike) else raw)
    except Exception as exc:
        return f"<{type(raw).__name__} without a repr: {type(exc).__name__}>"
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."


def environment_name(name: str) -> str:
    """The environment variable of an option."""
    return f"VWO_FAST_{name.upper()}"


_TABLE = (
    Option(
        name="base_url",
        kind="url",
        default="https://dev.visualwebsiteoptimizer.com",
        importance="high",
        scope="queue",
        doc="Where requests go: VWO's server, or a proxy in front of it. A route may name its own.",
    ),
    Option(
        name="events_per_request",
        kind="count",
        default=None,
        default_text="100 when request_time_interval is set, else real time",
        minimum=1,
        maximum=5000,
        unit="events",
        importance="high",
        scope="queue",
        doc="A batch is sealed when it has this many events of one route, over all processes of the host.",
    ),
    Option(
        name="request_time_interval",
        kind="seconds",
        default=None,
        default_text="600 when events_per_request is set, else real time",
        minimum=1,
        unit="s",
        importance="high",
        scope="queue",
        doc="A batch is sealed this long after its first event.",
    ),
    Option(
        name="run_dir",
        kind="folder",
        default=None,
        default_text="`vwo_fast-<uid>` in `/dev/shm`, or in the temporary folder where there is none",
        importance="high",
        scope="process",
        doc="Folder of the queues, in memory. Only the owner may enter it. Another run_dir is another queue.",
    ),
    Option(
        name="spool_dir",
        kind="folder",
        default=None,
        default_text="`vwo_fast-<uid>` in `/var/tmp`",
        importance="high",
        scope="queue",
        doc="Folder of the spools, on a disk that survives a reboot. Only the owner may enter it.",
    ),
    Option(
        name="lane_bytes",
        kind="power of two",
        default=2 * 1024 * 1024,
        minimum=64 * 1024,
        maximum=1024 * 1024 * 1024,
        unit="bytes",
        importance="high",
        scope="process",
        doc="Shared memory that each process that enqueues takes. When it is full, enqueue returns False.",
    ),
    Option(
        name="lane_bytes_max",
        kind="power of two",
        default=32 * 1024 * 1024,
        minimum=64 * 1024,
        maximum=1024 * 1024 * 1024,
        unit="bytes",
        importance="medium",
        scope="process",
        doc="Size up to which a lane grows in a burst, by doubling, while shared memory has room. Not above lane_bytes:"
        " it never grows.",
    ),
    Option(
        name="spool_max_bytes",
        kind="bytes",
        default=None,
        default_text="no limit",
        minimum=64 * 1024,
        unit="bytes",
        importance="high",
        scope="queue",
        doc="Size of the spool beyond which on_full decides.",
    ),
    Option(
        name="spool_max_age",
        kind="seconds",
        default=None,
        default_text="no limit",
        minimum=1,
        unit="s",
        importance="high",
        scope="queue",
        doc="What has waited in the spool for longer is dropped, and counted as expired.",
    ),
    Option(
        name="on_full",
        kind="choice",
        default="drop_newest",
        choices=("drop_newest", "drop_oldest", "block"),
        importance="high",
        scope="queue",
        doc="What gives way. drop_newest: enqueue returns False once spool and lane are full. drop_oldest: the oldest"
        " batches leave a spool that has reached spool_max_bytes. block: enqueue waits for block_timeout, then False.",
    ),
    Option(
        name="block_timeout",
        kind="seconds",
        default=0.1,
        minimum=0,
        maximum=10,
        unit="s",
        importance="medium",
        scope="process",
        doc="With on_full=block: how long enqueue may wait for room in the lane.",
    ),
    Option(
        name="durable",
        kind="choice",
        default="none",
        choices=("none", "seal", "always"),
        importance="high",
        scope="queue",
        doc="What a loss of power leaves. none: what is in the spool, but for its last moments. seal: each batch is"
        " on disk (fsync) before it is sent. always: each event is on disk some 50 ms after it was enqueued.",
    ),
    Option(
        name="aggregator",
        kind="choice",
        default="auto",
        choices=("auto", "external"),
        importance="medium",
        scope="process",
        doc="auto: this process starts the aggregator when there is none. external: you run `vwo-fast run`.",
    ),
    Option(
        name="python",
        kind="program",
        default=None,
        default_text="the running interpreter",
        importance="medium",
        scope="process",
        doc="Interpreter that the aggregator is started with; needed where sys.executable is not a Python (uWSGI).",
    ),
    Option(
        name="body_bytes_max",
        kind="bytes",
        default=10_000_000,
        minimum=16,
        maximum=10_000_000,
        unit="bytes",
        importance="medium",
        scope="queue",
        doc="Size of a request's body; a batch is sealed before the event that would exceed it.",
    ),
    Option(
        name="in_flight_max",
        kind="count",
        default=4,
        minimum=1,
        maximum=64,
        unit="requests",
        importance="medium",
        scope="queue",
        doc="Requests that wait for an answer at the same time. Events of one visitor stay in order.",
    ),
    Option(
        name="lane_watermark",
        kind="fraction",
        default=0.5,
        minimum=0.1,
        maximum=0.9,
        unit="of lane_bytes",
        importance="low",
        scope="queue",
        doc="Share of a lane that may wait there for an answer. What is above moves to the spool once no answer has"
        " freed space for a second, or at once half way from there to full.",
    ),
    Option(
        name="connect_timeout",
        kind="seconds",
        default=3.05,
        minimum=0.1,
        maximum=600,
        unit="s",
        importance="medium",
        scope="queue",
        doc="How long a connection may take to open, and how long a request that is being sent may stand still.",
    ),
    Option(
        name="read_timeout",
        kind="seconds",
        default=10.0,
        minimum=0.1,
        maximum=600,
        unit="s",
        importance="medium",
        scope="queue",
        doc="How long an answer may take, once the request is sent, before the outcome counts as unknown.",
    ),
    Option(
        name="proxy",
        kind="url",
        default=None,
        default_text="what `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` say",
        importance="medium",
        scope="queue",
        doc="HTTP proxy for all requests. One that wants a password is given by `HTTPS_PROXY` instead.",
    ),
    Option(
        name="ca_bundle",
        kind="file",
        default=None,
        default_text="`REQUESTS_CA_BUNDLE`, else the certificates that `requests` brings",
        importance="medium",
        scope="queue",
        doc="PEM file of the authorities that may vouch for the server or the proxy in front of it.",
    ),
    Option(
        name="client_cert",
        kind="file",
        default=None,
        default_text="none",
        importance="low",
        scope="queue",
        doc="PEM file of the certificate that is shown to the server; with its key, unless `client_key` has it. One "
        "that is replaced is shown from the next connection on.",
    ),
    Option(
        name="client_key",
        kind="file",
        default=None,
        default_text="in `client_cert`",
        importance="low",
        scope="queue",
        doc="PEM file of the key of `client_cert`, without a password.",
    ),
    Option(
        name="compression",
        kind="choice",
        default="none",
        choices=("none", "gzip"),
        importance="low",
        scope="queue",
        doc="gzip: bodies of 1,000 bytes and more are sent compressed. Only for a `base_url` that is known to accept "
        "that; one which refuses it gets plain requests from then on. Limits count what is compressed, not the result.",
    ),
    Option(
        name="retry_delay_min",
        kind="seconds",
        default=0.5,
        minimum=0.01,
        maximum=3600,
        unit="s",
        importance="low",
        scope="queue",
        doc="Upper end of the random delay before the first retry; it doubles with each further one.",
    ),
    Option(
        name="retry_delay_max",
        kind="seconds",
        default=60.0,
        minimum=0.01,
        maximum=3600,
        unit="s",
        importance="low",
        scope="queue",
        doc="Upper end of the random delay before any retry. A Retry-After of the server may be longer.",
    ),
    Option(
        name="idle_exit",
        kind="seconds",
        default=5.0,
        minimum=0,
        maximum=86_400,
        unit="s",
        importance="low",
        scope="queue",
        doc="An aggregator that a process started leaves when nobody has used the queue for this long and all is sent.",
    ),
    Option(
        name="shutdown_timeout",
        kind="seconds",
        default=10.0,
        minimum=0,
        maximum=3600,
        unit="s",
        importance="medium",
        scope="queue",
        doc="After SIGTERM the aggregator sends for this long; what is left then waits in the spool.",
    ),
)

OPTIONS: dict[str, Option] = {option.name: option for option in _TABLE}

_ALIAS_TABLE = (
    Alias(name="batch_min_size", option="events_per_request", per_unit=1, unit="events"),
    Alias(name="batch_upload_time_interval", option="request_time_interval", per_unit=1000, unit="ms"),
)

ALIASES: dict[str, Alias] = {alias.name: alias for alias in _ALIAS_TABLE}

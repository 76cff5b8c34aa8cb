"""Settings of a queue: read once from code, environment and a TOML file, checked, then only values.

Precedence, per option: code, then ``VWO_FAST_<NAME>``, then the table
``[vwo_fast.queues.<queue>]`` of the file, then its table ``[vwo_fast]``, then the
default.  Every source is checked whole, also where a higher one wins: a
mistake that waits until the other source goes away is found too late.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from vwo_fast import paths
from vwo_fast._options import ALIASES, OPTIONS, Option, environment_name, in_short, shown
from vwo_fast._value import Value
from vwo_fast.errors import ConfigError

__all__ = ["Settings", "check_queue_name", "differences", "load_settings"]

_PREFIX = "VWO_FAST_"
_QUEUE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"

# Variables that are ours without being options: the first two are read here and by the command line,
# the others belong to the build and the tests, whose processes open queues too.
_NOT_OPTIONS = frozenset(
    {"VWO_FAST_CONFIG", "VWO_FAST_QUEUE", "VWO_FAST_CFLAGS", "VWO_FAST_CI", "VWO_FAST_CONFORMANCE"}
)
_TEST_PREFIX = "VWO_FAST_TEST_"

EVENTS_PER_REQUEST_DEFAULT = 100
REQUEST_TIME_INTERVAL_DEFAULT = 600.0


class Settings(Value):
    """What a queue runs with. Make it with :func:`load_settings`; each field is described in ``_options.py``."""

    queue: str
    run_dir: Path
    spool_dir: Path
    base_url: str
    events_per_request: int | None
    request_time_interval: float | None
    body_bytes_max: int
    lane_bytes: int
    lane_bytes_max: int
    lane_watermark: float
    connect_timeout: float
    read_timeout: float
    proxy: str | None
    ca_bundle: str | None
    client_cert: str | None
    client_key: str | None
    compression: Literal["none", "gzip"]
    in_flight_max: int
    retry_delay_min: float
    retry_delay_max: float
    spool_max_bytes: int | None
    spool_max_age: float | None
    on_full: Literal["drop_newest", "drop_oldest", "block"]
    block_timeout: float
    durable: Literal["none", "seal", "always"]
    idle_exit: float
    shutdown_timeout: float
    aggregator: Literal["auto", "external"]
    python: str | None

    @property
    def real_time(self) -> bool:
        """Each event is sent at once, alone."""
        return self.events_per_request is None and self.request_time_interval is None

    @property
    def queue_dir(self) -> Path:
        """Folder of the queue in shared memory. :func:`paths.queue_folder` makes and checks it."""
        return self.run_dir / self.queue

    @property
    def queue_spool_dir(self) -> Path:
        """Folder of the queue's spool. :func:`paths.spool_folder` makes and checks it."""
        return self.spool_dir / self.queue

    def to_json_dict(self) -> dict[str, str | int | float | None]:
        """The settings as JSON can carry them."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in self._as_dict().items()}

    @classmethod
    def from_json_dict(cls, data: Mapping[str, Any], *, source: str = "config.json") -> Settings:
        """The inverse of :meth:`to_json_dict`. An option that is absent has its default; an unknown one is refused."""
        if not isinstance(data, Mapping) or not isinstance(data.get("queue"), str):
            raise ConfigError(f"{source}: expected the settings of a queue as a JSON object")
        given = {name: value for name, value in data.items() if name != "queue" and value is not None}
        return _build(data["queue"], [_Layer(source=source, values=given)])


class _Layer(Value):
    """The options of one source. ``prefix`` comes before a name where an error says where a value is from."""

    source: str
    values: Mapping[str, object]
    base: str | None = None
    text: bool = False

    def origin(self, name: str) -> str:
        return f"{self.source} {environment_name(name)}" if self.text else self.source

    def read(self) -> dict[str, Any]:
        """Checked values by the option's own name."""
        found: dict[str, Any] = {}
        spelt: dict[str, str] = {}
        for given, raw in self.values.items():
            alias = ALIASES.get(given)
            name = alias.option if alias else given
            option = OPTIONS.get(name)
            if option is None:
                raise ConfigError(f"{given} (from {self.origin(given)}): unknown option{_suggestion(given)}")
            if name in spelt:
                raise ConfigError(
                    f"{spelt[name]} and {given} (from {self.source}): two names of the same option; give one of them"
                )
            spelt[name] = given
            found[name] = self._parse(option, given, raw)
        return found

    def _parse(self, option: Option, given: str, raw: object) -> Any:
        alias = ALIASES.get(given)
        described = _scaled(option, alias.name, alias.per_unit, alias.unit) if alias else option
        try:
            value = described.parse(raw, text=self.text, base=self.base)
        except ValueError as exc:
            raise ConfigError(
                f"{given}={shown(option, raw)} (from {self.origin(given)}): {exc}; expected {described.expected}"
            ) from None
        return value / alias.per_unit if alias and alias.per_unit != 1 else value


def load_settings(
    queue: str | None = None, *, environ: Mapping[str, str] = os.environ, **code_options: Any
) -> Settings:
    """Settings of a queue from code, environment, file and defaults. Raises ConfigError.

    Without a name the queue is the one that ``VWO_FAST_QUEUE`` names.  A code option
    that is None is not given.  ``config_file`` names the TOML file; without it
    ``VWO_FAST_CONFIG`` does.
    """
    if queue is None:
        queue = environ.get("VWO_FAST_QUEUE") or None
        if queue is None:
            raise ConfigError("queue: no name given, and VWO_FAST_QUEUE is not set")
    check_queue_name(queue)
    given = {name: value for name, value in code_options.items() if value is not None}
    config_file = given.pop("config_file", None)
    origin = "code"
    if config_file is None:
        config_file, origin = environ.get("VWO_FAST_CONFIG", "").strip(), "environment variable VWO_FAST_CONFIG"
    layers = [_Layer(source="code", values=given), _environment(environ)]
    if config_file != "":
        layers += _file(config_file, origin, queue)
    settings = _build(queue, layers)
    _check_files(settings)
    return settings


def _check_files(settings: Settings) -> None:
    """Only where the settings are made: an aggregator that starts later reports an absent file, and goes on trying."""
    for name, option in OPTIONS.items():
        path = getattr(settings, name)
        if option.kind == "file" and path is not None and not os.access(path, os.R_OK):
            raise ConfigError(f"{name}={path!r}: expected a file that this process can read")


def check_queue_name(queue: object) -> str:
    """The name, when it is one. Raises ConfigError."""
    if not isinstance(queue, str) or not re.match(_QUEUE_NAME, queue):
        raise ConfigError(
            f"queue={in_short(queue)}: expected 1 to 64 letters, digits and . _ - of ASCII, the first a letter or digit"
        )
    return queue


def differences(a: Settings, b: Settings) -> list[tuple[str, object, object]]:
    """(option, value in a, value in b) for options that all processes of a queue must agree on, but these do not."""
    pairs = ((name, getattr(a, name), getattr(b, name)) for name, option in OPTIONS.items() if option.scope == "queue")
    return [(name, mine, theirs) for name, mine, theirs in pairs if mine != theirs]


def _build(queue: str, layers: list[_Layer]) -> Settings:
    values: dict[str, Any] = {"queue": check_queue_name(queue)}
    for layer in layers:
        for name, value in layer.read().items():
            values.setdefault(name, value)
    for name, option in OPTIONS.items():
        values.setdefault(name, option.default)
    if values["events_per_request"] is None and values["request_time_interval"] is not None:
        values["events_per_request"] = EVENTS_PER_REQUEST_DEFAULT
    if values["request_time_interval"] is None and values["events_per_request"] is not None:
        values["request_time_interval"] = REQUEST_TIME_INTERVAL_DEFAULT
    if values["run_dir"] is None:
        values["run_dir"] = paths.default_run_dir()
    if values["spool_dir"] is None:
        values["spool_dir"] = paths.default_spool_dir()
    if values["retry_delay_min"] > values["retry_delay_max"]:
        raise ConfigError(
            f"retry_delay_min={values['retry_delay_min']!r}: expected at most retry_delay_max, "
            f"which is {values['retry_delay_max']!r}"
        )
    if values["client_key"] is not None and values["client_cert"] is None:
        raise ConfigError(f"client_key={values['client_key']!r}: expected client_cert with it")
    return Settings(**values)


def _environment(environ: Mapping[str, str]) -> _Layer:
    names = [name for name in environ if name.startswith(_PREFIX) and name not in _NOT_OPTIONS]
    values: dict[str, object] = {}
    for name in sorted(names):
        option = name[len(_PREFIX) :].lower()
        if name.startswith(_TEST_PREFIX):
            continue
        if name != environment_name(option) or (option not in OPTIONS and option not in ALIASES):
            raise ConfigError(f"environment variable {name}: unknown option{_suggestion(option)}")
        # An empty variable is how shells and unit files say "not set".
        if environ[name].strip():
            values[option] = environ[name]
    return _Layer(source="environment variable", values=values, text=True)


def _file(name: object, origin: str, queue: str) -> Iterator[_Layer]:
    if not isinstance(name, (str, os.PathLike)):
        raise ConfigError(f"config_file={in_short(name)} (from {origin}): expected the path of a TOML file")
    path = os.path.abspath(os.path.expanduser(os.fspath(name)))
    top = _read_toml(path, origin).get("vwo_fast")
    if not isinstance(top, dict):
        raise ConfigError(f"file {path}: expected a table [vwo_fast]")
    queues = top.get("queues", {})
    own = queues.get(queue, {}) if isinstance(queues, dict) else None
    if not isinstance(own, dict):
        raise ConfigError(f"file {path}: expected [vwo_fast.queues.<queue>] to be tables")
    base = os.path.dirname(path)
    shared = {key: value for key, value in top.items() if key != "queues"}
    yield _Layer(source=f"file {path}, table [vwo_fast.queues.{queue}]", values=own, base=base)
    yield _Layer(source=f"file {path}, table [vwo_fast]", values=shared, base=base)


def _read_toml(path: str, origin: str) -> dict[str, Any]:
    # Imported here because most processes have no file, and a worker's import must stay light.
    toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        with open(path, "rb") as file:
            content: dict[str, Any] = toml.load(file)
            return content
    except OSError as exc:
        raise ConfigError(f"file {path} (from {origin}): cannot be read: {exc.strerror or exc}") from exc
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"file {path} (from {origin}): not TOML: {exc}") from exc


def _scaled(option: Option, name: str, per_unit: int, unit: str) -> Option:
    """The option as its other spelling describes it, range included."""

    def scale(bound: int | float | None) -> int | float | None:
        return None if bound is None else bound * per_unit

    return Option(
        name=name,
        kind=option.kind,
        default=None,
        minimum=scale(option.minimum),
        maximum=scale(option.maximum),
        unit=unit,
        importance=option.importance,
        scope=option.scope,
        doc=option.doc,
    )


def _suggestion(name: str) -> str:
    # Only on the way to an error, so that a worker's import stays light.
    import difflib

    close = difflib.get_close_matches(name, [*OPTIONS, *ALIASES], n=1)
    return f"; did you mean {close[0]}?" if close else f"; the options are {', '.join(sorted(OPTIONS))}"

"""Settings: sources, precedence, VWO's rules, errors that say what to do."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vwo_fast._options import ALIASES, OPTIONS, environment_name
from vwo_fast.config import Settings, differences, load_settings
from vwo_fast.errors import ConfigError

PACKAGE = Path(__file__).resolve().parent.parent.parent / "vwo_fast"
SECRET = "hunter2"


def load(environ: dict[str, str] | None = None, /, **options: Any) -> Settings:
    return load_settings("shop", environ=environ or {}, **options)


def toml(folder: Path, text: str) -> str:
    path = folder / "vwo.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_settings_are_the_table() -> None:
    """Each option of the table is a field of Settings, and there is no other field but the queue's name."""
    assert set(load().to_json_dict()) == {"queue", *OPTIONS}


def test_every_option_has_an_effect() -> None:
    """Each option is read by a room that acts on it, not only by those that parse, print or check it."""
    talkers = {"_options.py", "config.py", "doctor.py", "cli.py"}
    rooms = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py") if path.name not in talkers]
    unused = [name for name in OPTIONS if not any(re.search(rf"\.{name}\b", room) for room in rooms)]
    assert unused == []


def test_defaults_are_those_of_the_table() -> None:
    """With nothing given, each option that has a default in the table has that one."""
    settings = load()
    for name, option in OPTIONS.items():
        if option.default is not None:
            assert getattr(settings, name) == option.default
    assert settings.real_time
    assert settings.python is None
    assert settings.spool_max_bytes is None
    assert settings.run_dir.is_absolute()
    assert settings.spool_dir.is_absolute()
    assert settings.queue_dir == settings.run_dir / "shop"


def test_defaults_pass_their_own_check() -> None:
    """A default would be accepted if a user gave it."""
    for option in OPTIONS.values():
        if option.default is not None:
            assert option.parse(option.default) == option.default


def test_precedence(tmp_path: Path) -> None:
    """Code wins over environment, that over the queue's table, that over the common table, that over the default."""
    text = "[vwo_fast]\nin_flight_max = 2\n"
    common = {"VWO_FAST_CONFIG": toml(tmp_path, text)}
    assert load(common).in_flight_max == 2
    own = {"VWO_FAST_CONFIG": toml(tmp_path, text + "[vwo_fast.queues.shop]\nin_flight_max = 3\n")}
    assert load(own).in_flight_max == 3
    assert load_settings("other", environ=own).in_flight_max == 2
    environ = {**own, "VWO_FAST_IN_FLIGHT_MAX": "5"}
    assert load(environ).in_flight_max == 5
    assert load(environ, in_flight_max=6).in_flight_max == 6
    assert load(environ, in_flight_max=None).in_flight_max == 5


def test_every_option_from_every_source(tmp_path: Path) -> None:
    """Each option of the table can be given in code, in the environment and in the file, with the same outcome."""
    values: dict[str, Any] = {
        "base_url": "http://127.0.0.1:8080/vwo",
        "run_dir": str(tmp_path / "run"),
        "spool_dir": str(tmp_path / "spool"),
        "python": "/usr/bin/python3",
        "aggregator": "external",
        "lane_bytes": 65536,
        "proxy": "http://127.0.0.1:3128",
    }
    for name, option in OPTIONS.items():
        if option.kind == "file":
            values[name] = str(tmp_path / name)
            (tmp_path / name).touch()
    for name, option in OPTIONS.items():
        values.setdefault(name, option.choices[-1] if option.choices else option.minimum)
    values["retry_delay_max"] = 2
    coded = load(**values)
    assert load({environment_name(name): str(value) for name, value in values.items()}) == coded
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    assert load(config_file=toml(tmp_path, "\n".join(["[vwo_fast]", *lines]))) == coded
    assert coded != load()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (None, None)),
        ({"events_per_request": 7}, (7, 600.0)),
        ({"request_time_interval": 2}, (100, 2.0)),
        ({"events_per_request": 5000, "request_time_interval": 1}, (5000, 1.0)),
        ({"batch_min_size": 7}, (7, 600.0)),
        ({"batch_upload_time_interval": 1500}, (100, 1.5)),
        ({"batch_min_size": 7, "request_time_interval": 3}, (7, 3.0)),
    ],
)
def test_batch_options_imply_each_other(options: dict[str, Any], expected: tuple[int | None, float | None]) -> None:
    """Count alone has an interval of 600 s, interval alone a count of 100, neither is real time."""
    environ = {environment_name(name): str(value) for name, value in options.items()}
    for settings in (load(**options), load(environ)):
        assert (settings.events_per_request, settings.request_time_interval) == expected
        assert settings.real_time is (expected == (None, None))


def test_both_spellings_in_one_source_are_an_error(tmp_path: Path) -> None:
    """Two names of one option at once are refused in each source, equal values or not."""
    text = "[vwo_fast]\nrequest_time_interval = 2\nbatch_upload_time_interval = 2000\n"
    with pytest.raises(ConfigError, match=r"batch_min_size.*events_per_request|events_per_request.*batch_min_size"):
        load(events_per_request=5, batch_min_size=5)
    with pytest.raises(ConfigError, match="two names of the same option"):
        load({"VWO_FAST_EVENTS_PER_REQUEST": "5", "VWO_FAST_BATCH_MIN_SIZE": "6"})
    with pytest.raises(ConfigError, match="two names of the same option"):
        load(config_file=toml(tmp_path, text))


def test_spellings_in_different_sources_obey_precedence() -> None:
    """A mobile name in code wins over the usual name in the environment, and the other way round."""
    assert load({"VWO_FAST_EVENTS_PER_REQUEST": "5"}, batch_min_size=6).events_per_request == 6
    assert load({"VWO_FAST_BATCH_MIN_SIZE": "5"}, events_per_request=6).events_per_request == 6


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.minimum is not None])
def test_range_ends(name: str) -> None:
    """Both ends of a range are accepted and what lies beyond is a ConfigError with option, value, source and range."""
    option = OPTIONS[name]
    assert option.minimum is not None
    if name == "retry_delay_max":
        assert load(retry_delay_min=0.01, retry_delay_max=0.01).retry_delay_max == 0.01
    else:
        assert getattr(load(**{name: option.minimum}), name) == option.minimum
    beyond = [option.minimum - 1]
    if option.maximum is not None:
        beyond.append(option.maximum * 2)
        assert option.parse(option.maximum) == option.maximum
    for value in beyond:
        with pytest.raises(ConfigError) as caught:
            load(**{name: value})
        for part in (name, str(value), "code", str(option.minimum)):
            assert part in str(caught.value)
        with pytest.raises(ConfigError, match=environment_name(name)):
            load({environment_name(name): str(value)})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("events_per_request", True),
        ("events_per_request", 100.0),
        ("events_per_request", "100"),
        ("events_per_request", [1]),
        ("request_time_interval", True),
        ("request_time_interval", "60"),
        ("request_time_interval", math.nan),
        ("request_time_interval", math.inf),
        ("request_time_interval", 10**400),
        ("batch_upload_time_interval", 999),
        ("lane_bytes", 100_000),
        ("aggregator", "on"),
        ("aggregator", 5),
        ("run_dir", ""),
        ("run_dir", "a\0b"),
        ("run_dir", b"bytes"),
        ("run_dir", 5),
        ("python", ["python"]),
        ("base_url", "dev.visualwebsiteoptimizer.com"),
        ("base_url", "ftp://host"),
        ("base_url", "http://"),
        ("base_url", "http://host:0"),
        ("base_url", "http://host:65536"),
        ("base_url", "http://host/a b"),
        ("base_url", "http://host/?a=1"),
        ("base_url", "http://host/#x"),
        ("base_url", "http://host\n"),
        ("config_file", 5),
    ],
)
def test_wrong_values_are_refused(name: str, value: object) -> None:
    """A wrong type or form is a ConfigError that names the option; a bool is no number, NaN no interval."""
    with pytest.raises(ConfigError, match=name):
        load(**{name: value})


@pytest.mark.parametrize("text", ["abc", "1.5", "0x10", "1_0", "١٢", "true", "9" * 30])
def test_wrong_numbers_in_the_environment(text: str) -> None:
    """A variable that is not a plain integer is refused with the variable's name."""
    with pytest.raises(ConfigError, match="VWO_FAST_EVENTS_PER_REQUEST"):
        load({"VWO_FAST_EVENTS_PER_REQUEST": text})


def test_a_lower_source_is_checked_too() -> None:
    """A wrong value is reported also where a higher source hides it."""
    with pytest.raises(ConfigError, match="VWO_FAST_EVENTS_PER_REQUEST"):
        load({"VWO_FAST_EVENTS_PER_REQUEST": "0"}, events_per_request=5)


def test_empty_variables_are_not_set() -> None:
    """An empty variable, or one of spaces, counts as absent."""
    assert load({"VWO_FAST_BASE_URL": "", "VWO_FAST_EVENTS_PER_REQUEST": " ", "VWO_FAST_CONFIG": ""}) == load()


@pytest.mark.parametrize("name", ["VWO_FAST_BASE_ULR", "VWO_FAST_base_url", "VWO_FAST_", "VWO_FAST_QUEUES"])
def test_unknown_variables_are_refused(name: str) -> None:
    """A misspelt variable does not pass in silence."""
    with pytest.raises(ConfigError, match=name):
        load({name: "1"})


def test_variables_of_others_are_ignored() -> None:
    """What is not ours, and what belongs to build, tests and command line, is no option."""
    assert load({"VWO_ACCOUNT": "1", "VWO_FAST_QUEUE": "q", "VWO_FAST_CI": "1", "VWO_FAST_TEST_X": "1"}) == load()


def test_unknown_options_are_refused(tmp_path: Path) -> None:
    """A misspelt option in code or file is named, with the nearest one that exists."""
    with pytest.raises(ConfigError, match="did you mean run_dir"):
        load(run_dri="/x")
    with pytest.raises(ConfigError, match=r"vwo\.toml.*unknown option"):
        load(config_file=toml(tmp_path, "[vwo_fast]\nnothing_like_it = 1\n"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"table \[vwo_fast\]"),
        ("vwo_fast = 1", r"table \[vwo_fast\]"),
        ("[vwo_fast]\nqueues = 1", "to be tables"),
        ("[vwo_fast]\n[vwo_fast.queues]\nshop = 1", "to be tables"),
        ("[vwo_fast", "not TOML"),
        ("[vwo_fast]\nevents_per_request = '5'", "not an integer"),
        ("[vwo_fast]\nevents_per_request = true", "not an integer"),
        ("[vwo_fast]\nqueue = 'shop'", "unknown option"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, text: str, said: str) -> None:
    """A file without our table, of another form or with a wrong type is refused, and the text names the file."""
    path = toml(tmp_path, text)
    with pytest.raises(ConfigError, match=said) as caught:
        load({"VWO_FAST_CONFIG": path})
    assert path in str(caught.value)


def test_absent_file_is_refused(tmp_path: Path) -> None:
    """A file that was named but is not there is an error that says who named it."""
    with pytest.raises(ConfigError, match="VWO_FAST_CONFIG"):
        load({"VWO_FAST_CONFIG": str(tmp_path / "none.toml")})


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path starts from the file's folder in a file and from the current one elsewhere; ~ is the home."""
    (tmp_path / "etc").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    from_file = load(config_file=toml(tmp_path / "etc", "[vwo_fast]\nrun_dir = 'run'\n"))
    assert from_file.run_dir == tmp_path / "etc" / "run"
    assert load(run_dir="run").run_dir == tmp_path / "run"
    assert load({"VWO_FAST_RUN_DIR": "~/run"}).run_dir == tmp_path / "home" / "run"


def test_urls_that_are_equal_compare_equal() -> None:
    """Case of scheme and host, and a slash at the end, make no difference."""
    assert load(base_url="HTTPS://Dev.Example.com/").base_url == load(base_url="https://dev.example.com").base_url
    assert load(base_url="http://[::1]:8080/A/").base_url == "http://[::1]:8080/A"


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{SECRET}@host/",
        f"user:{SECRET}@host",
        f"https://user:{SECRET}?@host/",
        f"https://host/?key={SECRET}",
        f"https://host/#{SECRET}",
        f"https://u:a@{SECRET}@host/x@y",
    ],
)
def test_no_credentials_in_errors(url: str) -> None:
    """What a URL should not hold is not repeated by the error that refuses it."""
    for call in (lambda: load(base_url=url), lambda: load({"VWO_FAST_BASE_URL": url})):
        with pytest.raises(ConfigError, match="base_url") as caught:
            call()
        assert SECRET not in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """An option that names a file is refused with its name and the path when there is no such file."""
    path = str(tmp_path / "absent.pem")
    with pytest.raises(ConfigError, match=rf"ca_bundle={path!r}"):
        load(ca_bundle=path)


def test_a_key_needs_its_certificate(tmp_path: Path) -> None:
    """client_key without client_cert is refused."""
    (tmp_path / "key.pem").touch()
    with pytest.raises(ConfigError, match="client_cert"):
        load(client_key=tmp_path / "key.pem")


def test_retry_delays_are_in_order() -> None:
    """A smallest delay above the largest is refused."""
    with pytest.raises(ConfigError, match="retry_delay_max"):
        load(retry_delay_min=5, retry_delay_max=1)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", ".a", "a" * 65, "ä", "a\n", "a b", 5, None])
def test_wrong_queue_names(name: Any) -> None:
    """A name that could be a path, hidden, or not ASCII is refused."""
    with pytest.raises(ConfigError, match="queue"):
        load_settings(name, environ={})


@pytest.mark.parametrize("name", ["a", "0", "shop-1.eu_west", "A" * 64])
def test_queue_names(name: str) -> None:
    """Names of the allowed form are taken, from code and from the environment."""
    assert load_settings(name, environ={}).queue == name
    assert load_settings(environ={"VWO_FAST_QUEUE": name}).queue == name


def test_json_round_trip() -> None:
    """Settings come back equal from the JSON that config.json holds."""
    for settings in (load(), load(batch_min_size=3, python="/usr/bin/python3", spool_max_bytes=10**9)):
        assert Settings.from_json_dict(json.loads(json.dumps(settings.to_json_dict()))) == settings


def test_json_is_checked() -> None:
    """What comes from config.json is checked: an absent option has its default, a wrong one is named."""
    data = load().to_json_dict()
    del data["in_flight_max"]
    assert Settings.from_json_dict(data).in_flight_max == OPTIONS["in_flight_max"].default
    wrong: list[Any] = [[], {}, {"queue": 1}, {**data, "in_flight_max": 0}, {**data, "unknown": 1}]
    for content in wrong:
        with pytest.raises(ConfigError, match=r"config\.json"):
            Settings.from_json_dict(content)


def test_differences_name_what_must_be_equal() -> None:
    """Options of the queue are compared, options of the process are not."""
    mine = load(base_url="http://a", events_per_request=5, lane_bytes=65536, aggregator="external")
    theirs = load(base_url="http://b", events_per_request=6)
    assert differences(mine, theirs) == [("base_url", "http://a", "http://b"), ("events_per_request", 5, 6)]
    assert differences(mine, mine) == []


values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=4))
names = st.one_of(st.sampled_from([*OPTIONS, *ALIASES, "config"]), st.text(max_size=8))


@given(st.dictionaries(names, values, max_size=4))
def test_any_code_options(options: dict[str, Any]) -> None:
    """Whatever is given in code gives settings in their ranges or a ConfigError, nothing else."""
    for reserved in ("environ", "queue", "config_file"):
        options.pop(reserved, None)
    try:
        settings = load(**options)
    except ConfigError:
        return
    assert Settings.from_json_dict(settings.to_json_dict()) == settings


@given(
    st.dictionaries(st.sampled_from([environment_name(name) for name in [*OPTIONS, *ALIASES]]), st.text(max_size=12))
)
def test_any_environment(environ: dict[str, str]) -> None:
    """Whatever the variables hold gives settings in their ranges or a ConfigError, nothing else."""
    try:
        settings = load(environ)
    except ConfigError:
        return
    assert Settings.from_json_dict(settings.to_json_dict()) == settings

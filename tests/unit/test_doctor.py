"""The doctor: each fault of a machine is found, named, and answered with what to do."""

from __future__ import annotations

import os
import resource
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_aggregator import fake_aggregator
from vwo_fast import __version__, doctor
from vwo_fast.config import Settings, load_settings
from vwo_fast.doctor import Check, examine
from vwo_fast.paths import CTL_PATH_MAX
from vwo_fast.queue import Queue
from vwo_fast.route import Route

ROUTE = Route.fme(account_id=1, sdk_key="key", sdk_name="vwo-fme-python-sdk", sdk_version="1.65.0")


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Any]:
    return {"run_dir": tmp_path / "run", "spool_dir": tmp_path / "spool", "base_url": "http://127.0.0.1:9"}


@pytest.fixture
def settings(places: dict[str, Any]) -> Settings:
    return load_settings("shop", environ={}, **places)


@pytest.fixture
def queue(places: dict[str, Any]) -> Iterator[Queue]:
    with Queue("shop", events_per_request=100, aggregator="external", **places) as queue:
        yield queue


def levels(name: str, checks: list[Check]) -> list[str]:
    return [check.level for check in checks if check.name == name]


def the(name: str, level: str, checks: list[Check]) -> Check:
    found = [check for check in checks if (check.name, check.level) == (name, level)]
    assert len(found) == 1, checks
    return found[0]


def test_a_good_machine_has_no_failure(settings: Settings) -> None:
    """Before the queue is opened nothing fails here, and nothing is made by looking."""
    checks = examine(settings)
    assert [check for check in checks if check.level == "FAIL"] == []
    assert {"versions", "libraries", "compiled code", "interpreter", "shared memory", "limits"} <= {
        c.name for c in checks
    }
    assert not settings.run_dir.exists()
    assert not settings.spool_dir.exists()


def test_every_problem_says_what_to_do(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is found wrong comes with an advice."""
    settings.run_dir.mkdir()
    settings.run_dir.chmod(0o777)
    settings.spool_dir.touch()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    monkeypatch.setattr(doctor, "_file_system", lambda _: "nfs4")
    problems = [check for check in examine(settings) if check.level != "OK"]
    assert {"run folder", "spool folder", "limits", "shared memory", "spool disk"} <= {check.name for check in problems}
    assert all(check.advice for check in problems if "cannot be checked" not in check.text)


def test_one_check_that_breaks_hides_no_other(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unforeseen error is a finding of its own, and the others are still made."""

    def broken(settings: Settings) -> Iterator[Check]:
        raise RuntimeError("unforeseen")
        yield

    monkeypatch.setattr(doctor, "_CHECKS", (("broken", broken), *doctor._CHECKS))
    checks = examine(settings)
    assert "RuntimeError: unforeseen" in the("broken", "FAIL", checks).text
    assert levels("server", checks) == ["OK"]


def statvfs(monkeypatch: pytest.MonkeyPatch, *, free: int, flags: int = 0) -> None:
    space = types.SimpleNamespace(f_blocks=free * 2, f_frsize=1, f_bavail=free, f_flag=flags)
    monkeypatch.setattr(os, "statvfs", lambda _: space)


@pytest.mark.parametrize(("lanes", "level"), [(0, "FAIL"), (1, "WARN"), (15, "WARN"), (16, "OK")])
def test_room_for_lanes(settings: Settings, monkeypatch: pytest.MonkeyPatch, lanes: int, level: str) -> None:
    """Shared memory without room for one lane fails; with room for few it is a warning that says how to get more."""
    monkeypatch.setattr(doctor, "_file_system", lambda _: "tmpfs")
    statvfs(monkeypatch, free=lanes * (settings.lane_bytes + 4096) + 100)
    checks = list(doctor._shared_memory(settings))
    found = the("shared memory", level, checks)
    assert f"room for {lanes} more lanes" in found.text
    assert ("--shm-size" in found.advice) is (level != "OK")


@pytest.mark.parametrize(("kind", "level"), [("tmpfs", "OK"), ("ext4", "WARN"), ("nfs", "FAIL"), (None, "OK")])
def test_where_shared_memory_is(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, kind: str | None, level: str
) -> None:
    """A run_dir on a disk is a warning, on a network a failure."""
    monkeypatch.setattr(doctor, "_file_system", lambda _: kind)
    monkeypatch.setattr(sys, "platform", "linux")
    statvfs(monkeypatch, free=1 << 40)
    assert level in levels("shared memory", list(doctor._shared_memory(settings)))


@pytest.mark.parametrize(
    ("free", "kind", "flags", "level"),
    [
        (1 << 40, "ext4", 0, "OK"),
        (1 << 29, "ext4", 0, "WARN"),
        (1 << 20, "ext4", 0, "FAIL"),
        (1 << 40, "ext4", os.ST_RDONLY, "FAIL"),
        (1 << 40, "tmpfs", 0, "WARN"),
        (1 << 40, "cifs", 0, "FAIL"),
    ],
)
def test_the_disk_of_the_spool(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, free: int, kind: str, flags: int, level: str
) -> None:
    """Too little room, a read-only disk, memory instead of a disk and a network are found."""
    monkeypatch.setattr(doctor, "_file_system", lambda _: kind)
    statvfs(monkeypatch, free=free, flags=flags)
    checks = list(doctor._spool_disk(settings))
    assert max(levels("spool disk", checks), key=["OK", "WARN", "FAIL"].index) == level


def test_the_file_system_is_found() -> None:
    """On Linux /proc is of the kind that the kernel says."""
    if not Path("/proc/self/mounts").exists():
        pytest.skip("this system has no /proc/self/mounts")
    assert doctor._file_system(Path("/proc/self")) == "proc"


@pytest.mark.parametrize("which", ["run_dir", "spool_dir"])
def test_folders_that_others_may_enter(places: dict[str, Any], which: str) -> None:
    """A folder that is open to others fails with the command that mends it."""
    places[which].mkdir()
    places[which].chmod(0o750)
    checks = list(doctor._folders(load_settings("shop", environ={}, **places)))
    found = the(f"{which[:-4]} folder", "FAIL", checks)
    assert f"chmod 700 {places[which]}" in found.advice


def test_folders_that_cannot_be_made(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder below one that is not writable fails before anything is opened."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    checks = list(doctor._folders(settings))
    assert levels("run folder", checks) == levels("spool folder", checks) == ["FAIL", "FAIL"]


def test_a_parent_that_others_may_write(places: dict[str, Any], tmp_path: Path) -> None:
    """A folder whose parent everybody may write, without the sticky bit, is a warning."""
    (tmp_path / "all").mkdir()
    (tmp_path / "all").chmod(0o777)
    settings = load_settings("shop", environ={}, **{**places, "run_dir": tmp_path / "all" / "run"})
    assert "chmod +t" in next(check for check in doctor._folders(settings) if check.level == "WARN").advice
    (tmp_path / "all").chmod(0o1777)
    assert "WARN" not in levels("run folder", list(doctor._folders(settings)))


@pytest.mark.parametrize(
    ("files", "level"), [(64, "FAIL"), (256, "WARN"), (1024, "OK"), (resource.RLIM_INFINITY, "OK")]
)
def test_open_files(settings: Settings, monkeypatch: pytest.MonkeyPatch, files: int, level: str) -> None:
    """A low limit of open files is found."""
    monkeypatch.setattr(
        resource, "getrlimit", lambda which: (files if which == resource.RLIMIT_NOFILE else resource.RLIM_INFINITY, 0)
    )
    assert levels("limits", list(doctor._limits(settings))) == [level]


def test_file_size(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of file size below a lane's size is a failure: a lane could not be made."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 << 20, 1 << 20))
    assert levels("limits", list(doctor._limits(settings))) == ["OK", "FAIL"]


def test_socket_path_too_long(places: dict[str, Any], tmp_path: Path) -> None:
    """A run_dir in which no socket could have a path fails with length and limit."""
    settings = load_settings("shop", environ={}, **{**places, "run_dir": tmp_path / ("x" * CTL_PATH_MAX)})
    found = the("socket path", "FAIL", examine(settings))
    assert str(CTL_PATH_MAX) in found.text
    assert "run_dir" in found.advice


@pytest.mark.parametrize(
    ("url", "level"),
    [("https://vwo.example", "OK"), ("http://127.0.0.1:1", "OK"), ("http://vwo.example", "WARN")],
)
def test_server_urls(places: dict[str, Any], url: str, level: str) -> None:
    """Only a URL that is not encrypted and leaves the machine is a warning."""
    checks = list(doctor._server(load_settings("shop", environ={}, **{**places, "base_url": url})))
    assert checks[0].level == level


def test_certificates_and_proxy(places: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle that is not there fails; a proxy is named by its variable, never by its value."""
    settings = load_settings("shop", environ={}, **{**places, "base_url": "https://vwo.example"})
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    monkeypatch.setenv("https_proxy", "http://user:hunter2@proxy")
    checks = list(doctor._server(settings))
    assert "/nowhere/ca.pem" in the("server", "FAIL", checks).text
    assert "https_proxy" in the("server", "OK", checks).text
    assert not any("hunter2" in check.text for check in checks)


@pytest.mark.parametrize("python", ["/nowhere/python3", "/bin/false"])
def test_interpreters_that_cannot_run_it(places: dict[str, Any], python: str) -> None:
    """An interpreter that is absent, or cannot import vwo_fast, fails and the option is named."""
    checks = list(doctor._interpreter(load_settings("shop", environ={}, **places, python=python)))
    assert "VWO_FAST_PYTHON" in the("interpreter", "FAIL", checks).advice


def test_inside_uwsgi(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside uWSGI the option for threads is looked at; elsewhere nothing is said about it."""
    assert list(doctor._uwsgi(settings)) == []
    monkeypatch.setitem(sys.modules, "uwsgi", types.SimpleNamespace(opt={}))
    assert "--enable-threads" in the("uWSGI", "WARN", list(doctor._uwsgi(settings))).advice
    monkeypatch.setitem(sys.modules, "uwsgi", types.SimpleNamespace(opt={"enable-threads": True}))
    assert levels("uWSGI", list(doctor._uwsgi(settings))) == ["OK"]


def test_layout_of_another_version(queue: Queue) -> None:
    """A control file that this version cannot map is a failure, and the figures do not hide it."""
    control = queue.folder / "control"
    data = bytearray(control.read_bytes())
    data[8] = 99
    control.with_name("other").write_bytes(data)
    os.chmod(control.with_name("other"), 0o600)
    os.rename(control.with_name("other"), control)
    found = the("compiled code", "FAIL", examine(queue.settings))
    assert "99" in found.text


def test_events_that_wait_for_nobody(queue: Queue) -> None:
    """Events without an aggregator are a warning that says how to send them."""
    assert queue.producer(ROUTE).enqueue({"d": {}})
    assert the("aggregator", "WARN", examine(queue.settings)).advice == "start `vwo-fast run`"
    auto = load_settings("shop", environ={}, run_dir=queue.settings.run_dir, spool_dir=queue.settings.spool_dir)
    found = the("aggregator", "WARN", examine(auto))
    assert "1 events wait" in found.text
    assert "flush" in found.advice


@pytest.mark.parametrize(
    ("answers", "level"),
    [({"ping": {"version": __version__}}, "OK"), ({"ping": {"version": "0.0.1"}}, "WARN"), ({}, "FAIL")],
)
def test_an_aggregator_that_lives(queue: Queue, answers: dict[str, dict[str, Any]], level: str) -> None:
    """One that answers is fine, one of another version a warning, one that is silent a failure."""
    with fake_aggregator(queue.folder, answers):
        assert levels("aggregator", list(doctor._aggregator(queue.settings))) == [level]


def test_settings_that_contradict(queue: Queue) -> None:
    """A value that is set here and is not the running queue's is named with both; what is not set here is no matter."""
    same = load_settings("shop", environ={}, run_dir=queue.settings.run_dir, spool_dir=queue.settings.spool_dir)
    assert levels("configuration", list(doctor._configuration(same))) == ["OK"]
    environ = {"VWO_FAST_BASE_URL": "http://127.0.0.1:10"}
    other = load_settings("shop", environ=environ, run_dir=same.run_dir, spool_dir=same.spool_dir)
    found = the("configuration", "WARN", list(doctor._configuration(other)))
    assert "http://127.0.0.1:9" in found.text
    assert "http://127.0.0.1:10" in found.text

"""The command line: exit codes, what it prints, and whose settings it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_aggregator import fake_aggregator
from vwo_fast import __version__, cli
from vwo_fast.aggregator import loop
from vwo_fast.config import Settings, load_settings
from vwo_fast.folder import Membership
from vwo_fast.queue import Queue
from vwo_fast.route import Route

ROUTE = Route.fme(account_id=1, sdk_key="key", sdk_name="vwo-fme-python-sdk", sdk_version="1.65.0")


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("VWO_FAST_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VWO_FAST_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("VWO_FAST_SPOOL_DIR", str(tmp_path / "spool"))


@pytest.fixture
def queue() -> Iterator[Queue]:
    """An open queue with three events and no aggregator."""
    with Queue("shop", events_per_request=100, aggregator="external") as queue:
        producer = queue.producer(ROUTE)
        assert all(producer.enqueue({"d": {"visId": str(number)}}) for number in range(3))
        yield queue


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, Settings, bool]]:
    """The calls of the aggregator's loop, which is not run."""
    calls: list[tuple[Path, Settings, bool]] = []

    def run(folder: Path, settings: Settings, *, foreground: bool) -> int:
        calls.append((folder, settings, foreground))
        return 0

    monkeypatch.setattr(loop, "run", run)
    return calls


def test_status_shows_the_queue(queue: Queue, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an aggregator the figures come from shared memory, as JSON with the agreed keys and as text."""
    assert cli.main(["status", "--queue", "shop", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["queue"] == "shop"
    assert shown["aggregator_pid"] is None
    assert (shown["accepted"], shown["queued"]) == (3, 3)
    assert (shown["delivered"], shown["in_flight"], shown["spooled"], shown["dead"], shown["dropped"]) == (
        0,
        0,
        0,
        0,
        {},
    )
    assert cli.main(["status", "--queue", "shop"]) == 0
    text = capsys.readouterr().out
    assert f"queue shop in {queue.folder}" in text
    assert "not running" in text


def test_status_asks_the_aggregator(queue: Queue, capsys: pytest.CaptureFixture[str]) -> None:
    """What only the aggregator knows is shown too; one that does not answer changes nothing else."""
    answer = {"state": "sending", "routes": [], "last_error": "503"}
    with fake_aggregator(queue.folder, {"status": answer}):
        assert cli.main(["status", "--queue", "shop", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["aggregator"] == answer
        assert cli.main(["status", "--queue", "shop"]) == 0
        assert "503" in capsys.readouterr().out
    with fake_aggregator(queue.folder, {}):
        assert cli.main(["status", "--queue", "shop", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["aggregator"] is None


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ({"ok": True, "delivered": 3, "failed": 0, "reports": 0}, 0, "has been delivered"),
        ({"ok": False, "delivered": 2, "failed": 1, "reports": 0}, 1, "1 events were not delivered"),
        (None, 1, "not delivered within 0.2 s; 3 events wait"),
    ],
)
def test_flush_reports(
    queue: Queue, capsys: pytest.CaptureFixture[str], answer: dict[str, Any] | None, code: int, said: str
) -> None:
    """Exit code 0 only for a true answer; else 1, with how many events wait."""
    with fake_aggregator(queue.folder, {} if answer is None else {"flush": answer}):
        assert cli.main(["flush", "--queue", "shop", "--timeout", "0.2"]) == code
        assert said in capsys.readouterr().out
        assert cli.main(["flush", "--queue", "shop", "--timeout", "0.2", "--json"]) == code
    shown = json.loads(capsys.readouterr().out)
    assert shown == {"queue": "shop", "ok": code == 0, "answered": answer is not None, "waiting": 3}


@pytest.mark.parametrize("command", ["status", "flush"])
def test_no_such_queue(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A queue that does not exist is said so with exit code 2, and is not made by asking."""
    assert cli.main([command, "--queue", "absent"]) == 2
    assert "no queue 'absent'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    (tmp_path / "spool" / "absent").mkdir(parents=True)
    assert cli.main([command, "--queue", "absent"]) == 2
    assert "`vwo-fast run`" in capsys.readouterr().err


def test_a_folder_without_a_queue(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that is private and empty is no queue yet."""
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "run" / "shop").mkdir(mode=0o700)
    assert cli.main(["status", "--queue", "shop"]) == 2
    assert "no queue has been opened" in capsys.readouterr().err
    (tmp_path / "run" / "shop" / "control").write_bytes(b"x" * 4096)
    assert cli.main(["status", "--queue", "shop"]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_the_name_comes_from_the_environment(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """VWO_FAST_QUEUE names the queue where --queue does not; without both it is an error that names both."""
    assert cli.main(["status"]) == 2
    assert "VWO_FAST_QUEUE" in capsys.readouterr().err
    monkeypatch.setenv("VWO_FAST_QUEUE", "shop")
    assert cli.main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["queue"] == queue.name


def test_wrong_options_are_errors(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong value is named with exit code 2, by us or by the parser."""
    assert cli.main(["status", "--queue", "shop", "--base-url", "ftp://x"]) == 2
    assert "base_url='ftp://x'" in capsys.readouterr().err
    for arguments in ([], ["flush", "--timeout", "soon"], ["flush", "--timeout", "-1"], ["nothing"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == 2


def test_run_alone_takes_options_and_environment(
    runs: list[tuple[Path, Settings, bool]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With no process using the queue, its settings come from the command line and the environment."""
    monkeypatch.setenv("VWO_FAST_EVENTS_PER_REQUEST", "7")
    assert cli.main(["run", "--queue", "shop", "--base-url", "http://127.0.0.1:9"]) == 0
    [(folder, settings, foreground)] = runs
    assert folder == tmp_path / "run" / "shop"
    assert foreground
    assert (settings.base_url, settings.events_per_request) == ("http://127.0.0.1:9", 7)


HOLDER = """
import sys
from vwo_fast.queue import Queue
queue = Queue("shop", events_per_request=100, base_url="http://127.0.0.1:9", aggregator="external")
print("open", flush=True)
sys.stdin.read()
"""


def test_run_beside_users_takes_theirs(
    runs: list[tuple[Path, Settings, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a queue in use its own settings hold, not this shell's; only the command line's are laid over them."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        monkeypatch.setenv("VWO_FAST_BASE_URL", "http://127.0.0.1:10")
        assert cli.main(["run", "--queue", "shop"]) == 0
        assert (runs[0][1].base_url, runs[0][1].events_per_request) == ("http://127.0.0.1:9", 100)
        assert cli.main(["run", "--queue", "shop", "--base-url", "http://127.0.0.1:11"]) == 0
        assert (runs[1][1].base_url, runs[1][1].events_per_request) == ("http://127.0.0.1:11", 100)
        holder.stdin.close()


def test_run_detached_takes_what_was_written_down(
    runs: list[tuple[Path, Settings, bool]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An aggregator that a worker starts has the worker's settings, whatever the environment says."""
    written = load_settings("shop", events_per_request=9)
    Membership(written).leave()
    monkeypatch.setenv("VWO_FAST_EVENTS_PER_REQUEST", "8")
    assert cli.main(["run", "--detached", "--queue", "shop", "--run-dir", str(tmp_path / "run")]) == 0
    assert runs == [(tmp_path / "run" / "shop", written, False)]
    assert cli.main(["run", "--queue", "shop"]) == 0
    assert (runs[1][1].aggregator, runs[1][2]) == ("external", True)


def test_run_detached_leaves_by_itself(runs: list[tuple[Path, Settings, bool]], tmp_path: Path) -> None:
    """What a worker launches is not watched by anybody, even if the queue was opened by one that is."""
    Membership(load_settings("shop", aggregator="external")).leave()
    assert cli.main(["run", "--detached", "--queue", "shop", "--run-dir", str(tmp_path / "run")]) == 0
    assert runs[0][1].aggregator == "auto"


def test_run_detached_needs_a_place(runs: list[tuple[Path, Settings, bool]], tmp_path: Path) -> None:
    """Without name and folder, or with a folder that is not there, nothing is run."""
    assert cli.main(["run", "--detached", "--queue", "shop"]) == 2
    assert cli.main(["run", "--detached", "--queue", "shop", "--run-dir", str(tmp_path / "none")]) == 2
    assert runs == []


def test_doctor_gives_its_findings(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The findings are printed, or given as JSON; a FAIL makes the exit code 1 and says what to do."""
    cli.main(["doctor", "--queue", "shop", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert {"name", "level", "text", "advice"} == set(shown["checks"][0])
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o755)
    assert cli.main(["doctor", "--queue", "shop"]) == 1
    text = capsys.readouterr().out
    assert "FAIL run folder" in text
    assert f"chmod 700 {tmp_path / 'run'}" in text


def test_python_m_and_version() -> None:
    """``python -m vwo_fast`` is the same command line."""
    done = subprocess.run([sys.executable, "-m", "vwo_fast", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"vwo-fast {__version__}\n"


def test_a_reader_that_leaves_is_no_error(queue: Queue) -> None:
    """Output into a closed pipe ends without a traceback."""
    done = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m vwo_fast status --queue {queue.name} --json | true"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""

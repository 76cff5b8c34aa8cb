"""bench and tune on the command line: what they refuse, print, write and leave behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import wait_for
from tests.support.tuning import figures
from vwo_fast import cli
from vwo_fast.config import load_settings
from vwo_fast.tuning import measure
from vwo_fast.tuning.children import undisturbed
from vwo_fast.tuning.events import EVENT_BYTES_MAX, EVENT_BYTES_MIN
from vwo_fast.tuning.measure import Effort, body_of
from vwo_fast.tuning.sink import local_sink

ROOT = Path(__file__).resolve().parents[2]
TUNE = ["tune", "--rate", "2000", "--event-bytes", "400", "--rtt-ms", "80", "--workers", "4"]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("VWO_FAST_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """No measurement; the servers that were to be measured."""
    asked: list[Any] = []

    def measure_nothing(effort: Effort, event_bytes: int, *, places: Any, server: Any, tell: Any) -> Any:
        asked.append(server)
        tell("a step")
        return figures(event_bytes, url=server and server.base_url)

    monkeypatch.setattr(measure, "measure", measure_nothing)
    return asked


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--rate", "0"], "--rate='0': too small; expected a number, 0.001 to 100000000 events/s"),
        (["--rate", "many"], "--rate='many': not a number"),
        (["--rate", "nan"], "--rate='nan': not a number"),
        (["--event-bytes", "10"], "--event-bytes='10': too small; expected an integer, 160 to 100000 bytes"),
        (["--event-bytes", "400.5"], "--event-bytes='400.5': not an integer"),
        (["--rtt-ms", "-1"], "--rtt-ms='-1': too small; expected a number, 0 to 9000 ms"),
        (["--workers", "0"], "--workers='0': too small; expected an integer, 1 to 4096 processes"),
        (["--delay", "1e9"], "--delay='1e9': too large; expected a number, 0.01 to 3600 s"),
    ],
)
def test_wrong_input_names_option_and_range(
    measured: list[Any], capsys: pytest.CaptureFixture[str], tmp_path: Path, given: list[str], said: str
) -> None:
    """Exit code 2 before anything is measured or made."""
    assert cli.main([*TUNE, *(f"{given[0]}={value}" for value in given[1:])]) == 2
    assert said in capsys.readouterr().err
    assert measured == []
    assert list(tmp_path.iterdir()) == []


def test_the_bounds_of_an_event_are_those_that_can_be_made() -> None:
    """The smallest and the largest synthetic event have just the size that was asked for."""
    for event_bytes in (EVENT_BYTES_MIN, 400, EVENT_BYTES_MAX):
        body, _, _ = body_of(event_bytes, 1)
        assert len(body) == event_bytes + len('{"ev":[]}')


def test_tune_writes_settings_and_a_report(
    measured: list[Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Two private files in the folder that is named; the first loads as it is; what is printed agrees with it."""
    folder = tmp_path / "a" / "b"
    assert cli.main([*TUNE, "--output", str(folder)]) == 0
    out = capsys.readouterr().out
    for name in ("vwo_fast.toml", "report.html"):
        path = folder / name
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert str(path) in out
    loaded = load_settings("shop", environ={"VWO_FAST_CONFIG": str(folder / "vwo_fast.toml")})
    assert f"events_per_request = {loaded.events_per_request}" in out
    assert "--rate 2000 --event-bytes 400 --rtt-ms 80 --workers 4" in (folder / "vwo_fast.toml").read_text()


def test_tune_as_json(measured: list[Any], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One object: the demand, each option with its reason, expectations, the outage, the files, the figures."""
    assert cli.main([*TUNE, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["possible"] is True
    assert shown["demand"] == {"rate": 2000, "event_bytes": 400, "rtt": 0.08, "workers": 4, "delay": 5}
    loaded = load_settings("shop", config_file=shown["files"]["config"])
    for name, option in shown["options"].items():
        assert option["value"] == getattr(loaded, name)
        assert option["reason"]
    assert shown["expected"]["delay_median_seconds"] <= shown["expected"]["delay_p99_seconds"] <= 5
    assert shown["outage"]["refused_events"] == 0
    assert shown["figures"]["engine"]["request_cpu"] > 0
    assert Path(shown["files"]["report"]) == tmp_path / "vwo-fast-tuning" / "report.html"


def test_tune_replaces_nothing_unasked(measured: list[Any], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A file that is there stays, and nothing is measured for it; --force replaces it, not what it links to."""
    folder, precious = tmp_path / "vwo-fast-tuning", tmp_path / "precious"
    folder.mkdir()
    precious.write_text("mine")
    (folder / "vwo_fast.toml").symlink_to(precious)
    assert cli.main(TUNE) == 2
    assert "--force" in capsys.readouterr().err
    assert measured == []
    assert cli.main([*TUNE, "--force"]) == 0
    assert precious.read_text() == "mine"
    assert not (folder / "vwo_fast.toml").is_symlink()


def test_an_output_that_is_no_folder(measured: list[Any], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A file in its place is an error that names the option."""
    (tmp_path / "file").write_text("")
    assert cli.main([*TUNE, "--output", str(tmp_path / "file")]) == 2
    assert "--output=" in capsys.readouterr().err


def test_the_impossible_is_answered_without_files(
    measured: list[Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Exit code 1, the bottleneck in the text and in JSON, and no configuration that would fail."""
    demand = ["tune", "--rate", "5e6", "--rtt-ms", "0", "--workers", "64"]
    assert cli.main(demand) == 1
    assert "one core of the aggregator" in capsys.readouterr().out
    assert cli.main([*demand, "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["possible"], answer["bottleneck"]) == (False, "aggregator")
    assert not list(tmp_path.rglob("*.*"))


def test_bench_sends_nowhere_without_consent(measured: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    """For a server elsewhere it says what it would send, and sends it only when told to; one here needs no consent."""
    there = ["bench", "--base-url", "https://vwo.example", "--json"]
    assert cli.main(there) == 2
    said = capsys.readouterr().err
    assert "made-up events of account 999999" in said
    assert "--yes-send-synthetic-events" in said
    assert measured == []
    assert cli.main([*there, "--yes-send-synthetic-events"]) == 0
    assert "made-up events of account 999999" in capsys.readouterr().err
    for here in ("http://localhost:1", "http://127.8.8.8:1", "http://[::1]:1"):
        assert cli.main(["bench", "--base-url", here]) == 0
        assert f"sent to {here}" in capsys.readouterr().out
    assert measured[0].base_url == "https://vwo.example"
    assert cli.main(["bench", "--base-url", "ftp://x"]) == 2


def run_bench(*more: str, folder: Path) -> subprocess.Popen[str]:
    """The real command; its folders are below ``folder``."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "vwo_fast", "bench", "--quick", "--run-dir", str(folder / "run"), *more]
    command += ["--spool-dir", str(folder / "spool")]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell has what it runs in the background ignore Ctrl-C, and these tests may be such a thing.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in shared memory, with a path that is short enough for a socket."""
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    made = Path(tempfile.mkdtemp(prefix="vft-", dir=shared))
    yield made
    shutil.rmtree(made)


def test_bench_measures_this_machine(folder: Path) -> None:
    """The real measurement: every figure is there and positive, steps are plain lines, and no folder is left."""
    process = run_bench("--json", folder=folder)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    shown = json.loads(out)
    found = shown["figures"]
    assert [drain["events"] for drain in found["drains"]] == [100, 1000, 5000]
    assert len(found["http"]) == 6
    numbers = [found["lane"]["enqueue"]["median"], found["lane"]["record_bytes"], found["engine"]["event_cpu"]]
    numbers += [found["engine"]["request_cpu"], found["spool"]["write"], found["spool"]["read"]]
    numbers += [http["requests_per_second"] for http in found["http"]]
    assert min(numbers) > 0
    assert found["lane"]["json_bytes"] == pytest.approx(401, rel=0.01)
    assert len(shown["rows"]) > 15
    assert "[1/9] lanes: enqueue and drain\n" in err
    assert "\r" not in err
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_behind(folder: Path, number: signal.Signals) -> None:
    """In the middle of it, Ctrl-C or SIGTERM ends the command, its children and its folders."""
    with run_bench(folder=folder) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "aggregator" in line:
                break
        wait_for(lambda: len(children(process.pid)) == 2)
        begotten = children(process.pid)
        assert len(list(folder.iterdir())) == 2
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "Traceback" not in err
    assert out == ""
    wait_for(lambda: not any(is_running(pid) for pid in begotten))
    assert list(folder.iterdir()) == []


def children(pid: int) -> list[int]:
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [int(child) for child in found if is_running(int(child))]


def is_running(pid: int) -> bool:
    try:
        return b"vwo_fast.tuning." in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_server_that_refuses_is_no_measurement(folder: Path) -> None:
    """Figures of refused requests would mean nothing: the command says what the server answered."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    process = run_bench("--base-url", f"http://127.0.0.1:{port}", folder=folder)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert f"http://127.0.0.1:{port} does not take what is measured" in err
    assert out == ""


def test_the_sink_reads_requests_however_they_are_cut() -> None:
    """Byte by byte or many at once, each request with and without a body is answered, on one connection."""
    request = b"POST /a HTTP/1.1\r\nHost: x\r\ncontent-length: 5\r\n\r\nhello"
    bare = b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n"
    with local_sink() as url, socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 20) as client:
        for part in (request[at : at + 1] for at in range(len(request))):
            client.sendall(part)
        client.sendall(request + bare + request)
        got = b""
        while got.count(b"HTTP/1.1 200 OK") < 4:
            part = client.recv(4096)
            assert part
            got += part


def test_measuring_sets_the_users_options_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options and proxies of the environment do not disturb, and are back afterwards."""
    monkeypatch.setenv("VWO_FAST_DURABLE", "always")
    monkeypatch.setenv("NO_PROXY", "vwo.example")
    with undisturbed():
        assert "VWO_FAST_DURABLE" not in os.environ
        assert os.environ["NO_PROXY"] == "vwo.example,127.0.0.1,localhost"
    assert os.environ["VWO_FAST_DURABLE"] == "always"
    assert os.environ["NO_PROXY"] == "vwo.example"


def test_workers_never_load_it() -> None:
    """Importing the package brings nothing of the tuning half, nor does the command line until it is asked."""
    program = (
        "import sys, vwo_fast, vwo_fast.cli as cli; cli._parser();"
        "print([name for name in sys.modules if name.startswith('vwo_fast.tuning')])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

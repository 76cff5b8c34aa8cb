"""Neither SDK key nor visitor leaves the queue but in requests: a run with every fault, and all that it says."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vwo_fast
from tests.support.collector import Rule
from tests.support.engine import Engine, engine, impression, wait_for
from vwo_fast.errors import ConfigError, VwoFastError

ROOT = Path(__file__).resolve().parents[2]
KEY = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
ADDRESS = "198.51.100.77"
AGENT = "Mozilla/5.0 (very particular) Browser/9.9"
SECRETS = (KEY, ADDRESS, AGENT, "very particular")


class Remembered:
    """All that was said, by where it was found."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, str]] = []

    def add(self, where: str, text: object) -> None:
        self.texts.append((where, str(text)))

    def leaks(self) -> list[tuple[str, str]]:
        return [(where, secret) for where, text in self.texts for secret in SECRETS if secret in text]


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made


def route(**changes: Any) -> vwo_fast.Route:
    return vwo_fast.Route.fullstack(account_id=888888, sdk_key=KEY, sdk_version="1.68.2", **changes)


def event(number: int, **changes: Any) -> dict[str, Any]:
    return impression(number, env=KEY, visitor_ua=AGENT, visitor_ip=ADDRESS, **changes)


def command(shop: Engine, *arguments: str) -> str:
    """Everything that the command line says."""
    given = ["--queue", "shop", "--run-dir", str(shop.run_dir), "--spool-dir", str(shop.spool_dir)]
    run = [sys.executable, "-m", "vwo_fast", *arguments, *given]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout + done.stderr


def refusals(producer: vwo_fast.queue.Producer) -> None:
    """Events that are refused, with secrets wherever a message might show them."""
    nan = float("nan")
    strange = type(AGENT, (), {})()
    secret_error = type("Secret", (dict,), {"items": lambda self: (_ for _ in ()).throw(ValueError(KEY))})
    keys = ({AGENT: nan}, {ADDRESS: {KEY: nan}}, {strange: 1})
    for value in (nan, b"x", strange, *keys, secret_error(), "x" * 11_000_000):
        assert not producer.enqueue(event(1, combination=value))
    assert not producer.enqueue({**event(1), "url": f"https://{ADDRESS}/{KEY}"})
    assert not producer.enqueue([KEY, ADDRESS])


FAULTS = [
    Rule(status=400, times=4, body=f"no {KEY} {ADDRESS} {AGENT}".encode()),
    Rule(status=413, times=3),
    Rule(status=401, times=1, headers={"X-Echo": KEY}),
    Rule(status=403, times=1),
    Rule(status=500, times=2, body=f"{KEY} {AGENT}".encode()),
    Rule(status=302, times=1, headers={"Location": f"/elsewhere?env={KEY}"}),
    Rule(status=429, times=1, headers={"Retry-After": KEY}),
    Rule(drop=True, times=2),
]


def look_at_process(pid: int, said: Remembered) -> None:
    for name in ("cmdline", "environ"):
        said.add(f"{name} of the aggregator", Path(f"/proc/{pid}/{name}").read_bytes().replace(b"\0", b" ").decode())


def test_no_secret_is_said_anywhere(
    shop: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refusals, 4xx, 5xx, broken connections, dead letters, a kill: no log, status, repr or process shows one."""
    monkeypatch.setenv("SHOP_SDK_KEY", KEY)
    monkeypatch.setenv("SHOP_LAST_VISITOR", f"{ADDRESS} {AGENT}")
    said = Remembered()
    caplog.set_level(logging.INFO)
    errors: list[Any] = []
    queue = shop.queue(events_per_request=4, flush_callback=lambda error, _: errors.append(error))
    producer = queue.producer(route(usage_stats={"ig": 1}))
    refusals(producer)
    for number, rule in enumerate(FAULTS):
        shop.collector.rules.append(rule)
        assert all(producer.enqueue(event(10 * number + n)) for n in range(5))
        queue.flush(3)
        said.add("stats", queue.stats())
        if number == 4:
            said.add("status", command(shop, "status", "--json"))
            shop.kill_aggregator(number=signal.SIGKILL)
    shop.collector.rules.clear()
    wait_for(lambda: (queue.flush(10), queue.stats().queued + queue.stats().spooled)[1] == 0)
    pid = wait_for(shop.aggregator_pid)
    if sys.platform.startswith("linux"):
        look_at_process(pid, said)
    for arguments in (["status"], ["status", "--json"], ["doctor"], ["doctor", "--json"], ["flush", "--timeout", "5"]):
        said.add(" ".join(arguments), command(shop, *arguments))
    for thing in (queue, producer, producer.route, queue.settings, queue.stats(), *errors):
        said.add(f"repr of {type(thing).__name__}", f"{thing!r} {thing}")
    with pytest.raises(VwoFastError) as wrong:
        vwo_fast.Queue("shop", **shop.options(events_per_request=9))
    said.add("the error of other settings", wrong.value)
    shop.kill_aggregator(number=signal.SIGTERM)
    for path in shop.spool_dir.rglob("*.log*"):
        said.add(path.name, path.read_text())
    for record in caplog.records:
        said.add("log of the application", logging.Formatter("%(message)s").format(record))
    assert queue.stats().dead >= 1
    assert any(errors)
    assert len(said.texts) > 25
    assert said.leaks() == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="optional: reads /proc")
def test_the_aggregator_gets_only_the_environment_that_it_needs(shop: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the application keeps in its environment stays there; proxies, certificates and Python's own go along."""
    monkeypatch.setenv("DATABASE_PASSWORD", "open sesame")
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    queue = shop.queue(events_per_request=4)
    assert queue.producer(route()).enqueue(event(1))
    assert queue.flush(10)
    names = Path(f"/proc/{shop.aggregator_pid()}/environ").read_text().split("\0")
    assert not [name for name in names if "DATABASE" in name]
    assert {"PYTHONHASHSEED=7", "no_proxy=127.0.0.1,localhost", f"PATH={os.environ['PATH']}"} <= set(names)


@pytest.mark.parametrize("noise", [b"HTTP/1.1 500 x\r\nno header\r\n\xff: \r\n : x\r\n\r\n", b"nonsense\r\n\r\n"])
def test_answers_that_http_libraries_complain_about_are_not_quoted_with_their_url(shop: Engine, noise: bytes) -> None:
    """An aggregator in the foreground writes to stderr; what urllib3 says of a malformed answer names URL and key."""
    with answering(noise) as url:
        options = shop.options(base_url=url, aggregator="external", shutdown_timeout=2)
        queue = vwo_fast.Queue("shop", **options)
        shop.queues.append(queue)
        assert queue.producer(route()).enqueue(event(1))
        given = ["--queue", "shop", "--run-dir", str(shop.run_dir), "--spool-dir", str(shop.spool_dir)]
        run = [sys.executable, "-m", "vwo_fast", "run", *given]
        process = subprocess.Popen(run, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait_for(lambda: queue.stats().requests > 0 and queue.stats().in_flight == 0)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=30)
    assert "started" in said
    assert not [secret for secret in SECRETS if secret in said]


@contextlib.contextmanager
def answering(noise: bytes) -> Iterator[str]:
    """The URL of a server that answers every request with these bytes."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(noise)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_options_and_routes_do_not_quote_a_key(shop: Engine) -> None:
    """The errors of a wrong route or option show types and names, not what was given as a key."""
    with pytest.raises(ConfigError) as wrong:
        vwo_fast.Route.fullstack(account_id=1, sdk_key=[KEY], sdk_version="1")  # type: ignore[arg-type]
    assert KEY not in str(wrong.value)
    assert KEY not in repr(route())
    with pytest.raises(ConfigError) as wrong:
        shop.queue(base_url=f"https://user:{KEY}@example.com:99999/?env={KEY}")
    assert KEY not in str(wrong.value)

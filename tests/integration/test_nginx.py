"""Through a real nginx: its own refusals, a dead upstream, TLS, client certificates; and through forward proxies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vwo_fast
from tests.support.collector import Collector, Rule
from tests.support.engine import Engine, engine, impression, numbers, route, wait_for
from tests.support.nginx import Certificates, Nginx, program
from tests.support.ports import free_port
from tests.support.proxy import ForwardProxy
from vwo_fast.client import Link

needs_nginx = pytest.mark.skipif(program("nginx") is None, reason="nginx is not installed (Debian: nginx-light)")
needs_openssl = pytest.mark.skipif(program("openssl") is None, reason="openssl is not installed")


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def put(queue: vwo_fast.Queue, count: int, **changes: Any) -> None:
    producer = queue.producer(route())
    assert all(producer.enqueue(impression(n, **changes)) for n in range(count))


def last_error(queue: vwo_fast.Queue) -> str:
    answer = Link(queue.folder, queue.name, auto=False).ask({"op": "status"}, 5)
    return str(answer["last_error"]) if answer else ""


def all_delivered(shop: Engine, queue: vwo_fast.Queue, count: int) -> vwo_fast.Stats:
    """The statistics, when each event has arrived once."""
    wait_for(lambda: queue.stats().delivered == count)
    assert sorted(numbers(shop.collector.events)) == list(range(count))
    stats = queue.stats()
    assert (stats.queued, stats.spooled, stats.dead, stats.dropped) == (0, 0, 0, {})
    return stats


# ---- nginx's own answers


@needs_nginx
def test_a_413_of_nginx_is_split(shop: Engine, tmp_path: Path) -> None:
    """client_max_body_size is met by halving; what alone is too large becomes a dead letter, and all else arrives."""
    with Nginx(tmp_path, shop.collector.port, directives="client_max_body_size 2k;") as nginx:
        queue = shop.queue(base_url=nginx.url, events_per_request=32)
        producer = queue.producer(route())
        for n in range(32):
            assert producer.enqueue(impression(n, visitor_ua="z" * 3000 if n == 13 else "short"))
        assert queue.flush(60) is False
        assert sorted(numbers(shop.collector.events)) == [n for n in range(32) if n != 13]
        stats = queue.stats()
    assert (stats.delivered, stats.dead, stats.queued, stats.spooled) == (31, 1, 0, 0)
    assert stats.unknown_outcome == 0


@needs_nginx
def test_a_413_that_comes_before_the_body_is_understood(shop: Engine, tmp_path: Path) -> None:
    """nginx refuses 8 MB by their announced size while they are still being sent: split, and nothing unknown."""
    with Nginx(tmp_path, shop.collector.port, directives="client_max_body_size 3m;") as nginx:
        queue = shop.queue(base_url=nginx.url, events_per_request=8)
        put(queue, 8, visitor_ua="z" * 1_000_000)
        stats = all_delivered(shop, queue, 8)
    assert stats.unknown_outcome == 0
    assert max(len(request.body) for request in shop.collector.requests) <= 3 << 20


@needs_nginx
def test_a_502_of_nginx_is_retried_until_its_upstream_is_back(shop: Engine, tmp_path: Path) -> None:
    """With a dead upstream nginx answers 502: everything is kept and arrives when the upstream does."""
    port = free_port()
    with Nginx(tmp_path, port) as nginx:
        queue = shop.queue(base_url=nginx.url, events_per_request=5)
        put(queue, 30)
        wait_for(lambda: queue.stats().retries >= 3)
        assert "502" in last_error(queue)
        with Collector(port=port) as upstream:
            wait_for(lambda: queue.stats().delivered == 30)
            assert sorted(numbers(upstream.events)) == list(range(30))
        stats = queue.stats()
    assert (stats.accepted, stats.queued, stats.spooled, stats.dead, stats.dropped) == (30, 0, 0, 0, {})


@needs_nginx
def test_a_504_of_nginx_is_an_unknown_outcome(shop: Engine, tmp_path: Path) -> None:
    """A gateway that gave up waiting does not know what its server did: the batch is sent again, and counted."""
    shop.collector.rules.append(Rule(delay=2.5, times=1))
    with Nginx(tmp_path, shop.collector.port, directives="proxy_read_timeout 1s;") as nginx:
        queue = shop.queue(base_url=nginx.url, events_per_request=5, in_flight_max=1)
        put(queue, 5)
        wait_for(lambda: queue.stats().delivered == 5)
        assert shop.collector.wait(lambda c: len(c.events) == 10)
        assert queue.stats().unknown_outcome == 5


# ---- TLS


@needs_nginx
@needs_openssl
def test_a_server_of_an_own_authority_is_trusted_by_ca_bundle_alone(
    shop: Engine, tmp_path: Path, certificates: Certificates
) -> None:
    """Without the option its certificate is refused before any request is made; with it all arrives."""
    with Nginx(tmp_path, shop.collector.port, server=certificates.sign("server")) as nginx:
        queue = shop.queue("strict", base_url=nginx.url, events_per_request=5)
        put(queue, 5)
        wait_for(lambda: queue.stats().retries >= 2)
        assert "certificate verify failed" in last_error(queue)
        assert shop.collector.requests == []
        assert (queue.stats().delivered, queue.stats().unknown_outcome) == (0, 0)
        queue = shop.queue(base_url=nginx.url, events_per_request=5, ca_bundle=certificates.authority)
        put(queue, 25)
        all_delivered(shop, queue, 25)


@needs_nginx
@needs_openssl
@pytest.mark.parametrize("is_one_file", [True, False], ids=["one file", "two files"])
def test_a_client_certificate_is_shown(
    shop: Engine, tmp_path: Path, certificates: Certificates, is_one_file: bool
) -> None:
    """A server that asks for a certificate of its authority gets the one of client_cert, its key there or beside it."""
    asks = f"ssl_verify_client on; ssl_client_certificate {certificates.authority};"
    cert, key = certificates.sign("client")
    options: dict[str, Any] = {"client_cert": cert, "client_key": key}
    if is_one_file:
        both = tmp_path / "both.pem"
        both.write_text(cert.read_text() + key.read_text())
        options = {"client_cert": both}
    with Nginx(tmp_path, shop.collector.port, directives=asks, server=certificates.sign("server")) as nginx:
        queue = shop.queue(base_url=nginx.url, events_per_request=5, ca_bundle=certificates.authority, **options)
        put(queue, 5)
        all_delivered(shop, queue, 5)


@needs_nginx
@needs_openssl
def test_a_missing_client_certificate_buries_nothing(shop: Engine, tmp_path: Path, certificates: Certificates) -> None:
    """nginx answers 400 with a page to a client without a certificate: nothing becomes a dead letter, the status says
    what is asked for, and all arrives once nobody asks any more."""
    asks = f"ssl_verify_client on; ssl_client_certificate {certificates.authority};"
    with Nginx(tmp_path, shop.collector.port, directives=asks, server=certificates.sign("server")) as nginx:
        queue = shop.queue(base_url=nginx.url, events_per_request=5, ca_bundle=certificates.authority)
        put(queue, 25)
        wait_for(lambda: queue.stats().retries >= 5)
        assert "client_cert" in last_error(queue)
        stats = queue.stats()
        assert (stats.dead, stats.delivered, stats.dropped) == (0, 0, {})
        assert shop.collector.requests == []
        nginx.reload("")
        all_delivered(shop, queue, 25)


def test_a_ca_bundle_that_is_gone_is_named(shop: Engine, tmp_path: Path) -> None:
    """A file that vanished after the queue was opened loses nothing, and the error names the options it may be."""
    bundle = tmp_path / "authority.pem"
    bundle.touch()
    queue = shop.queue(base_url=f"https://127.0.0.1:{shop.collector.port}", events_per_request=1, ca_bundle=bundle)
    bundle.unlink()
    put(queue, 1)
    wait_for(lambda: queue.stats().retries >= 1)
    assert "ca_bundle" in last_error(queue)
    stats = queue.stats()
    assert stats.accepted == 1 == stats.queued + stats.in_flight + stats.spooled


@needs_nginx
@needs_openssl
@pytest.mark.parametrize("in_flight_max", [1, 3])
def test_tls_connections_are_kept_alive(
    shop: Engine, tmp_path: Path, certificates: Certificates, in_flight_max: int
) -> None:
    """However many batches there are, no more connections are opened, and handshakes made, than are used at once."""
    numbered = "proxy_set_header X-Connection $connection;"
    with Nginx(tmp_path, shop.collector.port, directives=numbered, server=certificates.sign("server")) as nginx:
        queue = shop.queue(
            base_url=nginx.url,
            events_per_request=5,
            ca_bundle=certificates.authority,
            in_flight_max=in_flight_max,
        )
        put(queue, 400)
        all_delivered(shop, queue, 400)
        used = Counter(request.headers["X-Connection"] for request in shop.collector.requests)
    assert sum(used.values()) == 80
    assert len(used) <= in_flight_max


# ---- forward proxies


@pytest.mark.parametrize("source", ["option", "environment"])
def test_requests_go_through_a_proxy(shop: Engine, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """The option proxy, or HTTP_PROXY without it, is where all requests go; the connection to it is kept."""
    with ForwardProxy() as forward, ForwardProxy() as other:
        for name in ("NO_PROXY", "no_proxy", "http_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTP_PROXY", (other if source == "option" else forward).url)
        queue = shop.queue(
            events_per_request=5, in_flight_max=1, **{"proxy": forward.url} if source == "option" else {}
        )
        put(queue, 20)
        all_delivered(shop, queue, 20)
        assert forward.exchanges == 4
        assert forward.connections == 1
        assert other.connections == 0
        assert forward.lines[0].startswith(f"POST {shop.collector.url}/server-side/batch-events?")


@needs_nginx
@needs_openssl
def test_tls_goes_through_a_tunnel(shop: Engine, tmp_path: Path, certificates: Certificates) -> None:
    """An https server behind a proxy is reached by CONNECT: the proxy sees host and port, and nothing of the key."""
    with Nginx(tmp_path, shop.collector.port, server=certificates.sign("server")) as nginx, ForwardProxy() as forward:
        queue = shop.queue(
            base_url=nginx.url, events_per_request=5, ca_bundle=certificates.authority, proxy=forward.url
        )
        put(queue, 20)
        all_delivered(shop, queue, 20)
        assert {line.rpartition(" ")[0] for line in forward.lines} == {f"CONNECT 127.0.0.1:{nginx.port}"}


def test_a_proxy_that_is_gone_is_an_outage(shop: Engine) -> None:
    """A proxy that does not answer costs nothing but time: all arrives when it is back, and nothing is unknown."""
    with ForwardProxy() as forward:
        forward.refuse()
        queue = shop.queue(events_per_request=5, proxy=forward.url)
        put(queue, 20)
        wait_for(lambda: queue.stats().retries >= 2)
        assert shop.collector.requests == []
        forward.listen()
        assert all_delivered(shop, queue, 20).unknown_outcome == 0

"""TLS sessions between the whole engine and a real nginx: resumed, directly and through proxies."""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import vwo_fast
from tests.support.engine import Engine, engine, impression, numbers, route, wait_for
from tests.support.nginx import Certificates, Nginx, program
from tests.support.proxy import ForwardProxy
from tests.support.tls import server_context

pytestmark = [
    pytest.mark.skipif(program("nginx") is None, reason="nginx is not installed (Debian: nginx-light)"),
    pytest.mark.skipif(program("openssl") is None, reason="openssl is not installed"),
]

TELLS = "proxy_set_header X-Reused $ssl_session_reused; proxy_set_header X-Connection $connection;"
VERSIONS = {
    "TLS 1.2": "ssl_protocols TLSv1.2; ssl_session_cache shared:sessions:1m;",
    "TLS 1.3": "ssl_protocols TLSv1.3;",
}
EVENTS = 200
PER_REQUEST = 5
PER_CONNECTION = 4


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def deliver(shop: Engine, queue: vwo_fast.Queue, count: int = EVENTS) -> None:
    """Have that many events delivered, each once."""
    producer = queue.producer(route())
    assert all(producer.enqueue(impression(number)) for number in range(count))
    wait_for(lambda: queue.stats().delivered == count)
    assert sorted(numbers(shop.collector.events)) == list(range(count))


def handshakes(shop: Engine) -> Counter[str]:
    """Connections on which requests came, by what nginx says of their session: r is resumed, a point is not."""
    of_connection = {
        request.headers["X-Connection"]: request.headers["X-Reused"] for request in shop.collector.requests
    }
    return Counter(of_connection.values())


@pytest.mark.parametrize("version", VERSIONS)
def test_connections_that_the_server_ends_are_opened_again_with_their_session(
    shop: Engine, tmp_path: Path, certificates: Certificates, version: str
) -> None:
    """nginx ends each connection after a few requests: one full handshake, and all the others are resumed."""
    directives = f"{TELLS} {VERSIONS[version]} keepalive_requests {PER_CONNECTION};"
    with Nginx(tmp_path, shop.collector.port, directives=directives, server=certificates.sign("server")) as nginx:
        queue = shop.queue(
            base_url=nginx.url, events_per_request=PER_REQUEST, in_flight_max=1, ca_bundle=certificates.authority
        )
        deliver(shop, queue)
    found = handshakes(shop)
    assert found["."] == 1
    assert found["r"] == EVENTS // PER_REQUEST // PER_CONNECTION - 1


@pytest.mark.parametrize("version", ["ssl_protocols TLSv1.2;", "ssl_protocols TLSv1.3;"])
def test_a_server_that_grants_nothing_is_served_all_the_same(
    shop: Engine, tmp_path: Path, certificates: Certificates, version: str
) -> None:
    """Without tickets and without a cache each handshake is a full one, and all arrives."""
    grants_nothing = "ssl_session_tickets off; ssl_session_cache off;"
    directives = f"{TELLS} {grants_nothing} {version} keepalive_requests {PER_CONNECTION};"
    with Nginx(tmp_path, shop.collector.port, directives=directives, server=certificates.sign("server")) as nginx:
        queue = shop.queue(
            base_url=nginx.url, events_per_request=PER_REQUEST, in_flight_max=1, ca_bundle=certificates.authority
        )
        deliver(shop, queue)
    assert handshakes(shop) == {".": EVENTS // PER_REQUEST // PER_CONNECTION}


def test_sessions_are_resumed_through_a_tunnel(shop: Engine, tmp_path: Path, certificates: Certificates) -> None:
    """Behind a proxy that tunnels the server's session is resumed as without one."""
    directives = f"{TELLS} {VERSIONS['TLS 1.3']} keepalive_requests {PER_CONNECTION};"
    certificate = certificates.sign("server")
    with Nginx(tmp_path, shop.collector.port, directives=directives, server=certificate) as nginx, ForwardProxy() as to:
        queue = shop.queue(
            base_url=nginx.url,
            events_per_request=PER_REQUEST,
            in_flight_max=1,
            ca_bundle=certificates.authority,
            proxy=to.url,
        )
        deliver(shop, queue)
        assert {line.rpartition(" ")[0] for line in to.lines} == {f"CONNECT 127.0.0.1:{nginx.port}"}
    found = handshakes(shop)
    assert found["."] == 1
    assert found["r"] == EVENTS // PER_REQUEST // PER_CONNECTION - 1


@pytest.mark.parametrize("is_trusted", [True, False], ids=["its authority", "another authority"])
def test_a_proxy_that_speaks_tls_itself(
    shop: Engine, tmp_path: Path, certificates: Certificates, is_trusted: bool
) -> None:
    """TLS in TLS works as before, with full handshakes, and the proxy's certificate is checked as the server's."""
    (tmp_path / "stranger").mkdir()
    directives = f"{TELLS} {VERSIONS['TLS 1.3']} keepalive_requests 20;"
    signer = certificates if is_trusted else Certificates(tmp_path / "stranger")
    certificate = certificates.sign("server")
    with (
        Nginx(tmp_path, shop.collector.port, directives=directives, server=certificate) as nginx,
        ForwardProxy() as behind,
        Unwrapping(server_context(signer.sign("proxy")), behind.port) as proxy,
    ):
        queue = shop.queue(
            base_url=nginx.url,
            events_per_request=PER_REQUEST,
            in_flight_max=1,
            ca_bundle=certificates.authority,
            proxy=proxy.url,
        )
        if is_trusted:
            deliver(shop, queue)
            assert handshakes(shop) == {".": 2}
        else:
            producer = queue.producer(route())
            assert all(producer.enqueue(impression(number)) for number in range(PER_REQUEST))
            wait_for(lambda: queue.stats().retries >= 2)
            assert behind.lines == []
            assert shop.collector.requests == []


class Unwrapping:
    """The TLS end of a proxy: what comes out of it goes on to a port."""

    def __init__(self, context: ssl.SSLContext, port: int) -> None:
        self._context = context
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Unwrapping:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        # A client that refuses the certificate leaves, and so does the other side when its connection ends.
        with (
            contextlib.suppress(OSError),
            client,
            socket.create_connection(("127.0.0.1", self._to)) as behind,
            self._context.wrap_socket(client, server_side=True) as secure,
        ):
            _pump(secure, behind)


def _pump(secure: ssl.SSLSocket, behind: socket.socket) -> None:
    """Carry bytes both ways, in one thread: a TLS connection must not be read and written at the same time."""
    others = {secure: behind, behind: secure}
    with selectors.DefaultSelector() as selector:
        for source in others:
            selector.register(source, selectors.EVENT_READ)
        while True:
            ready = [secure] if secure.pending() else [key.fileobj for key, _ in selector.select()]
            for source, other in others.items():
                if source in ready:
                    data = source.recv(65536)
                    if not data:
                        return
                    other.sendall(data)

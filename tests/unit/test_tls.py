"""Sessions that are resumed, and all that must not change by it: which certificates are accepted and shown."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import urllib3

from tests.support.nginx import Certificates, program
from tests.support.tls import TlsServer, server_context
from vwo_fast.aggregator import tls
from vwo_fast.aggregator.outcome import Reply
from vwo_fast.aggregator.tls import PoolTls
from vwo_fast.aggregator.transport import HttpRequest, Transport
from vwo_fast.config import load_settings

pytestmark = pytest.mark.skipif(program("openssl") is None, reason="openssl is not installed")

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
both_versions = pytest.mark.parametrize("version", VERSIONS, ids=["TLS 1.2", "TLS 1.3"])

MakeTransport = Callable[..., Transport]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def certificate(authority: Certificates) -> tuple[Path, Path]:
    return authority.sign("server")


@pytest.fixture
def transport(authority: Certificates) -> Iterator[MakeTransport]:
    """Makes transports that trust the authority and end with the test."""
    made: list[Transport] = []

    def make(**options: Any) -> Transport:
        options = {"ca_bundle": authority.authority, "in_flight_max": 8, "read_timeout": 30, **options}
        made.append(Transport(load_settings("shop", environ={}, **options)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def one_context(certificate: tuple[Path, Path], **options: Any) -> Callable[[], ssl.SSLContext]:
    """The same for each connection, so that its sessions are known to it."""
    context = server_context(certificate, **options)
    return lambda: context


def post(transport: Transport, url: str) -> Reply:
    return transport.send(HttpRequest(method="POST", url=f"{url}/server-side/batch-events", headers={}, body=b"{}"))


def post_at_once(transport: Transport, server: TlsServer, count: int) -> list[int | None]:
    """Requests that are all on their way before any of them is answered, each on a connection of its own."""
    server.hold_until = len(server.opened) + count
    found: list[int | None] = []
    threads = [threading.Thread(target=lambda: found.append(post(transport, server.url).status)) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


# ---- sessions are resumed


@both_versions
def test_each_connection_but_the_first_resumes_a_session(
    version: ssl.TLSVersion, certificate: tuple[Path, Path], transport: MakeTransport
) -> None:
    """A server that ends the connection with each answer makes one full handshake."""
    with TlsServer(one_context(certificate, version=version)) as server:
        made = transport()
        assert [post(made, server.url).status for _ in range(6)] == [200] * 6
        assert server.resumed == [False] + [True] * 5
        assert {one.version for one in server.opened} == {version.name.replace("_", ".")}


@both_versions
def test_a_connection_that_stays_open_lends_its_session(
    version: ssl.TLSVersion, certificate: tuple[Path, Path], transport: MakeTransport
) -> None:
    """A second connection beside the first one resumes what the first was granted with its first answer."""
    with TlsServer(one_context(certificate, version=version)) as server:
        server.keeps_alive = True
        made = transport()
        post(made, server.url)
        assert post_at_once(made, server, 2) == [200] * 2
        # One of the two came on the first connection.
        assert sorted(server.resumed) == [False, False, True]


def test_a_ticket_is_shown_once(certificate: tuple[Path, Path], transport: MakeTransport) -> None:
    """Connections of TLS 1.3 that are opened together do not offer the same session; each leaves one for later."""
    with TlsServer(one_context(certificate)) as server:
        made = transport()
        post(made, server.url)
        assert post_at_once(made, server, 3) == [200] * 3
        assert sorted(server.resumed[1:]) == [False, False, True]
        assert post_at_once(made, server, 3) == [200] * 3
        assert server.resumed[4:] == [True] * 3


def test_a_session_of_tls_1_2_serves_many_connections(certificate: tuple[Path, Path], transport: MakeTransport) -> None:
    """It has no tickets here, only a number that the server knows, which may be told again and again."""
    with TlsServer(one_context(certificate, version=ssl.TLSVersion.TLSv1_2)) as server:
        made = transport()
        post(made, server.url)
        assert post_at_once(made, server, 3) == [200] * 3
        assert server.resumed == [False] + [True] * 3


def test_many_threads_share_what_there_is(certificate: tuple[Path, Path], transport: MakeTransport) -> None:
    """Connections that come and go in eight threads get their answers, and nearly all of them resume a session."""
    with TlsServer(one_context(certificate)) as server:
        made = transport()
        found: list[int | None] = []

        def run() -> None:
            for _ in range(25):
                found.append(post(made, server.url).status)

        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [200] * 200
        assert len(server.resumed) == 200
        # Each thread opens one connection at a time, so that there are never more full handshakes than threads
        # beyond those that began before the first session was there.
        assert server.resumed.count(False) <= 16


def test_the_shared_context_is_left_as_it_was_made(
    authority: Certificates,
    certificate: tuple[Path, Path],
    transport: MakeTransport,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the first connection nothing is read into it and nothing set: other threads may be using it just then."""
    touched: list[str] = []
    for name in ("load_verify_locations", "load_cert_chain", "set_alpn_protocols", "load_default_certs"):
        original = getattr(ssl.SSLContext, name)

        def noted(*args: Any, _name: str = name, _original: Any = original, **kwargs: Any) -> Any:
            touched.append(_name)
            return _original(*args, **kwargs)

        monkeypatch.setattr(ssl.SSLContext, name, noted)
    cert, key = authority.sign("shop")
    with TlsServer(one_context(certificate)) as server:
        made = transport(client_cert=cert, client_key=key)
        touched.clear()
        assert post(made, server.url).status == 200
        assert sorted(touched) == ["load_cert_chain", "load_verify_locations", "set_alpn_protocols"]
        assert [post(made, server.url).status for _ in range(4)] == [200] * 4
    assert len(touched) == 3


# ---- what a server may do with a session


@both_versions
def test_a_session_that_the_server_does_not_know_costs_nothing(
    version: ssl.TLSVersion, certificate: tuple[Path, Path], transport: MakeTransport
) -> None:
    """A server that was started anew makes a full handshake of an offered session, and the request is answered."""
    with TlsServer(lambda: server_context(certificate, version=version)) as server:
        made = transport()
        assert [post(made, server.url).status for _ in range(4)] == [200] * 4
        assert server.resumed == [False] * 4


@both_versions
def test_a_session_with_which_a_handshake_broke_is_not_offered_again(
    version: ssl.TLSVersion, certificate: tuple[Path, Path], transport: MakeTransport
) -> None:
    """Whoever does not bear to be offered a session gets a full handshake at the next try."""
    with TlsServer(one_context(certificate, version=version)) as server:
        made = transport()
        post(made, server.url)
        server.breaks = 1
        failed = post(made, server.url)
        assert failed.error is not None
        assert failed.may_have_arrived is False
        assert [post(made, server.url).status for _ in range(2)] == [200] * 2
        assert server.resumed == [False, False, True]


@both_versions
def test_a_server_that_is_away_uses_up_no_session(
    version: ssl.TLSVersion, certificate: tuple[Path, Path], transport: MakeTransport
) -> None:
    """Where no handshake begins, the session is there for the time when the server is back."""
    with TlsServer(one_context(certificate, version=version)) as server:
        made = transport()
        post(made, server.url)
        server.refuse()
        assert [post(made, server.url).status for _ in range(3)] == [None] * 3
        server.listen()
        assert post(made, server.url).status == 200
        assert server.resumed == [False, True]


# ---- which certificates are accepted


@both_versions
def test_a_session_is_never_offered_under_another_name(
    version: ssl.TLSVersion, certificate: tuple[Path, Path], transport: MakeTransport
) -> None:
    """The server would resume it, and no certificate would be looked at: under a name it has not, it is refused."""
    with TlsServer(one_context(certificate, version=version)) as server:
        made = transport()
        assert [post(made, server.url).status for _ in range(2)] == [200] * 2
        wrong = f"https://localhost:{server.port}"
        refused = [post(made, wrong) for _ in range(2)]
        assert [reply.status for reply in refused] == [None, None]
        assert all("SSLError" in (reply.error or "") for reply in refused)
        assert server.resumed == [False, True]
        assert post(made, server.url).status == 200
        assert server.resumed == [False, True, True]


@both_versions
def test_a_session_is_never_offered_at_another_port(
    version: ssl.TLSVersion, certificate: tuple[Path, Path], transport: MakeTransport
) -> None:
    """Two servers that know each other's sessions: each gets a full handshake first."""
    context = one_context(certificate, version=version)
    with TlsServer(context) as one, TlsServer(context) as other:
        made = transport()
        for server in (one, other, one, other):
            assert post(made, server.url).status == 200
        assert one.resumed == other.resumed == [False, True]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_authorities_that_are_replaced_are_read_again(
    kind: str, authority: Certificates, certificate: tuple[Path, Path], transport: MakeTransport, tmp_path: Path
) -> None:
    """A server whose authority is no longer trusted is refused from the next connection on, and back with it."""
    stranger = Certificates(_new(tmp_path / "stranger")).authority
    place = tmp_path / "authority.pem" if kind == "file" else _new(tmp_path / "folder")
    with TlsServer(one_context(certificate)) as server:
        _trust(authority.authority, place)
        made = transport(ca_bundle=place)
        assert [post(made, server.url).status for _ in range(2)] == [200] * 2
        _trust(stranger, place)
        refused = [post(made, server.url) for _ in range(2)]
        assert all("SSLError" in (reply.error or "") for reply in refused)
        assert server.resumed == [False, True]
        _trust(authority.authority, place)
        assert [post(made, server.url).status for _ in range(2)] == [200] * 2
        assert server.resumed == [False, True, False, True]


def test_certificates_are_checked_again_after_an_hour(certificate: tuple[Path, Path], authority: Certificates) -> None:
    """However many sessions follow each other, all go back to a check that is at most so old."""
    now = [0.0]
    pool = PoolTls(clock=lambda: now[0])
    with TlsServer(one_context(certificate)) as server:
        for now[0] in (0.0, 2000.0, 3599.0, 3600.0, 5000.0, 7199.0, 7201.0):
            _exchange(pool, server, authority.authority)
        assert server.resumed == [False, True, True, False, True, True, False]
    assert tls.FULL_EVERY_SECONDS == 3600


# ---- which certificate is shown


@both_versions
def test_a_client_is_known_in_each_connection(
    version: ssl.TLSVersion, authority: Certificates, certificate: tuple[Path, Path], transport: MakeTransport
) -> None:
    """A server that asks for a client's certificate knows it in a resumed session too."""
    cert, key = authority.sign("shop")
    with TlsServer(one_context(certificate, version=version, clients_of=authority.authority)) as server:
        made = transport(client_cert=cert, client_key=key)
        assert [post(made, server.url).status for _ in range(3)] == [200] * 3
        assert server.resumed == [False, True, True]
        assert [one.client for one in server.opened] == ["shop"] * 3
        assert post(transport(), server.url).status is None


@both_versions
def test_a_client_certificate_that_is_renewed_is_shown_from_then_on(
    version: ssl.TLSVersion,
    authority: Certificates,
    certificate: tuple[Path, Path],
    transport: MakeTransport,
    tmp_path: Path,
) -> None:
    """Nothing has to be started anew for it, and no session of the old one is offered."""
    shown = tmp_path / "client.pem", tmp_path / "client.key"
    with TlsServer(one_context(certificate, version=version, clients_of=authority.authority)) as server:
        _renew(authority, "old", shown)
        made = transport(client_cert=shown[0], client_key=shown[1])
        post(made, server.url)
        post(made, server.url)
        _renew(authority, "new", shown)
        post(made, server.url)
        post(made, server.url)
        assert [one.client for one in server.opened] == ["old", "old", "new", "new"]
        assert server.resumed == [False, True, False, True]


# ---- where TLS is not what it usually is


def test_a_context_of_another_kind_is_left_alone(
    certificate: tuple[Path, Path], authority: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where something has been put in the place of Python's own, it is not shared, and no session is kept."""
    with TlsServer(one_context(certificate)) as server:
        pool = PoolTls()
        _exchange(pool, server, authority.authority)
        _exchange(pool, server, authority.authority)
        replaced = SimpleNamespace(SSLSocket=ssl.SSLSocket, SSLContext=type("SSLContext", (ssl.SSLContext,), {}))
        monkeypatch.setattr(tls, "ssl", replaced)
        other = PoolTls()
        _exchange(other, server, authority.authority)
        _exchange(other, server, authority.authority)
        assert server.resumed == [False, True, False, False]


def _exchange(pool: PoolTls, server: TlsServer, bundle: Path) -> None:
    """One request on a connection of its own."""
    connections = urllib3.HTTPSConnectionPool(
        "127.0.0.1", server.port, ca_certs=str(bundle), cert_reqs="CERT_REQUIRED", timeout=30
    )
    connection: Any = connections._get_conn()
    handshake = pool.open(connection, connection.connect)
    connection.request("POST", "/", body=b"{}")
    assert connection.sock.recv(65536).startswith(b"HTTP/1.1 200")
    handshake.learn(connection.sock)
    connection.close()


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _trust(authority: Path, place: Path) -> None:
    """Make it the only one that is trusted. In a folder a file is found by a hash of its subject."""
    if place.is_dir():
        command = [str(program("openssl")), "x509", "-noout", "-subject_hash", "-in", str(authority)]
        place /= subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() + ".0"
    place.write_bytes(authority.read_bytes())


def _renew(authority: Certificates, name: str, shown: tuple[Path, Path]) -> None:
    """Put a certificate of that name where the old one was."""
    for made, place in zip(authority.sign(name), shown, strict=True):
        shutil.copy(made, place)

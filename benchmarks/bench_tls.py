"""What a new TLS connection costs, here and in the server: opened by the aggregator's transport and by ``requests``.

nginx ends each connection after its first answer, so that each POST of 100 events needs a new one.
It says of each whether its session was resumed.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import requests

from benchmarks.support.events import impression
from benchmarks.support.rounds import Way, alternate
from benchmarks.support.rows import Row, finish, options, pair_row, skipped
from tests.support.nginx import Certificates, Nginx, program
from tests.support.ports import free_port
from vwo_fast import _lane
from vwo_fast._batch import Batch
from vwo_fast.aggregator.transport import HttpRequest, Transport
from vwo_fast.config import load_settings

CONNECTIONS = 8
"""In a round."""
EVENTS = 100
PATH = "/server-side/batch-events"

# A 201, because of a 200 the transport does not read the text.
DIRECTIVES = f"keepalive_requests 1; location {PATH} {{ return 201 '$pid $ssl_session_reused'; }} "
# TLS 1.2 needs a cache, as tickets are not asked for there.
GRANTS = "ssl_session_cache shared:sessions:1m; "
GRANTS_NOTHING = "ssl_session_cache off; ssl_session_tickets off; "


def body() -> bytes:
    batch = Batch(EVENTS)
    for number in range(EVENTS):
        batch.append(_lane.pack_fullstack(impression(number)))
    return batch.seal()[0]


@dataclass(slots=True)
class Client:
    """One of the two: how it makes a request, and what nginx has said of its connections."""

    post: Callable[[], str]
    said: Counter[str] = field(default_factory=Counter)
    worker: str = ""

    def here(self, _: object) -> float:
        """Microseconds of this process's CPU per connection."""
        return self._measure(time.process_time_ns)

    def there(self, _: object) -> float:
        """The same of nginx's worker."""
        return self._measure(lambda: int(Path(f"/proc/{self.worker}/schedstat").read_text().split()[0]))

    def _measure(self, clock: Callable[[], int]) -> float:
        self.once()
        begin = clock()
        for _ in range(CONNECTIONS):
            self.once()
        return (clock() - begin) / CONNECTIONS / 1000

    def once(self) -> None:
        self.worker, how = self.post().split()
        self.said[how] += 1

    def told(self) -> str:
        """Full handshakes so far, of how many."""
        return f"{self.said['.']} of {self.said.total()}"


@contextlib.contextmanager
def clients(url: str, bundle: Path) -> Iterator[tuple[Client, Client]]:
    """The transport, and the session as an application has it."""
    data = body()
    transport = Transport(load_settings("bench", ca_bundle=bundle))
    request = HttpRequest(method="POST", url=url + PATH, headers={}, body=data)

    def by_session() -> str:
        answer = session.post(url + PATH, data=data, timeout=30, verify=str(bundle))
        return answer.text if answer.status_code == 201 else str(answer)

    with contextlib.closing(transport), requests.Session() as session:
        yield Client(lambda: transport.send(request).excerpt), Client(by_session)


def rows(folder: Path, rounds: int) -> Iterator[Row]:
    authority = Certificates(folder)
    certificate = authority.sign("server")
    usual = folder / "usual.pem"
    usual.write_bytes(Path(requests.certs.where()).read_bytes() + authority.authority.read_bytes())
    count = usual.read_text().count("BEGIN CERTIFICATE")
    bundles = {"one authority": authority.authority, f"the {count} usual authorities": usual}
    silent = folder / "silent"
    silent.mkdir()
    for version, protocol in {"TLS 1.3": "ssl_protocols TLSv1.3;", "TLS 1.2": "ssl_protocols TLSv1.2;"}.items():
        granting = Nginx(folder, free_port(), directives=DIRECTIVES + GRANTS + protocol, server=certificate)
        refusing = Nginx(silent, free_port(), directives=DIRECTIVES + GRANTS_NOTHING + protocol, server=certificate)
        with granting, refusing:
            for trusted, bundle in bundles.items():
                with clients(granting.url, bundle) as (ours, theirs):
                    yield measured(f"{version}, {trusted}: CPU here", ours, theirs, Client.here, rounds)
            with clients(granting.url, usual) as (ours, _), clients(refusing.url, usual) as (full, theirs):
                what = f"{version}, its session resumed: CPU here"
                yield measured(what, ours, full, Client.here, rounds, "the same, a server that grants no session")
                what = f"{version}, a server that grants no session, usual authorities: CPU here"
                yield measured(what, full, theirs, Client.here, rounds)
            with clients(granting.url, usual) as (ours, _), clients(refusing.url, usual) as (full, _):
                what = f"{version}, its session resumed: CPU of nginx"
                yield measured(what, ours, full, Client.there, rounds, "the same, a server that grants no session")


def measured(
    what: str,
    ours: Client,
    theirs: Client,
    measure: Callable[[Client, object], float],
    rounds: int,
    against: str = "requests.Session",
) -> Row:
    pair = alternate(
        Way(run=lambda work: measure(ours, work)), Way(run=lambda work: measure(theirs, work)), rounds=rounds
    )
    note = f"full handshakes: {ours.told()}, beside {theirs.told()}"
    title = f"new connection and POST of {EVENTS} events, {what}"
    return pair_row(pair, what=title, against=against, unit="µs", at_most=None, note=note)


def main() -> int:
    parser = options(__doc__, rounds=8)
    given = parser.parse_args()
    missing = [name for name in ("nginx", "openssl") if program(name) is None]
    if missing:
        reason = f"{' and '.join(missing)} not installed"
        return finish("tls", [skipped("new connection and POST", "requests.Session", reason)], given.json)
    with tempfile.TemporaryDirectory(prefix="vfb-") as name:
        # nginx gives up root rights for its workers, which must be able to read what is there.
        Path(name).chmod(0o755)
        return finish("tls", list(rows(Path(name), given.rounds)), given.json, sink="nginx")


if __name__ == "__main__":
    sys.exit(main())

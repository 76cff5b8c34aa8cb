"""A stand-in for VWO's servers on the loopback: records every request and answers as VWO does.

As a program::

    python examples/collector.py --port 0 --port-file port.txt --record requests.jsonl

As a library::

    with Collector() as collector:
        collector.rules.append(Rule(status=503, times=2, headers={"Retry-After": "1"}))
        ...                                         # something posts to collector.url
        assert collector.wait(lambda c: len(c.events) == 100, timeout=20)

A request is recorded when it has been read, before it is answered; it counts as
accepted from the moment its 2xx is about to be written, because from then on the
events are the server's, whether or not the client lives to read the answer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

__all__ = ["BYTES_MAX", "EVENTS_MAX", "Collector", "Recorded", "Rule", "main", "read_record"]

EVENTS_MAX = 5000
"""Events that VWO takes in one request."""
BYTES_MAX = 10_000_000
"""Bytes of body that VWO takes in one request."""

SUCCESS = b'{"status":"success"}'
BATCH_ENDPOINTS = ("/server-side/batch-events", "/server-side/batch-events-v2")
SETTINGS_ENDPOINTS = ("/server-side/v2-settings", "/server-side/settings")


@dataclass(slots=True, kw_only=True)
class Rule:
    """How to answer the next requests that match, instead of as usual.

    ``times``: how many requests it answers; None: all, for as long as it stays in the list.
    ``method``, ``path`` (a part of it), ``query`` (pairs in it), ``min_bytes`` (of body) and ``encoding`` ("gzip", or
    "" for none) choose the requests.
    ``delay``: seconds between reading the request and answering it.
    ``drop``: close the connection instead of answering.
    """

    status: int = 200
    times: int | None = None
    delay: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    min_bytes: int = 0
    method: str | None = None
    path: str = ""
    query: dict[str, str] = field(default_factory=dict)
    encoding: str | None = None
    drop: bool = False

    def matches(self, request: Recorded) -> bool:
        return (
            self.times != 0
            and len(request.body) >= self.min_bytes
            and self.method in (None, request.method)
            and self.encoding in (None, request.headers.get("Content-Encoding", ""))
            and self.path in request.path
            and self.query.items() <= dict(request.query).items()
        )


@dataclass(slots=True, kw_only=True)
class Recorded:
    """One request as it arrived. ``status`` is None until it is answered, and stays None when it was dropped.

    ``body`` is decompressed; ``wire_bytes`` is how long it was on its way.
    """

    method: str
    target: str
    headers: dict[str, str]
    header_pairs: list[tuple[str, str]]
    body: bytes
    time: float
    status: int | None = None
    wire_bytes: int = 0

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> list[tuple[str, str]]:
        """Decoded pairs in order of arrival."""
        return parse_qsl(urlsplit(self.target).query, keep_blank_values=True)

    @property
    def json(self) -> Any:
        """The parsed body, None when there is none. Raises ValueError when it is not JSON."""
        return json.loads(self.body) if self.body else None

    @property
    def accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def batch_events(self) -> list[dict[str, Any]] | None:
        """The events of a batch request; None when this is not a well-formed one."""
        if self.method != "POST" or not self.path.endswith(BATCH_ENDPOINTS):
            return None
        try:
            events = self.json["ev"]
        except (ValueError, KeyError, TypeError):
            return None
        return events if isinstance(events, list) else None

    def to_json_dict(self) -> dict[str, Any]:
        return {
            "time": self.time,
            "method": self.method,
            "target": self.target,
            "headers": self.header_pairs,
            "body": self.body.decode("utf-8", "backslashreplace"),
            "status": self.status,
            "wire_bytes": self.wire_bytes,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drop: bool = False


class Collector:
    """The server, running in threads of this process from construction until :meth:`close`.

    ``port``: 0 takes a free one.  ``record``: file that gets one JSON line per answered request.
    ``settings``: what the settings endpoints answer; without it they answer 404.
    ``rules`` may be changed at any time; the first one that matches a request answers it.
    """

    def __init__(
        self, *, port: int = 0, record: str | os.PathLike[str] | None = None, settings: dict[str, Any] | None = None
    ) -> None:
        self.rules: list[Rule] = []
        self.settings = settings
        self._changed = threading.Condition()
        self._requests: list[Recorded] = []
        self._events: list[dict[str, Any]] = []
        self._record = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) if record is not None else None
        self._server = _Server(("127.0.0.1", port), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="collector", daemon=True)
        self._thread.start()

    def __enter__(self) -> Collector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    @property
    def requests(self) -> list[Recorded]:
        """All requests so far, in order of arrival, whatever their answer."""
        with self._changed:
            return list(self._requests)

    @property
    def batches(self) -> list[Recorded]:
        """The accepted batch requests so far."""
        return [request for request in self.requests if request.accepted and request.batch_events is not None]

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of all accepted batch requests, in order of acceptance."""
        with self._changed:
            return list(self._events)

    def wait(self, predicate: Callable[[Collector], bool], timeout: float = 60.0) -> bool:
        """Until ``predicate(self)`` is true; False when it is still not after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not predicate(self):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def clear(self) -> None:
        """Forget what has been recorded."""
        with self._changed:
            self._requests.clear()
            self._events.clear()

    def take(self) -> list[dict[str, Any]]:
        """The events of all accepted batch requests since the last call; everything recorded is forgotten."""
        with self._changed:
            events = list(self._events)
            self._requests.clear()
            self._events.clear()
        return events

    def close(self) -> None:
        """Stop listening and cut every open connection, as a server that dies does."""
        self._server.shutdown()
        self._server.server_close()
        self._server.cut_connections()
        self._thread.join()
        with self._changed:
            if self._record is not None:
                os.close(self._record)
                self._record = None

    def receive(self, request: Recorded) -> Answer:
        """Record a request and decide how it is answered."""
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()
            for rule in self.rules:
                if rule.matches(request):
                    if rule.times is not None:
                        rule.times -= 1
                    body = rule.body if rule.body is not None else _default_body(rule.status)
                    return Answer(status=rule.status, body=body, headers=rule.headers, delay=rule.delay, drop=rule.drop)
        return self._usual_answer(request)

    def settle(self, request: Recorded, status: int) -> None:
        """Called just before the answer is written."""
        events = request.batch_events or [] if 200 <= status < 300 else []
        with self._changed:
            request.status = status
            self._events.extend(events)
            if self._record is not None:
                os.write(self._record, json.dumps(request.to_json_dict()).encode() + b"\n")
            self._changed.notify_all()

    def _usual_answer(self, request: Recorded) -> Answer:
        if request.method == "GET" and request.path.endswith(SETTINGS_ENDPOINTS):
            if self.settings is None:
                return Answer(status=404, body=_default_body(404))
            return Answer(status=200, body=json.dumps(self.settings).encode())
        if request.method == "POST" and request.path.endswith(BATCH_ENDPOINTS):
            events = request.batch_events
            if events is None:
                return Answer(status=400, body=_default_body(400))
            if len(request.body) > BYTES_MAX or len(events) > EVENTS_MAX:
                return Answer(status=413, body=_default_body(413))
        return Answer(status=200, body=SUCCESS)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], collector: Collector) -> None:
        self.collector = collector
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def cut_connections(self) -> None:
        with self._open_lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is part of every test here; anything else is a defect to be seen."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # One segment per answer: separate writes meet delayed acknowledgements and cost 40 ms each.
    wbufsize = 65536
    disable_nagle_algorithm = True
    server: _Server

    def handle_any(self) -> None:
        collector = self.server.collector
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        if len(body) < size:
            self.close_connection = True
            return
        if self.headers.get("Content-Encoding") == "gzip":
            # What is no gzip, or is longer than any body may be, stays as it is, and is no batch then.
            with contextlib.suppress(zlib.error):
                unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
                unpacked = unpacker.decompress(body, 4 * BYTES_MAX)
                body = unpacked if unpacker.eof and not unpacker.unused_data else body
        pairs = [(name, str(value)) for name, value in self.headers.items()]
        request = Recorded(
            method=self.command,
            target=self.path,
            headers=dict(pairs),
            header_pairs=pairs,
            body=body,
            time=time.time(),
            wire_bytes=size,
        )
        answer = collector.receive(request)
        if answer.delay:
            time.sleep(answer.delay)
        if answer.drop:
            self.close_connection = True
            return
        collector.settle(request, answer.status)
        self.send_response_only(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_GET = do_POST = handle_any

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal: the record is the log."""


def _default_body(status: int) -> bytes:
    return SUCCESS if 200 <= status < 300 else json.dumps({"status": "error", "code": status}).encode()


def read_record(path: str | os.PathLike[str]) -> Iterator[Recorded]:
    """The requests that a collector wrote to its ``record`` file."""
    with Path(path).open(encoding="utf-8") as lines:
        for line in lines:
            entry = json.loads(line)
            pairs = [(name, value) for name, value in entry.pop("headers")]
            body = entry.pop("body").encode()
            yield Recorded(**entry, body=body, header_pairs=pairs, headers=dict(pairs))


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT, then print what was received."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--port", type=int, default=8200, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--port-file", type=Path, help="file that gets the port once the server listens")
    parser.add_argument("--record", type=Path, help="file that gets one JSON line per answered request")
    parser.add_argument("--settings", type=Path, help="JSON file to answer the settings endpoints with")
    options = parser.parse_args(arguments)
    settings = json.loads(options.settings.read_text()) if options.settings else None
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        made = Collector(port=options.port, record=options.record, settings=settings)
    except OSError as exc:
        print(f"collector: cannot listen on port {options.port}, or not write its record: {exc}", file=sys.stderr)
        return 1
    with made as collector:
        if options.port_file:
            # Renamed into place, so that a reader never sees half a number.
            partial = options.port_file.with_name(options.port_file.name + ".part")
            partial.write_text(f"{collector.port}\n")
            partial.rename(options.port_file)
        print(f"collector: listening on {collector.url}", flush=True)
        stop.wait()
        print(f"collector: {len(collector.requests)} requests, {len(collector.events)} batch events", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

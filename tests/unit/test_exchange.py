"""Requests that are made again on an open connection, against a server that answers byte by byte as it is told."""

from __future__ import annotations

import contextlib
import gzip
import io
import socket
import threading
from collections.abc import Callable, Iterator
from unittest.mock import patch

import pytest

from vwo_fast.aggregator.outcome import Reply
from vwo_fast.aggregator.transport import HttpRequest, Transport
from vwo_fast.config import load_settings

PLAIN = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n{}"


class Scripted:
    """A server that gives one answer of a script per request, and keeps what it was sent."""

    def __init__(self, *answers: bytes) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._answers = iter(answers)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            # A client may leave in the middle of a long answer.
            with contextlib.suppress(OSError), sock, sock.makefile("rb") as stream:
                while self._answer(sock, stream):
                    pass

    def _answer(self, sock: socket.socket, stream: io.BufferedReader) -> bool:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = stream.readline()
            if not line:
                return False
            head += line
        size = int(head.lower().partition(b"content-length: ")[2].split()[0])
        self.requests.append(head + stream.read(size))
        answer = next(self._answers, PLAIN)
        sock.sendall(answer)
        return b"close" not in answer and answer != b""

    def close(self) -> None:
        # Wakes the thread that waits in accept, which closing alone does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def transport() -> Iterator[Transport]:
    made = Transport(load_settings("shop", read_timeout=1.0))
    yield made
    made.close()


Serve = Callable[..., Scripted]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Makes servers that end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *answers: stack.enter_context(contextlib.closing(Scripted(*answers)))


def post(transport: Transport, server: Scripted, body: bytes = b'{"ev":[1]}') -> Reply:
    return transport.send(
        HttpRequest(
            method="POST",
            url=f"{server.url}/server-side/batch-events",
            params=(("a", "1"),),
            headers={"Authorization": "key"},
            body=body,
        )
    )


def test_what_is_sent_again_is_what_was_sent_first(serve: Serve, transport: Transport) -> None:
    """Once the libraries have made a request, its bytes go out on its connection, with the length of the new body."""
    server = serve()
    bodies = [b"x" * size for size in (7, 12345, 1 << 16, 3_000_000)]
    with patch.object(Transport, "_send_first", autospec=True, side_effect=Transport._send_first) as by_libraries:
        assert [post(transport, server, body).status for body in bodies] == [200] * 4
    assert by_libraries.call_count == 1
    heads, sent = zip(*(request.split(b"\r\n\r\n", 1) for request in server.requests), strict=True)
    assert list(sent) == bodies
    lengths = [b"Content-Length: %d" % len(body) for body in bodies]
    assert [head.count(length) for head, length in zip(heads, lengths, strict=True)] == [1] * 4
    assert len({head.replace(length, b"") for head, length in zip(heads, lengths, strict=True)}) == 1
    assert server.connections == 1


ODD = {
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "no length, then closed": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}",
    "closed though it has a length": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a continuation line": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: a\r\n b\r\n\r\n{}",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "continue first": b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN,
    "an old version": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nX: close\r\n\r\n{}",
}


@pytest.mark.parametrize("answer", ODD.values(), ids=ODD.keys())
def test_an_answer_that_is_not_simple_is_understood_all_the_same(
    serve: Serve, transport: Transport, answer: bytes
) -> None:
    """Whatever form a success has, it is one, and the requests after it get their own answers."""
    refusal = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nno!"
    server = serve(PLAIN, answer, refusal, PLAIN)
    replies = [post(transport, server) for _ in range(4)]
    assert [reply.status for reply in replies] == [200, 204 if b" 204 " in answer else 200, 400, 200]
    assert replies[2].excerpt == "no!"
    assert server.connections == (2 if b"close" in answer else 1)
    assert len(server.requests) == 4


def test_an_answer_in_pieces_is_read_to_its_end(serve: Serve, transport: Transport) -> None:
    """A length that promises more than has come: the rest is waited for, and the next answer is not mixed with it."""
    body = b"y" * 300_000
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\n" + body[:40000]
    refusal = b"HTTP/1.1 503 Away\r\nRetry-After: 7\r\nContent-Length: 300000\r\n\r\n" + body
    server = serve(PLAIN, long, refusal, PLAIN)
    replies = [post(transport, server) for _ in range(4)]
    assert [reply.status for reply in replies] == [200, 200, 503, 200]
    assert replies[2].retry_after == 7
    assert replies[2].excerpt == "y" * 1024


def test_the_text_of_a_refusal_is_decompressed(serve: Serve, transport: Transport) -> None:
    """What a server says in gzip is kept as text."""
    text = gzip.compress(b"too many")
    head = b"HTTP/1.1 400 Bad Request\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    server = serve(PLAIN, head % len(text) + text)
    post(transport, server)
    assert post(transport, server).excerpt == "too many"


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 2 close", b"\x00\xff close\r\n\r\n"])
def test_no_answer_on_an_open_connection_is_an_unknown_outcome(
    serve: Serve, transport: Transport, answer: bytes
) -> None:
    """The request had gone out: without an answer nobody knows, it is not sent a second time, the next one is."""
    server = serve(PLAIN, answer, PLAIN)
    assert post(transport, server).status == 200
    lost = post(transport, server)
    assert (lost.status, lost.may_have_arrived) == (None, True)
    assert lost.error is not None
    assert len(server.requests) == 2
    assert post(transport, server).status == 200
    assert server.connections == 2


def test_a_server_that_falls_silent_is_given_up(serve: Serve, transport: Transport) -> None:
    """On an open connection read_timeout applies as on a new one."""
    server = serve(PLAIN, b"HTTP/1.1 200 OK\r\nContent-Le")
    post(transport, server)
    late = post(transport, server)
    assert (late.status, late.may_have_arrived, late.error) == (None, True, "ReadTimeout")


def test_many_threads_have_each_a_connection(serve: Serve, transport: Transport) -> None:
    """Requests at the same time neither share a connection nor mix their answers."""
    answers = [b"HTTP/1.1 4%02d Refused\r\nContent-Length: 0\r\n\r\n" % number for number in range(5)]
    servers = [serve(*[answer] * 50) for answer in answers]
    found: dict[int, set[int | None]] = {}

    def run(number: int) -> None:
        found[number] = {post(transport, servers[number]).status for _ in range(50)}

    threads = [threading.Thread(target=run, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: {400 + number} for number in range(5)}
    assert [server.connections for server in servers] == [1] * 5

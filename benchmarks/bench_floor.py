"""Where the time of one event goes, step by step, and the floor under each step.

The steps in C are measured by floor.c, the Python ones here; each figure is the best of many rounds, because
a floor is what is left when nothing disturbs.  A POST is measured three ways, to the same server with the same
body: bare sockets, ``http.client`` and a ``requests`` session, the one that the aggregator builds on.
"""

from __future__ import annotations

import http.client
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import requests

from benchmarks.support.events import impression
from benchmarks.support.facts import ROOT
from benchmarks.support.rounds import nanoseconds_each
from benchmarks.support.rows import Row, finish, options, skipped
from benchmarks.support.sink import sink
from vwo_fast import _lane
from vwo_fast._batch import Batch

EVENTS = 2000
PATH = "/server-side/batch-events"


def best(measure: Callable[[], float], rounds: int) -> float:
    return min(measure() for _ in range(rounds))


def c_steps(folder: Path, payloads: Sequence[bytes]) -> dict[str, float]:
    """Raises OSError or CalledProcessError where nothing can be compiled."""
    program, data = folder / "floor", folder / "payloads"
    data.write_bytes(b"".join(struct.pack("=I", len(payload)) + payload for payload in payloads))
    sources = [ROOT / "benchmarks" / "floor.c", *sorted((ROOT / "csrc").glob("*.c"))]
    compiler = [os.environ.get("CC", "cc"), "-std=gnu11", "-O3", f"-I{ROOT / 'csrc'}"]
    subprocess.run([*compiler, *map(str, sources), "-lm", "-o", str(program)], check=True)
    done = subprocess.run([str(program), str(folder), str(data)], check=True, capture_output=True, text=True)
    pairs = (line.split("\t") for line in done.stdout.splitlines())
    return {name: float(value) for name, value in pairs}


def python_steps(folder: Path, rounds: int) -> dict[str, float]:
    """The call itself, enqueue as a whole, and drain with seal as a whole."""
    events = [impression(number) for number in range(250)] * (EVENTS // 250)
    owner = _lane.LaneOwner(_lane.Control.create(str(folder / "control")))
    owner.open_lane(str(folder / "own"), 5, 6, 1 << 23, False)
    producer = _lane.Producer(owner, 77, _lane.SHAPE_FULLSTACK, _lane.KIND_EVENT)
    reader = _lane.LaneReader.attach(str(folder / "own.tmp"))
    batch = Batch(EVENTS)
    enqueued, drained = [], []
    for _ in range(rounds):
        enqueued.append(nanoseconds_each(producer.enqueue, events))
        begin = time.perf_counter_ns()
        reader.drain(batch, 77, reader.head)
        batch.seal()
        drained.append((time.perf_counter_ns() - begin) / EVENTS)
        reader.release(reader.cursor)
    return {
        "a call in a loop": best(lambda: nanoseconds_each(len, events), rounds),
        "enqueue": min(enqueued),
        "drain and seal": min(drained),
    }


def post_steps(url: str, port: int, body: bytes, rounds: int) -> dict[str, float]:
    """Nanoseconds of one POST and its answer."""

    def once(post: Callable[[], Any]) -> float:
        begin = time.perf_counter_ns()
        post()
        return time.perf_counter_ns() - begin

    head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    found = {}
    with socket.create_connection(("127.0.0.1", port)) as bare:

        def by_socket() -> None:
            bare.sendall(head + body)
            bare.recv(65536)

        found["socket"] = best(lambda: once(by_socket), rounds)
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def by_client() -> None:
        connection.request("POST", PATH, body)
        connection.getresponse().read()

    found["http.client"] = best(lambda: once(by_client), rounds)
    connection.close()
    with requests.Session() as session:
        found["requests"] = best(lambda: once(lambda: session.post(url + PATH, data=body)), rounds)
    return found


def rows_of(steps: dict[str, float]) -> list[Row]:
    """What each step takes, and what is the least it can take."""
    copy = steps["copy"]
    by_shape, by_token = steps["append to a batch"], steps["msgpack to JSON"] + steps["visitor"]
    field = steps["enqueue"] - steps["a call in a loop"] - steps["reserve, copy, publish"] - steps["clock"]
    table = (
        ("enqueue, whole", steps["enqueue"], copy, "a copy of what is sent"),
        ("  the call from Python, in a loop", steps["a call in a loop"], steps["a call in a loop"], "an empty call"),
        ("  fields found and packed", field, copy, "a copy; what is above is reading Python objects"),
        ("  reserve, copy, check, publish", steps["reserve, copy, publish"], copy, "a copy"),
        ("    of it the check value", steps["check value"], 0.0, "none: that records certify themselves"),
        ("  clock", steps["clock"], 0.0, "none: it spaces out the looks at the aggregator"),
        ("drain and seal, whole", steps["drain and seal"], copy, "a copy"),
        ("  find and check a record", steps["find and check a record"], steps["check value"], "the check alone"),
        ("  JSON by shape, visitor found", by_shape, copy, "a copy; what is above is seven values of two formats"),
        ("    the first event of its shape", by_token, copy, "a copy; what is above is 15 tokens of two formats"),
    )
    return [
        Row(
            what=what,
            against=why,
            ours=f"{took:.1f} ns",
            theirs=f"{floor:.1f} ns",
            figures={"step": took, "floor": floor},
        )
        for what, took, floor, why in table
    ]


def post_rows(url: str, port: int, rounds: int) -> list[Row]:
    rows = []
    for count in (100, 5000):
        batch = Batch(count)
        for number in range(count):
            batch.append(_lane.pack_fullstack(impression(number)))
        body = batch.seal()[0]
        steps = post_steps(url, port, body, rounds)
        for name in ("http.client", "requests"):
            rows.append(
                Row(
                    what=f"POST of {count} events ({len(body)} B) with {name}, per event",
                    against="bare sockets",
                    ours=f"{steps[name] / count:.1f} ns",
                    theirs=f"{steps['socket'] / count:.1f} ns",
                    figures={"step": steps[name] / count, "floor": steps["socket"] / count},
                )
            )
    return rows


def main() -> int:
    parser = options(__doc__, rounds=300)
    given = parser.parse_args()
    payloads = [_lane.pack_fullstack(impression(number)) for number in range(EVENTS)]
    with tempfile.TemporaryDirectory(prefix="vfb-") as name, sink() as server:
        folder = Path(name)
        try:
            rows = rows_of(c_steps(folder, payloads) | python_steps(folder, given.rounds))
        except (OSError, subprocess.CalledProcessError) as exc:
            rows = [skipped("steps of one event's way", "-", f"no C compiler: {exc}")]
        rows += post_rows(server.url, server.port, given.rounds)
        size = sum(map(len, payloads)) / len(payloads)
        return finish("floor", rows, given.json, sink=server.kind, payload_bytes=size)


if __name__ == "__main__":
    sys.exit(main())

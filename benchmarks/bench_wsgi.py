"""A Flask view that decides and tracks, under gunicorn and wrk, with four things below the SDK.

``decide`` is the SDK's development mode: it decides and sends nothing.  Each has a gunicorn of its own with
two workers; wrk visits them in turn, so they share the machine's good and bad moments.  On two cores wrk, the
server and the aggregator share them too, which is the case of a small machine, not of a large one.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.facts import ROOT
from benchmarks.support.rounds import Pair, spread
from benchmarks.support.rows import Row, finish, options, skipped
from benchmarks.support.sink import free_port, sink
from benchmarks.support.venv import NotMeasuredError, environment
from benchmarks.support.work import folders, wait_until

MODES = ("decide", "vwo_fast", "batching", "realtime")
NAMES = {"decide": "deciding only", "batching": "the official batching", "realtime": "the official real-time mode"}
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
WHAT = "gunicorn Flask view that decides and tracks"


@contextlib.contextmanager
def server(mode: str, sink_url: str, places: dict[str, Path]) -> Iterator[str]:
    port = free_port()
    given = {**places, "base_url": sink_url, "idle_exit": 1}
    variables = {f"VWO_FAST_{name.upper()}": str(value) for name, value in given.items()}
    variables |= {"BENCH_MODE": mode, "BENCH_SINK": urlsplit(sink_url).netloc}
    arguments = ["-m", "gunicorn", "--preload", "-w", "2", "-k", "gthread", "--threads", "4", "--keep-alive", "5"]
    arguments += ["--log-level", "error", "-b", f"127.0.0.1:{port}", "benchmarks.support.wsgi_app:app"]
    process = subprocess.Popen(
        [str(environment("fullstack")), *arguments], cwd=ROOT, env={**os.environ, **variables}, start_new_session=True
    )

    def serves() -> bool:
        if process.poll() is not None:
            raise NotMeasuredError(f"gunicorn ended with {process.returncode}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(serves, "gunicorn's start")
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            # The official SDK's timers outlive its workers' orders to end.
            os.killpg(process.pid, 9)
            process.wait()


def visit(wrk: str, url: str, seconds: float) -> tuple[float, float]:
    """Requests per second, and the 99th percentile in milliseconds."""
    command = [wrk, "-t1", "-c8", f"-d{seconds:g}s", "--latency", url]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in text:
        raise RuntimeError(f"the view failed:\n{text}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    slow = re.search(r"99%\s+([\d.]+)(us|ms|s)", text)
    if rate is None or slow is None:
        raise RuntimeError(f"wrk says something unknown:\n{text}")
    return float(rate[1]), float(slow[1]) * UNITS[slow[2]]


def measure(wrk: str, rounds: int, seconds: float) -> tuple[dict[str, list[tuple[float, float]]], str]:
    found: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(sink())
        places = stack.enter_context(folders())
        urls = {mode: stack.enter_context(server(mode, target.url, places)) for mode in MODES}
        for url in urls.values():
            visit(wrk, url, 1)
        for number in range(rounds):
            for mode in MODES if number % 2 == 0 else MODES[::-1]:
                found[mode].append(visit(wrk, urls[mode], seconds))
                time.sleep(0.3)
        return found, target.kind


def rows_of(found: dict[str, list[tuple[float, float]]]) -> list[Row]:
    rows = []
    for mode in ("decide", "batching", "realtime"):
        for place, name, unit in ((0, "throughput", "requests/s"), (1, "p99", "ms")):
            ours = [one[place] for one in found["vwo_fast"]]
            theirs = [one[place] for one in found[mode]]
            ratio = spread([mine / other for mine, other in zip(ours, theirs, strict=True)])
            pair = Pair(ours=spread(ours), theirs=spread(theirs), ratio=ratio)
            goal, met = "", None
            if mode == "decide":
                goal = "≥ 0.97" if place == 0 else "≤ 1.10"
                met = ratio.median >= 0.97 if place == 0 else ratio.median <= 1.10
            rows.append(
                Row(
                    what=f"{WHAT}: {name}",
                    against=NAMES[mode],
                    ours=f"{pair.ours.median:.4g} {unit}",
                    theirs=f"{pair.theirs.median:.4g} {unit}",
                    ratio=f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})",
                    goal=goal,
                    met=met,
                    figures=pair.as_dict(),
                )
            )
    return rows


def main() -> int:
    parser = options(__doc__, rounds=7)
    parser.add_argument("--seconds", type=float, default=3, help="of each visit (default 3)")
    given = parser.parse_args()
    wrk = shutil.which("wrk")
    if wrk is None:
        return finish("wsgi", [skipped(WHAT, "deciding only", "wrk is not installed")], given.json)
    try:
        found, kind = measure(wrk, given.rounds, given.seconds)
    except NotMeasuredError as exc:
        return finish("wsgi", [skipped(WHAT, "deciding only", str(exc))], given.json)
    return finish("wsgi", rows_of(found), given.json, sink=kind)


if __name__ == "__main__":
    sys.exit(main())

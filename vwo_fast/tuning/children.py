"""Processes and folders that a measurement needs, and their end, whatever happens."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

__all__ = ["PREFIX", "Folders", "child_environment", "private_folders", "stop_child", "undisturbed"]

PREFIX = "vwo_fast-bench-"
STOP_SECONDS = 10.0
_LOOPBACK = "127.0.0.1,localhost"
_OURS = "VWO_FAST_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """Where the queues of a measurement live: in shared memory, and on disk."""

    run_dir: Path
    spool_dir: Path


@contextlib.contextmanager
def private_folders(run_dir: Path, spool_dir: Path) -> Iterator[Folders]:
    """New folders that only we may enter, in those where a queue would have its own; they are removed."""
    made: list[Path] = []
    try:
        for wanted in (run_dir, spool_dir):
            # What is missing is not made: it would stay behind.
            place = next(path for path in (wanted, *wanted.parents) if path.is_dir())
            made.append(Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=place)))
        yield Folders(run_dir=made[0], spool_dir=made[1])
    finally:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Measure what was asked for, and clean up after a SIGTERM as after a Ctrl-C.

    Options of the user's queues are set aside, and loopback traffic goes through no proxy.
    """
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(_OURS)]:
        del os.environ[name]
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(part for part in (before.get(name, ""), _LOOPBACK) if part)
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGTERM, _end) if is_main else None
    try:
        yield
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, handler)
        os.environ.clear()
        os.environ.update(before)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def child_environment() -> dict[str, str]:
    """The environment of a child that imports this very package."""
    here = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join((here, inherited)) if inherited else here}


def stop_child(process: subprocess.Popen[bytes]) -> None:
    """End a child that ends with its standard input; one that does not is killed."""
    with contextlib.suppress(OSError):
        if process.stdin is not None:
            process.stdin.close()
    try:
        process.wait(STOP_SECONDS)
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        if process.stdout is not None:
            process.stdout.close()

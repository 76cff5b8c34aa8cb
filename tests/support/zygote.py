"""A process with a library loaded before libc, which forks aggregators and workers: they are there at once.

The parent sends lines of JSON and reads one line per child that has ended: its exit code and what it has to say.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest

__all__ = ["FailBlock", "Zygote", "shim"]

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = struct.Struct("=QQQQqQ32s")
_ARMED = struct.Struct("=Q")
EVER = (1 << 64) - 1


def shim(name: str) -> Path:
    """The compiled tests/c/shim_<name>.c."""
    if not sys.platform.startswith("linux"):
        pytest.skip("optional: libraries are loaded before libc only on Linux")
    subprocess.run(["make", "-s", "-C", str(ROOT / "tests/c"), "shims"], check=True, stdout=subprocess.DEVNULL)
    return ROOT / f"tests/c/out/shim/shim_{name}.so"


class FailBlock:
    """Which system calls fail, in a file shared with those that make them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(4096))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 4096)

    def arm(self, *, first: int = 0, last: int | None = None, error: int = 0) -> None:
        """From now on count calls; those from ``first`` to ``last`` (that one alone unless given) fail."""
        self._map[: _BLOCK.size] = _BLOCK.pack(1, 0, first, first if last is None else last, error, 0, b"")

    def disarm(self) -> None:
        """No call fails any more."""
        self._map[: _ARMED.size] = _ARMED.pack(0)

    @property
    def count(self) -> int:
        """Calls since :meth:`arm`."""
        return int(_BLOCK.unpack_from(self._map)[1])

    @property
    def failed(self) -> int:
        return int(_BLOCK.unpack_from(self._map)[5])

    @property
    def name(self) -> str:
        """The call that failed last."""
        return bytes(_BLOCK.unpack_from(self._map)[6]).rstrip(b"\0").decode("ascii")


class Zygote:
    """Starts children one at a time."""

    def __init__(self, preload: Path, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.zygote"],
            env={**os.environ, "LD_PRELOAD": str(preload), **environment},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def start(self, kind: str, **values: Any) -> None:
        """Fork a child: ``aggregator`` or ``worker``."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"kind": kind, **values}).encode() + b"\n")
        self._process.stdin.flush()

    def ended(self, timeout: float = 0.0) -> dict[str, Any] | None:
        """What the child left: ``code`` and ``said``; None while it lives."""
        assert self._process.stdout is not None
        # Not select: a test process that has opened many queues has descriptors beyond what that can take.
        if not wait([self._process.stdout.fileno()], timeout):
            return None
        line = self._process.stdout.readline()
        assert line, "the zygote itself has died"
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """End it, and the child that still lives."""
        assert self._process.stdin is not None
        pid = self._process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split():
            os.kill(int(child), signal.SIGKILL)
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


def _aggregator(values: dict[str, Any]) -> str:
    from vwo_fast.aggregator.loop import run
    from vwo_fast.folder import read_settings

    folder = Path(values["folder"])
    settings = read_settings(folder)
    assert settings is not None
    os._exit(run(folder, settings, foreground=False))


def _worker(values: dict[str, Any]) -> str:
    """Open the queue and enqueue while calls fail; says which numbers were accepted."""
    import vwo_fast
    from tests.support.engine import impression, route

    block = FailBlock.__new__(FailBlock)
    with open(values["block"], "r+b") as file:
        block._map = mmap.mmap(file.fileno(), 4096)
    accepted: list[int] = []
    refused = raised = ""
    block.arm(first=values["first"], last=values["last"], error=values["error"])
    try:
        queue = vwo_fast.Queue("shop", **values["options"])
        producer = queue.producer(route())
        accepted = [n for n in range(values["start"], values["start"] + 20) if producer.enqueue(impression(n))]
    except vwo_fast.VwoFastError as exc:
        refused = str(exc)
    except BaseException as exc:
        raised = "".join(traceback.format_exception(exc))
    finally:
        block.disarm()
    return json.dumps({"accepted": accepted, "refused": refused, "raised": raised})


_KINDS: dict[str, Callable[[dict[str, Any]], str]] = {"aggregator": _aggregator, "worker": _worker}


def _child(values: dict[str, Any], say: int) -> None:
    code = 1
    try:
        path = values.get("block")
        if path is not None:
            assert ctypes.CDLL(None).vf_fail_map(path.encode()) == 0
        os.write(say, _KINDS[values["kind"]](values).encode())
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> None:
    """Serve until standard input ends."""
    # What is imported later would be imported while calls fail.
    import zmq  # noqa: F401

    import vwo_fast.aggregator.loop  # noqa: F401

    for line in sys.stdin.buffer:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            _child(json.loads(line), write)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            said = pipe.read().decode()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        sys.stdout.write(json.dumps({"code": code, "said": said}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

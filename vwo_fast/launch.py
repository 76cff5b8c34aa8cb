"""Starting the aggregator from a worker, detached, without stopping the worker.

The worker spawns ``/bin/sh``, which puts the aggregator in the background and
ends at once: the aggregator then belongs to init, the worker has no child to
reap later, and a worker with a large heap does not copy its page tables, as
``posix_spawn`` does not fork.  The new session keeps a Ctrl-C and the signals to
the server's process group away from the aggregator.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vwo_fast.errors import QueueError
from vwo_fast.locks import LAUNCH_LOCK, is_inherited_lock_held, lock_to_inherit

if TYPE_CHECKING:
    from vwo_fast._lane import Control

__all__ = ["LAUNCH_INTERVAL_NS", "claim", "find_python", "is_under_way", "launch"]

LAUNCH_INTERVAL_NS = 2_000_000_000
"""At most one launch per queue and host in this time; a start takes well under a second."""

REAP_SECONDS = 2.0

_PASSED = frozenset(
    ("HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "TEMP", "TMP", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV")
)
# How the interpreter, its libraries and TLS are found, and our own options.
_PASSED_PREFIXES = (
    "ASAN_",
    "CONDA_",
    "COVERAGE_",
    "CURL_",
    "DYLD_",
    "GLIBC_",
    "LC_",
    "LD_",
    "MALLOC_",
    "NIX_",
    "PYTHON",
    "REQUESTS_",
    "SSL_",
    "VF_",
    "VWO_FAST_",
)

# "$@" keeps arguments whole; the redirections cut the aggregator off the server's terminal and pipes.
_SHELL = 'exec </dev/null >/dev/null 2>&1; cd "$1" && shift && "$@" &'


def find_python(configured: str | None = None) -> str:
    """Path of the interpreter to run the aggregator with.

    ``sys.executable`` is the server's own binary when Python is embedded (uWSGI),
    so it is taken only if it looks like an interpreter.  Raises QueueError when none is found.
    """
    if configured is not None:
        return configured
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    names = (f"python{version}", "python3", "python")
    candidates = [sys.executable, *(os.path.join(sys.exec_prefix, "bin", name) for name in names)]
    base = getattr(sys, "_base_executable", None)
    candidates.append(base if isinstance(base, str) else "")
    for path in candidates:
        if path and os.path.basename(path).startswith("python") and os.access(path, os.X_OK):
            return path
    # Imported here because it brings every compression of the standard library, and hardly anybody gets here.
    import shutil

    found = shutil.which(f"python{version}")
    if found is None:
        raise QueueError(f"no python{version} found to run the aggregator with: set VWO_FAST_PYTHON to its path")
    return found


def claim(control: Control) -> bool:
    """Whether the caller may launch now: one may in each interval, over all processes of the queue."""
    return control.claim_launch(time.monotonic_ns(), LAUNCH_INTERVAL_NS)


def is_under_way(folder: Path) -> bool:
    """Whether a process lives that was launched for the queue, from its first moment on.

    It may say True although none does, when a child of whoever launched it has inherited the lock by chance.
    """
    try:
        return is_inherited_lock_held(folder / LAUNCH_LOCK)
    except OSError:
        return False


def launch(folder: Path, queue: str, *, python: str | None = None) -> None:
    """Start the aggregator of the queue in ``folder``, detached.

    Returns when the shell has ended, about a millisecond later; whether the
    aggregator lives shows in its lock.  Raises OSError when nothing could be spawned.
    """
    # Imported by the one process of a host that gets here; those that only enqueue need none of it.
    from signal import SIGCHLD, SIGHUP, SIGINT, SIGPIPE, SIGTERM

    # A server may ignore these around its fork; the aggregator must not inherit that.
    signals = (SIGTERM, SIGINT, SIGHUP, SIGCHLD, SIGPIPE)
    environment = _environment()
    here = str(Path(__file__).resolve().parent.parent)
    inherited = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = here if not inherited else os.pathsep.join((here, inherited))
    arguments = ["/bin/sh", "-c", _SHELL, "sh", str(folder), find_python(python), "-m", "vwo_fast", "run"]
    arguments += ["--detached", "--queue", queue, "--run-dir", str(folder.parent)]
    with _lock_for_life(folder) as actions:
        pid = os.posix_spawn(
            "/bin/sh", arguments, environment, file_actions=actions, setsid=True, setsigmask=(), setsigdef=signals
        )
    _reap(pid)


@contextlib.contextmanager
def _lock_for_life(folder: Path) -> Iterator[list[tuple[int, int, int]]]:
    """What has the launched process inherit a lock that it holds as long as it lives.

    It goes without where the lock cannot be had: one launched before is still on its way out, or the file is none.
    """
    fd = None
    with contextlib.suppress(OSError):
        fd = lock_to_inherit(folder / LAUNCH_LOCK)
    if fd is None:
        yield []
        return
    try:
        # Another number, so that the copy is made in any case: it is the one that is not closed by exec.
        yield [(os.POSIX_SPAWN_DUP2, fd, 4 if fd == 3 else 3)]
    finally:
        os.close(fd)


def _environment() -> dict[str, str]:
    """What the aggregator needs of ours: an application keeps keys and passwords in its environment."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED or name.upper().endswith("_PROXY") or name.startswith(_PASSED_PREFIXES)
    }


def _reap(pid: int) -> None:
    # A master that waits for any child (gunicorn's arbiter) may have reaped the shell before us.
    deadline = time.monotonic() + REAP_SECONDS
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.0005)

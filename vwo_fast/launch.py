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
from pathlib import Path

from vwo_fast.errors import QueueError

__all__ = ["LAUNCH_INTERVAL_NS", "find_python", "launch"]

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
    pid = os.posix_spawn("/bin/sh", arguments, environment, setsid=True, setsigmask=(), setsigdef=signals)
    _reap(pid)


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

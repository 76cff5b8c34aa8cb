"""Looks at the machine a queue is to run on and says what to do.

Nothing is made, changed or sent: a check reads, and what it cannot read is a
finding too.  Each check stands alone, so that one that fails hides no other.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vwo_fast import __version__, launch, paths
from vwo_fast._options import OPTIONS
from vwo_fast.config import Settings, differences, load_settings
from vwo_fast.errors import VwoFastError

if TYPE_CHECKING:
    from vwo_fast.stats import Stats

__all__ = ["Check", "examine"]

Level = Literal["OK", "WARN", "FAIL"]

MIB = 1024 * 1024
LANE_HEADER_BYTES = 4096
LANES_WANTED = 16
SPOOL_FREE_WANTED = 1024 * MIB
SPOOL_FREE_NEEDED = 64 * MIB
FILES_WANTED = 1024
FILES_NEEDED = 128
INTERPRETER_TIMEOUT = 30.0
ANSWER_TIMEOUT = 2.0

_SDKS = ("vwo-python-sdk", "vwo-fme-python-sdk", "wingify-fme-python-sdk")
_MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs", "devtmpfs"})
# SQLite's write-ahead log needs memory that all its users share, and file locks are weak over a network.
_NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "glusterfs", "ceph"})
_LOOPBACK = ("http://localhost", "http://127.", "http://[::1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding. ``advice`` says what to do; it is empty when there is nothing to do."""

    name: str
    level: Level
    text: str
    advice: str = ""

    def to_json_dict(self) -> dict[str, str]:
        """The fields by name, for JSON."""
        return asdict(self)


def examine(settings: Settings) -> list[Check]:
    """All findings about this machine and this queue, in the order in which to mend them."""
    found: list[Check] = []
    for name, check in _CHECKS:
        try:
            found.extend(check(settings))
        except VwoFastError as exc:
            problem, _, advice = str(exc).partition("; ")
            found.append(Check(name=name, level="FAIL", text=problem, advice=advice))
        except Exception as exc:
            found.append(Check(name=name, level="FAIL", text=f"cannot be checked: {type(exc).__name__}: {exc}"))
    return found


def _versions(settings: Settings) -> Iterator[Check]:
    del settings
    python = f"{platform.python_implementation()} {platform.python_version()} on {sys.platform} {platform.release()}"
    yield Check(name="versions", level="OK", text=f"vwo-fast {__version__}, {python}")
    if not sys.platform.startswith("linux") and sys.platform != "darwin":
        yield Check(
            name="versions",
            level="FAIL",
            text=f"{sys.platform} is not supported",
            advice="use Linux, or macOS for development",
        )
    # The aggregator needs what no worker imports, so a worker may run well where an aggregator cannot start.
    import sqlite3

    libraries = ", ".join(f"{name} {version(name)}" for name in ("msgpack", "pyzmq", "requests"))
    yield Check(name="libraries", level="OK", text=f"{libraries}, SQLite {sqlite3.sqlite_version}")
    yield Check(name="SDKs", level="OK", text=", ".join(_installed(_SDKS)) or "none installed here")


def _installed(names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            continue


def _compiled(settings: Settings) -> Iterator[Check]:
    from vwo_fast import _batch, _lane

    size = len(_batch.to_json(_lane.pack({"d": {"visId": "v"}})))
    yield Check(name="compiled code", level="OK", text=f"layout {_lane.LAYOUT_VERSION}, works ({size} bytes of JSON)")
    control = settings.queue_dir / "control"
    if control.exists():
        try:
            _lane.Control.attach(str(control)).close()
        except (OSError, _lane.SegmentError) as exc:
            yield Check(
                name="compiled code",
                level="FAIL",
                text=f"{control} cannot be used: {exc}",
                advice="stop the queue's processes of the other version, flush with that version, or use another queue",
            )


def _shared_memory(settings: Settings) -> Iterator[Check]:
    name = "shared memory"
    place = _nearest(settings.run_dir)
    kind = _file_system(place)
    space = os.statvfs(place)
    size, free = space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize
    lanes = free // (settings.lane_bytes + LANE_HEADER_BYTES)
    text = f"{place} ({kind or 'unknown file system'}): {_mib(free)} free of {_mib(size)}, room for {lanes} more lanes"
    advice = f"make it larger (docker run --shm-size=256m), or set lane_bytes below {settings.lane_bytes}"
    if lanes < 1:
        yield Check(name=name, level="FAIL", text=text, advice=advice)
    elif lanes < LANES_WANTED:
        yield Check(name=name, level="WARN", text=text, advice=f"each process needs a lane: {advice}")
    else:
        yield Check(name=name, level="OK", text=text)
    if kind in _NETWORK_FILE_SYSTEMS:
        yield Check(
            name=name,
            level="FAIL",
            text=f"{place} is on a network ({kind}); locks and shared mappings do not hold there",
            advice="set run_dir to a folder in /dev/shm",
        )
    elif sys.platform.startswith("linux") and kind and kind not in _MEMORY_FILE_SYSTEMS:
        yield Check(
            name=name,
            level="WARN",
            text=f"{place} is not in memory ({kind}); it works, and each event costs the disk a write",
            advice="set run_dir to a folder in /dev/shm",
        )


def _folders(settings: Settings) -> Iterator[Check]:
    for name, top, own in (
        ("run folder", settings.run_dir, settings.queue_dir),
        ("spool folder", settings.spool_dir, settings.queue_spool_dir),
    ):
        for folder in (top, own):
            yield from _folder(name, folder)


def _folder(name: str, folder: Path) -> Iterator[Check]:
    if os.path.lexists(folder):
        try:
            paths.private_folder(folder, create=False)
        except VwoFastError as exc:
            problem, _, advice = str(exc).partition("; ")
            yield Check(name=name, level="FAIL", text=problem, advice=advice)
            return
        yield Check(name=name, level="OK", text=f"{folder} is ours, and closed to others")
    else:
        parent = _nearest(folder)
        if not os.access(parent, os.W_OK | os.X_OK):
            yield Check(
                name=name,
                level="FAIL",
                text=f"{folder} cannot be made: {parent} is not writable for user {os.geteuid()}",
                advice="choose another folder, or make this one, mode 0700, for this user",
            )
            return
        yield Check(name=name, level="OK", text=f"{folder} will be made when the queue is opened")
    mode = os.stat(_nearest(folder.parent)).st_mode
    if mode & 0o022 and not mode & 0o1000:
        yield Check(
            name=name,
            level="WARN",
            text=f"{_nearest(folder.parent)} is writable for others, who could exchange {folder.name}",
            advice=f"do `chmod +t {_nearest(folder.parent)}` if other users have access to this machine",
        )


def _spool_disk(settings: Settings) -> Iterator[Check]:
    name = "spool disk"
    place = _nearest(settings.spool_dir)
    kind = _file_system(place)
    space = os.statvfs(place)
    free = space.f_bavail * space.f_frsize
    text = f"{place} ({kind or 'unknown file system'}): {_mib(free)} free"
    if space.f_flag & os.ST_RDONLY:
        yield Check(name=name, level="FAIL", text=f"{place} is read-only", advice="set spool_dir to another disk")
    elif free < SPOOL_FREE_NEEDED:
        yield Check(name=name, level="FAIL", text=text, advice="free some space, or set spool_dir to another disk")
    elif free < SPOOL_FREE_WANTED and (settings.spool_max_bytes is None or settings.spool_max_bytes > free):
        yield Check(name=name, level="WARN", text=text, advice="an outage of VWO may fill it: set spool_max_bytes")
    else:
        yield Check(name=name, level="OK", text=text)
    if kind in _NETWORK_FILE_SYSTEMS:
        yield Check(
            name=name,
            level="FAIL",
            text=f"{place} is on a network ({kind}), where SQLite's write-ahead log does not work",
            advice="set spool_dir to a local disk",
        )
    elif kind in _MEMORY_FILE_SYSTEMS:
        yield Check(
            name=name,
            level="WARN",
            text=f"{place} is in memory ({kind}): what waits there is lost with the machine or container",
            advice="set spool_dir to a disk or a volume that is kept",
        )


def _limits(settings: Settings) -> Iterator[Check]:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    text = f"{'no limit' if files == resource.RLIM_INFINITY else files} open files"
    if files == resource.RLIM_INFINITY or files >= FILES_WANTED:
        yield Check(name="limits", level="OK", text=text)
    else:
        level: Level = "WARN" if files >= FILES_NEEDED else "FAIL"
        yield Check(
            name="limits", level=level, text=text, advice=f"raise it: ulimit -n {FILES_WANTED}, or LimitNOFILE="
        )
    size = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    needed = settings.lane_bytes + LANE_HEADER_BYTES
    if size != resource.RLIM_INFINITY and size < needed:
        yield Check(
            name="limits",
            level="FAIL",
            text=f"a file may have {size} bytes, and a lane has {needed}",
            advice="raise it: ulimit -f unlimited, or LimitFSIZE=infinity; or set lane_bytes lower",
        )


def _socket_path(settings: Settings) -> Iterator[Check]:
    length = paths.check_socket_path(settings)
    yield Check(name="socket path", level="OK", text=f"{length} of at most {paths.CTL_PATH_MAX} bytes")


def _server(settings: Settings) -> Iterator[Check]:
    name = "server"
    url = settings.base_url
    if url.startswith("https://"):
        from requests.utils import DEFAULT_CA_BUNDLE_PATH

        environ = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        bundle = settings.ca_bundle or environ or DEFAULT_CA_BUNDLE_PATH
        if os.path.exists(bundle):
            yield Check(name=name, level="OK", text=f"{url}, certificates checked with {bundle}")
        else:
            yield Check(
                name=name,
                level="FAIL",
                text=f"{bundle} does not exist, so no certificate can be checked",
                advice="set ca_bundle or REQUESTS_CA_BUNDLE to the file of your authorities, or unset it",
            )
    elif url.startswith(_LOOPBACK):
        yield Check(name=name, level="OK", text=f"{url}, on this machine")
    else:
        yield Check(
            name=name,
            level="WARN",
            text=f"{url} is not encrypted: the SDK key and visitors' data can be read on the way",
            advice="use https",
        )
    scheme = url.partition(":")[0]
    proxy = next(
        (key for key in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "ALL_PROXY") if os.environ.get(key)), None
    )
    if settings.proxy is not None:
        yield Check(name=name, level="OK", text=f"through the proxy {settings.proxy}")
    elif proxy is not None:
        yield Check(name=name, level="OK", text=f"through the proxy of {proxy}, where NO_PROXY does not except it")


def _interpreter(settings: Settings) -> Iterator[Check]:
    name = "interpreter"
    python = launch.find_python(settings.python)
    advice = "set VWO_FAST_PYTHON to a Python that has vwo-fast and its dependencies installed"
    program = "import vwo_fast._lane, vwo_fast._batch, requests, sqlite3, zmq, sys; print(vwo_fast.__version__)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    try:
        done = subprocess.run(
            [python, "-c", program],
            capture_output=True,
            text=True,
            timeout=INTERPRETER_TIMEOUT,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        yield Check(name=name, level="FAIL", text=f"{python} cannot be run: {exc}", advice=advice)
        return
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        yield Check(name=name, level="FAIL", text=f"{python} cannot run the aggregator: {reason}", advice=advice)
    else:
        yield Check(name=name, level="OK", text=f"the aggregator runs with {python}")


def _uwsgi(settings: Settings) -> Iterator[Check]:
    """Only when an application calls :func:`examine` from inside uWSGI."""
    del settings
    uwsgi: Any = sys.modules.get("uwsgi")
    if uwsgi is None:
        return
    if b"enable-threads" in uwsgi.opt or "enable-threads" in uwsgi.opt:
        yield Check(name="uWSGI", level="OK", text="threads are enabled")
    else:
        yield Check(
            name="uWSGI",
            level="WARN",
            text="threads are not enabled: events are sent, but a flush_callback is never called",
            advice="start uWSGI with --enable-threads if you use flush_callback",
        )


def _aggregator(settings: Settings) -> Iterator[Check]:
    from vwo_fast.client import Link
    from vwo_fast.stats import read_stats

    name = "aggregator"
    folder = settings.queue_dir
    if not (folder / "control").exists():
        yield Check(name=name, level="OK", text=f"queue {settings.queue} has not been opened yet")
        return
    stats = read_stats(folder)
    waiting = stats.queued + stats.in_flight + stats.spooled
    if stats.aggregator_pid is None:
        external = settings.aggregator == "external"
        yield Check(
            name=name,
            level="WARN" if waiting or external else "OK",
            text=f"none runs for queue {settings.queue}; {waiting} events wait",
            advice="start `vwo-fast run`" if external else "`vwo-fast flush` sends them" if waiting else "",
        )
    else:
        answer = Link(folder, settings.queue, auto=False).ask({"op": "ping"}, ANSWER_TIMEOUT)
        yield _alive(settings, stats, answer, waiting)
    lost = sum(stats.dropped.values()) + stats.dead
    if lost:
        yield Check(
            name=name,
            level="WARN",
            text=f"{stats.dead} events are dead letters, {lost - stats.dead} were dropped",
            advice=f"the log says why: {settings.queue_spool_dir / 'aggregator.log'}",
        )


def _alive(settings: Settings, stats: Stats, answer: dict[str, Any] | None, waiting: int) -> Check:
    name, pid = "aggregator", stats.aggregator_pid
    if answer is None:
        text = f"process {pid} holds the lock and does not answer"
        if stats.is_hung:
            text += f"; it has shown no sign of life for {stats.heartbeat_age:.0f} s"
        end = f"see {settings.queue_spool_dir / 'aggregator.log'}; if it hangs, kill -9 {pid}: nothing is lost"
        if _is_stopped(pid):
            text += "; somebody has stopped it (SIGSTOP, a debugger)"
            end = f"let it go on: kill -CONT {pid}"
        return Check(name=name, level="FAIL", text=text, advice=end)
    theirs = answer.get("version")
    if theirs != __version__:
        return Check(
            name=name,
            level="WARN",
            text=f"process {pid} runs version {theirs}, and {__version__} is installed",
            advice=f"kill {pid}: it saves everything, and the next event starts the installed version",
        )
    return Check(name=name, level="OK", text=f"process {pid} answers; {waiting} events wait")


def _is_stopped(pid: int | None) -> bool:
    """Whether a process is stopped, where the system tells it as Linux does."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] in "Tt"
    except (OSError, IndexError):
        return False


def _configuration(settings: Settings) -> Iterator[Check]:
    from vwo_fast.folder import read_settings

    name = "configuration"
    running = read_settings(settings.queue_dir) if settings.queue_dir.is_dir() else None
    if running is None:
        yield Check(name=name, level="OK", text="no running queue to compare with")
        return
    # What is set nowhere here was perhaps set in the application's code, and is no contradiction.
    plain = load_settings(settings.queue, environ={})
    unset = {option for option in OPTIONS if getattr(settings, option) == getattr(plain, option)}
    different = [found for found in differences(running, settings) if found[0] not in unset]
    for option, theirs, ours in different:
        yield Check(
            name=name,
            level="WARN",
            text=f"{option}: the queue has {theirs!r}, and options, environment or file say {ours!r}",
            advice="a process that opens the queue with another value is refused: make them equal",
        )
    if not different:
        yield Check(name=name, level="OK", text="agrees with the queue's own")


def _nearest(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    while not path.exists():
        path = path.parent
    return path


def _file_system(place: Path) -> str | None:
    """Name of the file system, where the system tells it as Linux does."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    real = os.path.realpath(place)
    best, kind = "", None
    for line in lines:
        fields = line.split(" ")
        # Blanks in a mount point are written as octal escapes.
        point = fields[1].replace("\\040", " ").replace("\\011", "\t")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f} MiB"


_CHECKS: tuple[tuple[str, Callable[[Settings], Iterator[Check]]], ...] = (
    ("versions", _versions),
    ("compiled code", _compiled),
    ("interpreter", _interpreter),
    ("uWSGI", _uwsgi),
    ("shared memory", _shared_memory),
    ("folders", _folders),
    ("socket path", _socket_path),
    ("spool disk", _spool_disk),
    ("limits", _limits),
    ("server", _server),
    ("configuration", _configuration),
    ("aggregator", _aggregator),
)

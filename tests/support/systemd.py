"""A systemd of our own: a user manager in a mount namespace, which needs no boot, no bus and no login."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine import wait_for

__all__ = ["Manager", "manager"]

PROGRAM = Path("/lib/systemd/systemd")
START_SECONDS = 20.0

# It looks for this folder to know whether the machine was booted by systemd; nobody else sees ours.
_SCRIPT = 'mount -t tmpfs none /run && mkdir -p /run/systemd/system && exec "$0" --user --log-target=console'


class Manager:
    """The manager and its units. ``show`` and ``run`` speak to it as a user does, with systemctl."""

    def __init__(self, root: Path) -> None:
        self.units = root / "config/systemd/user"
        self.units.mkdir(parents=True)
        self.log = root / "systemd.log"
        (root / "run").mkdir(mode=0o700)
        self._environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(root),
            "XDG_RUNTIME_DIR": str(root / "run"),
            "XDG_CONFIG_HOME": str(root / "config"),
        }
        self._socket = root / "run/systemd/private"
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                ["unshare", "-m", "sh", "-c", _SCRIPT, str(PROGRAM)],
                env=self._environ,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def reason_not(self) -> str | None:
        """Why it did not come up; None when it did."""
        deadline = time.monotonic() + START_SECONDS
        while not self._socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                return f"optional: no systemd can be run here: {self.log.read_text(errors='replace').strip()}"
            time.sleep(0.02)
        return None

    def add(self, name: str, text: str, drop_in: str | None = None) -> None:
        """Install a unit; ``drop_in`` is what an administrator changes in it."""
        (self.units / name).write_text(text)
        if drop_in is not None:
            folder = self.units / f"{name}.d"
            folder.mkdir()
            (folder / "here.conf").write_text(drop_in)
        self.run("daemon-reload")

    def run(self, *arguments: str) -> str:
        """What ``systemctl`` prints. Fails the test when it does not succeed."""
        done = subprocess.run(
            ["systemctl", "--user", *arguments],
            env=self._environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        assert done.returncode == 0, f"systemctl {arguments}: {done.stderr}\n{self.log.read_text(errors='replace')}"
        return done.stdout

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit."""
        printed = self.run("show", unit, *(f"--property={name}" for name in names))
        return dict(line.split("=", 1) for line in printed.splitlines())

    def main_pid(self, unit: str) -> int:
        """Pid of the main process; 0 when there is none."""
        return int(self.show(unit, "MainPID")["MainPID"])

    def close(self) -> None:
        """End all units at once, then the manager."""
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            for unit in self.units.glob("*.service"):
                self.run("kill", "--signal=KILL", f"{unit.stem.rstrip('@')}*")
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@functools.cache
def _reason_not() -> str | None:
    if not sys.platform.startswith("linux"):
        return "optional: systemd is of Linux"
    if os.geteuid() != 0:
        return "optional: only root may have a mount namespace for a systemd of its own"
    if not PROGRAM.exists():
        return "no systemd here"
    return None


@contextlib.contextmanager
def manager() -> Iterator[Manager]:
    """A manager without units. Skips the test where there can be none."""
    if (reason := _reason_not()) is not None:
        pytest.skip(reason)
    # Short, for the sockets in it.
    with tempfile.TemporaryDirectory(prefix="vfs-") as folder:
        made = Manager(Path(folder))
        try:
            if (reason := made.reason_not()) is not None:
                pytest.skip(reason)
            yield made
        finally:
            made.close()


def environment_file(path: Path, variables: dict[str, str]) -> Path:
    """A file for ``EnvironmentFile=``."""
    path.write_text("".join(f'{name}="{value}"\n' for name, value in variables.items()))
    return path


def wait_for_another(made: Manager, unit: str, pid: int) -> int:
    """The main process that follows ``pid``."""
    return int(wait_for(lambda: (found := made.main_pid(unit)) not in (0, pid) and found))

"""Opening the folder of a queue: make it, check it, agree on the settings, become a user.

All of it happens under ``open.lock``, so two processes that open a queue at once
agree on one control file and one set of settings.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from vwo_fast import launch
from vwo_fast._lane import LAYOUT_VERSION, Control, SegmentError
from vwo_fast._log import get_logger
from vwo_fast.config import Settings, differences
from vwo_fast.errors import ConfigError, QueueError
from vwo_fast.locks import AGGREGATOR_LOCK, OPEN_LOCK, USERS_LOCK, LockFile, exclusive, lock_file, random_id
from vwo_fast.paths import is_another, queue_folder, read_private, spool_folder

__all__ = ["CONFIG_FILE", "CONTROL_FILE", "Membership", "read_settings", "write_private"]

logger = get_logger(__name__)

CONFIG_FILE = "config.json"
CONTROL_FILE = "control"
CONFIG_BYTES_MAX = 1 << 20


class Membership:
    """This process as a user of a queue: its folder, the control file, a member id that the kernel holds."""

    def __init__(self, settings: Settings) -> None:
        """Open the queue. Raises ConfigError or QueueError; then nothing is held."""
        self.settings = settings
        self.member_id = 0
        self.users: LockFile
        self.reopen()

    def reopen(self) -> None:
        """The same again, in a folder made anew. Raises ConfigError or QueueError; then nothing has changed."""
        settings = self.settings
        self.folder = queue_folder(settings)
        _check_spool(settings)
        try:
            with exclusive(self.folder / OPEN_LOCK):
                users = lock_file(self.folder / USERS_LOCK)
                in_use = _is_in_use(self.folder, users)
                control = _open_control(self.folder, in_use)
                _agree_on_settings(self.folder, settings, in_use)
                if self.member_id:
                    self.users.release(self.member_id)
                self._inode = os.stat(self.folder).st_ino
                self.users, self.control = users, control
                self.member_id = random_id()
                self.users.acquire(self.member_id)
        except (ConfigError, QueueError):
            raise
        except OSError as exc:
            raise QueueError(f"queue {settings.queue!r} cannot be opened in {self.folder}: {exc}") from exc

    @property
    def is_gone(self) -> bool:
        """Whether the folder was deleted, or made anew: who opens the queue now does not find us."""
        return is_another(self.folder, self._inode)

    def claim_launch(self) -> bool:
        """Whether this process may launch the aggregator now."""
        return launch.claim(self.control)

    def leave(self) -> None:
        """Stop being a user. A forked child holds nothing and gives nothing back."""
        self.users.release(self.member_id)


def _check_spool(settings: Settings) -> None:
    """Refuse a spool folder that others may enter; a disk that is full or read-only stops no application."""
    try:
        spool_folder(settings)
    except QueueError as exc:
        if not isinstance(exc.__cause__, OSError):
            raise
        logger.error("queue %r has no spool for now: %s", settings.queue, exc)


def _is_in_use(folder: Path, users: LockFile) -> bool:
    return lock_file(folder / AGGREGATOR_LOCK).is_held(0) or users.any_held_by_others() or users.any_held_here()


def _open_control(folder: Path, in_use: bool) -> Control:
    path = folder / CONTROL_FILE
    try:
        return Control.attach(str(path))
    except FileNotFoundError:
        return Control.create(str(path))
    except SegmentError as exc:
        if in_use or any(folder.glob("lane-*")):
            raise QueueError(
                f"{path} cannot be used by this version (layout {LAYOUT_VERSION}): {exc}. Stop the processes that use"
                " the queue and let the version that made it send what is left ('vwo-fast flush'), or use another queue"
            ) from exc
        path.unlink()
        return Control.create(str(path))


def _agree_on_settings(folder: Path, settings: Settings, in_use: bool) -> None:
    if in_use:
        running = read_settings(folder)
        if running is not None:
            different = differences(running, settings)
            if different:
                listed = "; ".join(
                    f"{name}: running with {theirs!r}, asked for {ours!r}" for name, theirs, ours in different
                )
                raise ConfigError(f"queue {settings.queue!r} is in use with other settings. {listed}")
            return
    import json

    write_private(folder / CONFIG_FILE, json.dumps(settings.to_json_dict()).encode())


def read_settings(folder: Path) -> Settings | None:
    """The settings that the queue in ``folder`` runs with; None when there are none that can be read."""
    import json

    try:
        return Settings.from_json_dict(json.loads(read_private(folder / CONFIG_FILE, CONFIG_BYTES_MAX)))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_private(path: Path, data: bytes) -> None:
    """Write a file of mode 0600 that appears whole or not at all."""
    temporary = path.with_name(f"{path.name}.{random_id():016x}.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise

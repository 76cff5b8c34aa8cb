"""What a cleaner of temporary folders would take."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.support.rooms import Clock
from vwo_fast.aggregator.upkeep import UPKEEP_SECONDS, Upkeep

LONG_AGO = 1_000_000_000


def test_the_files_of_a_queue_in_use_never_look_old(tmp_path: Path) -> None:
    """Folder and files are touched at once and every hour, not in between, and never through a link."""
    outside = tmp_path / "outside"
    outside.touch()
    folder = tmp_path / "queue"
    folder.mkdir()
    (folder / "users.lock").touch()
    (folder / "link").symlink_to(outside)
    mine = (folder, folder / "users.lock")

    def age() -> None:
        for path in (*mine, outside):
            os.utime(path, (LONG_AGO, LONG_AGO))

    clock = Clock()
    upkeep = Upkeep(folder, tmp_path / "absent", clock=clock)
    for _ in range(2):
        age()
        upkeep.look()
        assert all(time.time() - os.stat(path).st_mtime < 60 for path in mine)
        assert all(time.time() - os.stat(path).st_atime < 60 for path in mine)
        assert os.stat(outside).st_mtime == LONG_AGO
        age()
        clock.now += UPKEEP_SECONDS / 2
        upkeep.look()
        assert all(os.stat(path).st_mtime == LONG_AGO for path in mine)
        clock.now += UPKEEP_SECONDS / 2

"""How the aggregator lives as a process."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

from vwo_fast.aggregator.process import log_to

DETACH = """
import os, sys
from vwo_fast.aggregator.process import detach
listening = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.set_inheritable(listening, True)
detach()
with open(sys.argv[1], "w") as out:
    kept = []
    for fd in range(0, 64):
        try:
            os.fstat(fd)
        except OSError:
            continue
        kept.append(fd)
    print(kept == [0, 1, 2, out.fileno()], os.getsid(0) == os.getpid(), os.path.sameopenfile(0, 2), file=out)
print("to nobody")
"""


def test_a_detached_process_keeps_nothing_of_its_launcher(tmp_path: Path) -> None:
    """Inherited descriptors are closed, the terminal and pipes are let go, the session is its own."""
    target = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", DETACH, str(target)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert target.read_text() == "True True True\n"
    assert (done.stdout, done.stderr) == ("", "")


def test_the_log_is_private_and_ends(tmp_path: Path) -> None:
    """aggregator.log is 0600, takes INFO and above while it is open, and nothing afterwards."""
    logger = logging.getLogger("vwo_fast.somewhere")
    before = os.umask(0)
    try:
        with log_to(tmp_path):
            logger.info("seen %d", 5)
            logger.debug("not seen")
    finally:
        os.umask(before)
    logger.error("too late")
    path = tmp_path / "aggregator.log"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [line.split("vwo_fast.somewhere: ")[1] for line in path.read_text().splitlines()] == ["seen 5"]

"""``logging`` comes with the first message, and the message is as if it had been there all the time."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from vwo_fast._log import get_logger

ROOT = Path(__file__).resolve().parents[2]
LATER = {"dataclasses", "inspect", "json", "logging", "msgpack", "socket", "traceback", "zmq"}
"""What an import of the package does without, and what it did not do without once; a Queue may load some of it."""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)


def test_an_import_loads_what_is_needed_at_once() -> None:
    """Neither ``logging`` nor what only a queue needs comes with the import."""
    code = "import sys; before = set(sys.modules); import vwo_fast; print(*(sys.modules.keys() - before))"
    assert LATER & set(run(code).stdout.split()) == set()


def test_the_first_message_loads_it() -> None:
    """A message for those who debug does not, as nobody can have asked for it; an error does, and is shown."""
    code = (
        "import sys; from vwo_fast._log import get_logger; logger = get_logger('shop'); logger.debug('one');"
        "print('logging' in sys.modules); logger.error('two %d', 2); print('logging' in sys.modules)"
    )
    done = run(code)
    assert done.stdout.split() == ["False", "True"]
    assert done.stderr == "two 2\n"


def test_a_message_tells_where_it_comes_from(caplog: pytest.LogCaptureFixture) -> None:
    """Level, name, function and traceback are those of the caller."""
    logger = get_logger("vwo_fast.shop")
    with caplog.at_level(logging.DEBUG):
        logger.debug("one")
        try:
            raise ValueError("two")
        except ValueError:
            logger.exception("three")
    first, second = caplog.records
    assert (first.name, first.levelname, first.funcName) == (
        "vwo_fast.shop",
        "DEBUG",
        "test_a_message_tells_where_it_comes_from",
    )
    assert (second.levelname, second.getMessage()) == ("ERROR", "three")
    assert second.exc_info is not None

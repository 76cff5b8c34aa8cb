"""The examples that no other test runs."""

from __future__ import annotations

import configparser
import shlex

import pytest

from tests.support.servers import ROOT
from vwo_fast import cli
from vwo_fast._options import OPTIONS

UNIT = ROOT / "examples/vwo-fast@.service"


@pytest.fixture(scope="module")
def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.read_string(UNIT.read_text("utf-8"))
    return parser


def test_the_unit_runs_a_command_that_exists(unit: configparser.ConfigParser) -> None:
    """Its arguments are those of ``vwo-fast run`` in the foreground."""
    program, *arguments = shlex.split(unit["Service"]["ExecStart"])
    assert program.endswith("/vwo-fast")
    options = cli._parser().parse_args(arguments)
    assert options.command is cli._run
    assert not options.detached
    assert options.queue == "%i"


def test_the_unit_gives_it_time_to_send(unit: configparser.ConfigParser) -> None:
    """systemd kills it only after it has had its shutdown_timeout and time to save."""
    shutdown = OPTIONS["shutdown_timeout"].default
    assert isinstance(shutdown, float)
    assert float(unit["Service"]["TimeoutStopSec"]) >= 2 * shutdown

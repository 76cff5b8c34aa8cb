"""What holds for all tests.

With VWO_FAST_CI=1 a skipped test is a failed one, so that a machine that lacks something cannot look green.
A skip that is in order there says so: its reason begins with "optional:".

No generated example has a deadline, and none is too slow: how fast a machine is, is no property of what is tested.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Hundreds of aggregators and workers are started, and half of a start is compiling, where no bytecode may be written
# beside the sources: so it is kept elsewhere.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    os.environ["PYTHONPYCACHEPREFIX"] = str(Path(__file__).resolve().parents[1] / "build" / "pycache")

settings.register_profile("vwo_fast", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("vwo_fast")

MAY_SKIP = "optional:"


@pytest.fixture(autouse=True)
def no_child_outlives_its_test() -> Iterator[None]:
    """The interpreter waits for children at its end: one that a failed test has left stopped would hold it for ever."""
    yield
    for child in multiprocessing.active_children():
        child.kill()
        child.join()


def _forbid_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or os.environ.get("VWO_FAST_CI") != "1" or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not reason.removeprefix("Skipped: ").startswith(MAY_SKIP):
        report.outcome = "failed"
        report.longrepr = f"skipped, which VWO_FAST_CI=1 does not allow: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _forbid_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _forbid_skip(report)
    return report

"""What tune recommends, refuses and writes, on machines that are made up."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.tuning import figures
from vwo_fast._options import OPTIONS
from vwo_fast.aggregator.spool_file import LOG_BYTES
from vwo_fast.config import load_settings
from vwo_fast.tuning.advice import SPARE, Advice, Demand, ImpossibleError, advise
from vwo_fast.tuning.engine import Burst
from vwo_fast.tuning.figures import Figures, rows_of, spread
from vwo_fast.tuning.measure import costs
from vwo_fast.tuning.report import configuration, page


def demand(**changes: Any) -> Demand:
    return Demand(**{"rate": 2000.0, "event_bytes": 400, "rtt": 0.08, "workers": 4, "delay": 2.0, **changes})


def advised(wanted: Demand, machine: Figures) -> Advice | None:
    """None where it is impossible."""
    try:
        return advise(wanted, machine)
    except ImpossibleError:
        return None


def test_it_keeps_the_wished_delay_with_few_requests() -> None:
    """Predicted within the wish, with capacity to spare, and a longer wish never costs more requests."""
    short, long = advise(demand(delay=1.0), figures()), advise(demand(delay=4.0), figures())
    for advice in (short, long):
        assert advice.flow.delay_p99 <= advice.demand.delay
        assert advice.capacity >= SPARE * advice.demand.rate
    assert long.flow.requests_per_second < short.flow.requests_per_second
    assert long.warnings == ()


def test_nearly_no_events_leave_by_the_interval() -> None:
    """One event an hour waits its interval, in the smallest lanes, and costs no core."""
    advice = advise(demand(rate=1 / 3600), figures())
    interval = advice.value("request_time_interval")
    assert interval is not None
    assert interval <= advice.flow.delay_median <= advice.demand.delay
    assert advice.core_share < 1e-5
    assert advice.value("lane_bytes") == 256 * 1024


@pytest.mark.parametrize(
    ("wanted", "machine", "bottleneck", "said"),
    [
        ({"rate": 2e6, "workers": 64, "rtt": 0.0}, {}, "aggregator", "one core of the aggregator"),
        ({"rate": 50_000, "rtt": 1.0}, {}, "server", "the way to the server"),
        ({"rate": 3e6, "workers": 1}, {}, "workers", "at least 2 workers"),
        ({"delay": 0.05}, {}, "delay", "within 0.05 s"),
        ({"workers": 4096}, {"shared_memory_free": 64_000_000}, "shared memory", "4096 workers need"),
    ],
)
def test_what_is_impossible_names_the_bottleneck(
    wanted: dict[str, Any], machine: dict[str, Any], bottleneck: str, said: str
) -> None:
    """No settings are given for what cannot work; the answer says what stands in the way, in figures."""
    with pytest.raises(ImpossibleError, match=said) as caught:
        advise(demand(**wanted), figures(**machine))
    assert caught.value.bottleneck == bottleneck


def test_just_below_the_limit_is_possible() -> None:
    """The limit that a refusal names is one: a little below it there is advice, above it none."""
    with pytest.raises(ImpossibleError) as caught:
        advise(demand(rate=500_000, workers=64), figures())
    found = re.search(r"at most ([\d.]+) k can be had", str(caught.value))
    assert found is not None
    limit = float(found[1]) * 1000
    assert advise(demand(rate=0.98 * limit, workers=64), figures()).capacity >= SPARE * 0.98 * limit
    with pytest.raises(ImpossibleError):
        advise(demand(rate=1.02 * limit, workers=64), figures())


def test_the_disk_holds_the_events_and_a_log() -> None:
    """Few events are there twice, in SQLite's log and in the file; of many the log is a small part."""
    advice = advise(demand(), figures())
    assert advice.disk_bytes(0) == 0
    assert advice.disk_bytes(100) == pytest.approx(2 * 100 * advice.disk_per_event)
    assert advice.disk_bytes(1e6) == pytest.approx(1e6 * advice.disk_per_event + advice.log_bytes)
    assert LOG_BYTES < advice.log_bytes < 2 * LOG_BYTES


def test_scarce_places_are_warned_of() -> None:
    """Little shared memory, little disk, a slow disk, a slow server: the advice says what that costs."""
    small = figures(shared_memory_free=2_000_000, disk_free=100_000_000)
    advice = advise(demand(workers=8), small)
    assert advice.lanes_bytes <= 1_000_000
    assert advice.value("lane_watermark") == 0.5
    assert any("does not fit into a lane" in choice.reason for choice in advice.choices)
    assert advice.value("spool_max_bytes") == 50_000_000
    assert advice.outage.refused > 0
    assert any("Shared memory" in text for text in advice.warnings)
    assert any("free disk" in text for text in advice.warnings)
    slow = advise(demand(), replace(figures(), spool=replace(figures().spool, write=0.01)))
    assert any("The disk takes 100" in text for text in slow.warnings)
    assert slow.outage.refused > 0
    far = advise(demand(rate=100, rtt=4.0, delay=20.0), figures())
    assert any("read_timeout" in text for text in far.warnings)


@settings(max_examples=6, deadline=None)
@given(
    rate=st.floats(0.01, 20_000),
    rtt=st.floats(0, 0.3),
    workers=st.integers(1, 64),
    delay=st.floats(1.5, 60),
    event_bytes=st.sampled_from([160, 400, 5000]),
)
def test_every_advice_is_a_configuration_that_loads(
    tmp_path_factory: pytest.TempPathFactory, rate: float, rtt: float, workers: int, delay: float, event_bytes: int
) -> None:
    """Each value is within its option's range, and the file gives a queue just these values."""
    wanted = demand(rate=rate, rtt=rtt, workers=workers, delay=delay, event_bytes=event_bytes)
    advice = advised(wanted, figures(event_bytes=event_bytes))
    if advice is None:
        # Only what is large or far away can be too much here.
        assert rate * rtt * event_bytes > 1000 or rate > 1000
        return
    path = tmp_path_factory.mktemp("advice") / "vwo_fast.toml"
    path.write_text(configuration(advice, "vwo-fast tune", "0"))
    loaded = load_settings("shop", environ={"VWO_FAST_CONFIG": str(path)})
    for choice in advice.choices:
        assert getattr(loaded, choice.name) == choice.value
        if choice.value is not None:
            OPTIONS[choice.name].parse(choice.value)
    steady = advice.flow.depth_p99 * figures(event_bytes=event_bytes).lane.record_bytes / workers
    assert steady <= loaded.lane_watermark * loaded.lane_bytes


def test_the_page_is_whole_and_hides_nothing() -> None:
    """Each plot is an SVG that a parser reads, warnings and reasons are in the page, and nothing is loaded."""
    advice = advise(demand(workers=8), figures(shared_memory_free=2_000_000))
    text = page(advice, figures(), "vwo-fast tune --rate '<1>'", "0", "now")
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(pictures) == 4
    for picture in pictures:
        ET.fromstring(picture)
    assert "&lt;1&gt;" in text
    assert all(word in text for word in (*(choice.name for choice in advice.choices), "Shared memory"))
    assert not re.search(r"(src|href)=", text)


def test_costs_come_out_of_two_sums() -> None:
    """Sums of known costs give these costs; noise gives no negative one."""

    def burst(events: int, requests: int, cpu: float) -> Burst:
        return Burst(events=events, requests=requests, cpu_seconds=cpu, wall_seconds=1.0)

    known = [burst(1000, 100, 1000 * 2e-6 + 100 * 1e-3), burst(10_000, 2, 10_000 * 2e-6 + 2 * 1e-3)]
    assert costs(known) == pytest.approx((2e-6, 1e-3))
    for odd in ([burst(1000, 100, 0.001), burst(10_000, 2, 0.5)], [burst(10, 10, 0.01)], [burst(9, 9, 0.01)] * 2):
        event_cpu, request_cpu = costs(odd)
        assert event_cpu > 0
        assert request_cpu > 0


def test_the_table_has_every_measurement() -> None:
    """A row for each, with units."""
    made = figures()
    rows = {row.what: row for row in rows_of(made)}
    assert rows["enqueue, one process"].value == "200 ns"
    assert rows["HTTP, 5000 events, 1 in flight"].rate.startswith("500 requests/s, 2.5 M events/s")
    assert len(rows) == 1 + len(made.drains) + len(made.http) + len(made.engine.events_per_second) + 5


def test_spread_leaves_out_the_outer_tenths() -> None:
    """The median and the tenths; of nothing there is none."""
    found = spread([float(value) for value in range(1, 12)])
    assert (found.median, found.low, found.high) == (6.0, 2.0, 10.0)
    with pytest.raises(ValueError, match="no measurements"):
        spread([])


def test_advice_and_figures_are_values() -> None:
    """Nobody changes them by accident."""
    made: Figures = figures()
    advice: Advice = advise(demand(), made)
    for value, name in ((made, "cpus"), (advice, "capacity")):
        with pytest.raises(AttributeError):
            setattr(value, name, 1)


def test_every_size_of_event_fits_a_request() -> None:
    """Small and large events alike get advice or a reason."""
    for event_bytes in (160, 100_000):
        advice = advise(demand(rate=10, event_bytes=event_bytes), figures(event_bytes=event_bytes))
        events = advice.value("events_per_request")
        assert events is not None
        assert events * event_bytes <= 10_000_000

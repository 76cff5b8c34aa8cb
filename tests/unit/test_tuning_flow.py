"""The simulations of tune: their limits, what they conserve, and which way they lean."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vwo_fast.tuning.flow import Machine, Plan, capacity, simulate
from vwo_fast.tuning.outage import Store, notice, simulate_outage

MACHINE = Machine(
    event_cpu=1e-6,
    request_cpu=4e-4,
    request_base=5e-4,
    request_per_byte=1e-9,
    nap=0.002,
    json_bytes=400,
    rtt=0.08,
    visitor_bits=131_072,
)

plans = st.builds(
    Plan,
    events_per_request=st.sampled_from([1, 7, 100, 1000, 5000]),
    request_time_interval=st.floats(1, 60),
    in_flight_max=st.sampled_from([1, 2, 4, 16]),
)


def plan(events: int, interval: float = 5.0, window: int = 4) -> Plan:
    return Plan(events_per_request=events, request_time_interval=interval, in_flight_max=window)


def test_next_to_nothing_waits_its_interval() -> None:
    """An event that comes alone waits the interval and the request, and there is at most one at a time."""
    flow = simulate(MACHINE, 0.001, plan(100, interval=3.0), batches=200)
    assert flow.delay_median == pytest.approx(3.0 + MACHINE.request_seconds(1), abs=0.01)
    assert flow.events_per_request == pytest.approx(1, abs=0.05)
    assert flow.depth_median == 0


def test_a_full_batch_waits_half_its_time() -> None:
    """Where the count seals, the median event waits half of what a batch takes to fill, then the request."""
    flow = simulate(MACHINE, 1000, plan(1000, interval=60))
    assert flow.delay_median == pytest.approx(0.5 + MACHINE.request_seconds(1000), rel=0.03)
    assert flow.events_per_request == 1000
    assert flow.requests_per_second == pytest.approx(1.0, rel=0.02)


def test_the_depth_is_the_rate_times_the_delay() -> None:
    """Little's law, which the simulation does not know of, holds for it."""
    for rate, used in ((500, plan(100)), (5000, plan(5000)), (50, plan(5000, interval=2))):
        flow = simulate(MACHINE, rate, used, batches=1500)
        assert flow.depth_mean == pytest.approx(rate * flow.delay_mean, rel=0.05)


def test_without_a_way_only_the_filling_is_left() -> None:
    """A server that answers at once, a machine that costs nothing: what remains is the wait for the seal."""
    free = replace(MACHINE, rtt=0, event_cpu=0, request_cpu=0, request_base=0, request_per_byte=0, nap=0)
    flow = simulate(free, 1000, plan(100))
    assert flow.delay_median == pytest.approx(0.05, rel=0.05)
    assert simulate(free, 1000, plan(1)).delay_p99 == 0
    assert capacity(replace(free, rtt=1e-9), 100, 4) > 1e9


def test_capacity_of_one_request_at_a_time() -> None:
    """A window of one carries a batch per request's time, and batches that share visitors are no faster in a larger."""
    alone = capacity(MACHINE, 5000, 1)
    assert alone == pytest.approx(5000 / MACHINE.request_seconds(5000), rel=0.02)
    assert capacity(MACHINE, 5000, 16) == pytest.approx(alone, rel=0.01)
    small = capacity(MACHINE, 10, 1)
    assert capacity(MACHINE, 10, 4) == pytest.approx(4 * small, rel=0.1)


def test_the_core_bounds_what_is_carried() -> None:
    """However short the way, it is not more than the aggregator's core can do; without its cost it is more."""
    near = replace(MACHINE, rtt=0, request_base=0, request_per_byte=0, event_cpu=1e-4)
    assert capacity(near, 1000, 16) == pytest.approx(1 / (1e-4 + 4e-7), rel=0.02)
    assert capacity(near, 1000, 16, with_cpu=False) == math.inf


def test_at_the_limit_the_queue_grows_and_well_below_it_does_not() -> None:
    """Beyond the capacity the delay grows with every batch; at half of it a longer look changes nothing."""
    most = capacity(MACHINE, 100, 2)
    short, long = (simulate(MACHINE, 1.3 * most, plan(100, window=2), batches=count) for count in (200, 800))
    assert long.delay_median > 2 * short.delay_median
    short, long = (simulate(MACHINE, 0.5 * most, plan(100, window=2), batches=count) for count in (500, 2000))
    assert long.delay_median == pytest.approx(short.delay_median, rel=0.15)


@settings(max_examples=12, deadline=None)
@given(rate=st.floats(0.01, 30_000), used=plans, seed=st.integers(0, 1000))
def test_every_event_is_answered_once(rate: float, used: Plan, seed: int) -> None:
    """What arrived is answered, nothing waits less than a request takes, and no depth is negative."""
    flow = simulate(MACHINE, rate, used, batches=60, seed=seed)
    assert flow.arrived == flow.answered > 0
    assert MACHINE.rtt <= flow.delay_median <= flow.delay_p99
    assert min(depth for _, depth in flow.depth) >= -1e-6
    assert 1 <= flow.events_per_request <= used.events_per_request


@settings(max_examples=12, deadline=None)
@given(used=plans, rtt=st.floats(0, 1), more=st.floats(0.01, 1), seed=st.integers(0, 1000))
def test_a_longer_way_is_never_quicker(used: Plan, rtt: float, more: float, seed: int) -> None:
    """With the same arrivals a larger round trip means a larger delay and less capacity."""
    near, far = replace(MACHINE, rtt=rtt), replace(MACHINE, rtt=rtt + more)
    quick, slow = (simulate(one, 100, used, batches=60, seed=seed) for one in (near, far))
    assert slow.delay_median > quick.delay_median
    events, window = used.events_per_request, used.in_flight_max
    assert capacity(far, events, window, batches=100) <= capacity(near, events, window, batches=100)


@settings(max_examples=12, deadline=None)
@given(rate=st.floats(1, 1000), used=plans, factor=st.floats(1.1, 10))
def test_a_longer_interval_makes_fewer_requests(rate: float, used: Plan, factor: float) -> None:
    """Not more of them, and not fuller than the count allows; the delay does not shrink."""
    longer = replace(used, request_time_interval=used.request_time_interval * factor)
    short, long = (simulate(MACHINE, rate, one, batches=80) for one in (used, longer))
    assert long.requests_per_second <= short.requests_per_second * 1.1
    assert long.events_per_request >= short.events_per_request * 0.9


# ---- outages

STORE = Store(steady=100, lanes=10_000, watermark=0.5, spool=1e9, spool_per_second=1e6)


def outage(rate: float, most: float, store: Store, **changes: float):
    return simulate_outage(rate, most, store, **{"seconds": 600, "notice_seconds": 30, "give_up_seconds": 1, **changes})


def test_an_outage_leaves_what_came_and_goes_at_the_spare_rate() -> None:
    """The spool has what came until the return was noticed; it is gone after that divided by what is to spare."""
    found = outage(1000, 3000, STORE)
    assert found.spool_peak == pytest.approx(630_000, rel=0.01)
    assert found.refused == 0
    assert found.even_after == pytest.approx(30 + 630_000 / 2000, rel=0.02)


def test_without_spare_capacity_it_never_goes() -> None:
    """A backlog stays when as much comes as goes."""
    assert outage(1000, 1000, STORE).even_after is None


def test_a_small_spool_fills_the_lanes_and_then_refuses() -> None:
    """First the spool, then the lanes up to their end; what comes then is refused, and counted."""
    found = outage(1000, 3000, replace(STORE, spool=100_000))
    assert found.spool_peak == pytest.approx(100_000)
    assert found.lanes_peak == pytest.approx(10_000)
    assert found.refused == pytest.approx(630_000 - 100_000 - 9_900, rel=0.02)


def test_a_slow_disk_fills_the_lanes() -> None:
    """What the disk does not take in time is refused once the lanes are full."""
    found = outage(1000, 3000, replace(STORE, spool_per_second=100))
    assert found.lanes_peak == pytest.approx(10_000)
    assert found.refused > 500_000


@settings(max_examples=40, deadline=None)
@given(
    rate=st.floats(0.01, 1e5),
    spare=st.floats(0.5, 10),
    steady=st.floats(0, 1e4),
    lanes=st.floats(1, 1e6),
    watermark=st.floats(0.1, 0.9),
    spool=st.floats(0, 1e8),
    disk=st.floats(0, 1e6),
)
def test_an_outage_loses_count_of_nothing(
    rate: float, spare: float, steady: float, lanes: float, watermark: float, spool: float, disk: float
) -> None:
    """Offered is delivered, in lanes, in the spool or refused, and no place holds more than fits."""
    store = Store(steady=steady, lanes=lanes, watermark=watermark, spool=spool, spool_per_second=disk)
    found = outage(rate, spare * rate, store)
    _, in_lanes, in_spool, refused = found.points[-1]
    assert found.delivered + in_lanes + in_spool + refused == pytest.approx(found.offered, rel=1e-6)
    assert found.spool_peak <= spool * (1 + 1e-9)
    assert found.lanes_peak <= lanes * (1 + 1e-9)


def test_the_return_is_noticed_within_the_longest_delay() -> None:
    """Tries are never further apart than retry_delay_max."""
    median, most = notice(600, 0.5, 60)
    assert 0 < median < most <= 60

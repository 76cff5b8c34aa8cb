"""The nap of the loop: long while lanes stay nearly empty, short enough for the rate when they do not."""

from __future__ import annotations

import pytest

from vwo_fast.aggregator.nap import FILL_WANTED, NAP_SECONDS_MAX, NAP_SECONDS_MIN, Nap, fill_of


def naps(rates: list[float]) -> list[float]:
    """The lengths when the lane fills at these rates, in lanes per second, one per nap."""
    nap, found = Nap(), []
    for rate in rates:
        found.append(nap.seconds)
        nap.after(rate * nap.seconds)
    return found


def test_a_nap_doubles_up_to_its_longest_while_little_comes() -> None:
    """From its shortest; no event at all is little too."""
    assert naps([0.1] * 7) == pytest.approx([0.002, 0.004, 0.008, 0.016, 0.032, NAP_SECONDS_MAX, NAP_SECONDS_MAX])
    assert naps([0.0] * 7)[-1] == NAP_SECONDS_MAX


def test_a_nap_that_must_be_short_stays_so() -> None:
    """Where events are to be on the disk soon it is as it begins, however little comes."""
    nap = Nap(is_short=True)
    nap.after(0.0)
    assert nap.seconds == NAP_SECONDS_MIN


@pytest.mark.parametrize("rate", [2.5, 10.0, 25.0])
def test_a_nap_comes_to_what_the_rate_needs(rate: float) -> None:
    """No more than the wanted share of the lane is written in each nap after the first few."""
    settled = naps([rate] * 20)[5:]
    assert settled == pytest.approx([FILL_WANTED / rate] * len(settled))


def test_a_burst_shortens_the_next_nap_at_once() -> None:
    """After a long nap in which a lane was filled the next one is the shortest."""
    assert naps([0.1] * 6 + [60.0, 60.0])[-2:] == pytest.approx([NAP_SECONDS_MAX, NAP_SECONDS_MIN])


def test_after_a_sleep_naps_begin_with_the_shortest() -> None:
    """What was learned of the last events says nothing of the next ones."""
    nap = Nap()
    for _ in range(4):
        nap.after(0.0)
    nap.reset()
    assert nap.seconds == NAP_SECONDS_MIN


def test_a_large_lane_is_read_as_often_as_a_usual_one() -> None:
    """How much of a lane is unread counts against two megabytes at most."""
    assert fill_of(1 << 16, 1 << 17) == 0.5
    assert fill_of(1 << 18, 1 << 21) == fill_of(1 << 18, 1 << 25) == 0.125

"""Gunicorn under load while its workers and the aggregator are killed at random; the long form is ``make soak``."""

from __future__ import annotations

import random
from pathlib import Path

from tests.support.engine import engine
from tests.support.storm import Storm

SECONDS = 15


def test_random_kills_under_load(tmp_path: Path) -> None:
    """What was answered arrives, twice only what had an unknown outcome; memory, descriptors and lanes stay flat."""
    with engine() as made:
        storm = Storm(made, tmp_path / "log", random.Random(20261121))
        stats = storm.run(SECONDS)
        line = storm.check(stats)
    print(f"\n{line}")
    for sample in storm.samples[:: max(1, len(storm.samples) // 5)]:
        print(sample)
    assert storm.killed_workers >= 3
    assert storm.killed_aggregators >= 3

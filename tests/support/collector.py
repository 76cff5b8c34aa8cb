"""The local stand-in for VWO, as the tests import it; its one implementation is examples/collector.py."""

from __future__ import annotations

from examples.collector import BYTES_MAX, EVENTS_MAX, Collector, Recorded, Rule, read_record

__all__ = ["BYTES_MAX", "EVENTS_MAX", "Collector", "Recorded", "Rule", "read_record"]

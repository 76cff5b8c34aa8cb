"""Figures of a machine that is made up, for tests of what is worked out from them."""

from __future__ import annotations

from typing import Any

from vwo_fast.tuning.figures import Drain, Engine, Figures, Http, Lane, Spool, Spread, sizes_for


def figures(event_bytes: int = 400, **changes: Any) -> Figures:
    """An ordinary machine."""

    def always(value: float) -> Spread:
        return Spread(median=value, low=value, high=value)

    sizes = sizes_for(event_bytes)
    cells = []
    for events in sizes:
        body = events * (event_bytes + 1)
        took = 5e-4 + 7.5e-10 * body
        cells.append(Http(events=events, body_bytes=body, window=1, requests_per_second=1 / took, request=always(took)))
    cells = [
        Http(**{**_fields(cell), "requests_per_second": round(cell.requests_per_second, -2) or 1}) for cell in cells
    ]
    made = {
        "event_bytes": event_bytes,
        "url": None,
        "lane": Lane(enqueue=always(2e-7), record_bytes=event_bytes + 10, json_bytes=event_bytes + 1),
        "drains": tuple(Drain(events=size, per_event=always(2.5e-7), bytes_per_event=event_bytes) for size in sizes),
        "http": tuple(cells),
        "engine": Engine(
            event_cpu=1e-6,
            request_cpu=4e-4,
            start_seconds=0.5,
            memory_bytes=35_000_000,
            events_per_second={sizes[-1]: 1e6},
        ),
        "spool": Spool(write=3e-6, read=5e-7, disk_bytes=event_bytes * 1.05),
        "shared_memory_free": 4_000_000_000,
        "disk_free": 100_000_000_000,
        "cpus": 4,
    }
    return Figures(**{**made, **changes})


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}

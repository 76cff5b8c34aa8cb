"""Stand-ins for the engine and for SDK packages, where a test needs neither the real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from vwo_fast.config import Settings, load_settings
from vwo_fast.queue import Producer, Queue
from vwo_fast.route import Route

__all__ = ["FakeProducer", "FakeQueue", "package", "producer_of", "queue_of"]


class FakeQueue:
    """Remembers what it is asked."""

    def __init__(self, name: str = "shop", **options: Any) -> None:
        self.settings: Settings = load_settings(name, environ={}, **options)
        self.name = name
        self.folder = Path("/nowhere")
        self.flushed: list[float] = []
        self.answer = True

    @property
    def real_time(self) -> bool:
        return self.settings.real_time

    def flush(self, timeout: float) -> bool:
        self.flushed.append(timeout)
        return self.answer


class FakeProducer:
    """Remembers what it is given and accepts it, unless ``refuses``."""

    def __init__(self, queue: FakeQueue, route: Route) -> None:
        self.queue = queue
        self.route = route
        self.events: list[Any] = []
        self.requests: list[tuple[Any, ...]] = []
        self.refuses = False

    def enqueue(self, event: Any) -> bool:
        self.events.append(event)
        return not self.refuses

    def enqueue_request(self, *parts: Any) -> bool:
        self.requests.append(parts)
        return not self.refuses


def producer_of(fake: FakeProducer) -> Producer:
    """The fake, as the adapters' signatures want it."""
    return cast(Producer, fake)


def queue_of(fake: FakeQueue) -> Queue:
    """The fake, as the adapters' signatures want it."""
    return cast(Queue, fake)


def package(folder: Path, distribution: str, version: str, files: dict[str, str]) -> None:
    """Write an importable, installed-looking distribution into a folder."""
    for name, source in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")

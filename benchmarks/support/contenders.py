"""The other ways to hand an event over, each as a Way whose timed part is its call alone."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from benchmarks.support.events import ACCOUNT, SDK_KEY, impression
from benchmarks.support.facts import versions
from benchmarks.support.rounds import Way, nanoseconds_each
from benchmarks.support.work import wait_until

__all__ = ["CONTENDERS", "Contender", "impressions", "official_fme", "official_fullstack"]

EVENTS = 10_000
SDK_EVENTS = 4_000
"""Fewer than the 5000 after which the SDKs would send: their requests are not in the figure."""
POOL = 250
"""Distinct impressions; few enough that they stay in the cache, as one that was just made is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    title: str
    environment: str
    make: Callable[[str], AbstractContextManager[Way]]
    at_most: float
    """Goal for our time as a share of theirs."""
    events: int = EVENTS
    distinct: bool = False
    packages: tuple[str, ...] = ()
    note: str = ""

    def versions(self) -> dict[str, str]:
        return versions(*self.packages)


def impressions(count: int, *, distinct: bool = False) -> list[dict[str, Any]]:
    """``distinct``: no dict comes twice, for those who change it."""
    pool = [impression(number) for number in range(1, 1 + (count if distinct else POOL))]
    return pool * (count // len(pool))


def _way(
    call: Callable[[Any], Any],
    *,
    settle: Callable[[], None] = lambda: None,
    count: int = EVENTS,
    distinct: bool = False,
) -> Way:
    return Way(
        run=lambda made: nanoseconds_each(call, made),
        prepare=lambda: impressions(count, distinct=distinct),
        settle=settle,
    )


def _encoder() -> Callable[[Any], bytes]:
    import msgspec

    encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
    return encode


@contextlib.contextmanager
def msgspec_encode(url: str) -> Iterator[Way]:
    """Serialize only: the bytes go nowhere."""
    yield _way(_encoder())


# ---- the official SDKs


def official_fullstack(url: str, events_per_request: int | None = 5000) -> Any:
    """The unmodified SDK, sending to ``url``; ``events_per_request`` None: a request for each event."""
    import vwo
    from vwo.constants import constants

    from tests.support import sdk_settings

    constants.HTTPS_PROTOCOL = "http://"
    constants.ENDPOINTS.BASE_URL = urlsplit(url).netloc
    settings = json.dumps(sdk_settings.fullstack(accountId=ACCOUNT, sdkKey=SDK_KEY))
    return vwo.launch(settings, batch_events=_batching(events_per_request))


def official_fme(url: str, events_per_request: int | None = 5000) -> Any:
    """The unmodified SDK, sending to ``url``, which also gives it its settings; likewise."""
    import vwo

    from tests.support import sdk_settings

    settings = sdk_settings.fme()
    given = {"sdk_key": settings["sdkKey"], "account_id": settings["accountId"], "proxy_url": url}
    batching = _batching(events_per_request)
    return vwo.init(given if batching is None else {**given, "batch_event_data": batching})


def _batching(events_per_request: int | None) -> dict[str, int] | None:
    if events_per_request is None:
        return None
    return {"events_per_request": events_per_request, "request_time_interval": 600}


@contextlib.contextmanager
def fullstack_dispatch(url: str) -> Iterator[Way]:
    dispatcher = official_fullstack(url).event_dispatcher

    def settle() -> None:
        dispatcher.flush_queue(manual=True, mode="sync")

    yield _way(dispatcher.dispatch, settle=settle, count=SDK_EVENTS, distinct=True)
    settle()


@contextlib.contextmanager
def fme_enqueue(url: str) -> Iterator[Way]:
    queue = official_fme(url).batch_event_queue
    wait_until(lambda: not queue.is_batch_processing, "the SDK's start")

    def settle() -> None:
        queue.batch_queue.clear()

    yield _way(queue.enqueue, settle=settle, count=SDK_EVENTS)
    settle()
    queue.clear_request_timer()


# ---- queues between processes


@contextlib.contextmanager
def _consumer(target: Callable[..., None], *arguments: Any) -> Iterator[Callable[[int], None]]:
    """A process that counts what it receives; what is yielded waits until it has received one number more."""
    context = multiprocessing.get_context("fork")
    received = context.Value("Q", 0)
    process = context.Process(target=target, args=(received, *arguments), daemon=True)
    process.start()
    wanted = 0

    def wait(count: int) -> None:
        nonlocal wanted
        wanted += count
        wait_until(lambda: received.value >= wanted, f"the {wanted}th event")

    try:
        yield wait
    finally:
        process.terminate()
        process.join()


def _consume_simple(received: Any, queue: Any) -> None:
    while True:
        queue.get()
        received.value += 1


@contextlib.contextmanager
def simple_queue(url: str) -> Iterator[Way]:
    queue = multiprocessing.get_context("fork").SimpleQueue()
    with _consumer(_consume_simple, queue) as wait:
        yield _way(queue.put, settle=lambda: wait(EVENTS))


def _consume_fifo(received: Any, queue: Any) -> None:
    from queue import Empty

    while True:
        with contextlib.suppress(Empty):
            received.value += len(queue.get_many(timeout=10.0))


@contextlib.contextmanager
def faster_fifo(url: str) -> Iterator[Way]:
    from faster_fifo import Queue

    queue = Queue(max_size_bytes=1 << 24)
    with _consumer(_consume_fifo, queue) as wait:
        yield _way(queue.put, settle=lambda: wait(EVENTS))


def _consume_zmq(received: Any, address: str) -> None:
    import zmq

    socket = zmq.Context().socket(zmq.PULL)
    socket.connect(address)
    while True:
        socket.recv()
        received.value += 1


@contextlib.contextmanager
def zmq_push(url: str) -> Iterator[Way]:
    import zmq

    encode = _encoder()
    with tempfile.TemporaryDirectory() as folder:
        address = f"ipc://{folder}/push"
        with _consumer(_consume_zmq, address) as wait:
            context = zmq.Context()
            push = context.socket(zmq.PUSH)
            push.sndhwm = 0
            push.bind(address)
            send = push.send

            def call(event: Any) -> None:
                send(encode(event))

            yield _way(call, settle=lambda: wait(EVENTS))
            push.close(0)
            context.term()


# ---- clients of other event services


@contextlib.contextmanager
def kafka_produce(url: str) -> Iterator[Way]:
    from confluent_kafka import Producer

    options = {"bootstrap.servers": "127.0.0.1:9", "queue.buffering.max.messages": 1_000_000, "log_level": 0}
    producer = Producer(options, logger=_silent())
    encode, produce = _encoder(), producer.produce

    def call(event: Any) -> None:
        produce("impressions", encode(event))

    def settle() -> None:
        producer.purge()
        producer.poll(0)

    yield _way(call, settle=settle)
    settle()


def _silent() -> Any:
    import logging

    logger = logging.getLogger("benchmarks.kafka")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger


@contextlib.contextmanager
def posthog_capture(url: str) -> Iterator[Way]:
    from posthog import Posthog

    client = Posthog("phc_benchmark", host=url, max_queue_size=1_000_000, disable_geoip=True)
    capture = client.capture

    def call(event: Any) -> None:
        capture("impression", distinct_id=event["u"], properties=event)

    yield _way(call, settle=client.flush, count=1000)
    client.shutdown()


@contextlib.contextmanager
def otel_span_end(url: str) -> Iterator[Way]:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Discard(SpanExporter):
        def export(self, spans: Sequence[Any]) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    processor = BatchSpanProcessor(Discard(), max_queue_size=1 << 16)
    provider = TracerProvider()
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("benchmarks")

    def spans() -> list[Any]:
        return [tracer.start_span("impression", attributes=event) for event in impressions(2000)]

    def run(made: list[Any]) -> float:
        begin = time.perf_counter_ns()
        for span in made:
            span.end()
        return (time.perf_counter_ns() - begin) / len(made)

    yield Way(run=run, prepare=spans, settle=lambda: provider.force_flush() and None)
    provider.shutdown()


CONTENDERS: dict[str, Contender] = {
    "msgspec": Contender(
        title="msgspec.msgpack.Encoder().encode",
        environment="bench-json",
        make=msgspec_encode,
        at_most=1.0,
        packages=("msgspec",),
        note="serialize only, the same dict",
    ),
    "fullstack": Contender(
        title="FullStack SDK dispatch()",
        environment="fullstack",
        make=fullstack_dispatch,
        at_most=1 / 8,
        events=SDK_EVENTS,
        distinct=True,
        packages=("vwo-python-sdk",),
        note="its batch mode, between two requests: JSON and sending are not in its figure",
    ),
    "fme": Contender(
        title="FME SDK enqueue()",
        environment="fme165",
        make=fme_enqueue,
        at_most=1 / 8,
        events=SDK_EVENTS,
        packages=("vwo-fme-python-sdk",),
        note="appends to a list, between two requests: JSON and sending are not in its figure",
    ),
    "faster-fifo": Contender(
        title="faster-fifo put",
        environment="bench-fifo",
        make=faster_fifo,
        at_most=1.0,
        packages=("faster-fifo",),
        note="pickles; a process gets many at a time",
    ),
    "zmq": Contender(
        title="pyzmq PUSH",
        environment="bench-json",
        make=zmq_push,
        at_most=1.0,
        packages=("pyzmq", "msgspec"),
        note="msgspec encodes; ipc; a process pulls",
    ),
    "simplequeue": Contender(
        title="multiprocessing.SimpleQueue.put",
        environment="bench-json",
        make=simple_queue,
        at_most=1.0,
        note="pickles; a process gets; put waits while the pipe is full",
    ),
    "kafka": Contender(
        title="confluent-kafka produce",
        environment="bench-kafka",
        make=kafka_produce,
        at_most=1.0,
        packages=("confluent-kafka", "msgspec"),
        note="msgspec encodes; into its local queue, there is no broker",
    ),
    "posthog": Contender(
        title="posthog capture",
        environment="bench-posthog",
        make=posthog_capture,
        at_most=1.0,
        events=1000,
        packages=("posthog",),
        note="its thread sends to the same server",
    ),
    "otel": Contender(
        title="OpenTelemetry span.end()",
        environment="bench-otel",
        make=otel_span_end,
        at_most=1.0,
        events=2000,
        packages=("opentelemetry-sdk",),
        note="BatchSpanProcessor with an exporter that discards",
    ),
}

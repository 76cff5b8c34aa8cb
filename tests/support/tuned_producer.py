"""A worker that enqueues at a steady rate, at random moments; each event carries the time it was enqueued at.

Arguments: config file, run_dir, spool_dir, base_url, events per second, seconds, first number, bytes of an event.
SIGTERM ends it before its time, in good order.
"""

from __future__ import annotations

import random
import signal
import sys
import threading
import time

import vwo_fast
from vwo_fast.tuning.events import impression, route

STAMP = "%.6f "


def main() -> int:
    config, run_dir, spool_dir, base_url, *numbers = sys.argv[1:]
    rate, seconds = float(numbers[0]), float(numbers[1])
    number, event_bytes = int(numbers[2]), int(numbers[3])
    rng = random.Random(number)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    queue = vwo_fast.Queue("tuned", config_file=config, run_dir=run_dir, spool_dir=spool_dir, base_url=base_url)
    put = queue.producer(route()).enqueue
    due = begin = time.monotonic()
    while due < begin + seconds and not ended.is_set():
        due += rng.expovariate(rate)
        time.sleep(max(0.0, due - time.monotonic()))
        event = impression(number, event_bytes)
        stamp = STAMP % time.time()
        event["visitor_ua"] = stamp + event["visitor_ua"][len(stamp) :]
        if not put(event):
            return 1
        number += 1
    queue.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

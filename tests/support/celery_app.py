"""The Celery application of the tests: a broker in a folder, one task that makes one impression.

``python -m tests.support.celery_app 200`` sends the tasks 0 to 199.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import celery

import vwo_fast
from tests.support.engine import impression, route

__all__ = ["app", "record"]

folder = Path(os.environ["VWO_FAST_TEST_BROKER"])
folder.mkdir(exist_ok=True)

app = celery.Celery("tests", broker="filesystem://")
app.conf.update(
    broker_transport_options={
        "data_folder_in": str(folder),
        "data_folder_out": str(folder),
        "control_folder": str(folder / "control"),
        "polling_interval": 0.01,
    },
    task_ignore_result=True,
    worker_hijack_root_logger=False,
)
queue = vwo_fast.Queue(os.environ["VWO_FAST_QUEUE"])
producer = queue.producer(route())


@app.task
def record(number: int) -> None:
    """Make one impression."""
    if not producer.enqueue(impression(number)):
        raise RuntimeError(f"impression {number} was refused")


if __name__ == "__main__":
    # Celery knows the task by the module's real name, not as part of __main__.
    for task in range(int(sys.argv[1])):
        app.send_task("tests.support.celery_app.record", (task,))

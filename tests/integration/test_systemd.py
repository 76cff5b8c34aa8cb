"""Under a real systemd: the unit of the examples, and a server whose workers start the aggregator themselves."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.collector import Rule
from tests.support.engine import Engine, engine, impression, numbers, route, wait_for
from tests.support.ports import free_port
from tests.support.servers import QUEUE, ROOT, Visitor, assert_exactly_once, environment_python, queue_environment
from tests.support.systemd import Manager, environment_file, manager, wait_for_another

UNIT = f"vwo-fast@{QUEUE}.service"
EXTERNAL = {"events_per_request": 100, "request_time_interval": 600, "aggregator": "external", "idle_exit": 0}


@pytest.fixture
def systemd() -> Iterator[Manager]:
    with manager() as made:
        yield made


@pytest.fixture
def shop() -> Iterator[Engine]:
    with engine() as made:
        yield made


def add_aggregator(systemd: Manager, shop: Engine, tmp_path: Path, **options: object) -> None:
    """The unit as it is shipped, but for where vwo_fast lies and who runs it."""
    given = shop.options(**{**EXTERNAL, **options})
    variables = {f"VWO_FAST_{name.upper()}": str(value) for name, value in given.items()}
    environment = environment_file(tmp_path / "environment", variables)
    program = f"{environment_python('dev')} -m vwo_fast"
    changes = ["[Service]", "User=", f"WorkingDirectory={ROOT}", f"EnvironmentFile={environment}", "ExecStart="]
    text = (ROOT / "examples/vwo-fast@.service").read_text("utf-8")
    systemd.add("vwo-fast@.service", text, "\n".join([*changes, f"ExecStart={program} run --queue %i", ""]))


def test_the_unit_of_the_examples(systemd: Manager, shop: Engine, tmp_path: Path) -> None:
    """It starts, is there again after kill -9, and a stop sends what no count and no timer has sent yet."""
    add_aggregator(systemd, shop, tmp_path)
    systemd.run("start", UNIT)
    with shop.queue(QUEUE, **EXTERNAL) as queue:
        producer = queue.producer(route())
        assert all(producer.enqueue(impression(n)) for n in range(250))
        assert queue.flush(60)
        pid = systemd.main_pid(UNIT)
        assert queue.stats().aggregator_pid == pid
        os.kill(pid, signal.SIGKILL)
        assert all(producer.enqueue(impression(n)) for n in range(250, 500))
        other = wait_for_another(systemd, UNIT, pid)
        assert queue.flush(60)
        assert queue.stats().aggregator_pid == other
        assert all(producer.enqueue(impression(n)) for n in range(500, 507))
        systemd.run("stop", UNIT)
        assert systemd.show(UNIT, "Result", "ActiveState") == {"Result": "success", "ActiveState": "inactive"}
        assert Counter(numbers(shop.collector.events)) == Counter(range(507))
        assert (queue.stats().delivered, queue.stats().queued) == (507, 0)


def test_a_stop_while_the_server_is_away(systemd: Manager, shop: Engine, tmp_path: Path) -> None:
    """It ends by itself, with everything in the spool; the next start delivers it."""
    add_aggregator(systemd, shop, tmp_path, shutdown_timeout=1)
    shop.collector.rules.append(Rule(status=503))
    systemd.run("start", UNIT)
    with shop.queue(QUEUE, **EXTERNAL, shutdown_timeout=1) as queue:
        producer = queue.producer(route())
        assert all(producer.enqueue(impression(n)) for n in range(250))
        wait_for(lambda: queue.stats().retries)
        systemd.run("stop", UNIT)
        assert systemd.show(UNIT, "Result", "ActiveState") == {"Result": "success", "ActiveState": "inactive"}
        assert (queue.stats().spooled, queue.stats().queued) == (250, 0)
        shop.collector.rules.clear()
        systemd.run("start", UNIT)
        assert queue.flush(60)
        assert Counter(numbers(shop.collector.events)) == Counter(range(250))


@pytest.mark.parametrize("is_away", [False, True], ids=["server-answers", "server-away"])
def test_a_service_whose_workers_start_the_aggregator(
    is_away: bool, systemd: Manager, shop: Engine, tmp_path: Path
) -> None:
    """systemd signals every process of the service at once, the aggregator too: all end in time, nothing is lost."""
    port = free_port()
    variables = queue_environment(shop, VWO_FAST_REQUEST_TIME_INTERVAL="600", VWO_FAST_SHUTDOWN_TIMEOUT="2")
    environment = environment_file(
        tmp_path / "environment", {name: value for name, value in variables.items() if name.startswith("VWO_FAST_")}
    )
    command = f"{environment_python('servers')} -m gunicorn --workers=3 --bind=127.0.0.1:{port}"
    lines = ["[Service]", f"WorkingDirectory={ROOT}", f"EnvironmentFile={environment}", "TimeoutStopSec=60"]
    lines += [f"ExecStart={command} --log-level=warning tests.support.wsgi_app:app", ""]
    systemd.add("shop.service", "\n".join(lines))
    if is_away:
        shop.collector.rules.append(Rule(status=503))
    systemd.run("start", "shop")
    visitor = Visitor(port)
    visitor.wait_until_serving()
    visitor.visit_workers(205, 3)
    systemd.run("stop", "shop")
    assert systemd.show("shop", "Result", "ActiveState") == {"Result": "success", "ActiveState": "inactive"}
    assert visitor.unanswered == set()
    shop.collector.rules.clear()
    with shop.queue(QUEUE, events_per_request=20, request_time_interval=600, shutdown_timeout=2) as queue:
        assert queue.flush(60)
    assert_exactly_once(shop, visitor.made)

"""Lanes as the Python side sees them: control file, producers with their hooks, readers."""

from __future__ import annotations

import collections
import gc
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vwo_fast import _batch, _lane
from vwo_fast.counters import ControlCounter, LaneCounter, Reason
from vwo_fast.errors import VwoFastError
from vwo_fast.locks import lock_file

from ..support.lanes import CAPACITY, LANE_ID, Owner, in_child, read

ROUTE = 4242
EXTERNAL = _lane.KIND_EXTERNAL


@pytest.fixture
def control(tmp_path: Path) -> Iterator[_lane.Control]:
    control = _lane.Control.create(str(tmp_path / "control"))
    yield control
    control.close()


@pytest.fixture
def owner(control: _lane.Control, tmp_path: Path) -> Iterator[Owner]:
    owner = Owner(control, tmp_path)
    yield owner
    owner.close_lane()


@pytest.fixture
def producer(owner: Owner) -> _lane.Producer:
    return _lane.Producer(owner, ROUTE, _lane.SHAPE_PLAIN, _lane.KIND_EVENT)


class TestControl:
    def test_all_mappings_are_one(self, control: _lane.Control) -> None:
        """What one process writes, another reads."""
        other = _lane.Control.attach(control.path)
        control.set(3, 10)
        other.add(3, 2)
        control.aggregator_pid = 99
        control.heartbeat_ns = 98
        other.bump_generation()
        assert (other.counter(3), control.counters()[3], control.generation) == (12, 12, 1)
        assert (other.aggregator_pid, other.heartbeat_ns) == (99, 98)

    def test_one_caller_takes_the_doorbell(self, control: _lane.Control) -> None:
        """A sleeper is rung once."""
        other = _lane.Control.attach(control.path)
        assert not control.take_doorbell()
        other.set_sleeping()
        assert control.sleeping
        assert [control.take_doorbell(), other.take_doorbell()] == [True, False]
        other.set_sleeping()
        other.set_awake()
        assert not control.take_doorbell()

    def test_one_caller_launches_per_interval(self, control: _lane.Control) -> None:
        """A launch is claimed once until the interval has passed."""
        claims = [control.claim_launch(now, 100) for now in (1000, 1099, 1100, 1101)]
        assert claims == [True, False, True, False]

    def test_a_file_is_made_once(self, control: _lane.Control) -> None:
        """A second create never takes the place of a file that others have mapped."""
        control.set(0, 7)
        with pytest.raises(FileExistsError):
            _lane.Control.create(control.path)
        assert _lane.Control.attach(control.path).counter(0) == 7
        assert os.listdir(os.path.dirname(control.path)) == ["control"]
        assert os.stat(control.path).st_mode & 0o777 == 0o600

    def test_another_version_is_named(self, control: _lane.Control) -> None:
        """The error of an attach names the version found and the one expected."""
        with open(control.path, "r+b") as file:
            file.seek(8)
            file.write(struct.pack("=I", 12))
        with pytest.raises(_lane.SegmentError, match=r"layout version 12, this vwo_fast reads version 1"):
            _lane.Control.attach(control.path)
        assert issubclass(_lane.SegmentError, VwoFastError)

    def test_a_closed_control_says_so(self, control: _lane.Control) -> None:
        """After close nothing of the mapping is touched."""
        control.close()
        control.close()
        with pytest.raises(ValueError, match="closed"):
            control.counters()
        with pytest.raises(ValueError, match="closed"):
            control.set_sleeping()

    def test_counters_have_an_end(self, control: _lane.Control) -> None:
        """An index outside the counters is refused."""
        for index in (-1, 128, 10**30):
            with pytest.raises(IndexError):
                control.counter(index)


class TestNames:
    def test_reasons_are_the_same_everywhere(self) -> None:
        """counters.py and the compiled module use one set of numbers."""
        for reason in Reason:
            if reason < 16:
                assert getattr(_lane, f"REASON_{reason.name}") == reason


class TestEnqueue:
    def test_an_event_comes_out_as_json_dumps_writes_it(self, owner: Owner, producer: _lane.Producer) -> None:
        """One event through the lane into a batch."""
        assert producer.enqueue({"a": [1, 2.5, None, True], "é": "\ud800"}) is True
        reader = _lane.LaneReader.attach(owner.path())
        batch = _batch.Batch()
        assert reader.peek() == (_lane.KIND_EVENT, ROUTE)
        assert reader.drain(batch, ROUTE, reader.head)[:2] == (_batch.EMPTY, 1)
        assert batch.seal()[0] == b'{"ev":[{"a":[1,2.5,null,true],"\\u00e9":"\\ud800"}]}'
        assert (reader.lane_id, reader.owner, reader.pid) == (LANE_ID, 5, os.getpid())
        assert reader.wants_reports
        assert reader.path == owner.path()

    def test_accepted_is_counted(self, owner: Owner, producer: _lane.Producer) -> None:
        """The lane's header holds events and bytes accepted, for any process to read."""
        for number in range(5):
            assert producer.enqueue({"n": number})
        counters = _lane.LaneReader.attach(owner.path()).counters()
        assert counters == owner.lane_counters()
        assert counters[LaneCounter.ACCEPTED] == 5
        assert counters[LaneCounter.ACCEPTED_BYTES] == 5 * 4

    @pytest.mark.parametrize(
        ("event", "reason", "detail"),
        [
            (float("nan"), Reason.NOT_JSON, "a float that is not finite"),
            ({"a": {"b": [0, float("inf")]}}, Reason.NOT_JSON, "a float that is not finite at a.b.1"),
            ({"a": {"when": b"secret"}}, Reason.NOT_JSON, "a value of type bytes at a.when"),
            ([{1, 2}], Reason.NOT_JSON, "a value of type set at 0"),
            (object(), Reason.NOT_JSON, "a value of type object"),
            ({(1, 2): 3}, Reason.NOT_JSON, "a key of type tuple"),
            ({float("nan"): 3}, Reason.NOT_JSON, "a float that is not finite"),
        ],
    )
    def test_what_json_cannot_carry_is_refused_alone(
        self, owner: Owner, producer: _lane.Producer, event: object, reason: Reason, detail: str
    ) -> None:
        """The reason is told with type and place, never with the value; other events are not harmed."""
        assert producer.enqueue({"n": 1})
        assert producer.enqueue(event) is False
        assert producer.enqueue({"n": 2})
        assert owner.heard[-1] == ("refused", reason, detail)
        assert owner.lane_counters()[reason] == 1
        assert read(_lane.LaneReader.attach(owner.path())) == [b'{"n":1}', b'{"n":2}']

    def test_depth_has_a_limit(self, owner: Owner, producer: _lane.Producer) -> None:
        """128 containers inside each other pass, 129 and a circle do not."""
        nested: Any = 1
        for _ in range(128):
            nested = [nested]
        circle: dict[str, Any] = {}
        circle["me"] = circle
        assert [producer.enqueue(event) for event in (nested, [nested], circle)] == [True, False, False]
        assert owner.refusals() == [Reason.TOO_DEEP, Reason.TOO_DEEP]

    def test_an_event_larger_than_a_request_is_refused(self, owner: Owner, producer: _lane.Producer) -> None:
        """The limit is the exact size of the body with this event alone."""
        assert owner.body_bytes_max == 10_000_000
        owner.body_bytes_max = 100
        fits = "x" * (100 - len('{"ev":[""]}'))
        assert producer.enqueue(fits)
        assert not producer.enqueue(fits + "x")
        assert not producer.enqueue("\x01" * 20)
        assert not producer.enqueue(10**200)
        assert owner.refusals() == [Reason.TOO_LARGE] * 3
        with pytest.raises(ValueError, match="body_bytes_max"):
            owner.body_bytes_max = 10_000_001

    def test_a_full_lane_refuses_and_asks_first(self, owner: Owner, producer: _lane.Producer) -> None:
        """hook_full learns how many bytes are needed; True makes it try again, until there is room or it says False."""
        accepted = 0
        while producer.enqueue("x" * 1000):
            accepted += 1
        assert accepted == CAPACITY // 1040
        assert owner.refusals() == [Reason.LANE_FULL]
        assert owner.lane_counters()[Reason.LANE_FULL] == 1
        reader = _lane.LaneReader.attach(owner.path())
        read(reader)
        asked = []

        def make_room(needed: int) -> bool:
            asked.append(needed)
            reader.release(reader.cursor)
            return True

        owner.on["full"] = make_room
        assert producer.enqueue("x" * 1000)
        assert asked == [1040]
        answers = [False, True, True]
        owner.on["full"] = lambda needed: answers.pop()
        while producer.enqueue("x" * 1000):
            pass
        assert owner.refusals() == [Reason.LANE_FULL] * 2
        assert answers == []

    def test_a_large_event_travels_outside(self, owner: Owner, producer: _lane.Producer) -> None:
        """Beyond a quarter of the lane, or the owner's limit, the record only names the payload."""
        text = "x" * 20_000
        assert producer.enqueue({"n": 1})
        assert producer.enqueue(text)
        owner.set_external_limit(50)
        assert producer.enqueue("y" * 60)
        heard = [entry[1:] for entry in owner.heard if entry[0] == "external"]
        assert heard == [(2, _lane.pack(text)), (3, _lane.pack("y" * 60))]
        reader = _lane.LaneReader.attach(owner.path())
        records = [reader.take() for _ in range(3)]
        for record, (seq, payload) in zip(records[1:], heard, strict=True):
            assert record is not None
            assert record[:3] == (_lane.KIND_EVENT | EXTERNAL, ROUTE, seq)
            assert struct.unpack("=QQ", record[5]) == (len(payload), _lane.check_value(payload))

    def test_an_external_number_is_taken_once(self, owner: Owner, producer: _lane.Producer) -> None:
        """What is published while the file is written has another number; a failed one is missing."""
        owner.on["external"] = lambda seq, payload: producer.enqueue({"inside": seq})
        assert producer.enqueue("x" * 20_000)
        owner.on["external"] = lambda seq, payload: False
        assert not producer.enqueue("x" * 20_000)
        assert producer.enqueue({"last": 1})
        reader = _lane.LaneReader.attach(owner.path())
        sequences = []
        while (record := reader.take()) is not None:
            sequences.append(record[2])
        assert sequences == [2, 1, 4]
        assert reader.damaged == 0
        assert owner.refusals() == [Reason.LANE_FULL]

    def test_a_sleeping_aggregator_is_rung_once(self, owner: Owner, producer: _lane.Producer) -> None:
        """The doorbell follows the publication, and is not pressed again until the next sleep."""
        control = _lane.Control.attach(str(owner.folder / "control"))
        control.set_sleeping()
        assert producer.enqueue(1)
        assert producer.enqueue(2)
        assert owner.heard.count(("ring",)) == 1
        assert owner.lane_counters()[LaneCounter.DOORBELLS] == 1

    def test_a_dozing_aggregator_is_rung_once_when_the_lane_is_half_full(
        self, owner: Owner, producer: _lane.Producer
    ) -> None:
        """Not before, not again until the next doze, and not for what has been released meanwhile."""
        control = _lane.Control.attach(str(owner.folder / "control"))
        assert producer.enqueue(0)
        reader = _lane.LaneReader.attach(owner.path())
        control.set_dozing()
        assert not control.sleeping
        event = "x" * 1000
        rings = []
        for _ in range(3):
            while owner.used_bytes + 1100 < owner.capacity // 2:
                assert producer.enqueue(event)
            rings.append(owner.heard.count(("ring",)))
            for _ in range(3):
                assert producer.enqueue(event)
            rings.append(owner.heard.count(("ring",)))
            while reader.take() is not None:
                pass
            reader.release(reader.cursor)
            control.set_dozing()
        assert rings == [0, 1, 1, 2, 2, 3]

    def test_a_lane_that_stays_half_full_does_not_ring_with_each_event(
        self, owner: Owner, producer: _lane.Producer
    ) -> None:
        """While answers are slow what has been read still fills it: it rings once per sixteenth that comes."""
        control = _lane.Control.attach(str(owner.folder / "control"))
        event = "x" * 100
        assert producer.enqueue(event)
        while owner.used_bytes < owner.capacity // 2:
            assert producer.enqueue(event)
        before = owner.used_bytes
        for _ in range(owner.capacity // 4 // 140):
            control.set_dozing()
            assert producer.enqueue(event)
        sixteenths = (owner.used_bytes - before) * 16 // owner.capacity
        assert sixteenths >= 3
        assert sixteenths <= owner.heard.count(("ring",)) <= sixteenths + 1

    def test_the_first_event_ticks(self, owner: Owner, producer: _lane.Producer) -> None:
        """hook_tick comes with the first event of a period, so also with the very first."""
        assert producer.enqueue(1)
        assert ("tick",) in owner.heard

    def test_a_locked_file_keeps_the_hook_quiet(self, owner: Owner, producer: _lane.Producer) -> None:
        """While the watched lock is held, periods pass without hook_tick; when its holder is killed, it comes again."""
        lock = lock_file(owner.folder / "aggregator.lock")
        code = f"import fcntl; f = open({str(lock.path)!r}, 'r+'); fcntl.lockf(f, 2); print(flush=True); input()"
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            owner.watch_aggregator(lock.fileno())
            begin = time.monotonic()
            for _ in range(40):
                assert producer.enqueue(1)
                time.sleep(0.02)
            # The first event, and the one that begins each second of the machine's clock.
            assert owner.heard.count(("tick",)) <= 2 + (time.monotonic() - begin)
            holder.kill()
        owner.heard.clear()
        time.sleep(0.04)
        assert producer.enqueue(1)
        assert ("tick",) in owner.heard

    def test_shapes_and_kinds_are_checked(self, owner: Owner) -> None:
        """A producer of an unknown shape or kind cannot be made."""
        for shape, kind in ((2, _lane.KIND_EVENT), (_lane.SHAPE_PLAIN, 0), (_lane.SHAPE_PLAIN, EXTERNAL)):
            with pytest.raises(ValueError, match="expected"):
                _lane.Producer(owner, ROUTE, shape, kind)

    def test_a_subclass_that_forgets_init_refuses(self) -> None:
        """An unfinished producer accepts nothing and does not crash."""
        assert _lane.Producer.__new__(_lane.Producer).enqueue(1) is False


class TestHooks:
    @pytest.mark.parametrize("hook", ["ring", "tick"])
    def test_a_failing_hook_does_not_take_the_event_back(
        self, owner: Owner, producer: _lane.Producer, hook: str
    ) -> None:
        """What is published is accepted, whatever the hooks after it do."""
        owner.on[hook] = lambda: 1 / 0
        _lane.Control.attach(str(owner.folder / "control")).set_sleeping()
        assert producer.enqueue(1) is True
        assert owner.lane_counters()[LaneCounter.HOOK_FAILURES] == 1

    @pytest.mark.parametrize("hook", ["full", "external", "refused"])
    def test_a_failing_hook_refuses(self, owner: Owner, producer: _lane.Producer, hook: str) -> None:
        """enqueue answers False and never raises."""
        owner.on[hook] = lambda *_: 1 / 0
        if hook == "full":
            while producer.enqueue("x" * 1000):
                pass
        assert producer.enqueue("x" * 20_000 if hook == "external" else b"") is False
        assert owner.lane_counters()[LaneCounter.HOOK_FAILURES] >= 1

    def test_no_lane(self, control: _lane.Control, owner: Owner, producer: _lane.Producer) -> None:
        """Without a lane refusals are counted in the control file; other counts move into the next lane."""
        owner.on["attach"] = lambda: False
        assert not producer.enqueue(1)
        owner.on["attach"] = lambda: 1 / 0
        assert not producer.enqueue(1)
        assert owner.lane_id == owner.capacity == 0
        assert owner.refusals() == [Reason.NO_LANE] * 2
        del owner.on["attach"]
        assert producer.enqueue(1)
        assert (owner.lane_id, owner.capacity) == (LANE_ID, CAPACITY)
        counters = _lane.LaneReader.attach(owner.path()).counters()
        assert control.counter(ControlCounter.WITHOUT_LANE + Reason.NO_LANE) == 2
        assert counters[Reason.NO_LANE] == 0
        assert counters[LaneCounter.HOOK_FAILURES] == 1

    def test_a_lane_that_was_not_announced_is_not_used(self, owner: Owner, producer: _lane.Producer) -> None:
        """When hook_attach fails after open_lane, nothing is written where nobody would read."""

        def half() -> bool:
            owner.make_lane()
            raise OSError("rename")

        owner.on["attach"] = half
        assert not producer.enqueue(1)
        assert owner.lane_id == 0
        del owner.on["attach"]
        assert producer.enqueue(2)
        assert read(_lane.LaneReader.attach(owner.path())) == [b"2"]

    @pytest.mark.parametrize("hook", ["attach", "ring", "tick", "full", "external", "refused"])
    def test_an_event_made_inside_a_hook(self, owner: Owner, producer: _lane.Producer, hook: str) -> None:
        """Re-entering enqueue from any hook neither corrupts the lane nor recurses without end."""
        made: list[bool] = []

        def again(*_: object) -> bool:
            if len(made) < 3:
                made.append(producer.enqueue({"inside": hook}))
            return owner.make_lane() if hook == "attach" else hook != "full"

        owner.on[hook] = again
        _lane.Control.attach(str(owner.folder / "control")).set_sleeping()
        for event in [1, b"", "x" * 20_000, *["y" * 1000] * 100]:
            producer.enqueue(event)
        reader = _lane.LaneReader.attach(owner.path())
        found = 0
        while reader.take() is not None:
            found += 1
        assert found == owner.lane_counters()[LaneCounter.ACCEPTED]
        assert reader.damaged == 0
        assert made

    def test_an_exit_passes_through(self, owner: Owner, producer: _lane.Producer) -> None:
        """A worker that is told to exit inside a hook does so; the event is whole."""

        def leave() -> None:
            raise SystemExit(3)

        owner.on["tick"] = leave
        with pytest.raises(SystemExit):
            producer.enqueue(1)
        assert read(_lane.LaneReader.attach(owner.path())) == [b"1"]

    def test_the_queue_may_be_closed_inside_a_hook(self, owner: Owner, producer: _lane.Producer) -> None:
        """A lane that vanishes under a hook is not written to."""

        def close(*_: object) -> bool:
            owner.close_lane()
            return True

        owner.on["external"] = close
        assert producer.enqueue("x" * 20_000) is False
        owner.on["full"] = close
        refused = False
        for _ in range(100):
            refused = refused or not producer.enqueue("x" * 1000)
        assert refused
        assert set(owner.refusals()) == {Reason.NO_LANE}

    def test_the_default_hooks_refuse(self, control: _lane.Control) -> None:
        """An owner without hooks has no lane to give."""
        owner = _lane.LaneOwner(control)
        producer = _lane.Producer(owner, ROUTE, _lane.SHAPE_PLAIN, _lane.KIND_EVENT)
        assert producer.enqueue(1) is False
        assert control.counter(ControlCounter.WITHOUT_LANE + Reason.NO_LANE) == 1


class TestOpenLane:
    def test_a_lane_appears_under_its_temporary_name(self, owner: Owner, tmp_path: Path) -> None:
        """The caller renames it when it has announced it."""
        owner.open_lane(str(tmp_path / "lane"), 1, 2, CAPACITY, False)
        assert sorted(os.listdir(tmp_path)) == ["control", "lane.tmp"]
        assert not _lane.LaneReader.attach(str(tmp_path / "lane.tmp")).wants_reports
        with pytest.raises(FileExistsError):
            owner.open_lane(str(tmp_path / "lane"), 1, 2, CAPACITY, False)

    def test_the_capacity_is_checked(self, owner: Owner, tmp_path: Path) -> None:
        """Only powers of two from 64 KiB to 1 GiB."""
        for capacity in (0, CAPACITY - 1, CAPACITY // 2, 1 << 31):
            with pytest.raises(ValueError, match="capacity"):
                owner.open_lane(str(tmp_path / "lane"), 1, 2, capacity, False)
        assert os.listdir(tmp_path) == ["control"]

    def test_no_room_is_an_error_with_a_number(self, owner: Owner) -> None:
        """A file that cannot be made raises OSError and leaves nothing."""
        with pytest.raises(FileNotFoundError, match="nowhere"):
            owner.open_lane("/nowhere/lane", 1, 2, CAPACITY, False)
        assert owner.lane_id == 0


class TestFork:
    def test_a_child_has_a_lane_of_its_own(self, owner: Owner, producer: _lane.Producer) -> None:
        """A child never writes into its parent's lane, and the parent goes on in it."""
        assert producer.enqueue("parent 1")

        def child() -> None:
            assert owner.lane_id == 0
            assert owner.lane_counters() == [0] * 32
            assert producer.enqueue("child")
            assert len(owner.lanes) == 2
            assert owner.lane_counters()[LaneCounter.ACCEPTED] == 1
            assert read(_lane.LaneReader.attach(owner.path())) == [b'"child"']

        assert in_child(child) == 0
        assert producer.enqueue("parent 2")
        assert read(_lane.LaneReader.attach(owner.path())) == [b'"parent 1"', b'"parent 2"']

    def test_counts_without_a_lane_stay_with_their_process(self, owner: Owner, producer: _lane.Producer) -> None:
        """A child does not carry its parent's counts into its lane."""
        owner.on["attach"] = lambda: 1 / 0
        assert not producer.enqueue(1)
        del owner.on["attach"]

        def child() -> None:
            assert producer.enqueue(1)
            assert owner.lane_counters()[LaneCounter.HOOK_FAILURES] == 0

        assert in_child(child) == 0
        assert producer.enqueue(1)
        assert owner.lane_counters()[LaneCounter.HOOK_FAILURES] == 1

    def test_a_grandchild_is_another_process_again(self, owner: Owner, producer: _lane.Producer) -> None:
        """Each generation opens its own lane, also when its parent never did."""
        assert producer.enqueue(1)

        def child() -> None:
            def grandchild() -> None:
                assert producer.enqueue(3)
                assert len(owner.lanes) == 2

            assert in_child(grandchild) == 0
            assert producer.enqueue(2)
            assert len(owner.lanes) == 2

        # Child and grandchild name their lanes by pid, so the names differ.
        assert in_child(child) == 0

    def test_kill_9_keeps_what_was_accepted(self, owner: Owner, producer: _lane.Producer) -> None:
        """Everything that enqueue answered True for is in the lane of a killed process."""
        told, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            number = 0
            while producer.enqueue({"n": number}):
                os.write(tell, struct.pack("=I", number))
                number += 1
            signal.pause()
        last = b""
        for _ in range(500):
            last = os.read(told, 4)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(tell)
        while data := os.read(told, 4):
            last = data
        os.close(told)
        accepted = struct.unpack("=I", last)[0] + 1
        (path,) = owner.folder.glob(f"lane-{pid}-*")
        found = read(_lane.LaneReader.attach(str(path)))
        assert found == [b'{"n":%d}' % number for number in range(len(found))]
        assert accepted <= len(found) <= accepted + 1


class TestThreads:
    def test_threads_share_a_lane(self, owner: Owner, producer: _lane.Producer) -> None:
        """Events of several threads are all there, each thread's in its order."""
        producer.enqueue("first")
        numbers = range(300)

        def work(name: str) -> None:
            for number in numbers:
                assert producer.enqueue([name, number])

        previous = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(previous)
        found = read(_lane.LaneReader.attach(owner.path()))[1:]
        for name in "abc":
            mine = [event for event in found if event.startswith(b'["%s"' % name.encode())]
            assert mine == [b'["%s",%d]' % (name.encode(), number) for number in numbers]

    def test_a_finalizer_may_enqueue(self, owner: Owner, producer: _lane.Producer) -> None:
        """An object that dies while an event is packed may make an event of its own."""

        class Mourner:
            def __init__(self) -> None:
                self.me = self

            def __del__(self) -> None:
                producer.enqueue("last words")

        assert producer.enqueue("first")
        previous = gc.get_threshold()
        gc.set_threshold(5)
        try:
            for number in range(200):
                Mourner()
                assert producer.enqueue(collections.OrderedDict(n=number, x=[[number]]))
        finally:
            gc.set_threshold(*previous)
        gc.collect()
        found = read(_lane.LaneReader.attach(owner.path()))
        assert found.count(b'"last words"') == 200
        assert [event for event in found if event.startswith(b"{")] == [
            b'{"n":%d,"x":[[%d]]}' % (number, number) for number in range(200)
        ]

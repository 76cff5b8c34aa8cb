"""Values: what a frozen, slotted dataclass would do, made without compiling anything."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest

from vwo_fast._value import Value


class Point(Value):
    """Two numbers and a secret."""

    _hidden = frozenset({"secret"})

    x: int
    y: int = 2
    secret: str = "s"

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("x is negative")

    @property
    def total(self) -> int:
        return self.x + self.y


class Other(Value):
    x: int
    y: int = 2
    secret: str = "s"


def test_fields_are_given_by_name_or_have_their_default() -> None:
    """As with kw_only: positions mean nothing, an absent or unknown name is an error that tells it."""
    assert (Point(x=1).x, Point(x=1).y, Point(x=1, y=5).total) == (1, 2, 6)
    with pytest.raises(TypeError, match=r"Point\(\).*: x$"):
        Point()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"Point\(\).*: z$"):
        Point(x=1, z=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Point(1)  # type: ignore[misc, call-arg]


def test_nothing_can_be_changed_or_added() -> None:
    """Frozen and slotted: no field takes another value, none goes, and there is no room for more."""
    point = Point(x=1)
    with pytest.raises(AttributeError, match=r"'x'.*Point"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="'z'"):
        point.z = 2  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="'y'"):
        del point.y
    assert not hasattr(point, "__dict__")
    assert point == Point(x=1)


def test_values_are_compared_by_their_fields() -> None:
    """Equal fields of one class are equal and hash alike; another class with the same fields is another value."""
    assert Point(x=1) == Point(x=1, y=2)
    assert len({Point(x=1), Point(x=1), Point(x=2)}) == 2
    assert Point(x=1) != Point(x=3)
    assert Point(x=1) != Other(x=1)


def test_replace_makes_another_value_that_is_checked_again() -> None:
    """The original stays as it is."""
    point = Point(x=1)
    assert point.replace(y=7) == Point(x=1, y=7)
    assert point.y == 2
    with pytest.raises(ValueError, match="negative"):
        point.replace(x=-1)


def test_a_hidden_field_is_not_shown() -> None:
    """repr names every other field."""
    assert repr(Point(x=1, secret="hush")) == "Point(x=1, y=2)"


def test_values_can_be_copied_and_sent_to_another_process() -> None:
    """copy and pickle give an equal value."""
    point = Point(x=1, y=3)
    assert copy.deepcopy(point) == point
    assert pickle.loads(pickle.dumps(point)) == point


def test_a_worker_imports_none_of_what_it_does_not_use() -> None:
    """What once made the import slow stays out: dataclasses with inspect, hashlib with OpenSSL, ZeroMQ, pickle."""
    heavy = ("argparse", "dataclasses", "hashlib", "inspect", "pickle", "random", "subprocess", "tempfile", "zmq")
    code = f"import sys, vwo_fast; print(sorted(set({heavy}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "[]\n"

"""Frozen values with slots, for what every worker imports.

``dataclasses`` itself, with ``inspect`` and what that brings, and the code that it
compiles for each class were a third of the time that ``import vwo_fast`` took.  Here
a class is made without compiling anything; in return each value costs some more to
make, so this is for what a process makes a few of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self, dataclass_transform
else:

    def dataclass_transform(**_: bool) -> Callable[[type], type]:
        return lambda made: made


__all__ = ["Value"]


@dataclass_transform(kw_only_default=True, frozen_default=True)
class _Shape(type):
    """Makes slots of the names that a class annotates."""

    _fields: tuple[str, ...]
    _defaults: dict[str, Any]

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> _Shape:
        fields = tuple(namespace.get("__annotations__", ()))
        defaults = {field: namespace.pop(field) for field in fields if field in namespace}
        namespace.update(__slots__=fields, _fields=fields, _defaults=defaults)
        return super().__new__(cls, name, bases, namespace)


class Value(metaclass=_Shape):
    """Compared by its fields, and never changed. ``_hidden``: fields that ``repr`` leaves out."""

    _hidden = frozenset[str]()

    def __init__(self, **values: Any) -> None:
        shape = type(self)
        given = {**shape._defaults, **values}
        if given.keys() != set(shape._fields):
            names = ", ".join(sorted(given.keys() ^ set(shape._fields)))
            raise TypeError(f"{shape.__name__}() got unexpected fields, or is missing some: {names}")
        for name in shape._fields:
            object.__setattr__(self, name, given[name])
        self.__post_init__()

    def __post_init__(self) -> None:
        """Refuse values that cannot be."""

    def replace(self, **changes: Any) -> Self:
        """The same value but for some fields."""
        return type(self)(**{**self._as_dict(), **changes})

    def _as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self)._fields}

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"cannot assign to {name!r}: a {type(self).__name__} does not change")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"cannot delete {name!r}: a {type(self).__name__} does not change")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._as_dict() == other._as_dict()

    def __hash__(self) -> int:
        return hash(tuple(self._as_dict().values()))

    def __repr__(self) -> str:
        shown = (f"{name}={value!r}" for name, value in self._as_dict().items() if name not in self._hidden)
        return f"{type(self).__name__}({', '.join(shown)})"

    def __reduce__(self) -> tuple[Callable[..., Value], tuple[type[Value], dict[str, Any]]]:
        return _made, (type(self), self._as_dict())


def _made(kind: type[Value], values: dict[str, Any]) -> Value:
    return kind(**values)

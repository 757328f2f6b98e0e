"""Rows as dataclasses, each value checked: SQLite keeps any value in any column, and a case may come from anywhere.

A value of a type that egress never writes raises DamagedDataError here, where the row is read. Code that handles
records may therefore trust their types.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import NoneType, UnionType
from typing import Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

from egress.store.database.errors import DamagedDataError

_T = TypeVar("_T")
_Types = tuple[tuple[type, ...], ...]  # for each column the types that a value may have

# What reading a value that egress does not write can raise: in a column's type, json, struct, or arithmetic.
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, struct.error)
_known: dict[_Types, set[tuple[type, ...]]] = {}  # rows of these types were found good


@contextmanager
def decoding() -> Iterator[None]:
    """Turn the errors that an unreadable value causes in the block into DamagedDataError.

    Wrap only the reading of a row in it: TypeError and LookupError are among these errors.
    """
    try:
        yield
    except _UNREADABLE as error:
        raise DamagedDataError(f"{type(error).__name__}: {error}") from error


def decode(kind: Callable[..., _T], rows: Iterable[Sequence[Any]]) -> Iterator[_T]:
    """Yield each row as a `kind` (a dataclass or NamedTuple), whose fields are the columns in their order.

    Raises DamagedDataError if a value is not of its field's type.
    """
    for row in _checked(rows, *_fields(kind)):
        yield kind(*row)


def decode_first(kind: Callable[..., _T], rows: Iterable[Sequence[Any]]) -> _T | None:
    """The first row as a `kind`; None without rows. Raises DamagedDataError."""
    return next(decode(kind, rows), None)


def checked(rows: Iterable[Sequence[Any]], *columns: type | UnionType) -> Iterator[tuple[Any, ...]]:
    """Yield the rows as tuples. Raises DamagedDataError if a value is not of the type given for its column."""
    names = tuple(f"column {number}" for number in range(1, len(columns) + 1))
    return _checked(rows, names, tuple(map(_alternatives, columns)))


def whole(value: Any) -> int:
    """Convert a sum or a count (PostgreSQL: a decimal; SQLite: perhaps a float) to an int.

    Raises DamagedDataError if it is not a whole number.
    """
    with decoding():
        number = int(value)
        if number != value or abs(number) >= 1 << 127:
            raise ValueError(f"{value!r:.40} is not a count")
        return number


def _checked(rows: Iterable[Sequence[Any]], names: tuple[str, ...], expected: _Types) -> Iterator[tuple[Any, ...]]:
    good = _known.setdefault(expected, set())
    left = iter(rows)
    while True:
        try:
            row = tuple(next(left))  # read twice below, which is slower from a Row
        except StopIteration:
            return
        except _UNREADABLE as error:
            raise DamagedDataError(f"{type(error).__name__}: {error}") from error
        found = tuple(map(type, row))
        if found not in good:
            _require(found, names, expected)
            good.add(found)
        yield row


def _require(found: tuple[type, ...], names: tuple[str, ...], expected: _Types) -> None:
    for each, name, allowed in zip(found, names, expected, strict=True):
        if each not in allowed:
            wanted = " or ".join(kind.__name__ for kind in allowed)
            raise DamagedDataError(f"{name} holds {each.__name__}, not {wanted}")


@cache
def _fields(kind: Callable[..., Any]) -> tuple[tuple[str, ...], _Types]:
    hints = {name: hint for name, hint in get_type_hints(kind).items() if get_origin(hint) is not ClassVar}
    return tuple(hints), tuple(map(_alternatives, hints.values()))


def _alternatives(hint: Any) -> tuple[type, ...]:
    if isinstance(hint, UnionType):
        return tuple(each for part in get_args(hint) for each in _alternatives(part))
    origin = get_origin(hint) or hint
    return (NoneType,) if origin is None else (origin,)

"""Column types: how values of the model are stored, the same on every database.

Except for Plain, reading a value that the type does not write raises DamagedDataError.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from egress.model import Budget, Direction
from egress.policy.budgettext import budgets_from_json, budgets_to_json
from egress.records.shape import EvidencePacket
from egress.records.times import micros
from egress.store.database.errors import DamagedDataError
from egress.store.database.rows import decoding

_PACKET = struct.Struct(">QBII")
END_OF_TIME = 253_402_300_800_000_000  # microseconds: the year 10000, which datetime cannot hold


class Micros(TypeDecorator[float]):
    """Seconds as float in Python, whole microseconds in the database; a time is cut to 1970..2106 when written."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> int | None:
        return None if value is None else micros(value)

    # The processor itself: a `process_result_value` would be called through another function for each value.
    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[int | None], float | None]:
        return _seconds


def _seconds(value: int | None) -> float | None:
    if type(value) is int and 0 <= value < END_OF_TIME:
        return value / 1_000_000
    if value is None:
        return None
    raise DamagedDataError(f"{value!r:.40} is not a time in microseconds")


class Plain(TypeDecorator[str]):
    r"""Text from the network. NUL and lone surrogates, which databases refuse, are stored as `\x00` and `\ud800`.

    They are read back in this form.
    """

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else plain(value)


def plain(value: str) -> str:
    """Return text as `Plain` stores it."""
    if value.isprintable():
        return value
    return value.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


class Names(TypeDecorator[tuple[str, ...]]):
    """A tuple of strings, stored as a JSON array; each is escaped as in `Plain`."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: tuple[str, ...] | None, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps([plain(each) for each in value])

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[str | None], tuple[str, ...] | None]:
        return _strings


def _strings(value: str | None) -> tuple[str, ...] | None:
    if value is None or value == "[]":
        return None if value is None else ()
    names = _array(value)
    if not all(isinstance(name, str) for name in names):
        raise DamagedDataError(f"{value!r:.40} is not a JSON array of strings")
    return tuple(names)


class Ports(TypeDecorator[tuple[tuple[int, int], ...]]):
    """A rule's inclusive port ranges, stored as a JSON array of pairs."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: tuple[tuple[int, int], ...] | None, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> tuple[tuple[int, int], ...] | None:
        if value is None or value == "[]":
            return None if value is None else ()
        with decoding():
            return tuple((int(low), int(high)) for low, high in _array(value))


class Packets(TypeDecorator[tuple[EvidencePacket, ...]]):
    """Captured packets, one after another: time, direction, length on the wire, number of bytes kept, these bytes."""

    impl = sa.LargeBinary
    cache_ok = True

    def process_bind_param(self, value: tuple[EvidencePacket, ...] | None, dialect: Dialect) -> bytes | None:
        if value is None:
            return None
        return b"".join(
            _PACKET.pack(micros(packet.time), packet.direction, packet.length, len(packet.data)) + packet.data
            for packet in value
        )

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> tuple[EvidencePacket, ...] | None:
        if value is None:
            return None
        with decoding():
            return tuple(_packets(bytes(value)))


def _packets(data: bytes) -> Iterator[EvidencePacket]:
    at = 0
    while at < len(data):
        when, direction, length, held = _PACKET.unpack_from(data, at)
        at += _PACKET.size
        yield EvidencePacket(when / 1_000_000, Direction(direction), length, data[at : at + held])
        at += held


class BudgetList(TypeDecorator[tuple[Budget, ...]]):
    """An agent's budgets, stored as a JSON array of {measure, limit, span}."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: tuple[Budget, ...] | None, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(budgets_to_json(value))

    def process_result_value(self, value: str | None, dialect: Dialect) -> tuple[Budget, ...] | None:
        if value is None:
            return None
        with decoding():
            return budgets_from_json(_array(value))


def _array(text: str) -> list[Any]:
    with decoding():
        found = json.loads(text)
        if not isinstance(found, list):
            raise TypeError(f"{text!r:.40} is not a JSON array")
        return found

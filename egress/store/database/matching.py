"""Conditions that databases spell differently: globs, networks, names in a list."""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from egress.store.database.columns import plain

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_WILD = frozenset("*?[")


def glob(column: sa.ColumnElement[str], pattern: str) -> sa.ColumnElement[bool]:
    """Whether text matches a glob of the shell: `*`, `?`, `[a-z]`, `[!a-z]`; case matters.

    PostgreSQL knows how many match, and may go by an index up to the first wildcard. SQLite does not, and asks each row
    (`(… GLOB …) = 1`): sorting all flows of rome-* for the newest hundred takes it a hundred times as long.
    A set without an end matches nothing.
    """
    if not _WILD & set(pattern):
        return column == pattern
    return _Matches(column, sa.literal(pattern, _Glob()))


def any_name(names: sa.ColumnElement[Any], pattern: str) -> sa.ColumnElement[bool]:
    """Whether one of the texts in a column of type Names matches a glob."""
    return _AnyMatches(names, sa.literal(pattern, _Glob()))


def inside(column: sa.ColumnElement[str], network: _Network) -> sa.ColumnElement[bool]:
    """Whether an address, kept as text, is in a network; what is no address is in none."""
    if network.prefixlen == network.max_prefixlen:
        address = network.network_address
        # Two spellings of an IPv4-mapped IPv6 address are about: Python's and the C library's.
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        return column.in_(sorted({str(address), socket.inet_ntop(family, address.packed)}))
    within = sa.func.in_network(column, str(network), type_=sa.Boolean()).is_(sa.true())
    whole = network.prefixlen // 8
    if network.version == 6 or not whole:
        return within
    # The whole octets are a beginning of the text: an index finds it, and few addresses are looked at closely.
    begin = ".".join(str(octet) for octet in network.network_address.packed[:whole]) + "."
    return sa.and_(column >= begin, column < begin[:-1] + chr(ord(".") + 1), within)


def spelled(*, sqlite: sa.ColumnElement[bool], postgresql: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """One condition in two forms: each database gets the one that it has an index for."""
    return _Spelled(sqlite, postgresql)


class _Glob(TypeDecorator[str]):
    """A glob, in PostgreSQL as the regular expression that says the same."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        if dialect.name == "postgresql":
            return f"^{expression(plain(value))}$"
        return plain(value).replace("[!", "[^")  # the one sign that SQLite's GLOB has otherwise


class _Matches(FunctionElement[bool]):
    """`column` and `glob`."""

    name = "matches"
    type = sa.Boolean()
    inherit_cache = True


class _AnyMatches(FunctionElement[bool]):
    """`names` and `glob`."""

    name = "any_matches"
    type = sa.Boolean()
    inherit_cache = True


class _Spelled(FunctionElement[bool]):
    """The condition for SQLite, and the one for PostgreSQL."""

    name = "spelled"
    type = sa.Boolean()
    inherit_cache = True

    # It is a condition and no function whose value is one: SQLite has no index for `(…) = 1`.
    def self_group(self, against: Any = None) -> Any:
        return self

    def _negate(self) -> Any:
        return _Spelled(*(sa.not_(each) for each in self.clauses))


@compiles(_Spelled, "sqlite")
def _first(element: _Spelled, compiler: SQLCompiler, **options: Any) -> str:
    return f"({compiler.process(next(iter(element.clauses)), **options)})"


@compiles(_Spelled, "postgresql")
def _second(element: _Spelled, compiler: SQLCompiler, **options: Any) -> str:
    return f"({compiler.process(list(element.clauses)[1], **options)})"


@compiles(_Matches, "sqlite")
def _glob(element: _Matches, compiler: SQLCompiler, **options: Any) -> str:
    column, pattern = (compiler.process(each, **options) for each in element.clauses)
    return f"({column} GLOB {pattern})"


@compiles(_AnyMatches, "sqlite")
def _any_glob(element: _AnyMatches, compiler: SQLCompiler, **options: Any) -> str:
    names, pattern = (compiler.process(each, **options) for each in element.clauses)
    each = f"json_each({names}) AS each_name"
    return f"EXISTS (SELECT 1 FROM {each} WHERE each_name.value GLOB {pattern})"  # noqa: S608 - values are bound


@compiles(_Matches, "postgresql")
def _regex(element: _Matches, compiler: SQLCompiler, **options: Any) -> str:
    column, pattern = (compiler.process(each, **options) for each in element.clauses)
    return f"({column} ~ {pattern})"


@compiles(_AnyMatches, "postgresql")
def _any_regex(element: _AnyMatches, compiler: SQLCompiler, **options: Any) -> str:
    names, pattern = (compiler.process(each, **options) for each in element.clauses)
    each = f"json_array_elements_text({names}::json) AS each_name"
    return f"EXISTS (SELECT 1 FROM {each} WHERE each_name ~ {pattern})"  # noqa: S608 - values are bound


_PART = re.compile(r"\*+|\[\^?+\]?+[^]]*\]|.", re.DOTALL)  # a ] that comes first is a member of its set


def expression(pattern: str) -> str:
    """A glob as a regular expression of PostgreSQL's, not anchored."""
    parts = _parts(pattern)
    return "(?!)" if "[" in parts else "".join(map(_translated, parts))


def unclosed(pattern: str) -> bool:
    """Whether a set in it has no end."""
    return "[" in _parts(pattern)


def _parts(pattern: str) -> list[str]:
    return _PART.findall(pattern.replace("[!", "[^"))


def _translated(part: str) -> str:
    if part == "?":
        return "."
    if part[0] == "*":
        return ".*"
    if part[0] != "[":
        return _literal(part)
    negated = part[1] == "^"
    items = "".join(_items(part[2 if negated else 1 : -1]))
    return f"[^{items}]" if negated else f"[{items}]"


def _items(members: str) -> list[str]:
    """What a set lists, as SQLite reads it: a range's start counts even where the range is empty."""
    items, at = [], 0
    while at < len(members):
        first, rest = members[at], members[at + 1 : at + 3]
        items.append(_literal(first))
        at += 1
        if len(rest) == 2 and rest[0] == "-":
            at += 2
            if first <= rest[1]:
                items.append(f"{_literal(first)}-{_literal(rest[1])}")
    return items


def _literal(character: str) -> str:
    """The character itself, whatever it means to a regular expression, also within a set."""
    return character if character.isascii() and character.isalnum() else f"\\U{ord(character):08x}"

"""Conditions that each database expresses in its own way: globs, networks, names in a list."""

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
    """The condition that text matches a shell glob: `*`, `?`, `[a-z]`, `[!a-z]`; case matters.

    PostgreSQL estimates how many rows match, and may use an index up to the first wildcard. SQLite cannot estimate it,
    so the glob is kept from its indexes (`(… GLOB …) = 1`) and tested on each row: with an index it would sort all
    flows of rome-* to find the newest hundred, which takes a hundred times as long. A set without an end matches
    nothing.
    """
    if not _WILD & set(pattern):
        return column == pattern
    return _Matches(column, sa.literal(pattern, _Glob()))


def any_name(names: sa.ColumnElement[Any], pattern: str) -> sa.ColumnElement[bool]:
    """The condition that one of the strings in a column of type Names matches a glob."""
    return _AnyMatches(names, sa.literal(pattern, _Glob()))


def inside(column: sa.ColumnElement[str], network: _Network) -> sa.ColumnElement[bool]:
    """The condition that an address, stored as text, is in a network; other text is in no network."""
    if network.prefixlen == network.max_prefixlen:
        address = network.network_address
        # An IPv4-mapped IPv6 address has two spellings: Python's and the C library's.
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        return column.in_(sorted({str(address), socket.inet_ntop(family, address.packed)}))
    within = sa.func.in_network(column, str(network), type_=sa.Boolean()).is_(sa.true())
    whole = network.prefixlen // 8
    if network.version == 6 or not whole:
        return within
    # Whole octets are a prefix of the text, which an index finds; in_network then tests the few addresses left.
    begin = ".".join(str(octet) for octet in network.network_address.packed[:whole]) + "."
    return sa.and_(column >= begin, column < begin[:-1] + chr(ord(".") + 1), within)


def for_dialect(*, sqlite: sa.ColumnElement[bool], postgresql: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """A condition written differently for each database, so that each can use an index."""
    return _ForDialect(sqlite, postgresql)


class _Glob(TypeDecorator[str]):
    """A glob; on PostgreSQL it is sent as an equivalent regular expression."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        if dialect.name == "postgresql":
            return f"^{expression(plain(value))}$"
        return plain(value).replace("[!", "[^")  # SQLite's GLOB negates a set with ^


class _Matches(FunctionElement[bool]):
    """The condition that a column matches a glob; its clauses are the column and the glob."""

    name = "matches"
    type = sa.Boolean()
    inherit_cache = True


class _AnyMatches(FunctionElement[bool]):
    """The condition that one of several names matches a glob; its clauses are the column of names and the glob."""

    name = "any_matches"
    type = sa.Boolean()
    inherit_cache = True


class _ForDialect(FunctionElement[bool]):
    """A condition in two forms; its clauses are the form for SQLite and the form for PostgreSQL."""

    name = "for_dialect"
    type = sa.Boolean()
    inherit_cache = True

    # Compiled as a condition, not as a function's value: SQLite uses no index for `(…) = 1`.
    def self_group(self, against: Any = None) -> Any:
        return self

    def _negate(self) -> Any:
        return _ForDialect(*(sa.not_(each) for each in self.clauses))


@compiles(_ForDialect, "sqlite")
def _first(element: _ForDialect, compiler: SQLCompiler, **options: Any) -> str:
    return f"({compiler.process(next(iter(element.clauses)), **options)})"


@compiles(_ForDialect, "postgresql")
def _second(element: _ForDialect, compiler: SQLCompiler, **options: Any) -> str:
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
    """A glob as a regular expression for PostgreSQL, without `^` and `$`."""
    parts = _parts(pattern)
    return "(?!)" if "[" in parts else "".join(map(_translated, parts))


def unclosed(pattern: str) -> bool:
    """True if a set in the glob has no end (a `[` without a `]`)."""
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
    """Translate the characters between the brackets of a set into those of a regular expression.

    As in SQLite, the start of a range is a member even if the range is empty (`z-a`).
    """
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
    """A character escaped for a regular expression, inside or outside of a set."""
    return character if character.isascii() and character.isalnum() else f"\\U{ord(character):08x}"

"""Parts of the tables' definitions: the metadata with names of constraints, columns of records, common columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from egress.records.eve import LAYOUTS
from egress.records.kinds import Base64, IndexedText, Kind, Number, OrNull, Text, Texts, Timestamp, Word, to_json
from egress.records.layout import Objects
from egress.records.shape import PORT, JournalLine
from egress.store.database.columns import Micros, Names, Packets, Plain


def enum(known: type[StrEnum], name: str) -> sa.Enum:
    """The type of a column with the values of an enum."""
    return sa.Enum(
        known,
        name=name,
        native_enum=False,  # a CHECK instead, the same on every database
        create_constraint=True,
        length=16,
        values_callable=lambda members: [member.value for member in members],
    )


def one_of(column: str, known: tuple[str, ...]) -> sa.CheckConstraint:
    """The constraint that a column holds one of these words."""
    return sa.CheckConstraint(f"{column} IN ({', '.join(repr(value) for value in known)})", name=column)


def live(name: str, *columns: str, unique: bool = False) -> sa.Index:
    """An index of the table `rules` that contains only the rules in force; `name` is the end of its name."""
    live = sa.text("removed IS NULL")
    return sa.Index(f"ix_rules_live_{name}", *columns, unique=unique, sqlite_where=live, postgresql_where=live)


def host(comment: str, *, primary_key: bool = False) -> sa.Column[str]:
    """The column `host`: the name of a host, perhaps not in `gateways` yet; empty: all hosts, or the row is older."""
    return sa.Column("host", sa.Text, primary_key=primary_key, nullable=False, server_default="", comment=comment)


_TYPES: dict[type[Kind], type[sa.types.TypeEngine[Any]]] = {
    Text: Plain,
    IndexedText: Plain,
    Texts: Names,
    Timestamp: Micros,
    Base64: sa.LargeBinary,
    Objects: Packets,
}


def record_columns(
    shape: type[JournalLine], key: tuple[str, ...], comments: Mapping[str, str]
) -> Iterator[sa.Column[Any] | sa.CheckConstraint]:
    """Yield a column for each declared field of a record, and a constraint for each field with a list of words."""
    for field in LAYOUTS[shape].stored:
        name, kind, absent = field.name, field.at.kind, field.at.absent
        yield sa.Column(
            name,
            _type(name, kind),
            primary_key=name in key,
            nullable=isinstance(kind, OrNull),
            server_default=None if absent is ... else absent if isinstance(absent, str) else to_json(absent),
            comment=comments.get(name),
        )
        if isinstance(kind, Word) and not kind.enumeration:
            yield one_of(name, kind.words)


def _type(name: str, kind: Kind) -> sa.types.TypeEngine[Any]:
    """The column type for values of a kind (`egress.records`: text, number, time, …)."""
    if isinstance(kind, OrNull):
        return _type(name, kind.kind)
    if isinstance(kind, Word):
        return enum(kind.enumeration, name) if kind.enumeration else sa.Text()
    if isinstance(kind, Number):
        return sa.Integer() if kind.most <= PORT.most else sa.BigInteger()
    return _TYPES[type(kind)]()


metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


def by_day(column: str) -> dict[str, Any]:
    """The options of a table that PostgreSQL partitions by day, by a column of its primary key of type Micros."""
    return {"postgresql_partition_by": f"RANGE ({column})"}


def day_column(table: sa.Table) -> str:
    """The column by which a table is partitioned; empty if it is not."""
    return str(table.dialect_options["postgresql"].get("partition_by") or "").removeprefix("RANGE (").rstrip(")")

"""What the tables are made with: their metadata, how constraints are called, columns and indexes of several kinds."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import sqlalchemy as sa


def enum(known: type[StrEnum], name: str) -> sa.Enum:
    return sa.Enum(
        known,
        name=name,
        native_enum=False,  # a CHECK, on every database the same
        create_constraint=True,
        length=16,
        values_callable=lambda members: [member.value for member in members],
    )


def one_of(column: str, known: tuple[str, ...]) -> sa.CheckConstraint:
    return sa.CheckConstraint(f"{column} IN ({', '.join(repr(value) for value in known)})", name=column)


def live(name: str, *columns: str, unique: bool = False) -> sa.Index:
    """An index of the rules in force: however many there were, it has only these."""
    live = sa.text("removed IS NULL")
    return sa.Index(f"ix_rules_live_{name}", *columns, unique=unique, sqlite_where=live, postgresql_where=live)


def host(comment: str, *, primary_key: bool = False) -> sa.Column[str]:
    """A name in `gateways`, which may have no row there yet; empty in rows made before hosts were told apart."""
    return sa.Column("host", sa.Text, primary_key=primary_key, nullable=False, server_default="", comment=comment)


metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


def by_day(column: str) -> dict[str, Any]:
    """The options of a table that PostgreSQL divides into days by a column of its primary key, of type Micros."""
    return {"postgresql_partition_by": f"RANGE ({column})"}


def day_column(table: sa.Table) -> str:
    """The column of a `by_day` table; empty for any other."""
    return str(table.dialect_options["postgresql"].get("partition_by") or "").removeprefix("RANGE (").rstrip(")")

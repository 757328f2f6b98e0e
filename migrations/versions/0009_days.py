"""Partitions by day: the time becomes part of the records' keys, and PostgreSQL has a partition for each day.

A new table `pruned` counts the records deleted for their age or size. This file makes the partitions of existing
records; `egress.store.database.days` makes those of later days. A later revision alters the whole table (`flows`),
never a partition: PostgreSQL applies it to all of them.

A downgrade makes records with equal keys of those that differ in the time alone: it keeps the latest flow, and the
first record of any other kind.
"""

import time
from datetime import date

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# Table → identity, time, indexes (those of SQLite stay where they are).
TABLES: dict[str, tuple[str, str, tuple[tuple[str, ...], ...]]] = {
    "flows": (
        "flow_id",
        "start",
        (("start",), ("updated",), ("agent", "start"), ("dst", "start"), ("action", "start"), ("rule_id", "start")),
    ),
    "findings": ("finding_id", "time", (("flow_id",), ("time",), ("agent", "time"), ("signature", "time"))),
    "evidence": ("finding_id", "time", (("time",),)),
    "processes": ("flow_id, time", "time", (("time",),)),
    "anomalies": ("agent, time, reason, detail, src, dst, proto", "time", (("time",),)),
}
DAY = 86_400_000_000  # microseconds
MOST = 400  # days back that get partitions for existing records; older records go to the default one
LIKE = "INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS INCLUDING STORAGE"


def upgrade() -> None:
    for table, (identity, when, indexes) in TABLES.items():
        if op.get_bind().dialect.name == "postgresql":
            key = identity if when in identity else f"{identity}, {when}"
            _anew(table, f"({key})", indexes, f"PARTITION BY RANGE ({when})")
            _days(table, when)
            _take_over(table, f"SELECT * FROM {table}_before")  # noqa: S608 - our own names
        elif when not in identity:
            _key(table, [identity, when])
    op.create_index(op.f("ix_steps_start"), "steps", ["start"])
    op.create_table(
        "pruned",
        sa.Column("records", sa.Text(), nullable=False, comment="the table they were in"),
        sa.Column("count", sa.BigInteger(), nullable=False, comment="rows taken away, ever"),
        sa.Column("before", sa.BigInteger(), nullable=False, comment="what is older is gone"),
        sa.Column("time", sa.BigInteger(), nullable=False, comment="when rows were last taken away"),
        sa.PrimaryKeyConstraint("records", name=op.f("pk_pruned")),
        comment="What was taken away for its age or size",
    )


def downgrade() -> None:
    op.drop_table("pruned")
    op.drop_index(op.f("ix_steps_start"), "steps")
    for table, (identity, when, indexes) in TABLES.items():
        order = "updated DESC" if table == "flows" else when
        if op.get_bind().dialect.name == "postgresql":
            _anew(table, f"({identity})", indexes, "")
            one = "" if when in identity else f"DISTINCT ON ({identity})"
            query = f"SELECT {one} * FROM {table}_before ORDER BY {identity}, {order}"  # noqa: S608
            _take_over(table, query)
        elif when not in identity:
            rank = f"row_number() OVER (PARTITION BY {identity} ORDER BY {order})"
            others = f"SELECT rowid FROM (SELECT rowid, {rank} AS nth FROM {table}) WHERE nth > 1"  # noqa: S608
            op.execute(f"DELETE FROM {table} WHERE rowid IN ({others})")  # noqa: S608 - our own names
            _key(table, [identity])


def _key(table: str, columns: list[str]) -> None:
    """Change the primary key of a table on SQLite, which rewrites the table."""
    with op.batch_alter_table(table, recreate="always") as batch:
        batch.drop_constraint(op.f(f"pk_{table}"), type_="primary")
        batch.create_primary_key(op.f(f"pk_{table}"), columns)


def _anew(table: str, key: str, indexes: tuple[tuple[str, ...], ...], partition: str) -> None:
    """Rename a table and its indexes to `…_before`, and create an empty table of the same columns in its place.

    `key` and `partition` are the SQL of the new primary key and of the partitioning (empty: none).
    """
    comment = op.get_bind().scalar(sa.text("SELECT obj_description(to_regclass(:name))"), {"name": table})
    names = {columns: f"ix_{table}_{'_'.join(columns)}" for columns in indexes}
    op.rename_table(table, f"{table}_before")
    for name in (f"pk_{table}", *names.values()):
        op.execute(f"ALTER INDEX {name} RENAME TO {name}_before")
    constraint = f"CONSTRAINT pk_{table} PRIMARY KEY {key}"
    op.execute(f"CREATE TABLE {table} (LIKE {table}_before {LIKE}, {constraint}) {partition}")
    for columns, name in names.items():
        op.create_index(op.f(name), table, list(columns))
    op.create_table_comment(table, comment)


def _days(table: str, when: str) -> None:
    """Create the default partition, and one for each day of existing records, from MOST days ago to tomorrow."""
    op.execute(f"CREATE TABLE {table}_rest PARTITION OF {table} DEFAULT")
    today = int(time.time() // 86400)
    asked = sa.text(f"SELECT DISTINCT {when} / {DAY} FROM {table}_before")  # noqa: S608 - our own names
    for day in op.get_bind().scalars(asked).all():
        if today - MOST <= day <= today + 1:
            name = f"{table}_d{date.fromordinal(date(1970, 1, 1).toordinal() + day):%Y%m%d}"
            bounds = f"FROM ({day * DAY}) TO ({(day + 1) * DAY})"
            op.execute(f"CREATE TABLE {name} PARTITION OF {table} FOR VALUES {bounds}")


def _take_over(table: str, query: str) -> None:
    """Insert the rows of a query into the new table, and drop the old one (`…_before`)."""
    op.execute(f"INSERT INTO {table} {query}")
    op.drop_table(f"{table}_before")

"""Alembic's entry: runs the revisions on the connection that the caller put into the config's attributes."""

import sqlalchemy as sa
from alembic import context
from sqlalchemy.engine import Connection

from egress.store.database.days import is_partition
from egress.store.database.tables import metadata

OTHER_COLLATIONS = """
    SELECT relname, attname, format_type(atttypid, atttypmod)
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid JOIN pg_collation ON pg_collation.oid = attcollation
    WHERE relkind IN ('r', 'p') AND NOT relispartition AND relnamespace = to_regnamespace(quote_ident(current_schema()))
        AND attnum > 0 AND NOT attisdropped AND collname <> 'C'
"""


def by_code_point(connection: Connection) -> None:
    """Have PostgreSQL compare and sort all text as SQLite does (by code point), independent of its collation.

    Partitions take the collation of their table.
    """
    quoted = connection.dialect.identifier_preparer.quote
    changes: dict[str, list[str]] = {}
    for table, column, kind in connection.execute(sa.text(OTHER_COLLATIONS)):
        changes.setdefault(table, []).append(f'ALTER {quoted(column)} TYPE {kind} COLLATE "C"')
    for table, alterations in changes.items():
        connection.exec_driver_sql(f"ALTER TABLE {quoted(table)} {', '.join(alterations)}")


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    transactional_ddl=True,  # SQLite can; Alembic assumes it cannot
    compare_type=True,
    include_name=lambda name, kind, _: kind != "table" or not is_partition(name or ""),
)
with context.begin_transaction():
    context.run_migrations()
    if connection.dialect.name == "postgresql":
        by_code_point(connection)

"""Alembic's entry: runs the revisions on the connection that the caller put into the config's attributes."""

from alembic import context

from egress.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # SQLite can; Alembic assumes it cannot
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()

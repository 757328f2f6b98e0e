"""The migrations make exactly the tables, and go both ways with data in them."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Engine

from egress.store import tables
from egress.store.database import HEAD, alembic_config, open_database, writing
from egress.store.writer import store
from tests.store import samples


def test_the_newest_revision_is_the_one_the_program_wants() -> None:
    assert ScriptDirectory.from_config(alembic_config()).get_current_head() == HEAD


def test_autogenerate_finds_no_difference(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []


def test_what_autogenerate_does_not_compare_is_equal_too(engine: Engine, tmp_path: Path) -> None:
    """Keys, their names, nullability, column order and check constraints."""
    direct = sa.create_engine(f"sqlite:///{tmp_path / 'direct.db'}")
    tables.metadata.create_all(direct)
    try:
        assert _facts(engine) == _facts(direct)
    finally:
        direct.dispose()


def _facts(engine: Engine) -> dict[str, object]:
    inspector = sa.inspect(engine)
    return {
        name: (
            [(column["name"], str(column["type"]), column["nullable"]) for column in inspector.get_columns(name)],
            inspector.get_pk_constraint(name),
            sorted(
                (str(check["name"]), check["sqltext"].replace('"', ""))
                for check in inspector.get_check_constraints(name)
            ),
            sorted(str(index) for index in inspector.get_indexes(name)),
        )
        for name in tables.metadata.tables
    }


def test_down_and_up_again_with_data(engine: Engine) -> None:
    with writing(engine) as connection:
        store(connection, [samples.FLOW, samples.FINDING, samples.ANOMALY, samples.CHANGE])
    config = alembic_config()
    with writing(engine) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert sa.inspect(engine).get_table_names() == ["alembic_version"]
    open_database(str(engine.url)).dispose()
    assert set(tables.metadata.tables) <= set(sa.inspect(engine).get_table_names())
    with writing(engine) as connection:
        store(connection, [samples.FLOW])


def test_a_revision_is_one_transaction(engine: Engine) -> None:
    config = alembic_config()
    with engine.connect() as connection, connection.begin() as transaction:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        transaction.rollback()
    assert set(tables.metadata.tables) <= set(sa.inspect(engine).get_table_names())

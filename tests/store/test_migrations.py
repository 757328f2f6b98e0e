"""The migrations make exactly the tables, and go both ways with data in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Engine

from egress.model import Action, Agent, Budget, Measure, Mode, Reason, Span
from egress.store import tables
from egress.store.agents import StoredAgent, add_agent, list_agents
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
            [
                (column["name"], str(column["type"]), column["nullable"], column["default"])
                for column in inspector.get_columns(name)
            ],
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


# Tables as the first version left them, each with a row.
FIRST_ROWS = {
    "agents": ("rome", '["10.0.0.0/30"]', "monitor", "accept", '["gpu"]', "netns", "rome", 7_000_000),
    "flows": (
        "a1", "rome", 1, 2, None, "new", "out", "tcp", "10.0.0.2", 40000, "192.0.2.7", 443, "", "tls", "", "reject",
        "default", "", 1, "enforce", 3, 0, 180, 0, 0,
    ),
    "findings": (
        "f1", "a1", "rome", 1, "mining.stratum", "high", "", "", b"\x00\xff", "flow", "reject", "enforce", "tcp",
        "10.0.0.2", 40000, "192.0.2.7", 443, "", "", 1,
    ),
    "anomalies": ("rome", 5, "spoofed", "no", 3, "192.0.2.9", "", "udp"),
    "policies": (1, "x", 1, "root", "[]"),
    "rule_changes": (1, 1, "added", "r", "{}", "root"),
    "journal_checkpoints": ("worker-0.jsonl", 4096, 1),
}  # fmt: skip


def _to_the_first(engine: Engine) -> None:
    """An empty database as the first version made it."""
    config = alembic_config()
    with writing(engine) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        command.upgrade(config, "0001")
    engine.dispose()  # another connection of its pool may believe in the old columns until it is told otherwise


def _rows(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    """Every row as the database has it."""
    with engine.connect() as connection:
        return {
            name: [dict(row) for row in connection.exec_driver_sql(f"SELECT * FROM {name} ORDER BY rowid").mappings()]
            for name in tables.metadata.tables
        }


def test_opening_a_database_of_the_first_version_upgrades_it_in_place(engine: Engine) -> None:
    _to_the_first(engine)
    with writing(engine) as connection:
        for table, row in FIRST_ROWS.items():
            connection.exec_driver_sql(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    before = _rows(engine)
    assert all(len(rows) == 1 for rows in before.values())
    opened = open_database(str(engine.url), create=False)
    try:
        after = _rows(opened)
        assert after["agents"][0].pop("budgets") == "[]"
        assert after == before
        old = Agent("rome", ("10.0.0.0/30",), Mode.MONITOR, Action.ACCEPT, ("gpu",))
        assert list_agents(opened) == (StoredAgent(old, "netns", "rome", 7.0),)
        with writing(opened) as connection:
            store(connection, [samples.numbered(1, reason=reason) for reason in Reason])
    finally:
        opened.dispose()


def test_back_to_the_first_version_with_data(engine: Engine) -> None:
    """Reasons it does not know become the nearest it has; what tells two anomalies apart is kept."""
    flows = [samples.numbered(number, reason=reason) for number, reason in enumerate(Reason)]
    odd = [replace(samples.ANOMALY, reason=reason, count=number) for number, reason in enumerate(Reason, 1)]
    agent = Agent("rome", budgets=(Budget(Measure.BYTES, 10, Span.HOUR),))
    add_agent(engine, StoredAgent(agent, "netns", "rome", 7.0))
    with writing(engine) as connection:
        store(connection, [*flows, *odd])
    config = alembic_config()
    with writing(engine) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    rows = _rows(engine)
    nearest = {"name": "application", "query": "default", "budget": "default"}
    assert [row["reason"] for row in rows["flows"]] == [nearest.get(reason, reason) for reason in Reason]
    assert [row["count"] for row in rows["anomalies"]] == [*range(1, len(Reason) + 1)]
    assert {row["detail"] for row in rows["anomalies"]} > {f"budget: {samples.ANOMALY.detail}"}
    assert "budgets" not in rows["agents"][0]
    with pytest.raises(sa.exc.IntegrityError), writing(engine) as connection:
        connection.exec_driver_sql("UPDATE flows SET reason = 'budget'")
    opened = open_database(str(engine.url))
    assert list_agents(opened)[0].agent == replace(agent, budgets=())
    opened.dispose()


def test_a_revision_is_one_transaction(engine: Engine) -> None:
    config = alembic_config()
    with engine.connect() as connection, connection.begin() as transaction:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        transaction.rollback()
    assert set(tables.metadata.tables) <= set(sa.inspect(engine).get_table_names())

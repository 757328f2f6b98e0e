"""The migrations make exactly the tables, and go both ways with data in them."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
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

from egress.model import Action, Agent, Budget, BudgetSpan, Effect, Hold, Measure, Mode, Policy, Reason, Rule
from egress.store.database import tables
from egress.store.database.database import HEAD, alembic_config, open_database, writing
from egress.store.database.days import is_partition
from egress.store.database.tables import SANDBOX
from egress.store.policy import approvals, audit, gateways, ruleset, tokens
from egress.store.policy.agents import StoredAgent, add_agent, list_agents, update_agent
from egress.store.policy.audit import Actor
from egress.store.policy.edits import Edit
from egress.store.recording.writer import rows, store
from tests.store import samples

pytestmark = pytest.mark.slow  # every version of the schema, up and down

ROOT = Actor("uid:0 (root)")
HOLD = Hold("a1", "a1", "rome", 5.0, 125.0, "tcp", "192.0.2.7", 443, (), False, "192.0.2.7")


def test_the_newest_revision_is_the_one_the_program_wants() -> None:
    assert ScriptDirectory.from_config(alembic_config()).get_current_head() == HEAD


def test_autogenerate_finds_no_difference(engine: Engine) -> None:
    with engine.connect() as connection:
        opts = {
            "compare_type": True,
            "include_name": lambda name, kind, _: kind != "table" or not is_partition(name or ""),
        }
        context = MigrationContext.configure(connection, opts=opts)
        assert compare_metadata(context, tables.metadata) == []


def test_what_autogenerate_does_not_compare_is_equal_too(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Keys, their names, nullability, column order, check constraints and what indexes hold."""
    direct = sa.create_engine(f"sqlite:///{tmp_path / 'direct.db'}")
    tables.metadata.create_all(direct)
    try:
        assert _facts(sqlite_engine) == _facts(direct)
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
            sorted(_words(index) for index in _indexes(engine, name)),
        )
        for name in tables.metadata.tables
    }


def _indexes(engine: Engine, table: str) -> list[str]:
    query = sa.text("SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = :table AND sql IS NOT NULL")
    with engine.connect() as connection:
        return list(connection.scalars(query, {"table": table}))


def _words(statement: str) -> str:
    return " ".join(statement.replace('"', "").split())


def _migrate(engine: Engine, *steps: str) -> None:
    """`+0003`: up to there; `-0001`: down to there."""
    config = alembic_config()
    with writing(engine) as connection:
        config.attributes["connection"] = connection
        for step in steps:
            (command.upgrade if step[0] == "+" else command.downgrade)(config, step[1:])
    engine.dispose()  # another connection of its pool may believe in the old columns until it is told otherwise


def _rows(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    """Every row as the database has it."""
    found = {}
    with engine.connect() as connection:
        for name in sorted(set(sa.inspect(connection).get_table_names()) - {"alembic_version"}):
            rows = connection.exec_driver_sql(f"SELECT * FROM {name}").mappings()
            found[name] = sorted((dict(row) for row in rows), key=lambda row: str(sorted(row.items())))
    return found


def _fill(engine: Engine, rows: Mapping[str, Sequence[tuple[object, ...] | dict[str, object]]]) -> None:
    """Rows in the order of the columns, which is another on PostgreSQL where one was added, or by name."""
    with writing(engine) as connection:
        for name, listed in rows.items():
            table = sa.Table(name, sa.MetaData(), autoload_with=connection)
            for row in listed:
                values = row if isinstance(row, dict) else dict(zip(table.columns.keys(), row, strict=True))
                connection.execute(table.insert(), values)


def test_down_and_up_again_with_data(engine: Engine, database_url: str) -> None:
    with writing(engine) as connection:
        hunted = replace(samples.FINDING, finding_id="00000000000000f2", effect=Effect.NONE)
        store(connection, [samples.FLOW, samples.FINDING, hunted, samples.ANOMALY, samples.EVIDENCE, samples.PROCESS])
        Edit(connection, ROOT, 5.0).add([Rule("r", Action.ACCEPT)])
        approvals.ask(connection, HOLD)
        tokens.create(connection, ROOT, name="ci", role="admin", ts=5.0)
        connection.execute(tables.steps.insert(), rows([samples.STEP]))
    _migrate(engine, "-base")
    assert sa.inspect(engine).get_table_names() == ["alembic_version"]
    open_database(database_url).dispose()
    assert set(tables.metadata.tables) <= set(sa.inspect(engine).get_table_names())
    with writing(engine) as connection:
        store(connection, [samples.FLOW])
        audit.note(connection, ROOT, 5.0, "rule.create", "r", None, {})


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


def test_opening_a_database_of_the_first_version_upgrades_it_in_place(engine: Engine, database_url: str) -> None:
    _migrate(engine, "-base", "+0001")
    _fill(engine, {table: [row] for table, row in FIRST_ROWS.items()})
    before = _rows(engine)
    opened = open_database(database_url, create=False)
    try:
        after = _rows(opened)
        assert after["agents"][0].pop("budgets") == "[]" == after["flows"][0].pop("names")
        assert after["flows"][0].pop("app_expected") == ""
        assert not after["agents"][0].pop("quarantined")
        assert after["agents"][0].pop("host") == "" == after["journal_checkpoints"][0].pop("host")
        for same in ("agents", "flows", "findings", "anomalies", "journal_checkpoints"):
            assert after[same] == before[same]
        old = Agent("rome", ("10.0.0.0/30",), Mode.MONITOR, Action.ACCEPT, ("gpu",))
        with writing(opened) as connection:
            assert list_agents(connection) == (StoredAgent(old, "netns", "rome", 7.0),)
            assert ruleset.snapshot(connection) == Policy(1, ())
            mixed = zip(Reason, itertools.cycle(Action), itertools.cycle(Mode), strict=False)
            store(connection, [samples.numbered(1, reason=r, action=a, mode=m) for r, a, m in mixed])
            update_agent(connection, ROOT, "rome", mode=Mode.ASK, quarantined=True, ts=8.0)
            add_agent(connection, ROOT, StoredAgent(Agent("paris"), SANDBOX, ""))
    finally:
        opened.dispose()


def test_back_to_the_first_version_with_data(engine: Engine, database_url: str) -> None:
    """Values that it does not know become the nearest ones; anomalies that differ stay different."""
    flows = [samples.numbered(number, reason=reason) for number, reason in enumerate(Reason)]
    flows += [samples.numbered(90, action=Action.HOLD, mode=Mode.ASK)]
    odd = [replace(samples.ANOMALY, reason=reason, count=number) for number, reason in enumerate(Reason, 1)]
    finding = replace(samples.FINDING, action=Action.HOLD, mode=Mode.ASK)
    rome = Agent("rome", budgets=(Budget(Measure.BYTES, 10, BudgetSpan.HOUR),), mode=Mode.ASK)
    cut = Agent("cut", mode=Mode.MONITOR, default=Action.ACCEPT, quarantined=True)
    with writing(engine) as connection:
        for agent in (rome, cut):
            add_agent(connection, ROOT, StoredAgent(agent, "netns", agent.name, 7.0))
        add_agent(connection, ROOT, StoredAgent(Agent("paris"), SANDBOX, ""))
        store(connection, [*flows, finding, *odd])
    _migrate(engine, "-0001")
    rows = _rows(engine)
    nearest = {"name": "application", "private": "application", "metadata": "default"} | dict.fromkeys(
        ("query", "budget", "approval", "quarantine"), "default"
    )
    by_start = sorted(rows["flows"], key=lambda row: row["start"])
    assert [row["reason"] for row in by_start[:-1]] == [nearest.get(reason, reason) for reason in Reason]
    for row in (by_start[-1], rows["findings"][0]):
        assert (row["action"], row["mode"]) == ("reject", "enforce")
    assert sorted(row["count"] for row in rows["anomalies"]) == [*range(1, len(Reason) + 1)]
    assert {row["detail"] for row in rows["anomalies"]} > {f"approval: {samples.ANOMALY.detail}"}
    assert not {"budgets", "quarantined"} & set(rows["agents"][0])
    with pytest.raises(sa.exc.IntegrityError), writing(engine) as connection:
        connection.exec_driver_sql("UPDATE flows SET reason = 'budget'")
    opened = open_database(database_url)
    with opened.connect() as connection:
        kept = tuple(stored.agent for stored in list_agents(connection))
    assert kept == (Agent("cut"), Agent("rome"))
    opened.dispose()


def test_back_before_steps_a_token_that_tells_of_them_is_dead(engine: Engine, database_url: str) -> None:
    """An older program has no role that may do as little."""
    with writing(engine) as connection:
        connection.execute(tables.steps.insert(), rows([samples.STEP]))
        for role in ("reporter", "gateway"):
            tokens.create(connection, ROOT, name=role, role=role, ts=5.0)
    _migrate(engine, "-0004")
    found = _rows(engine)
    assert "steps" not in found
    assert {(row["name"], row["role"], row["revoked_at"]) for row in found["tokens"]} == {
        ("reporter", "viewer", 5_000_000), ("gateway", "gateway", None),
    }  # fmt: skip
    with pytest.raises(sa.exc.IntegrityError), writing(engine) as connection:
        connection.exec_driver_sql("UPDATE tokens SET role = 'reporter'")
    opened = open_database(database_url)
    with writing(opened) as connection:
        assert [token.role for token in tokens.listed(connection)].count("gateway") == 1
        tokens.create(connection, ROOT, name="again", role="reporter", ts=6.0)
    opened.dispose()


def _document(*items: Mapping[str, object]) -> str:
    return json.dumps(items)


# What 0002 wrote of a rule, and what the first version did.
FULL = {
    "id": "full", "action": "accept", "agent": "label:gpu", "destination": "**.example.org", "protocol": "tcp",
    "ports": [[22, 22], [2200, 2299]], "app": "ssh", "exempt": ["beacon.*"], "unnamed": True,
    "expires_at": 1896091200.000001, "once": False, "comment": "über", "author": "ops", "created": 1795446362.25,
}  # fmt: skip
OLD = {"id": "old", "action": "reject", "agent": "*", "destination": "192.0.2.0/24", "protocol": "", "ports": [],
       "app": "", "exempt": [], "comment": "a\x00b"}  # fmt: skip
OWN = {**OLD, "id": "rome:old", "agent": "rome", "comment": ""}
FULL_RULE = Rule(
    "full", Action.ACCEPT, "label:gpu", "**.example.org", "tcp", ((22, 22), (2200, 2299)), "ssh", ("beacon.*",), True,
    1896091200.000001, False, "über", "ops", 1795446362.25,
)  # fmt: skip
OLD_RULE = Rule("old", Action.REJECT, destination="192.0.2.0/24", comment="a\\x00b")
OWN_RULE = replace(OLD_RULE, id="rome:old", agent="rome", comment="")
DOCUMENTS = [
    (_document(OLD), [OLD_RULE]),
    (_document(OLD, FULL), [OLD_RULE, FULL_RULE]),
    (_document(), []),
    (_document(FULL, OLD), [FULL_RULE, OLD_RULE]),
    (_document({**FULL, "comment": ""}, OLD, OWN), [replace(FULL_RULE, comment=""), OLD_RULE, OWN_RULE]),
]


def test_documents_become_rules_and_documents_again(engine: Engine) -> None:
    _migrate(engine, "-base", "+0002")
    versions = [(number, "x", number * 1_000_000, "root", text) for number, (text, _) in enumerate(DOCUMENTS, 1)]
    _fill(engine, {"policies": versions})
    _migrate(engine, "+head")
    with engine.connect() as connection:
        for number, (_, wanted) in enumerate(DOCUMENTS, 1):
            placed = tuple(replace(rule, position=place) for place, rule in enumerate(wanted, 1))
            assert ruleset.snapshot(connection, number) == Policy(number, placed)
        found = ruleset.versions(connection, None, 9)
        assert [(each.version, each.actor, each.added, each.removed) for each in found] == [
            (6, "upgrade", 0, 1), (5, "root", 2, 1), (4, "root", 2, 0), (3, "root", 0, 2), (2, "root", 1, 0),
            (1, "root", 1, 0),
        ]  # fmt: skip
        gone = ruleset.rule_at(connection, "rome:old", 5)
        assert gone is not None and (gone.source, gone.removed) == ("sandbox:rome", 6)
        assert [each.source for each in ruleset.list_rules(connection, ruleset.RuleFilter(), None, 9)] == ["file"] * 2
    _migrate(engine, "-0002")
    rows = _rows(engine)
    back = {row["version"]: row for row in rows["policies"]}
    texts = [json.loads(back[number]["document"]) for number in range(1, 7)]
    assert [[item["id"] for item in text] for text in texts] == [
        ["old"], ["old", "full"], [], ["full", "old"], ["full", "old", "rome:old"], ["full", "old"],
    ]  # fmt: skip
    assert texts[3][0] == FULL
    assert texts[0][0] == {**OLD, "comment": "a\\x00b"} | {"unnamed": False, "expires_at": None, "once": False} | {
        "author": "", "created": 0.0,
    }  # fmt: skip
    assert back[2]["sha256"] == hashlib.sha256(back[2]["document"].encode()).hexdigest()
    noted = {(row["policy_version"], row["change"], row["rule_id"]) for row in rows["rule_changes"]}
    assert noted == {
        (1, "added", "old"), (2, "added", "full"), (3, "removed", "old"), (3, "removed", "full"), (4, "added", "old"),
        (4, "added", "full"), (5, "removed", "full"), (5, "added", "full"), (5, "added", "rome:old"),
        (6, "removed", "rome:old"),
    }  # fmt: skip
    _migrate(engine, "+head")
    with engine.connect() as connection:
        assert ruleset.snapshot(connection, 5) == Policy(
            5, tuple(replace(rule, position=place) for place, rule in enumerate(DOCUMENTS[4][1], 1))
        )


def test_what_was_there_is_of_no_host_until_its_gateway_adopts_it(engine: Engine) -> None:
    _migrate(engine, "-base", "+0007")
    agent: dict[str, object] = {
        "name": "rome",
        "networks": "[]",
        "mode": "enforce",
        "default": "reject",
        "labels": "[]",
    }
    agent |= {"quarantined": False, "kind": "netns", "value": "rome", "created": 7}
    rule = ("r", "accept", "*", "any", "", "[]", "", "[]", False, None, False, "", "", 1, 1)
    hold = ("a1", "a1", "rome", 5, 6, "tcp", "192.0.2.7", 443, "[]", False, "192.0.2.7", "pending", None, None, None)
    sources = ("allowlist", "file", "sandbox:rome")
    listed = [(source, *rule[1:], source, 1, None) for source in sources]
    _fill(engine, {
        "agents": [agent], "approvals": [hold], "policies": [(1, 1, "root")], "rules": listed,
        "journal_checkpoints": [("worker-0-1.jsonl", 4096, 1)],
    })  # fmt: skip
    _migrate(engine, "+head")
    with writing(engine) as connection:
        assert [each.host for each in list_agents(connection)] == [""]
        assert len(list_agents(connection, "gpu-1")) == 0
        near = ruleset.snapshot(connection, host="gpu-1")
        assert near is not None and [each.id for each in near.rules] == ["allowlist"]
        gateways.adopt(connection, "gpu-1", "")
        near = ruleset.snapshot(connection, host="gpu-1")
        assert near is not None and {each.id for each in near.rules} == set(sources)
    hosts = {name: [row["host"] for row in rows] for name, rows in _rows(engine).items() if rows and "host" in rows[0]}
    assert hosts.pop("rules") == ["", "gpu-1", "gpu-1"]
    assert hosts == {name: ["gpu-1"] for name in ("agents", "approvals", "journal_checkpoints")}


def test_checkpoints_of_hosts_become_the_one_that_has_read_least(engine: Engine) -> None:
    read = [("b", 0, 10), ("a", 0, 20), ("c", 0, 10), ("a", 1, 5)]
    rows: list[dict[str, object]] = [
        {"host": host, "segment": f"worker-{worker}-1.jsonl", "offset": offset, "updated": 1}
        for host, worker, offset in read
    ]
    _fill(engine, {"journal_checkpoints": rows})
    _migrate(engine, "-0007")
    kept = {row["segment"]: row["offset"] for row in _rows(engine)["journal_checkpoints"]}
    assert kept == {"worker-0-1.jsonl": 10, "worker-1-1.jsonl": 5}
    _migrate(engine, "+0008")


def test_two_rules_of_one_id_in_a_document_are_both_kept(engine: Engine) -> None:
    """A rule of the file, and one of a sandbox whose name makes the same id."""
    _migrate(engine, "-base", "+0002")
    _fill(engine, {"policies": [(1, "x", 1, "root", _document({**OLD, "id": "rome:old"}, OWN))]})
    _migrate(engine, "+head")
    with engine.connect() as connection:
        policy = ruleset.snapshot(connection, 1)
        assert policy is not None and [rule.id for rule in policy.rules] == ["rome:old", "rome:old~"]


def test_a_revision_is_one_transaction(engine: Engine) -> None:
    config = alembic_config()
    with engine.connect() as connection, connection.begin() as transaction:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        transaction.rollback()
    assert set(tables.metadata.tables) <= set(sa.inspect(engine).get_table_names())


def test_older_rules_mean_hosts_outside_and_a_downgrade_forgets_who_may_be_inside(engine: Engine) -> None:
    with writing(engine) as connection:
        rules = [Rule("a", Action.ACCEPT, destination="x.org", private=True), Rule("b", Action.ACCEPT)]
        Edit(connection, ROOT, 5.0).add(rules)
        flows = [samples.numbered(number, reason=reason) for number, reason in enumerate(Reason)]
        store(connection, flows)
    with engine.connect() as connection:
        snapshot = ruleset.snapshot(connection)
        assert snapshot is not None and [rule.private for rule in snapshot.rules] == [True, False]
    _migrate(engine, "-0010")
    rows = _rows(engine)
    assert "private" not in rows["rules"][0]
    found = {row["reason"] for row in rows["flows"]}
    assert found == set(Reason) - {Reason.PRIVATE, Reason.METADATA} and len(rows["flows"]) == len(flows)
    _migrate(engine, "+head")
    with engine.connect() as connection:
        snapshot = ruleset.snapshot(connection)
        assert snapshot is not None and [rule.private for rule in snapshot.rules] == [False, False]

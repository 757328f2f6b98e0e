"""Several gateways at one database: one gateway has a name, and rows of a host are not those of another."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from egress.model import Action, Agent, Hold, Rule
from egress.store.database import tables
from egress.store.database.clock import clock
from egress.store.database.database import HEAD, require_schema, storing, writing
from egress.store.database.errors import ConflictError, NotFoundError
from egress.store.database.tables import SANDBOX
from egress.store.policy import approvals, audit, gateways, ruleset
from egress.store.policy.agents import StoredAgent, add_agent, agent, list_agents
from egress.store.policy.audit import Actor
from egress.store.policy.edits import Edit
from egress.store.policy.gateways import BEAT_SECONDS, SILENT, SILENT_SECONDS, STOPPED, UP
from egress.store.recording.writer import store
from tests.store import samples

ROOT, GATEWAY = Actor("uid:0 (root)"), Actor("gateway")
NOW = 1_795_446_362.25
HOLD = Hold("a1", "a1", "rome", NOW, NOW + 60, "tcp", "192.0.2.7", 443, (), False, "192.0.2.7")
WEB, SSH = Rule("web", Action.ACCEPT, ports=((443, 443),)), Rule("ssh", Action.ACCEPT, ports=((22, 22),))


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the database's clock."""

    def put(now: float) -> None:
        for module in (gateways, sys.modules[__name__]):
            monkeypatch.setattr(module, "clock", lambda _: (now, 0.25))

    put(NOW)
    return put


def claim(engine: Engine, host: str, run: str, place: str = "here") -> str:
    with writing(engine) as connection:
        other = gateways.claim(connection, host, run, place, "0.1.0")
    return other.run if other else ""


def states(engine: Engine) -> dict[str, str]:
    with engine.connect() as connection:
        now = clock(connection)[0]
        return {each.host: each.state(now) for each in gateways.listed(connection)}


def policy(connection: Connection, host: str | None) -> list[str]:
    found = ruleset.snapshot(connection, host=host)
    return [rule.id for rule in found.rules] if found else []


def test_a_name_is_one_gateways_while_that_lives(engine: Engine, at: Callable[[float], None]) -> None:
    assert claim(engine, "gpu-1", "a") == claim(engine, "gpu-2", "b", "there") == claim(engine, "gpu-1", "a") == ""
    assert claim(engine, "gpu-1", "c", "there") == "a"
    at(NOW + SILENT_SECONDS - 1)
    with storing(engine) as connection:
        assert gateways.beat(connection, "gpu-1", "a", 7, 3)
    at(NOW + SILENT_SECONDS + 1)
    assert states(engine) == {"gpu-1": UP, "gpu-2": SILENT}
    assert claim(engine, "gpu-1", "c", "there") == "a"
    at(NOW - 2 * SILENT_SECONDS)
    assert states(engine)["gpu-1"] == SILENT, "a clock that was set back keeps nobody alive"
    at(NOW + 2 * SILENT_SECONDS)
    assert claim(engine, "gpu-1", "c", "there") == ""
    with storing(engine) as connection:
        assert not gateways.beat(connection, "gpu-1", "a", 8, 3), "it is another's now"
        gateways.leave(connection, "gpu-1", "a")
        found = gateways.get(connection, "gpu-1")
    assert found is not None and (found.run, found.stopped, found.policy_version) == ("c", None, 0)
    assert BEAT_SECONDS * 3 < SILENT_SECONDS


def test_one_that_stopped_or_was_in_the_same_place_is_followed_at_once(engine: Engine, at: object) -> None:
    claim(engine, "gpu-1", "killed")
    assert claim(engine, "gpu-1", "next") == ""
    with storing(engine) as connection:
        gateways.leave(connection, "gpu-1", "next")
    assert states(engine) == {"gpu-1": STOPPED}
    assert claim(engine, "gpu-1", "moved", "there") == ""
    assert states(engine) == {"gpu-1": UP}


def test_the_databases_clock_and_ours(engine: Engine) -> None:
    with engine.connect() as connection:
        (first, skew), (second, _) = clock(connection), clock(connection)
    assert first < second < first + 5
    assert abs(skew) < 1


def test_agents_are_of_a_host_and_their_names_of_all(engine: Engine) -> None:
    one, two = (StoredAgent(Agent(name), "netns", name, NOW, host) for name, host in (("a", "gpu-1"), ("b", "gpu-2")))
    with writing(engine) as connection:
        add_agent(connection, ROOT, one)
        add_agent(connection, ROOT, two)
        with pytest.raises(ConflictError, match=r"an agent a already on host gpu-1; `egress agent rm a`"):
            add_agent(connection, ROOT, replace(one, host="gpu-2"))
        with pytest.raises(ConflictError, match="on host gpu-1"):
            add_agent(connection, GATEWAY, StoredAgent(Agent("a"), SANDBOX, "egr0000", host="gpu-2"))
        assert list_agents(connection) == (one, two)
        assert [list_agents(connection, host) for host in ("gpu-1", "gpu-2", "")] == [(one,), (two,), ()]
        entry = audit.entries(connection, limit=1)[0]
        assert entry.after["host"] == "gpu-2"


def test_a_file_or_a_sandbox_speaks_for_its_host_only(engine: Engine) -> None:
    with writing(engine) as connection:
        edit = Edit(connection, ROOT, NOW)
        edit.add([WEB])
        assert edit.sync("file", [replace(SSH, id="gpu-1:ssh")], "gpu-1")
        assert edit.sync("file", [replace(SSH, id="gpu-2:ssh")], "gpu-2")
        assert edit.sync("sandbox:s", [replace(SSH, id="s:ssh", agent="s")], "gpu-2")
        assert sorted(policy(connection, None)) == ["gpu-1:ssh", "gpu-2:ssh", "s:ssh", "web"]
        assert [sorted(policy(connection, host)) for host in ("gpu-1", "gpu-2", "gpu-3")] == [
            ["gpu-1:ssh", "web"], ["gpu-2:ssh", "s:ssh", "web"], ["web"],
        ]  # fmt: skip
        before = edit.version
    with writing(engine) as connection:
        edit = Edit(connection, ROOT, NOW)
        assert not edit.sync("file", [replace(SSH, id="gpu-2:ssh")], "gpu-2"), "equal files undo nothing"
        assert edit.sync("file", [replace(SSH, id="gpu-1:new", app="ssh")], "gpu-1")
        near, far = (ruleset.changes(connection, before, host) for host in ("gpu-1", "gpu-2"))
    assert (near.removed, [rule.id for rule in near.added]) == (("gpu-1:ssh",), ["gpu-1:new"])
    assert (far.base, far.version, far.removed, far.added) == (before, before + 1, (), ())


def test_an_id_of_another_hosts_file_is_taken(engine: Engine) -> None:
    with writing(engine) as connection:
        Edit(connection, ROOT, NOW).sync("file", [SSH], "gpu-1")
        with pytest.raises(ConflictError, match="rule ssh already exists, of the policy file of host gpu-1"):
            Edit(connection, ROOT, NOW).sync("file", [SSH], "gpu-2")
        with pytest.raises(ConflictError, match="it comes from the policy file of host gpu-1; edit that"):
            Edit(connection, ROOT, NOW).remove(["ssh"])
        everywhere = Edit(connection, ROOT, NOW).add([replace(SSH, id="all")])
        assert everywhere[0].host == "", "what one host's file says may be said of all"


def test_rules_that_apply_to_an_agent_are_those_of_its_host(engine: Engine) -> None:
    with writing(engine) as connection:
        add_agent(connection, ROOT, StoredAgent(Agent("a"), "netns", "a", NOW, "gpu-1"))
        edit = Edit(connection, ROOT, NOW)
        edit.sync("file", [replace(SSH, id="gpu-1:ssh")], "gpu-1")
        edit.sync("file", [replace(SSH, id="gpu-2:ssh")], "gpu-2")
        found = ruleset.list_rules(connection, ruleset.RuleFilter(applies_to="a"), None, 9)
    assert [(each.rule.id, each.host) for each in found] == [("gpu-1:ssh", "gpu-1")]


def test_a_spent_rule_is_taken_out_where_its_flow_may_live(engine: Engine) -> None:
    with writing(engine) as connection:
        for name, host in (("a", "gpu-1"), ("b", "gpu-2")):
            add_agent(connection, ROOT, StoredAgent(Agent(name), "netns", name, NOW, host))
        Edit(connection, ROOT, NOW).add([replace(WEB, id=name, agent=name, once=True) for name in ("a", "gone")])
        for number, name in enumerate(("a", "gone")):
            used = samples.numbered(number, agent=name, rule_id=name, action=Action.ACCEPT, start=NOW + 1)
            store(connection, [used])
        spent = [ruleset.spent(connection, host) for host in ("gpu-1", "gpu-2", None)]
    assert spent == [("a", "gone"), ("gone",), ("a", "gone")]


def test_holds_are_ended_by_their_own_host(engine: Engine) -> None:
    with writing(engine) as connection:
        approvals.ask(connection, HOLD, "gpu-1")
        approvals.ask(connection, replace(HOLD, id="b2"), "gpu-2")
        assert not approvals.close(connection, "a1", "expired", NOW + 1, "gpu-2")
        assert approvals.withdraw_all(connection, NOW + 1, "gpu-2") == 1
        assert {each.id: (each.state, each.host) for each in approvals.listed(connection)} == {
            "a1": ("pending", "gpu-1"), "b2": ("withdrawn", "gpu-2"),
        }  # fmt: skip
        assert approvals.close(connection, "a1", "expired", NOW + 2, "gpu-1")


def _two_hosts(connection: Connection) -> None:
    for name, host in (("a", "gpu-1"), ("b", "gpu-2")):
        add_agent(connection, ROOT, StoredAgent(Agent(name), "netns", name, NOW, host))
        add_agent(connection, GATEWAY, StoredAgent(Agent(f"{name}-run"), SANDBOX, "", NOW, host))
        edit = Edit(connection, ROOT, NOW)
        edit.sync("file", [replace(SSH, id=f"{host}:ssh")], host)
        edit.sync(f"sandbox:{name}-run", [replace(SSH, id=f"{name}-run:ssh", agent=f"{name}-run")], host)
        approvals.ask(connection, replace(HOLD, id=f"{name}1"), host)
        row = {"host": host, "segment": "worker-0-1.jsonl", "offset": 1, "updated": NOW}
        connection.execute(tables.journal_checkpoints.insert(), row)
    Edit(connection, ROOT, NOW).add([WEB])


def test_a_host_that_is_forgotten_leaves_the_others_alone(engine: Engine, at: Callable[[float], None]) -> None:
    claim(engine, "gpu-1", "a")
    claim(engine, "gpu-2", "b")
    with writing(engine) as connection:
        _two_hosts(connection)
        with pytest.raises(ConflictError, match="a gateway runs on host gpu-1; stop it first"):
            gateways.forget(connection, ROOT, "gpu-1", NOW)
        gateways.leave(connection, "gpu-1", "a")
        assert gateways.forget(connection, ROOT, "gpu-1", NOW + 1) == 2
        assert [each.agent.name for each in list_agents(connection)] == ["b", "b-run"]
        assert sorted(policy(connection, None)) == ["b-run:ssh", "gpu-2:ssh", "web"]
        assert {each.id: each.state for each in approvals.listed(connection)} == {"a1": "withdrawn", "b1": "pending"}
        assert [each.host for each in gateways.listed(connection)] == ["gpu-2"]
        kept = connection.scalars(sa.select(tables.journal_checkpoints.c.host))
        assert sorted(kept) == ["gpu-1", "gpu-2"], "its journal may come back, and must not be stored twice"
        with pytest.raises(NotFoundError, match="egress fleet list"):
            gateways.forget(connection, ROOT, "gpu-1", NOW)
        assert audit.entries(connection, limit=1)[0].action == "host.forget"
        assert audit.verify(connection).broken is None


def test_a_host_gets_another_name(engine: Engine, at: Callable[[float], None]) -> None:
    claim(engine, "gpu-1", "a")
    with writing(engine) as connection:
        _two_hosts(connection)
        for new, why in (("gpu-3", "a gateway runs on host gpu-1"), ("gpu-2", "a gateway runs on host gpu-1")):
            with pytest.raises(ConflictError, match=why):
                gateways.rename(connection, ROOT, "gpu-1", new, NOW)
        gateways.leave(connection, "gpu-1", "a")
        with pytest.raises(ConflictError, match="host gpu-2 already exists"):
            gateways.rename(connection, ROOT, "gpu-1", "gpu-2", NOW)
        gateways.rename(connection, ROOT, "gpu-1", "gpu-3", NOW)
        assert [each.agent.name for each in list_agents(connection, "gpu-3")] == ["a", "a-run"]
        assert sorted(policy(connection, "gpu-3")) == ["a-run:ssh", "gpu-1:ssh", "web"]
        assert sorted(policy(connection, "gpu-2")) == ["b-run:ssh", "gpu-2:ssh", "web"]
        found = agent(connection, "b")
    assert found is not None and found.host == "gpu-2"


def test_a_file_serves_one_gateway(sqlite_engine: Engine, at: Callable[[float], None]) -> None:
    claim(sqlite_engine, "gpu-1", "a")
    with writing(sqlite_engine) as connection:
        add_agent(connection, ROOT, StoredAgent(Agent("a"), "netns", "a", NOW, "gpu-1"))
        assert gateways.claim(connection, "gpu-2", "b", "there", "0.1.0") is None
        with pytest.raises(ConflictError, match="host gpu-1 uses this SQLite file, which serves one"):
            gateways.adopt(connection, "gpu-2", None)
        assert gateways.claim(connection, "gpu-3", "c", "here", "0.1.0") is None
        connection.execute(tables.gateways.delete().where(tables.gateways.c.host == "gpu-2"))
        gateways.adopt(connection, "gpu-3", None)  # in the place of the first: that is gone
        assert [each.host for each in gateways.listed(connection)] == ["gpu-3"]
        assert [each.host for each in list_agents(connection)] == ["gpu-3"]


def test_a_file_of_one_host_is_adopted_whatever_its_name_was(sqlite_engine: Engine) -> None:
    with writing(sqlite_engine) as connection:
        _two_hosts(connection)
        connection.execute(tables.journal_checkpoints.delete().where(tables.journal_checkpoints.c.host == "gpu-1"))
        gateways.adopt(connection, "new", None)
        assert len(list_agents(connection, "new")) == 4
        assert len(policy(connection, "new")) == 5


def test_under_another_name_its_agents_would_be_unguarded(postgresql_engine: Engine) -> None:
    with writing(postgresql_engine) as connection:
        _two_hosts(connection)
        with pytest.raises(ConflictError, match=r"set `host: gpu-1` .*`egress fleet rename gpu-1 new`"):
            gateways.adopt(connection, "new", "gpu-1")
        for was in (None, "gpu-3", "new"):
            gateways.adopt(connection, "new", was)
        assert list_agents(connection, "new") == ()
        gateways.rename(connection, ROOT, "gpu-1", "new", NOW)
        gateways.adopt(connection, "new", "gpu-1")
        assert [each.agent.name for each in list_agents(connection, "new")] == ["a", "a-run"]


def test_a_newer_egress_is_noticed(engine: Engine) -> None:
    with engine.connect() as connection:
        require_schema(connection)
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'next'"))
        with pytest.raises(Exception, match=r"a newer egress has migrated the database \(schema next\): upgrade this"):
            require_schema(connection)
        connection.rollback()
    assert HEAD != "next"

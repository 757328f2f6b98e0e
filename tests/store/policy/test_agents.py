"""Agents rows: added, listed, removed; what would not make sense is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy.engine import Engine

from egress.errors import InputError
from egress.model import Action, Agent, Budget, BudgetSpan, Measure, Mode
from egress.store.database.database import writing
from egress.store.database.errors import ConflictError, NotFoundError
from egress.store.database.tables import SANDBOX
from egress.store.policy import audit
from egress.store.policy.agents import StoredAgent, add_agent, agent, list_agents, remove_agent, update_agent
from egress.store.policy.audit import Actor

ROOT = Actor("uid:0 (root)")
GATEWAY = Actor("gateway")
BUDGETS = (Budget(Measure.BYTES, 10_000_000, BudgetSpan.HOUR), Budget(Measure.DESTINATIONS, 20, BudgetSpan.EPISODE))
AGENT = Agent("train-1", ("10.77.0.0/30", "fd65::/64"), Mode.MONITOR, Action.ACCEPT, ("gpu", "team=a"), BUDGETS)
STORED = StoredAgent(AGENT, "netns", "train-1", created=1_795_446_362.5)


def test_added_listed_removed(engine: Engine) -> None:
    other = replace(STORED, agent=Agent("build"), kind="interface", value="docker0")
    with writing(engine) as connection:
        assert add_agent(connection, ROOT, STORED) == STORED
        add_agent(connection, ROOT, other)
        assert list_agents(connection) == (other, STORED)
        assert agent(connection, "build") == other
        assert remove_agent(connection, ROOT, "train-1") == STORED
        assert list_agents(connection) == (other,)
        assert agent(connection, "train-1") is None


def test_the_time_is_now_unless_given(engine: Engine) -> None:
    with writing(engine) as connection:
        add_agent(connection, ROOT, replace(STORED, created=0.0), 1_800_000_000.5)
        assert list_agents(connection)[0].created == 1_800_000_000.5
        add_agent(connection, ROOT, replace(STORED, agent=Agent("b"), created=0.0))
        assert list_agents(connection)[0].created > 1_700_000_000


def test_a_name_is_taken_once(engine: Engine) -> None:
    with writing(engine) as connection:
        add_agent(connection, ROOT, STORED)
        with pytest.raises(ConflictError, match="already") as caught:
            add_agent(connection, ROOT, STORED)
        assert caught.value.target == "train-1"
        with pytest.raises(NotFoundError, match="no agent nobody"):
            remove_agent(connection, ROOT, "nobody")
        with pytest.raises(NotFoundError, match="no agent nobody"):
            update_agent(connection, ROOT, "nobody", mode=Mode.ASK, ts=1.0)
        assert list_agents(connection) == (STORED,)


def test_a_change_is_only_what_is_given(engine: Engine) -> None:
    with writing(engine) as connection:
        add_agent(connection, ROOT, STORED)
        asks = update_agent(connection, ROOT, "train-1", mode=Mode.ASK, labels=(), ts=2.0)
        assert asks.agent == replace(AGENT, mode=Mode.ASK, labels=())
        cut = update_agent(connection, ROOT, "train-1", quarantined=True, ts=3.0)
        assert cut.agent == replace(asks.agent, quarantined=True)
        assert update_agent(connection, ROOT, "train-1", quarantined=True, mode=Mode.ASK, ts=4.0) == cut
        free = update_agent(connection, ROOT, "train-1", quarantined=False, default=Action.REJECT, budgets=(), ts=5.0)
        assert agent(connection, "train-1") == free
        with pytest.raises(InputError, match="label"):
            update_agent(connection, ROOT, "train-1", labels=("",), ts=6.0)
        noted = audit.entries(connection, limit=10)
    actions = ["agent.release", "agent.update", "agent.quarantine", "agent.update", "agent.create"]
    assert [entry.action for entry in noted] == actions
    assert noted[2].before["quarantined"] is False and noted[2].after["quarantined"] is True
    assert (noted[3].before["mode"], noted[3].after["mode"]) == ("monitor", "ask")
    assert noted[-1].after["budgets"] == [{"measure": "bytes", "limit": 10_000_000, "span": "hour"},
                                          {"measure": "destinations", "limit": 20, "span": "episode"}]  # fmt: skip


def test_sandboxes_are_the_gateways(engine: Engine) -> None:
    sandbox = StoredAgent(Agent("rome-7"), SANDBOX, "", created=5.0)
    with writing(engine) as connection:
        add_agent(connection, GATEWAY, sandbox)
        with pytest.raises(ConflictError, match="egress run"):
            remove_agent(connection, ROOT, "rome-7")
        assert remove_agent(connection, GATEWAY, "rome-7") == sandbox
        add_agent(connection, ROOT, STORED)
        add_agent(connection, GATEWAY, sandbox)
        assert list_agents(connection) == (sandbox, STORED)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(STORED, kind="pod"),
        replace(STORED, value=""),
        replace(STORED, value="eth0\n"),
        replace(STORED, agent=Agent("a", default=Action.HOLD)),
        replace(STORED, agent=Agent("")),
        replace(STORED, agent=Agent("a b")),
        replace(STORED, agent=Agent("-rf")),
        replace(STORED, agent=Agent("a" * 64)),
        replace(STORED, agent=Agent("a", ("10.0.0.1/8",))),
        replace(STORED, agent=Agent("a", labels=("gpu", ""))),
        replace(STORED, agent=Agent("a", labels=("\x1b[2J",))),
        replace(STORED, agent=Agent("a", labels=("x" * 129,))),
        replace(STORED, agent=Agent("a", budgets=(replace(BUDGETS[0], limit=0),))),
        replace(STORED, agent=Agent("a", budgets=(replace(BUDGETS[0], limit=1 << 53),))),
        replace(STORED, agent=Agent("a", budgets=(BUDGETS[0], replace(BUDGETS[0], limit=5)))),
    ],
)
def test_wrong_agents_are_refused(engine: Engine, wrong: StoredAgent) -> None:
    with writing(engine) as connection:
        with pytest.raises(InputError):
            add_agent(connection, ROOT, wrong)
        assert list_agents(connection) == ()
        assert audit.latest(connection) == 0

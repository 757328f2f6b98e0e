"""Agents rows: added, listed, removed; what would not make sense is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy.engine import Engine

from egress.errors import EgressError, InputError
from egress.model import Action, Agent, Budget, Measure, Mode, Span
from egress.store.agents import StoredAgent, add_agent, list_agents, remove_agent

BUDGETS = (Budget(Measure.BYTES, 10_000_000, Span.HOUR), Budget(Measure.DESTINATIONS, 20, Span.EPISODE))
AGENT = Agent("train-1", ("10.77.0.0/30", "fd65::/64"), Mode.MONITOR, Action.ACCEPT, ("gpu", "team=a"), BUDGETS)
STORED = StoredAgent(AGENT, "netns", "train-1", created=1_795_446_362.5)


def test_added_listed_removed(engine: Engine) -> None:
    other = replace(STORED, agent=Agent("build"), kind="interface", value="docker0")
    add_agent(engine, STORED)
    add_agent(engine, other)
    assert list_agents(engine) == (other, STORED)
    assert remove_agent(engine, "train-1") == STORED
    assert list_agents(engine) == (other,)


def test_the_time_is_now_unless_given(engine: Engine) -> None:
    add_agent(engine, replace(STORED, created=0.0))
    assert list_agents(engine)[0].created > 1_700_000_000


def test_a_name_is_taken_once(engine: Engine) -> None:
    add_agent(engine, STORED)
    with pytest.raises(EgressError, match="already"):
        add_agent(engine, STORED)
    with pytest.raises(EgressError, match="no agent nobody"):
        remove_agent(engine, "nobody")
    assert list_agents(engine) == (STORED,)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(STORED, kind="pod"),
        replace(STORED, value=""),
        replace(STORED, value="eth0\n"),
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
    with pytest.raises(InputError):
        add_agent(engine, wrong)
    assert list_agents(engine) == ()

"""What the supervisor tells a worker is what the worker hears, to the last field."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.config import Config
from egress.errors import InputError
from egress.gateway.messages import Setup, Watched, encode, policy_from, rule_from, setup_from, watched_from
from egress.gateway.sandboxes import Sandboxes
from egress.model import Action, Agent, Budget, Measure, Mode, Policy, Rule, Span
from tests.test_budgettext import several
from tests.test_policyfile import rules

RULE = Rule(
    "named",
    Action.ACCEPT,
    agent="label:gpu",
    destination="**.example.org",
    protocol="tcp",
    ports=((443, 443), (8000, 8100)),
    app="tls",
    exempt=("beacon.*",),
    unnamed=True,
    expires_at=1_896_091_200.000001,
    once=True,
    comment="über",
    author="ops",
    created=1_795_446_362.25,
)
AGENT = Agent(
    "train-1",
    ("10.77.0.0/30", "fd65::/64"),
    Mode.MONITOR,
    Action.ACCEPT,
    ("gpu", "team=a"),
    (Budget(Measure.BYTES, 10_000_000, Span.HOUR), Budget(Measure.DESTINATIONS, 20, Span.EPISODE)),
)
texts = st.text(max_size=10)
agents = st.builds(
    Agent,
    name=texts,
    networks=st.lists(texts, max_size=2).map(tuple),
    mode=st.sampled_from(Mode),
    default=st.sampled_from(Action),
    labels=st.lists(texts, max_size=3).map(tuple),
    budgets=several,
)


def test_the_samples_say_something_in_every_field() -> None:
    for sample in (RULE, AGENT):
        assert all(getattr(sample, field.name) != field.default for field in fields(sample))


def test_a_setup_comes_back_as_it_was() -> None:
    config = Config(state_dir=Path("/var/lib/x"), gate_queries=False, policy=Path("p.yaml"))
    setup = Setup(config, 3, 77, (Watched(AGENT, 5),), Policy(9, (RULE,)), "captures")
    assert setup_from(encode(setup)) == setup
    assert encode(setup).count(b"\n") == 1


@given(st.lists(rules, max_size=3), st.lists(agents, max_size=3))
def test_orders_come_back_as_they_were(listed: list[Rule], watched: list[Agent]) -> None:
    entries = tuple(Watched(agent, index) for index, agent in enumerate(watched))
    heard = json.loads(encode({"policy": Policy(7, tuple(listed)), "agents": entries}))
    assert policy_from(heard["policy"]) == Policy(7, tuple(listed))
    assert watched_from(heard["agents"]) == entries


def test_the_rules_of_an_older_command_are_read() -> None:
    old: dict[str, Any] = json.loads(encode(replace(RULE, unnamed=False, expires_at=None, once=False)))
    for field in ("unnamed", "expires_at", "once", "author", "created"):
        del old[field]
    assert rule_from(old) == replace(RULE, unnamed=False, expires_at=None, once=False, author="", created=0.0)


@pytest.mark.parametrize(
    "budgets",
    [
        "bytes=1/hour",
        [{"measure": "bytes", "limit": "much", "span": "hour"}],
        [{"measure": "bytes", "limit": 0, "span": "hour"}],
        [{"measure": "bytes", "limit": 1, "span": "year"}],
        [{"measure": "bytes", "limit": 1, "span": "hour"}] * 2,
    ],
)
def test_a_sandbox_with_broken_budgets_is_not_made(budgets: object) -> None:
    sandboxes = Sandboxes(Config())
    request = {"mode": "enforce", "default": "reject", "budgets": budgets}
    with pytest.raises(InputError, match="the request for a sandbox is broken"):
        sandboxes.create(request, set())
    assert not sandboxes.open

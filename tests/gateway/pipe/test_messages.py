"""Messages of the supervisor reach a worker unchanged, to the last field."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.config import Api, Config
from egress.errors import EgressError, InputError
from egress.gateway.pipe.messages import (
    Draft,
    JournalGrant,
    Settings,
    Setup,
    Watched,
    encode,
    rule_from,
    setup_from,
    watched_from,
)
from egress.gateway.supervisor.sandboxes import Sandboxes
from egress.model import Action, Agent, Budget, BudgetSpan, Measure, Mode, PolicyChange, Rule
from tests.policy.test_budgettext import several
from tests.policy.test_file import rules

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
    private=True,
    expires_at=1_896_091_200.000001,
    once=True,
    comment="über",
    author="ops",
    created=1_795_446_362.25,
    position=-7,
)
AGENT = Agent(
    "train-1",
    ("10.77.0.0/30", "fd65::/64"),
    Mode.MONITOR,
    Action.ACCEPT,
    ("gpu", "team=a"),
    (Budget(Measure.BYTES, 10_000_000, BudgetSpan.HOUR), Budget(Measure.DESTINATIONS, 20, BudgetSpan.EPISODE)),
    quarantined=True,
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
    quarantined=st.booleans(),
)


def test_the_samples_say_something_in_every_field() -> None:
    for sample in (RULE, AGENT):
        assert all(getattr(sample, field.name) != field.default for field in fields(sample))


def test_a_setup_comes_back_as_it_was() -> None:
    config = Config(state_dir=Path("/var/lib/x"), gate_queries=False, policy=Path("p.yaml"))
    setup = Setup(
        Settings.of(config, "egress-worker"),
        3,
        77,
        (Watched(AGENT, 5, 7400),),
        JournalGrant(1 << 40, full=True),
        "captures",
    )
    assert setup_from(encode(setup)) == setup
    assert encode(setup).count(b"\n") == 1


def test_a_worker_gets_no_secret_and_no_setting_that_it_does_not_need() -> None:
    """Workers meet hostile bytes; the database's password would let it edit the policy of every host."""
    secret = "S3CRET"
    api = Api(tls_cert=Path(secret), tls_key=Path(secret), tls_client_ca=Path(secret))
    config = Config(database=f"postgresql://egress:{secret}@db/egress", policy=Path(secret), host="gate-1", api=api)
    line = encode(Setup(Settings.of(config, "egress-worker"), 0, 1, (), JournalGrant(1)))
    assert secret.encode() not in line and b"postgresql" not in line
    assert setup_from(line).config.journal_dir == config.journal_dir


def heard(message: dict[str, object]) -> dict[str, Any]:
    """Decode a message as the other end does."""
    found: dict[str, Any] = json.loads(encode(message))
    return found


@given(st.lists(agents, max_size=3))
def test_agents_come_back_as_they_were(watched: list[Agent]) -> None:
    entries = tuple(Watched(agent, index, 7400 + 2 * index) for index, agent in enumerate(watched))
    assert watched_from(heard({"agents": entries})["agents"]) == entries


@given(st.lists(rules, max_size=6), st.lists(texts, max_size=6), st.integers(1, 3))
def test_a_change_comes_back_from_its_parts_as_it_was(listed: list[Rule], removed: list[str], size: int) -> None:
    draft = Draft()
    for start in range(0, 6, size):
        chosen = slice(start, start + size)
        draft.add(heard({"removed": removed[chosen], "added": listed[chosen]}))
    change = PolicyChange(3, 5, tuple(removed), tuple(listed))
    assert draft.finish({"base": 3, "version": 5}) == change
    assert draft.finish({"base": 5, "version": 6}) == PolicyChange(5, 6), "nothing is left for the next change"


@pytest.mark.parametrize(
    "part",
    [
        {"removed": []},
        {"removed": [], "added": [{"id": "x"}]},
        {"removed": 1, "added": []},
        {"removed": [], "added": [{"id": "x", "action": "maybe", "ports": [], "exempt": []}]},
        {"removed": [], "added": [{"id": "x", "action": "accept", "ports": [], "exempt": [], "odd": 1}]},
    ],
)
def test_a_part_that_cannot_be_read_spoils_its_change_and_no_other(part: dict[str, Any]) -> None:
    draft = Draft()
    draft.add(heard({"removed": ["a"], "added": [RULE]}))
    draft.add(part)
    with pytest.raises(EgressError, match="a part of the policy cannot be read"):
        draft.finish({"base": 1, "version": 2})
    draft.add(heard({"removed": [], "added": [RULE]}))
    assert draft.finish({"base": 1, "version": 2}) == PolicyChange(1, 2, (), (RULE,))


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
    with pytest.raises(InputError, match="the request for a sandbox is not valid"):
        sandboxes.create(request, set())
    assert not sandboxes.open

"""`egress policy`: versions, the rules of each, and simulations of a version on stored flows."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from egress.model import Agent, Reason
from egress.policy.file import parse_policy
from egress.store.database.database import writing
from egress.store.policy import agents
from egress.store.policy.agents import StoredAgent
from egress.store.policy.audit import Actor
from egress.store.recording.writer import store
from tests.cli.conftest import Cli
from tests.whatif.recording import refused, tls


@pytest.fixture
def edited(cli: Cli) -> Cli:
    """Edit the policy: version 1 allows a.example, 2 also b.example, 3 adds a comment, 4 drops a.example."""
    cli.ok("allow", "a.example", "--id", "a")
    cli.ok("allow", "b.example", "--id", "b", "--port", "443")
    text = cli.ok("allowlist", "export").out.replace(
        "destination: b.example\n", "destination: b.example\n  comment: 'x'\n"
    )
    cli.ok("allowlist", "import", "-", "--mode", "merge", stdin=text)
    cli.ok("allowlist", "rm", "a")
    return cli


@pytest.fixture
def lived(edited: Cli, database: Engine) -> Cli:
    ago: dict[str, Any] = {"start": time.time() - 3600, "updated": time.time() - 3599, "agent": "trainer"}
    records = [
        *(tls("a.example", **ago, reason=Reason.RULE, rule_id="a") for _ in range(3)),
        tls("b.example", "198.51.100.8", **ago | refused(Reason.DEFAULT)),
        tls("c.example", "198.51.100.9", **ago | refused(Reason.DEFAULT) | {"agent": "gone"}),
    ]
    with writing(database) as connection:
        store(connection, records)
        agents.add_agent(connection, Actor("uid:0 (root)"), StoredAgent(Agent("trainer"), "netns", "t"))
    return edited


def test_versions_are_listed_newest_first(edited: Cli) -> None:
    lines = edited.ok("policy").out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["4", "3", "2", "1"]
    assert "uid:0 (root)" in lines[1]
    assert [each["version"] for each in edited.ok("policy", "list", "--limit", "2", "-o", "json").json] == [4, 3]


def test_a_version_is_shown_as_a_document_that_can_be_imported(edited: Cli) -> None:
    then = edited.ok("policy", "show", "2").out
    assert then.startswith("# version 2, 2 rules\n")
    assert [rule.id for rule in parse_policy(then, "then")] == ["b", "a"]
    assert [rule.comment for rule in parse_policy(edited.ok("policy", "show").out, "now")] == ["x"]
    assert parse_policy(edited.ok("policy", "show", "0").out, "none") == ()
    assert edited.ok("policy", "show", "-o", "json").json["version"] == 4
    edited.ok("allowlist", "import", "-", "--mode", "replace", stdin=then)
    assert "a.example" in edited.ok("policy", "show").out


def test_two_versions_are_compared(edited: Cli) -> None:
    assert edited.ok("policy", "diff", "1", "2").out == "+ rule b: allow b.example 443\n"
    assert edited.ok("policy", "diff", "2", "3").out == '~ rule b: comment nothing -> "x"\n'
    assert edited.ok("policy", "diff", "3").out == "- rule a: allow a.example\n"
    assert edited.ok("policy", "diff", "0", "1").out == "+ rule a: allow a.example\n"
    assert edited.ok("policy", "diff", "4", "4").out == "versions 4 and 4 have the same rules\n"
    assert edited.ok("policy", "diff", "1", "4", "-o", "json").json["from"] == 1


def test_what_a_version_would_have_done(lived: Cli) -> None:
    done = lived("policy", "replay", "--version", "4")
    assert done.code == 3
    assert "5 flows: 3 that passed would be refused, 1 that were refused would pass, 1 unchanged" in done.out
    assert "1 agent is not attached: judged with default deny" in done.out
    assert lived("policy", "replay", "--version", "2", "-o", "json").json["newly_allowed"] == 1
    assert lived("policy", "replay", "--version", "1").code == 0
    allowed = lived("policy", "replay", "--version", "4", "--agent", "g*", "--default", "allow", "-o", "json")
    assert (allowed.code, allowed.json["flows"], allowed.json["newly_allowed"]) == (0, 1, 1)
    assert lived.ok("policy", "replay", "--version", "4", "--since", "10m", "-o", "json").json["flows"] == 0


def test_simulating_the_document_of_a_version_says_the_same(lived: Cli) -> None:
    for version in ("0", "1", "2", "4"):
        document = lived.ok("policy", "show", version).out
        simulated = lived("simulate", "-", "-o", "json", stdin=document)
        replayed = lived("policy", "replay", "--version", version, "-o", "json")
        assert (simulated.code, simulated.json) == (replayed.code, replayed.json)


def test_a_version_that_is_not_there(edited: Cli) -> None:
    for words in (["show", "9"], ["diff", "1", "9"], ["replay", "--version", "9"]):
        done = edited("policy", *words)
        assert done.code == 1 and "there is no version 9 of the policy" in done.err
    for words in (["show", "x"], ["replay"], ["replay", "--version", "-1"]):
        assert edited("policy", *words).code == 2

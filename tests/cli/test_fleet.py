"""`egress fleet`: the gateways that run, and the policy version that each one enforces."""

from __future__ import annotations

import pytest
from sqlalchemy.engine import Engine

from egress.cli.doctor import fleet
from egress.config import Config
from egress.gateway.supervisor.checks import Check
from egress.model import Action, Agent, Rule
from egress.store.database.clock import clock
from egress.store.database.database import writing
from egress.store.policy import gateways
from egress.store.policy.agents import StoredAgent, add_agent
from egress.store.policy.audit import Actor
from egress.store.policy.edits import Edit
from tests.cli.conftest import Cli


def test_a_fleet_is_well_or_not(cli: Cli, database: Engine) -> None:
    assert cli.ok("fleet").err.startswith("no gateway has run")
    with writing(database) as connection:
        gateways.claim(connection, "gpu-1", "a", "here", "0.1.0")
    assert cli.ok("fleet").out.splitlines()[1].split()[:2] == ["gpu-1", "up"]
    with writing(database) as connection:
        Edit(connection, Actor("uid:0 (root)"), 5.0).add([Rule("r", Action.ACCEPT)])
    behind = cli("fleet", "list", "-o", "json")
    assert (behind.code, behind.json[0]["behind"]) == (3, 1)
    refused = cli("fleet", "rm", "gpu-1")
    assert (refused.code, refused.err) == (1, "a gateway runs on host gpu-1; stop it first")
    with writing(database) as connection:
        gateways.leave(connection, "gpu-1", "a")
    assert "stopped" in cli.ok("fleet").out
    assert cli.ok("fleet", "rename", "gpu-1", "gpu-2").out.startswith("host gpu-1 is now gpu-2; set `host: gpu-2`")
    assert "there is no host gpu-2" in cli("fleet", "rm", "gpu-2").err, "a deleted gateway leaves nothing"


def test_doctor_names_who_is_silent_behind_or_nobodys(database: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(*, after: float = 0.0, skew: float = 0.0) -> dict[str, Check]:
        with database.connect() as connection:
            now = clock(connection)[0]
            with monkeypatch.context() as patched:
                patched.setattr("egress.cli.doctor.clock", lambda _: (now + after, skew))
                return {each.name: each for each in fleet(connection, Config(host="gpu-1"))}

    with writing(database) as connection:
        gateways.claim(connection, "gpu-1", "a", "here", "0.1.0")
    assert said() == {}
    with writing(database) as connection:
        gateways.claim(connection, "gpu-2", "b", "there", "0.1.0")
        Edit(connection, Actor("uid:0 (root)"), 5.0).add([Rule("r", Action.ACCEPT)])
        gateways.beat(connection, "gpu-1", "a", 1, 1)
        add_agent(connection, Actor("gateway"), StoredAgent(Agent("old"), "netns", "old"))
    found = said(skew=-0.75)
    assert found["fleet"] == Check("fleet", True, "2 gateways, this one is gpu-1; behind policy version 1: gpu-2")
    assert (found["fleet agents"].ok, found["clock"].ok) == (False, False)
    assert "agents old belong to no host" in found["fleet agents"].text
    assert "this host's clock is 0.8 s behind the database's" in found["clock"].text
    late = said(after=gateways.SILENT_SECONDS + 1)["fleet"]
    assert (late.ok, late.text.partition("; ")[2]) == (False, "silent: gpu-1, gpu-2, see egress fleet")

"""Two gateways that share a PostgreSQL: the allowlist is common, all else belongs to one gateway."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from demo.stage import Stage
from egress.control import Client
from egress.model import Action, Mode, Rule
from egress.records.eve import line
from egress.store.database import tables
from egress.store.policy import approvals, gateways
from egress.store.policy.agents import list_agents, update_agent
from tests.lab.gateway import HOSTS, PERSON, allow, call, database, edit, flows, in_force, outcome, serve, status
from tests.lab.net import eventually, needs_root
from tests.store import samples
from tests.store.postgres import Server

pytestmark = [pytest.mark.lab, needs_root]

OLD, NEW, ASKED = 8080, 9000, 9999
POLICY = f"rules:\n  - {{id: old, action: allow, destination: any, protocol: tcp, ports: {OLD}}}\n"
OPENING = Rule("opening", Action.ACCEPT, protocol="tcp", ports=((NEW, NEW),))
SANDBOX = f"run-{os.getpid()}"  # its namespace's name is one on this machine
SEGMENT = "worker-0-1.jsonl"  # in both journals


@pytest.fixture(scope="module")
def fleet() -> Iterator[tuple[Stage, Stage]]:
    with ExitStack() as stack:
        server = Server()
        stack.callback(server.close)
        server.execute("CREATE DATABASE egress")
        url = server.local_url("egress")
        stages = [stack.enter_context(Stage(POLICY, {"database": url, "host": host})) for host in ("gpu-1", "gpu-2")]
        for number, stage in enumerate(stages, 1):
            stage.attach(f"rome-{number}")
            stage.config.journal_dir.mkdir(parents=True)
            records = [samples.numbered(each, agent=f"rome-{number}") for each in range(number * 100, number * 102)]
            (stage.config.journal_dir / SEGMENT).write_bytes(b"".join(map(line, records)))
            stage.start("--workers", "1")
            for port in (OLD, NEW):
                serve(stage, port)
        yield stages[0], stages[1]


def change(stage: Stage, agent: str, **fields: Any) -> None:
    edit(stage, lambda connection: update_agent(connection, PERSON, agent, **fields, ts=time.time()))


def watched(stage: Stage) -> dict[str, bool]:
    return {agent["name"]: agent["quarantined"] for agent in status(stage)["agents"]}


def test_one_allowlist_and_each_its_own_agents(fleet: tuple[Stage, Stage]) -> None:
    one, two = fleet
    assert (watched(one), watched(two)) == ({"rome-1": False}, {"rome-2": False})
    refused = two.egress("agent", "add", "rome-1", "--netns", two.agent, check=False)
    assert refused.returncode == 1
    assert "there is an agent rome-1 already on host gpu-1" in refused.stderr
    for stage in fleet:
        assert [outcome(stage, HOSTS[0], port) for port in (OLD, NEW)] == ["open", "ECONNREFUSED"]
    allow(two, OPENING)
    versions = {in_force(stage) for stage in fleet}
    assert len(versions) == 1
    for stage in fleet:
        assert [outcome(stage, host, NEW) for host in HOSTS] == ["open", "open"]

    def shown() -> bool:
        with database(one) as engine, engine.connect() as connection:
            return {each.policy_version for each in gateways.listed(connection)} == versions

    eventually(shown, "every gateway shows that the edit is in force")

    two.egress("agent", "quarantine", "rome-1")
    eventually(lambda: watched(one) == {"rome-1": True}, "the other host's agent is cut off")
    assert watched(two) == {"rome-2": False}
    assert outcome(one, HOSTS[0], OLD) != "open"
    assert outcome(two, HOSTS[1], OLD) == "open"
    change(one, "rome-1", quarantined=False)
    eventually(lambda: watched(one) == {"rome-1": False}, "it is guarded as before")


def test_records_of_both_are_stored_once(fleet: tuple[Stage, Stage]) -> None:
    for stage in fleet:
        assert outcome(stage, HOSTS[0], OLD) == "open"

    def stored() -> bool:
        found = [flow.agent for flow in flows(fleet[0]) if flow.dst == samples.FLOW.dst]
        return sorted(found) == [*["rome-1"] * 2, *["rome-2"] * 4]

    eventually(stored, "what both journals held")
    checkpoint = tables.journal_checkpoints.c
    with database(fleet[0]) as engine, engine.connect() as connection:
        query = sa.select(checkpoint.host).where(checkpoint.segment == SEGMENT).order_by(checkpoint.host)
        assert list(connection.scalars(query)) == ["gpu-1", "gpu-2"]


def test_one_that_is_killed_leaves_the_other_alone(fleet: tuple[Stage, Stage]) -> None:
    one, two = fleet
    change(one, "rome-2", mode=Mode.ASK)
    eventually(lambda: {each["mode"] for each in status(two)["agents"]} == {"ask"}, "it asks")
    waiting = call(two, HOSTS[0], ASKED)

    def left() -> tuple[dict[str, str], list[str]]:
        with database(one) as engine, engine.connect() as connection:
            holds = {each.agent: each.state for each in approvals.listed(connection) if each.host == "gpu-2"}
            return holds, [each.agent.name for each in list_agents(connection)]

    with Client(two.control) as client:
        wanted: dict[str, object] = {"mode": "enforce", "default": "reject", "budgets": [], "rules": []}
        client.call("sandbox.open", agent=SANDBOX, **wanted)
        there = {"rome-2": "pending"}, ["rome-1", "rome-2", SANDBOX]
        eventually(lambda: left() == there, "a hold and a sandbox")
        one.daemon.kill()  # type: ignore[union-attr]
        one.stop()
        one.start("--workers", "1")
        assert left() == there
        assert watched(one) == {"rome-1": False}
    waiting.close()


def test_a_second_gateway_of_the_same_name_does_not_start(fleet: tuple[Stage, Stage]) -> None:
    one, two = fleet
    other = two.directory / "other"
    values = json.loads(one.config_file.read_text())
    values |= {"state_dir": str(other / "state"), "run_dir": str(other / "run")}
    (config := two.directory / "other.json").write_text(json.dumps(values))
    second = two.lab.popen(two.gateway, [sys.executable, "-m", "egress", "gateway", "--config", str(config)])
    allow(one, replace(OPENING, id="again", ports=((1, 1),)))
    _, said = second.communicate(timeout=20)
    assert second.returncode == 1
    assert "a gateway of another machine is host gpu-1 at this database" in said
    assert in_force(one)

"""Edits in the database are in force at once, in every worker; without the database the policy stays in force."""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.stage import Stage
from egress.control import Client
from egress.model import Action, Mode, Rule
from egress.store.database.database import open_database
from egress.store.policy import agents, ruleset
from tests.lab.gateway import (
    HOSTS,
    PERSON,
    Peer,
    allow,
    call,
    database,
    disallow,
    edit,
    flows,
    guarded,
    in_force,
    log,
    outcome,
    serve,
    status,
    worker,
)
from tests.lab.net import eventually, needs_root

pytestmark = [pytest.mark.lab, needs_root]

OLD, NEW = 8080, 9000
SECONDS = 0.2  # within which an edit is to be in force
EDITS = 10
OPENING = Rule("opening", Action.ACCEPT, protocol="tcp", ports=((NEW, NEW),))


@pytest.fixture
def stage() -> Iterator[Stage]:
    with guarded(workers=2) as running:
        for port in (OLD, NEW):
            serve(running, port)
        yield running


def opens(stage: Stage, port: int = NEW) -> bool:
    return [outcome(stage, host, port) for host in HOSTS] == ["open"] * 2


def away(stage: Stage) -> bool:
    return not status(stage)["database"]["ok"]


def hide(stage: Stage) -> Path:
    """Move the database away, with all of its files."""
    hidden = stage.config.state_dir / "elsewhere"
    hidden.mkdir(exist_ok=True)
    for path in stage.config.state_dir.glob("egress.db*"):
        path.rename(hidden / path.name)
    return hidden


def bring_back(stage: Stage, hidden: Path) -> None:
    for path in sorted(hidden.iterdir(), reverse=True):
        path.rename(stage.config.state_dir / path.name)


def test_edits_reach_packets_within_a_fifth_of_a_second(stage: Stage) -> None:
    knocking = Peer(stage, stage.agent, "", HOSTS[0], str(NEW), module="tests.lab.knock")
    knocking.hears("ECONNREFUSED")
    milliseconds = []
    for number in range(EDITS):
        for act, beginning in ((allow, "open"), (disallow, "ECONNREFUSED")):
            began = time.time()
            act(stage, OPENING if act is allow else OPENING.id)  # type: ignore[arg-type]
            moment = float(knocking.hears(beginning, count=number + 1 + (beginning != "open")).split()[1])
            milliseconds.append((moment - began) * 1000)
    version = in_force(stage)
    assert version == 1 + 2 * EDITS
    assert statistics.median(milliseconds) < SECONDS * 1000, milliseconds
    spent = status(stage)["propagation"]
    assert spent["edits"] == 2 * EDITS
    assert 0 < spent["median"] < SECONDS * 1000, spent


def test_an_edit_ends_and_begins_nothing_else(stage: Stage) -> None:
    callers = [call(stage, host, OLD) for host in HOSTS]
    for caller in callers:
        caller.hears("open")
    allow(stage, OPENING)
    in_force(stage)
    assert opens(stage)
    allow(stage, Rule("closing", Action.REJECT, protocol="tcp", ports=((OLD, OLD),)))
    in_force(stage)
    for caller in callers:
        caller.send("after")
        caller.hears("ECONNRESET")
    assert opens(stage)


def test_a_worker_that_is_replaced_judges_by_the_policy_in_force(stage: Stage) -> None:
    allow(stage, OPENING)
    in_force(stage)
    agent = status(stage)["agents"][0]
    before = worker(stage, agent["worker"])
    os.kill(before["pid"], signal.SIGKILL)
    disallow(stage, OPENING.id)  # while its successor starts
    allow(stage, Rule("again", Action.ACCEPT, protocol="tcp", ports=((NEW, NEW),), app=""))
    eventually(lambda: worker(stage, agent["worker"])["pid"] not in (None, before["pid"]), "there is another")
    in_force(stage)
    assert opens(stage)
    assert opens(stage, OLD)


def test_an_agents_edit_is_followed_without_a_word_to_the_gateway(stage: Stage) -> None:
    caller = call(stage, HOSTS[0], OLD)
    caller.hears("open")
    edit(stage, lambda connection: agents.update_agent(connection, PERSON, "rome-7", quarantined=True, ts=time.time()))
    eventually(lambda: status(stage)["agents"][0]["quarantined"], "it is known", 2.0)
    caller.send("more")
    caller.hears("ECONNRESET")
    assert not opens(stage, OLD)
    edit(stage, lambda connection: agents.update_agent(connection, PERSON, "rome-7", quarantined=False, ts=time.time()))
    eventually(lambda: not status(stage)["agents"][0]["quarantined"], "it is known", 2.0)
    eventually(lambda: opens(stage, OLD), "it is released")


def test_a_rule_for_one_flow_is_gone_after_it(stage: Stage) -> None:
    allow(stage, Rule("single", Action.ACCEPT, destination=HOSTS[0], once=True, created=time.time()))
    before = in_force(stage)
    caller = call(stage, HOSTS[0], NEW)
    caller.hears("open")
    with database(stage) as engine:

        def spent() -> bool:
            with engine.connect() as connection:
                return ruleset.rule(connection, "single") is None

        eventually(spent, "it is spent")
    assert in_force(stage) == before + 1
    caller.send("still")
    caller.hears("got still")
    assert outcome(stage, HOSTS[0], NEW) == "ECONNREFUSED"


def test_without_its_database_the_gateway_keeps_the_policy_and_loses_no_record(stage: Stage) -> None:
    allow(stage, OPENING)
    version = in_force(stage)
    hidden = hide(stage)
    eventually(lambda: away(stage), "it is noticed")
    said = status(stage)["database"]
    assert said["error"]
    assert time.time() - 10 < said["since"] <= time.time()
    assert opens(stage)
    assert status(stage)["policy_version"] == version
    assert "database lost" in stage.egress("doctor", check=False).stdout
    assert not list(stage.config.state_dir.glob("egress.db*")), "no process may create a new one in its place"
    bring_back(stage, hidden)
    eventually(lambda: not away(stage), "it is back")
    eventually(lambda: "the database is back after" in log(stage), "the log says it")
    disallow(stage, OPENING.id)
    in_force(stage)
    assert not opens(stage)
    assert stage.stop() == 0
    found = [flow for flow in flows(stage) if flow.dport == NEW]
    assert sorted(flow.action for flow in found) == [Action.ACCEPT] * 2 + [Action.REJECT] * 2


@pytest.mark.parametrize("how", ["moved", "damaged"])
def test_a_start_without_the_database_uses_what_was_in_force_last(stage: Stage, how: str) -> None:
    allow(stage, OPENING)
    version = in_force(stage)
    assert stage.stop() == 0
    hidden = hide(stage)
    if how == "damaged":
        (stage.config.state_dir / "egress.db").write_bytes(b"rubbish" * 1000)
    stage.start("--workers", "2")
    assert "THE DATABASE IS AWAY" in log(stage)
    assert away(stage)
    assert [agent["name"] for agent in status(stage)["agents"]] == ["rome-7"]
    assert status(stage)["policy_version"] == version
    assert opens(stage)
    (stage.config.state_dir / "egress.db").unlink(missing_ok=True)
    bring_back(stage, hidden)
    disallow(stage, OPENING.id)
    eventually(lambda: not away(stage), "it is back")
    in_force(stage)
    assert not opens(stage)
    assert opens(stage, OLD)
    assert stage.stop() == 0
    assert Action.ACCEPT in {flow.action for flow in flows(stage) if flow.dport == NEW}


def test_a_new_database_in_the_place_of_the_old_one_sets_nobody_free(stage: Stage) -> None:
    allow(stage, OPENING)
    in_force(stage)
    hide(stage)
    eventually(lambda: away(stage), "it is noticed")
    open_database(stage.config.database_url).dispose()
    eventually(lambda: "bring the right database back" in str(status(stage)["database"]["error"]), "it is refused")
    assert [agent["name"] for agent in status(stage)["agents"]] == ["rome-7"]
    assert opens(stage)
    assert outcome(stage, HOSTS[0], 9001) == "ECONNREFUSED"


def test_the_gateway_reports_since_when_its_snapshot_lacks_an_edit(stage: Stage) -> None:
    def saved() -> dict[str, Any]:
        found: dict[str, Any] = status(stage)["snapshot"]
        return found

    eventually(lambda: saved()["unsaved_since"] is None, "the snapshot is written")
    path = stage.config.policy_snapshot
    path.unlink()
    path.mkdir()  # no snapshot can be written in its place
    allow(stage, OPENING)
    version = in_force(stage)
    eventually(lambda: saved()["error"], "it cannot be written")
    assert time.time() - 10 < saved()["unsaved_since"] <= time.time()
    assert "cannot be written" in stage.egress("doctor", check=False).stdout
    path.rmdir()
    eventually(lambda: saved()["unsaved_since"] is None, "it is written")
    assert saved()["version"] == version


def test_a_damaged_snapshot_is_not_half_used(stage: Stage) -> None:
    assert stage.stop() == 0
    hide(stage)
    snapshot = stage.config.policy_snapshot
    snapshot.write_bytes(snapshot.read_bytes().replace(b"8080", b"8081"))
    done = stage.egress("gateway", check=False)
    assert done.returncode == 1
    assert f"{snapshot} is damaged and cannot be used" in done.stderr
    assert "no database" in done.stderr


def test_a_sandbox_and_its_rules_are_in_the_database_while_it_lives(stage: Stage) -> None:
    wanted: dict[str, object] = {"agent": "ci", "mode": "enforce", "default": "reject", "budgets": []}
    own = Rule("mine", Action.ACCEPT, protocol="tcp", ports=((NEW, NEW),))

    def known() -> tuple[list[str], list[Rule]]:
        with database(stage) as engine, engine.connect() as connection:
            kinds = [one.kind for one in agents.list_agents(connection) if one.agent.name == "ci"]
            policy = ruleset.snapshot(connection)
            return kinds, [rule for rule in policy.rules if rule.agent == "ci"] if policy else []

    with Client(stage.control) as client:
        client.call("sandbox.open", **wanted, rules=[own])
        kinds, (rule,) = known()
        assert kinds == ["sandbox"]
        assert (rule.id, rule.ports) == ("ci:mine", own.ports)
        assert in_force(stage) == status(stage)["policy_version"]
        edit(stage, lambda connection: agents.update_agent(connection, PERSON, "ci", mode=Mode.MONITOR, ts=time.time()))
        eventually(lambda: "monitor" in {agent["mode"] for agent in status(stage)["agents"]}, "it is followed")
    eventually(lambda: known() == ([], []), "both are gone")
    in_force(stage)


def test_a_sandbox_that_a_killed_gateway_left_is_taken_out(stage: Stage) -> None:
    with Client(stage.control) as client:
        client.call("sandbox.open", agent="ci", mode="enforce", default="reject", rules=[], budgets=[])
        assert stage.stop(signal.SIGKILL) is not None
    stage.start("--workers", "2")
    with database(stage) as engine, engine.connect() as connection:
        assert [one.agent.name for one in agents.list_agents(connection)] == ["rome-7"]


def test_the_policy_of_many_rules_is_followed_as_fast(stage: Stage) -> None:
    many = [Rule(f"m{number}", Action.ACCEPT, destination=f"h{number}.example.org") for number in range(3000)]
    allow(stage, *many)
    in_force(stage)
    began = time.monotonic()
    allow(stage, OPENING)
    in_force(stage)
    assert time.monotonic() - began < 2.0
    assert opens(stage)

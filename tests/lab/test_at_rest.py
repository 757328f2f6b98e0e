"""Closed at rest: no canary leaves at boot, start, stop, upgrade, attach and detach; opening is asked for and noted."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from demo.stage import Stage
from egress.model import Action, Agent
from egress.store.database import tables
from egress.store.policy.agents import StoredAgent, add_agent, remove_agent
from tests.lab.canaries import NEAR, Canaries
from tests.lab.gateway import HOSTS, PERSON, bound, database, edit, guarded_interfaces, log, saved_rules, status
from tests.lab.net import eventually, needs_root
from tests.lab.test_fail_closed import failing, flush

pytestmark = [pytest.mark.lab, needs_root]

GONE = """
from egress.config import Config
from egress.gateway.kernel.guard import Guard
Guard(Config()).remove()
"""


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage("rules: []\n") as built:
        yield built


def reboot(stage: Stage) -> None:
    """Lose what a reboot loses: kernel rules and run_dir."""
    stage.lab.python(stage.gateway, GONE)
    shutil.rmtree(stage.config.run_dir)


def test_no_canary_leaves_in_any_phase_but_on_request(stage: Stage) -> None:
    foreign = saved_rules(stage, ours=False)
    other = stage.lab.ns("other")
    stage.lab.veth(other, "eth0", stage.gateway, "agent1", 3)
    stage.egress("agent", "add", "rome-7", "--interface", "agent0")
    stage.start("--workers", "1")
    assert stage.stop() == 0
    reboot(stage)
    with Canaries(stage, HOSTS + NEAR) as canaries:
        canaries.flown(100)
        seen = canaries.arrived()
        assert seen > 0, "unguarded, they arrive"
        assert stage.egress("block", "--boot").stdout == "blocked agent0: rome-7\n"
        seen = canaries.arrived()
        flush(stage)  # the barrier holds where the table has gone
        canaries.flown(300)
        assert guarded_interfaces(stage) == ([], [], ["agent0"])
        assert failing(stage) == ""
        assert canaries.arrived() == seen, "blocked at boot"
        stage.start("--workers", "1")
        canaries.flown(200)
        assert canaries.arrived() == seen, "start"
        stage.egress("agent", "add", "rome-8", "--interface", "agent1")
        eventually(lambda: len(status(stage)["agents"]) == 2, "attached")
        stage.egress("agent", "rm", "rome-8")
        eventually(lambda: len(status(stage)["agents"]) == 1, "detached")
        assert canaries.arrived() == seen, "attach and detach"
        assert stage.stop() == 0
        flush(stage)
        canaries.flown(300)
        assert canaries.arrived() == seen, "stop"
        stage.start("--workers", "2")
        canaries.flown(100)
        stage.stop(signal.SIGKILL)
        eventually(lambda: bound(stage) == 0, "the workers are gone")
        assert canaries.arrived() == seen, "killed"
        stage.egress("block", "--boot")  # as the unit does
        flush(stage)
        canaries.flown(300)
        assert canaries.arrived() == seen, "blocked after the kill"
        assert stage.egress("open", check=False).returncode != 0, "it asks first"
        assert "rome-7" in stage.egress("open", "--yes").stdout
        canaries.flown(100)
        assert canaries.arrived() > seen, "opened"
        assert "OPENED by uid:0 (root)" in failing(stage) and "rome-7" in failing(stage)
        assert saved_rules(stage) == foreign
        stage.egress("block")
        seen = canaries.arrived()
        canaries.flown(100)
        assert canaries.arrived() == seen and failing(stage) == ""
    with database(stage) as engine, engine.connect() as connection:
        found = connection.execute(sa.select(tables.audit.c.actor, tables.audit.c.action)).all()
    assert ("uid:0 (root)", "agents.opened") in [tuple(row) for row in found]


def test_an_agent_that_comes_as_another_goes_loses_no_packet(stage: Stage) -> None:
    other = stage.lab.ns("other")
    stage.lab.veth(other, "eth0", stage.gateway, "agent1", 3)
    stage.lab.route(other, via=3)
    stage.egress("agent", "add", "rome-7", "--interface", "agent0")
    stage.start("--workers", "1")
    come = StoredAgent(
        Agent("rome-8", ("10.99.3.2/32", "fd99:3::2/128"), default=Action.ACCEPT), "interface", "agent1",
        host=stage.config.host_name,
    )  # fmt: skip

    def swap(connection: sa.Connection) -> None:
        remove_agent(connection, PERSON, "rome-7")
        add_agent(connection, PERSON, come)

    with Canaries(stage, HOSTS, namespace=other) as canaries:
        canaries.flown(50)
        edit(stage, swap)
        eventually(lambda: [each["name"] for each in status(stage)["agents"]] == ["rome-8"], "both in one pass")
        canaries.flown(50)
        assert canaries.lost() == 0


def test_while_the_gateway_runs_there_is_nothing_to_block_or_open(stage: Stage) -> None:
    stage.attach()
    stage.start("--workers", "1")
    before = saved_rules(stage)
    for words in (["block"], ["open", "--yes"]):
        done = stage.egress(*words, check=False)
        assert done.returncode == 1 and "another gateway runs already" in done.stderr
    assert saved_rules(stage) == before


def test_an_interface_that_comes_after_the_block_is_blocked(stage: Stage) -> None:
    stage.attach()  # by its namespace
    stage.start("--workers", "1")
    stage.stop()
    stage.lab.run(stage.gateway, ["ip", "link", "delete", "agent0"], check=True)
    reboot(stage)
    assert stage.egress("block", "--boot").stdout == "blocked agent0: rome-7\n"
    stage.lab.veth(stage.agent, "eth0", stage.gateway, "agent0", 1)
    stage.lab.route(stage.agent, via=1)
    with Canaries(stage, HOSTS + NEAR) as canaries:
        canaries.flown(300)
        assert canaries.arrived() == 0


def test_repeated_changes_by_others_cut_agents_off_until_somebody_resumes(stage: Stage) -> None:
    stage.config_file.write_text(stage.config_file.read_text()[:-1] + ', "tamper_limit": 2}')
    stage.attach()
    stage.start("--workers", "1")
    for count in (1, 2):
        stage.lab.run(stage.gateway, ["ip", "rule", "add", "pref", "0", "iif", "x", "prohibit", "protocol", "101"])
        eventually(lambda: status(stage)["rules_changed"] >= count, "it is noticed", 5.0)  # noqa: B023
        eventually(lambda: bool(status(stage)["rules_in_place"]), "and put right", 5.0)
    assert "ALL AGENTS ARE CUT OFF" in log(stage) and "egress resume" in failing(stage)
    assert guarded_interfaces(stage) == (["agent0"], [], ["agent0"])
    stage.stop(signal.SIGKILL)
    stage.start("--workers", "1")
    assert guarded_interfaces(stage) == (["agent0"], [], ["agent0"]), "a restart is no resume"
    assert "guarded again" in stage.egress("resume").stdout
    assert guarded_interfaces(stage) == (["agent0"], [7400, 7401], []) and failing(stage) == ""
    assert "nothing to resume" in stage.egress("resume").stdout

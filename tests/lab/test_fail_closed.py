"""Failures leave agents blocked: other gateways, failed starts, damaged rules, agents that vanish and return."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Iterator

import pytest

from demo.stage import Stage
from tests.lab.canaries import NEAR, Canaries
from tests.lab.gateway import HOSTS, guarded_interfaces, outcome, paused, saved_rules, serve, status
from tests.lab.net import eventually, needs_root

pytestmark = [pytest.mark.lab, needs_root]

PORT = 8080
NOTHING = "rules: []\n"


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage(NOTHING) as built:
        serve(built, PORT)
        yield built


def reached(stage: Stage) -> str:
    return outcome(stage, HOSTS[0], PORT)


def failing(stage: Stage) -> str:
    """The failures that `egress doctor` reports; its exit code must agree."""
    done = stage.egress("doctor", check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert done.returncode == bool(lines), done.stderr
    return "\n".join(lines)


def test_a_gateway_with_another_run_dir_leaves_ours_alone(stage: Stage) -> None:
    stage.attach()
    stage.start("--workers", "1")
    before = saved_rules(stage)
    values = json.loads(stage.config_file.read_text())
    values |= {name: str(stage.directory / f"other-{name}") for name in ("run_dir", "state_dir")}
    other = stage.directory / "other.yaml"
    for base in (7400, 7500):
        other.write_text(json.dumps(values | {"queue": {"base": base}}))
        command = [sys.executable, "-m", "egress", "gateway", "--workers", "1", "--config", str(other)]
        done = stage.lab.run(stage.gateway, command)
        assert done.returncode == 1
        assert done.stderr == (
            "egress: another gateway guards this network namespace (it reads queue 7400): stop it first\n"
        )
        assert saved_rules(stage) == before
    assert reached(stage) == "ECONNREFUSED"


def test_a_start_that_fails_sets_nobody_free(stage: Stage) -> None:
    stage.attach()
    stage.start("--workers", "1")
    stage.stop(signal.SIGKILL)
    before = saved_rules(stage)
    policy, database = stage.policy_file, stage.config.state_dir / "egress.db"
    sandboxes = stage.config.run_dir / "sandboxes"
    stage.config.policy_snapshot.unlink(missing_ok=True)  # with the snapshot a start needs no database
    for path, nonsense in ((policy, "rules: ["), (database, "x" * 4096), (sandboxes / "x.json", "{")):
        path.parent.mkdir(exist_ok=True)
        path.write_text(nonsense)
        done = stage.egress("gateway", check=False)
        assert done.returncode in (1, 2) and done.stderr.count("\n") == 1, done.stderr
        assert str(path) in done.stderr
        assert saved_rules(stage) == before
    assert reached(stage) == "timeout"


def test_stopped_with_agents_attached_the_doctor_says_so(stage: Stage) -> None:
    stage.egress("doctor")
    stage.attach()
    assert "not running; unguarded: rome-7" in failing(stage)
    stage.start("--workers", "1")
    assert failing(stage) == ""


FLUSH = """
from egress.gateway.kernel import nftables as nft
kernel = nft.Nftables()
try:
    kernel.apply([nft.Message(nft.DELTABLE, b"", family=0)])  # nft flush ruleset
except FileNotFoundError:
    pass  # no table but those of others
"""


def flush(stage: Stage) -> None:
    """Flush all tables, by iptables and as `nft flush ruleset` does, and the connection table."""
    for tool in ("iptables", "ip6tables"):
        for table in ("mangle", "filter", "nat", "raw"):
            stage.lab.run(stage.gateway, [tool, "-t", table, "-F"], check=True)
    stage.lab.python(stage.gateway, FLUSH)


def test_no_flush_opens_anything_nor_does_a_stopped_supervisor(stage: Stage) -> None:
    stage.attach()
    stage.start("--workers", "1")
    before = saved_rules(stage)
    assert stage.daemon is not None
    with Canaries(stage, HOSTS + NEAR) as canaries:
        flush(stage)
        with paused(stage.daemon.pid):
            flush(stage)
            canaries.flown(400)
            assert reached(stage) == "ECONNREFUSED"
        for _ in range(3):
            flush(stage)
        canaries.flown(400)
        assert canaries.arrived() == 0
    assert [line for line in saved_rules(stage).splitlines() if "EGRESS-" in line] == [
        line for line in before.splitlines() if "EGRESS-" in line
    ]


def test_an_agent_that_takes_its_address_away_stays_guarded(stage: Stage) -> None:
    stage.attach()
    stage.start("--workers", "1")
    before = saved_rules(stage)
    inside = ["ip", "-n", stage.agent]
    stage.lab.run(stage.gateway, [*inside, "address", "flush", "dev", "eth0"], check=True)
    assert stage.daemon is not None
    stage.daemon.send_signal(signal.SIGHUP)  # the gateway looks at its agents again
    eventually(lambda: "rome-7" in status(stage)["absent"], "it is missed")
    assert "agent rome-7" in failing(stage)
    assert saved_rules(stage) == before
    for words in (["address", "add", "10.99.1.2/24", "dev", "eth0"], ["route", "add", "default", "via", "10.99.1.1"]):
        stage.lab.run(stage.gateway, [*inside, *words], check=True)
    assert reached(stage) in ("timeout", "ECONNREFUSED")
    eventually(lambda: reached(stage) == "ECONNREFUSED", "it is attached again")


def test_the_doctor_names_rules_of_others_that_use_our_mark_bits(stage: Stage) -> None:
    """Calico's mask, a native rule of nftables, and a routing rule."""
    assert failing(stage) == ""
    native = """
from egress.gateway.kernel import nftables as nft
expressions = [nft.ct(nft.CT_MARK), nft.bits(0xF0FFFFFF, 0x1000000), nft.set_ct_mark()]
nft.Nftables().apply([nft.table("theirs", owned=False), nft.base_chain("theirs", "theirs", nft.FORWARD, 0),
                      nft.rule("theirs", "theirs", *expressions)])
"""
    calico = ["iptables", "-t", "mangle", "-A", "FORWARD", "-j", "MARK", "--set-xmark", "0x0/0xffff0000"]
    stage.lab.run(stage.gateway, calico, check=True)
    assert "--set-xmark 0x0/0xffff0000" in failing(stage) and "mark_mask: 0x" in failing(stage)
    stage.lab.run(stage.gateway, [calico[0], "-t", "mangle", "-F"], check=True)
    stage.lab.python(stage.gateway, native)
    assert "nft table theirs chain theirs" in failing(stage)
    stage.lab.python(
        stage.gateway, "from egress.gateway.kernel import nftables as n; n.Nftables().apply([n.no_table('theirs')])"
    )
    stage.lab.run(
        stage.gateway, ["ip", "-6", "rule", "add", "fwmark", "0x2000000/0x2000000", "lookup", "main"], check=True
    )
    assert "ip -6 rule" in failing(stage)


def test_a_second_interface_of_an_agent_is_guarded_and_named(stage: Stage) -> None:
    stage.attach()
    stage.start("--workers", "2")
    stage.lab.veth(stage.agent, "eth1", stage.gateway, "agent1", 3)
    eventually(lambda: "agent1" in guarded_interfaces(stage)[0], "it is guarded", 5.0)
    stage.lab.run(stage.agent, ["ip", "route", "replace", "default", "via", "10.99.3.1"], check=True)
    stage.lab.run(stage.agent, ["ip", "-6", "route", "replace", "default", "via", "fd99:3::1"], check=True)
    with Canaries(stage, (*HOSTS, "10.99.3.1", "fd99:3::1")) as canaries:
        canaries.flown(300)
        assert canaries.arrived() == 0
    assert "agent rome-7" in failing(stage) and "agent1" in failing(stage)
    stage.lab.run(stage.gateway, ["ip", "link", "delete", "agent1"], check=True)
    eventually(lambda: failing(stage) == "", "it is forgotten", 20.0)


def test_an_agent_cannot_make_another_address_its_own(stage: Stage) -> None:
    stage.attach()
    stage.start("--workers", "1")
    before = status(stage)["agents"]
    stage.lab.address(stage.agent, "10.99.9.9", "eth0")
    assert stage.daemon is not None
    stage.daemon.send_signal(signal.SIGHUP)
    eventually(lambda: "reloaded" in stage.log.read_text(), "it looks anew")
    assert status(stage)["agents"] == before


def test_an_interface_that_comes_back_was_guarded_all_the_time(stage: Stage) -> None:
    stage.egress("agent", "add", "rome-7", "--interface", "agent0")
    stage.start("--workers", "1")
    before = saved_rules(stage)
    stage.lab.run(stage.gateway, ["ip", "link", "delete", "agent0"], check=True)
    eventually(lambda: "rome-7" in status(stage)["absent"], "it is missed")
    assert saved_rules(stage) == before
    stage.lab.veth(stage.agent, "eth0", stage.gateway, "agent0", 1)
    stage.lab.route(stage.agent, via=1)
    assert reached(stage) in ("timeout", "ECONNREFUSED")
    eventually(lambda: reached(stage) == "ECONNREFUSED", "it is attached again")


def test_an_interface_that_is_renamed_stays_guarded_under_both_names(stage: Stage) -> None:
    stage.egress("agent", "add", "rome-7", "--interface", "agent0")
    stage.start("--workers", "1")
    move = ["ip", "link", "set"]
    for old, new in (("agent0", "moved0"), ("moved0", "agent0")):
        stage.lab.run(stage.gateway, [*move, old, "down"], check=True)
        stage.lab.run(stage.gateway, [*move, old, "name", new], check=True)
        if new == "moved0":
            eventually(lambda: guarded_interfaces(stage)[0] == ["agent0", "moved0"], "both names are guarded", 5.0)
            eventually(lambda: "rome-7" in status(stage)["absent"], "it is missed")
        stage.lab.run(stage.gateway, [*move, new, "up"], check=True)
        with Canaries(stage, (HOSTS[0], NEAR[0])) as canaries:
            canaries.flown(200)
            assert canaries.arrived() == 0
    eventually(
        lambda: guarded_interfaces(stage)[0] == ["agent0"] and not status(stage)["absent"], "attached again", 20.0
    )


def test_tools_that_fail_for_a_while_do_not_end_the_gateway(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    shims, broken = stage.directory / "bin", stage.directory / "broken"
    shims.mkdir()
    tool = shims / "ip"
    tool.write_text(
        f'#!/bin/sh\n[ ! -e {broken} ] || {{ echo busy >&2; exit 4; }}\nexec {shutil.which(tool.name)} "$@"\n'
    )
    tool.chmod(0o755)
    stage.attach()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{shims}:{os.environ['PATH']}")
        stage.start("--workers", "1")
    broken.touch()
    assert stage.daemon is not None
    stage.daemon.send_signal(signal.SIGHUP)
    eventually(lambda: "busy" in stage.log.read_text(), "it complains")
    broken.unlink()
    assert reached(stage) == "ECONNREFUSED"
    assert stage.stop() == 0


def test_the_doctor_sees_a_recorder_that_cannot_write(stage: Stage) -> None:
    stage.attach()
    stage.start("--workers", "1")
    path = stage.config.state_dir / "egress.db"
    with sqlite3.connect(path) as other:
        other.execute("BEGIN IMMEDIATE")
        assert reached(stage) == "ECONNREFUSED"
        eventually(lambda: "is not being stored" in failing(stage), "it is said")
        other.rollback()
    eventually(lambda: failing(stage) == "", "it has caught up", 20.0)
    for file in path.parent.glob("egress.db*"):
        file.unlink()
    path.write_bytes(b"not a database" * 1000)
    assert "not a database" in failing(stage)
    assert reached(stage) == "ECONNREFUSED"

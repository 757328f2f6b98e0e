"""A policy that changes while the gateway runs: SIGHUP puts it in force, a broken one changes nothing."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from demo.stage import Stage
from egress.model import Action, Rule
from egress.store.policy import ruleset
from tests.lab.gateway import (
    HOSTS,
    POLICY,
    allow,
    call,
    database,
    flows,
    guarded,
    in_force,
    log,
    outcome,
    serve,
    status,
)
from tests.lab.net import eventually, needs_root

pytestmark = [pytest.mark.lab, needs_root]

OLD, NEW = 8080, 9000
MORE = "  - {id: new, action: allow, destination: any, protocol: tcp, ports: 9000, comment: added later}\n"
LESS = POLICY.replace(", 8080]", "]")
WEB = ((80, 80), (443, 443), (8080, 8080))
IN_FORCE_SECONDS = 2.0


@pytest.fixture
def stage() -> Iterator[Stage]:
    with guarded(workers=2) as running:
        for port in (OLD, NEW):
            serve(running, port)
        yield running


def hangup(stage: Stage, policy: str, version: int) -> float:
    """Put another policy in force; returns the seconds it took."""
    stage.policy_file.write_text(policy)
    assert stage.daemon is not None
    began = time.monotonic()
    stage.daemon.send_signal(signal.SIGHUP)
    eventually(lambda: f"policy version {version}" in log(stage).splitlines()[-1], f"version {version} is in force")
    return time.monotonic() - began


def test_an_edited_policy_is_in_force_at_once_for_new_and_living_flows(stage: Stage) -> None:
    assert [outcome(stage, host, NEW) for host in HOSTS] == ["ECONNREFUSED"] * 2
    assert hangup(stage, POLICY + MORE, 2) < IN_FORCE_SECONDS
    assert [outcome(stage, host, NEW) for host in HOSTS] == ["open"] * 2
    assert status(stage)["policy_version"] == 2
    callers = [call(stage, host, OLD) for host in HOSTS]
    for caller in callers:
        caller.hears("open")
        caller.send("before")
        caller.hears("got before")
    assert hangup(stage, LESS, 3) < IN_FORCE_SECONDS
    for caller in callers:  # what no rule allows any more is cut, though it was open
        caller.send("after")
        caller.hears("ECONNRESET")
    assert [outcome(stage, host, port) for host in HOSTS for port in (OLD, NEW)] == ["ECONNREFUSED"] * 4
    assert stage.stop() == 0
    with database(stage) as engine, engine.connect() as connection:
        first, second, third = (ruleset.diff(connection, version, version + 1) for version in range(3))
    assert [stored.rule.id for stored in second.added] == ["new"]
    assert (second.removed, second.changed) == ((), ())
    assert [stored.rule.id for stored in third.removed] == ["new"]
    assert [(before.rule.ports, after.rule.ports) for before, after in third.changed] == [(WEB, WEB[:2])]
    assert [stored.rule.id for stored in first.added] == ["ssh-out", "ssh-out6", "web", "datagrams", "ping", "ping6"]


def test_a_rule_whose_id_the_allowlist_has_changes_nothing_and_is_said(stage: Stage) -> None:
    allow(stage, Rule("new", Action.ACCEPT, destination="192.0.2.1"))
    in_force(stage)
    stage.policy_file.write_text(POLICY + MORE)
    assert stage.daemon is not None
    stage.daemon.send_signal(signal.SIGHUP)
    eventually(lambda: "the policy in force stays: " in log(stage), "it is said")
    (said,) = [line for line in log(stage).splitlines() if "the policy in force stays" in line]
    assert str(stage.policy_file) in said
    assert "new" in said
    assert outcome(stage, HOSTS[0], NEW) == "ECONNREFUSED"
    assert outcome(stage, HOSTS[0], OLD) == "open"


def test_a_flow_that_is_over_keeps_the_verdict_under_which_it_passed(stage: Stage) -> None:
    """Policies do not change verdicts on flows that have ended."""
    hangup(stage, POLICY + MORE, 2)
    assert [outcome(stage, host, NEW) for host in HOSTS] == ["open"] * 2
    hangup(stage, LESS, 3)
    assert stage.stop() == 0
    passed = [flow for flow in flows(stage) if flow.dport == NEW]
    assert [(flow.action, flow.rule_id, flow.policy_version) for flow in passed] == [(Action.ACCEPT, "new", 2)] * 2


@pytest.mark.parametrize(
    "broken",
    [
        "rules: [",
        "rules:\n  - {action: allow, destination: example..org}\n",
        "rules:\n  - {action: permit}\n",
        "",
    ],
)
def test_a_broken_policy_keeps_the_old_one_and_says_so(stage: Stage, broken: str) -> None:
    stage.policy_file.write_text(broken)
    assert stage.daemon is not None
    stage.daemon.send_signal(signal.SIGHUP)
    eventually(lambda: "the policy in force stays: " in log(stage), "it is said")
    (said,) = [line for line in log(stage).splitlines() if "the policy in force stays" in line]
    assert str(stage.policy_file) in said
    assert status(stage)["policy_version"] == 1
    assert outcome(stage, HOSTS[0], OLD) == "open"
    assert outcome(stage, HOSTS[0], NEW) == "ECONNREFUSED"

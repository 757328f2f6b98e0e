"""Start, stop, crash and take-over: our kernel rules come and go, all others stay unchanged."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from demo.stage import Stage
from tests.lab.gateway import (
    HOSTS,
    POLICY,
    bound,
    call,
    flows,
    gone,
    guarded,
    guarded_interfaces,
    outcome,
    saved_rules,
    serve,
    status,
)
from tests.lab.net import eventually, needs_root

pytestmark = [pytest.mark.lab, needs_root]

PORT = 8080
FOREIGN = """\
*raw
:FOREIGN - [0:0]
-A PREROUTING -j FOREIGN
-A FOREIGN -p udp --dport 9999 -j NOTRACK
COMMIT
*mangle
:FOREIGN - [0:0]
-A FORWARD -j FOREIGN
-A FORWARD -p tcp --dport 4444 -j MARK --set-xmark 0x1/0xff
-A FOREIGN -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
-A POSTROUTING -o nowhere0 -j ACCEPT
COMMIT
*nat
:FOREIGN - [0:0]
-A POSTROUTING -j FOREIGN
-A FOREIGN -o nowhere0 -j MASQUERADE
COMMIT
*filter
:FOREIGN - [0:0]
:FORWARD ACCEPT [0:0]
-A INPUT -p tcp --dport 4444 -j DROP
-A FORWARD -i nowhere0 -j FOREIGN
-A FORWARD -j ACCEPT
-A FOREIGN -m comment --comment "a rule, with \\"quotes\\"" -j REJECT
COMMIT
"""


def plant(stage: Stage) -> str:
    """Add rules of another program to every table of both families; returns the output of iptables-save."""
    for tool in ("iptables-restore", "ip6tables-restore"):
        stage.lab.run(stage.gateway, [tool, "--noflush"], check=True, stdin=FOREIGN)
    return saved_rules(stage)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage(POLICY, {"on_stop": "remove"}) as built:
        built.attach("rome-7")
        serve(built, PORT)
        yield built


def reachable(stage: Stage) -> list[str]:
    return [outcome(stage, host, PORT) for host in HOSTS]


def test_rules_come_and_go_and_the_rest_stays_byte_for_byte(stage: Stage) -> None:
    before = plant(stage)
    assert before.count("FOREIGN") > 16
    for _ in range(2):
        stage.start("--workers", "1")
        running = saved_rules(stage)
        assert running.count("-j NFQUEUE") == 3 and "EGRESS-agents agent0" in running
        assert saved_rules(stage, ours=False) == before
        assert reachable(stage) == ["open", "open"]
        assert [outcome(stage, host, 9000) for host in HOSTS] == ["ECONNREFUSED", "ECONNREFUSED"]
        assert stage.stop() == 0
        assert saved_rules(stage) == before


def test_stopped_by_interrupt_it_cleans_up_too(stage: Stage) -> None:
    before = plant(stage)
    stage.start("--workers", "1")
    assert stage.stop(signal.SIGINT) == 0
    assert saved_rules(stage) == before


def test_started_as_a_background_job_of_a_script_it_ends_on_sigterm(stage: Stage) -> None:
    """Background jobs under nohup start with SIGINT, SIGQUIT and SIGHUP ignored."""
    before = plant(stage)
    ignored = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
    handlers = [signal.signal(number, signal.SIG_IGN) for number in ignored]
    try:
        stage.start("--workers", "1")
    finally:
        for number, handler in zip(ignored, handlers, strict=True):
            signal.signal(number, handler)
    assert guarded_interfaces(stage) == (["agent0"], [7400, 7401], [])
    assert stage.stop() == 0
    assert saved_rules(stage) == before


def test_a_killed_gateway_leaves_its_agents_cut_off_until_the_next_takes_over(stage: Stage) -> None:
    before = plant(stage)
    stage.start("--workers", "2")
    caller = call(stage, HOSTS[0], PORT)
    caller.hears("open")
    pids = [entry["pid"] for entry in status(stage)["workers"]]
    stage.stop(signal.SIGKILL)
    eventually(lambda: all(gone(pid) for pid in pids) and bound(stage) == 0, "the workers are gone")
    assert guarded_interfaces(stage)[0] == ["agent0"]
    late = [call(stage, host, PORT) for host in HOSTS]
    assert [each.outcome()[0] for each in late] == ["timeout", "timeout"]
    doctor = stage.egress("doctor", check=False)
    assert doctor.returncode == 1 and "kernel rules of a gateway that was killed" in doctor.stdout
    stage.start("--workers", "1")
    assert saved_rules(stage, ours=False) == before
    assert reachable(stage) == ["open", "open"]
    caller.send("again")
    caller.hears("got again")
    assert stage.stop() == 0
    assert saved_rules(stage) == before


def test_on_stop_block_cuts_agents_off_until_the_next_start() -> None:
    with guarded() as stage:
        before = saved_rules(stage, ours=False)
        serve(stage, PORT)
        assert reachable(stage) == ["open", "open"]
        caller = call(stage, HOSTS[1], PORT)
        caller.hears("open")
        assert stage.stop() == 0
        assert reachable(stage) == ["ECONNREFUSED", "ECONNREFUSED"]
        caller.send("while it is blocked")
        assert stage.egress("doctor", check=False).returncode == 0
        stage.start("--workers", "1")
        assert reachable(stage) == ["open", "open"]
        caller.send("again")  # a connection that lives is not cut by a restart
        caller.hears("got again")
        assert saved_rules(stage, ours=False) == before
        assert stage.egress("agent", "rm", "rome-7").returncode == 0
        caller.close()
        assert stage.stop() == 0
        assert "EGRESS" not in saved_rules(stage)


def test_stopped_in_the_middle_of_a_reload_it_cleans_up_too(stage: Stage) -> None:
    """A reload installs rules: one that is under way must not bring them back."""
    before = plant(stage)
    for pause in (0.0, 0.01, 0.02, 0.04, 0.08):
        stage.start("--workers", "1")
        assert stage.daemon is not None
        stage.policy_file.write_text(f"{POLICY}# {pause}\n  - {{action: allow, comment: '{pause}', ports: 1}}\n")
        stage.daemon.send_signal(signal.SIGHUP)
        time.sleep(pause)  # at any step of it: the outcome is the same
        assert stage.stop() == 0
        assert saved_rules(stage) == before


def test_a_gateway_that_lived_for_a_moment_has_stored_what_it_saw(stage: Stage) -> None:
    stage.start("--workers", "1")
    assert outcome(stage, HOSTS[0], 9000) == "ECONNREFUSED"
    assert stage.stop() == 0
    assert [(flow.dst, flow.dport) for flow in flows(stage)] == [(HOSTS[0], 9000)]


def test_a_second_gateway_is_refused_in_one_line(stage: Stage) -> None:
    stage.start("--workers", "1")
    done = stage.egress("gateway", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("egress: another gateway runs already (pid ") and done.stderr.count("\n") == 1
    assert reachable(stage) == ["open", "open"]

"""Several agents at once, kept apart: by namespace, and by address on a shared interface."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from demo.stage import Stage
from egress.model import Action, Reason
from egress.store.query.reader import Filter
from tests.lab.gateway import HOSTS, LOGIN, POLICY, Peer, call, findings, flows, outcome, serve, status
from tests.lab.net import eventually, needs_root

pytestmark = [pytest.mark.lab, needs_root]

PORT, ONLY_A, ONLY_B = 8080, 9001, 9002
BEAT = "0.6"  # seconds; signatures/beacon_timing.py reports nothing shorter than half a second
SHARED = ("10.99.4.2", "10.99.4.3", "fd99:4::2", "fd99:4::3")
NAMES = ("left4", "right4", "left6", "right6")
RULES = """\
  - {id: for-a, agent: "a-*", action: allow, destination: any, protocol: tcp, ports: 9001}
  - {id: for-b, agent: "b-*", action: allow, destination: any, protocol: tcp, ports: 9002}
  - {id: for-left, agent: "left?", action: allow, destination: any, protocol: tcp, ports: 9001}
  - {id: for-right, agent: "right?", action: allow, destination: any, protocol: tcp, ports: 9002}
"""


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage(POLICY + RULES) as built:
        for port in (PORT, ONLY_A, ONLY_B):
            serve(built, port)
        yield built


def namespace(stage: Stage, name: str, net: int, interface: str) -> str:
    made = stage.lab.ns(name)
    stage.lab.veth(made, "eth0", stage.gateway, interface, net)
    stage.lab.route(made, via=net)
    return made


def test_two_namespaces_on_two_workers(stage: Stage) -> None:
    other = namespace(stage, "other", 3, "agent1")
    stage.attach("a-1")
    stage.egress("agent", "add", "b-1", "--netns", other)
    stage.start("--workers", "2")
    assert {agent["name"]: agent["worker"] for agent in status(stage)["agents"]} == {"a-1": 0, "b-1": 1}
    for host in HOSTS:
        tried = {(place, port): outcome(stage, host, port, namespace=place)
                 for place in (stage.agent, other) for port in (ONLY_A, ONLY_B)}  # fmt: skip
        assert tried == {
            (stage.agent, ONLY_A): "open",
            (stage.agent, ONLY_B): "ECONNREFUSED",
            (other, ONLY_A): "ECONNREFUSED",
            (other, ONLY_B): "open",
        }
    beacons = [Peer(stage, stage.agent, "beacon", host, str(PORT), BEAT) for host in HOSTS]
    miner = call(stage, HOSTS[0], ONLY_B, namespace=other)
    miner.hears("open")
    miner.send(LOGIN)
    miner.hears("ECONNRESET")
    for beacon in beacons:
        beacon.hears("ECONN", 30)
    assert [outcome(stage, host, PORT) for host in HOSTS] == ["ECONNREFUSED", "ECONNREFUSED"]
    assert [outcome(stage, host, PORT, namespace=other) for host in HOSTS] == ["open", "open"]
    assert stage.stop() == 0
    assert {(found.agent, found.signature, found.dst) for found in findings(stage)} == {
        ("a-1", "beacon.timing", HOSTS[0]), ("a-1", "beacon.timing", HOSTS[1]), ("b-1", "mining.stratum", HOSTS[0])
    }  # fmt: skip
    assert {flow.src for flow in flows(stage, Filter(agent="a-1"))} == {"10.99.1.2", "fd99:1::2"}
    assert {flow.src for flow in flows(stage, Filter(agent="b-1"))} == {"10.99.3.2", "fd99:3::2"}
    assert Reason.DESTINATION not in {flow.reason for flow in flows(stage, Filter(agent="b-1"))}


def test_two_addresses_on_one_interface(stage: Stage) -> None:
    place = namespace(stage, "shared", 4, "shared0")
    for address in SHARED:
        if not address.endswith("2"):
            stage.lab.address(place, address, "eth0")
    for name, address in zip(NAMES, SHARED, strict=True):
        size = 128 if ":" in address else 32
        stage.egress("agent", "add", name, "--cidr", f"{address}/{size}@shared0")
    stage.start("--workers", "2")
    for name, address in zip(NAMES, SHARED, strict=True):
        host = HOSTS[":" in address]
        tried = [outcome(stage, host, port, address, place) for port in (ONLY_A, ONLY_B)]
        assert tried == (["open", "ECONNREFUSED"] if name.startswith("left") else ["ECONNREFUSED", "open"])
    guilty = [call(stage, HOSTS[":" in address], PORT, address, place) for address in SHARED[::2]]
    innocent = [call(stage, HOSTS[":" in address], PORT, address, place) for address in SHARED[1::2]]
    for caller in (*guilty, *innocent):
        caller.hears("open")
    for caller in guilty:
        caller.send(LOGIN)
        caller.hears("ECONNRESET")
    for caller in innocent:
        caller.send("still here")
        caller.hears("got still here")
    # An address of neither agent: refused and recorded.
    stage.lab.address(place, "10.99.4.9", "eth0")
    stranger = call(stage, HOSTS[0], PORT, "10.99.4.9", place)
    assert stranger.outcome()[0] == "timeout"
    assert stage.stop() == 0
    assert {found.agent for found in findings(stage)} == {"left4", "left6"}
    for name, address in zip(NAMES, SHARED, strict=True):
        mine = flows(stage, Filter(agent=name))
        assert {flow.src for flow in mine} == {address}
        assert {flow.rule_id for flow in mine if flow.action is Action.ACCEPT} >= {f"for-{name[:-1]}"}


def test_an_agent_added_and_removed_while_running(stage: Stage) -> None:
    other = namespace(stage, "other", 3, "agent1")
    stage.attach("a-1")
    stage.start("--workers", "2")
    caller = call(stage, HOSTS[0], ONLY_A)
    caller.hears("open")
    stage.egress("agent", "add", "b-1", "--netns", other)
    assert outcome(stage, HOSTS[0], ONLY_A, namespace=other) == "ECONNREFUSED"
    assert outcome(stage, HOSTS[0], ONLY_B, namespace=other) == "open"
    caller.send("undisturbed")
    caller.hears("got undisturbed")
    stage.egress("agent", "rm", "b-1")
    eventually(lambda: outcome(stage, HOSTS[0], ONLY_A, namespace=other) == "open", "it is not guarded any more")
    assert outcome(stage, HOSTS[0], ONLY_B) == "ECONNREFUSED"

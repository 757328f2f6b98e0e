"""Traffic that is not forwarded: the gateway host's own services, connections to the agent, ICMP, fast refusals."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from demo.stage import Stage
from egress.model import Action, Reason
from tests.lab.gateway import HOSTS, POLICY, Peer, call, flows, guarded, outcome, serve
from tests.lab.net import needs_root

pytestmark = [pytest.mark.lab, needs_root]

PORT, SERVICE, UDP_DENIED, CLOSED = 8080, 5555, 6001, 9000
NEAR, FAR = ("10.99.1.1", "fd99:1::1"), ("10.99.2.1", "fd99:2::1")  # the gateway's own addresses
AGENT = ("10.99.1.2", "fd99:1::2")
INSTANT = 100  # milliseconds
DENY = '  - {id: no-host, action: deny, destination: "10.99.1.1", protocol: tcp, ports: 8080}\n'
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with guarded(POLICY + DENY) as running:
        for port in (PORT, SERVICE, UDP_DENIED):
            serve(running, port)
            serve(running, port, running.gateway, (*NEAR, *FAR))
            serve(running, port, running.agent, AGENT)
        yield running


@FAMILIES
def test_the_hosts_own_services_are_out_of_reach(stage: Stage, family: int) -> None:
    for address in (NEAR[family], FAR[family]):
        assert outcome(stage, address, SERVICE) == "ECONNREFUSED"
        assert outcome(stage, address, SERVICE, namespace=stage.outside) == "open"  # it does listen
    assert outcome(stage, FAR[family], PORT) == "open"  # a rule that allows any destination also allows the host
    assert outcome(stage, NEAR[0], PORT) == "ECONNREFUSED"  # except a denied port


@FAMILIES
def test_nobody_reaches_the_agent_from_outside(stage: Stage, family: int) -> None:
    for port in (PORT, SERVICE):
        assert outcome(stage, AGENT[family], port, namespace=stage.outside) == "ECONNREFUSED"
        assert outcome(stage, AGENT[family], port, namespace=stage.agent) == "open"  # it does listen


@FAMILIES
def test_echo_requests_pass_by_rule_only(stage: Stage, family: int) -> None:
    def ping(host: str, namespace: str) -> str:
        return stage.lab.run(namespace, ["ping", "-c", "1", "-W", "2", host]).stdout

    stage.lab.address(stage.outside, ("10.99.2.8", "fd99:2::8")[family], "eth0")
    assert " 0% packet loss" in ping(HOSTS[family], stage.agent)
    refused = ping(("10.99.2.8", "fd99:2::8")[family], stage.agent)
    assert " 100% packet loss" in refused
    assert ("Packet filtered", "Administratively prohibited")[family] in refused
    assert " 100% packet loss" in ping(AGENT[family], stage.outside)


@FAMILIES
def test_a_refused_datagram_is_told_at_once(stage: Stage, family: int) -> None:
    peer = Peer(stage, stage.agent, "udp", HOSTS[family], str(UDP_DENIED))
    peer.hears("ready")
    peer.send("anybody?")
    word, milliseconds = peer.hears("E").split()
    assert word in ("EHOSTUNREACH", "EACCES", "ECONNREFUSED") and int(milliseconds) < INSTANT
    peer.send("anybody?")  # the connection's mark refuses in the kernel now
    word, milliseconds = peer.hears("E", count=2).split()
    assert word in ("EHOSTUNREACH", "EACCES", "ECONNREFUSED") and int(milliseconds) < INSTANT


@FAMILIES
def test_a_refused_connection_is_told_at_once(stage: Stage, family: int) -> None:
    outcomes = [call(stage, HOSTS[family], CLOSED).outcome() for _ in range(5)]
    assert {word for word, _ in outcomes} == {"ECONNREFUSED"}
    assert sorted(milliseconds for _, milliseconds in outcomes)[2] < INSTANT


def test_all_of_it_is_written_down(stage: Stage) -> None:
    """This test is the last of its file: it stops the gateway."""
    assert stage.stop() == 0
    kept = [(flow.dst, flow.dport, flow.direction, flow.action, flow.reason) for flow in flows(stage)]
    for family in (0, 1):
        assert (NEAR[family], SERVICE, "out", Action.REJECT, Reason.DEFAULT) in kept
        assert (AGENT[family], PORT, "in", Action.REJECT, Reason.INBOUND) in kept
        assert (HOSTS[family], UDP_DENIED, "out", Action.REJECT, Reason.DEFAULT) in kept
    assert (NEAR[0], PORT, "out", Action.REJECT, Reason.RULE) in kept
    assert {flow.proto for flow in flows(stage) if flow.action is Action.ACCEPT} == {"tcp", "icmp", "icmpv6"}

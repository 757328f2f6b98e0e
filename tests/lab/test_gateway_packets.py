"""Packets that no ordinary program sends: spoofed, malformed, in fragments."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt
from scapy.packet import Packet, Raw

from demo.stage import Stage
from egress.model import Action, Reason
from tests.lab.gateway import HOSTS, Peer, Witness, anomalies, flows, guarded, serve
from tests.lab.net import needs_root

pytestmark = [pytest.mark.lab, needs_root]

PORT, UDP_PORT, DENIED = 8080, 7001, 9000
AGENT = ("10.99.1.2", "fd99:1::2")
SPOOFED4 = ("192.0.2.66", "10.99.3.2", "10.99.2.9", "10.77.0.2")
SPOOFED6 = ("2001:db8::66", "fd99:3::2", "fd99:2::9")
MARK = b"the last one, allowed"


@pytest.fixture
def stage() -> Iterator[Stage]:
    with guarded() as running:
        serve(running, UDP_PORT)
        yield running


def neighbour(stage: Stage) -> str:
    """The MAC address of the gateway's side of the agent's link."""
    shown = stage.lab.run(stage.gateway, ["ip", "-json", "link", "show", "agent0"], check=True).stdout
    return str(json.loads(shown)[0]["address"])


def send(stage: Stage, packets: list[Packet]) -> None:
    """Put IP packets on the agent's link as they are."""
    sender = Peer(stage, stage.agent, "raw", "eth0", neighbour(stage))
    sender.hears("ready")
    for packet in packets:
        sender.send(bytes(packet).hex())
    sender.hears("sent", count=len(packets))
    sender.close()


def marked(stage: Stage, witness: Witness) -> None:
    """Send an allowed datagram for each family, and wait until it is outside: earlier packets would be there too."""
    for host in HOSTS:
        peer = Peer(stage, stage.agent, "udp", host, str(UDP_PORT))
        peer.hears("ready")
        peer.send(MARK.decode())
        peer.hears(f"got {MARK.decode()}")
        peer.close()
    witness.sees(MARK)


def to(source: str) -> Packet:
    """The IP header from a source to the outside host of its family."""
    return IPv6(src=source, dst=HOSTS[1]) if ":" in source else IP(src=source, dst=HOSTS[0])


@pytest.mark.parametrize("spoofed", [SPOOFED4, SPOOFED6], ids=["IPv4", "IPv6"])
def test_spoofed_sources_never_leave(stage: Stage, spoofed: tuple[str, ...]) -> None:
    packets = []
    for source in spoofed:
        packets += [
            to(source) / UDP(sport=5000, dport=UDP_PORT) / Raw(b"spoofed"),
            to(source) / TCP(sport=5000, dport=PORT, flags="S"),
            to(source) / TCP(sport=5001, dport=PORT, flags="PA", seq=1, ack=1) / Raw(b"spoofed"),
            to(source) / (ICMPv6EchoRequest(data=b"spoofed") if ":" in source else ICMP() / Raw(b"spoofed")),
        ]
    with Witness(stage) as witness:
        send(stage, packets)
        marked(stage, witness)
        outside = witness.packets()
    assert not [raw for raw in outside if b"spoofed" in raw]
    wanted = {bytes(to(source))[12:16] if ":" not in source else bytes(to(source))[8:24] for source in spoofed}
    assert not [raw for raw in outside if (raw[12:16] if raw[0] >> 4 == 4 else raw[8:24]) in wanted]
    assert stage.stop() == 0
    noted = [each for each in anomalies(stage) if each.reason is Reason.SPOOFED]
    assert {each.agent for each in noted} == {"rome-7"}
    assert {each.src for each in noted} & set(spoofed)
    assert sum(each.count for each in noted) == len(packets)


def broken(source: str) -> list[Packet]:
    """Transport headers with a false length; each carries the word, so that it would be recognised outside."""
    word = Raw(b"malformed!")
    return [
        to(source) / TCP(sport=6000, dport=PORT, flags="S", dataofs=15) / word,
        to(source) / TCP(sport=6001, dport=PORT, flags="S", dataofs=2) / word,
        to(source) / UDP(sport=6002, dport=UDP_PORT, len=3) / word,
        to(source) / UDP(sport=6003, dport=UDP_PORT, len=900) / word,
    ]


@pytest.mark.parametrize("source", AGENT, ids=["IPv4", "IPv6"])
def test_malformed_packets_never_leave_and_are_counted(stage: Stage, source: str) -> None:
    packets = broken(source)
    if ":" in source:
        options = IPv6ExtHdrDestOpt(nh=17, len=40)  # longer than the packet
        packets.append(IPv6(src=source, dst=HOSTS[1], nh=60) / options / Raw(b"malformed!"))
    with Witness(stage) as witness:
        send(stage, packets)
        marked(stage, witness)
        outside = witness.packets()
    assert not [raw for raw in outside if b"malformed!" in raw]
    assert stage.stop() == 0
    noted = [each for each in anomalies(stage) if each.reason is Reason.MALFORMED]
    assert {each.agent for each in noted} == {"rome-7"}
    assert 4 <= sum(each.count for each in noted) <= len(packets)  # the kernel forwards no broken extension header
    assert all(flow.dport == UDP_PORT and flow.action is Action.ACCEPT for flow in flows(stage))


@pytest.mark.parametrize("host", HOSTS, ids=["IPv4", "IPv6"])
def test_fragments_are_put_together_inspected_and_pass_where_allowed(stage: Stage, host: str) -> None:
    serve(stage, DENIED, hosts=(host,))
    with Witness(stage) as witness:
        allowed, denied = (Peer(stage, stage.agent, "udp", host, str(port)) for port in (UDP_PORT, DENIED))
        for peer in (allowed, denied):
            peer.hears("ready")
        denied.send("*4000")
        denied.hears("E")
        allowed.send("*4000")
        allowed.hears("got 4000")
        marked(stage, witness)
        large = [raw for raw in witness.packets() if b"x" * 500 in raw]
    assert len(large) == 3  # 4000 bytes over an MTU of 1500
    assert stage.stop() == 0
    by_port = {flow.dport: flow for flow in flows(stage) if flow.bytes_out > 4000}
    header = 48 if ":" in host else 28
    assert (by_port[UDP_PORT].packets_out, by_port[UDP_PORT].bytes_out) == (1, 4000 + header)
    assert (by_port[UDP_PORT].packets_in, by_port[UDP_PORT].bytes_in) == (1, 4000 + header)
    assert by_port[DENIED].action is Action.REJECT

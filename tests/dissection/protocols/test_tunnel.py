"""Tunnels: a miner inside each kind is found, in either IP family, late in its flow, in a tunnel in a tunnel."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from egress.model import GRE, Action
from egress.wire.tunnels import IPIP
from tests.dissection.conversations import geneve, gre, vxlan
from tests.traffic import AGENT4, AGENT6, SERVER4, SERVER6, Step, Talk, agent, engine, ip_packet, play, udp

LOGIN = b'{"id":1,"jsonrpc":"2.0","method":"login","params":{"login":"4x","pass":"x","agent":"XMRig/6.21"}}'
Wrap = Callable[[bytes, str, str], bytes]


def over_udp(header: Callable[[bytes], bytes], port: int) -> Wrap:
    return lambda packet, src, dst: udp(src, dst, port, port, header(packet))


KINDS: dict[str, Wrap] = {
    "vxlan": over_udp(vxlan, 4789),
    "vxlan on another port": over_udp(vxlan, 12345),
    "geneve": over_udp(geneve, 6081),
    "gre": lambda packet, src, dst: ip_packet(src, dst, GRE, gre(packet)),
    "nvgre": lambda packet, src, dst: ip_packet(src, dst, GRE, gre(packet, key=b"\0\1\2\0", bridged=True)),
    "ipip": lambda packet, src, dst: ip_packet(src, dst, IPIP, packet),
    "vxlan in gre": lambda packet, src, dst: ip_packet(src, dst, GRE, gre(udp(src, dst, 9, 4789, vxlan(packet)))),
}


@pytest.mark.parametrize("outer", [(AGENT4, SERVER4), (AGENT6, SERVER6)], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_miner_inside_is_found(kind: str, outer: tuple[str, str]) -> None:
    inner = Talk(local="10.1.1.1", remote="10.1.1.2", dport=3333).open()
    for _ in range(10):
        inner.client(b"padding\n").server(b"padding\n")
    inner.client(LOGIN)
    wrap = KINDS[kind]
    steps = []
    for step in inner.steps:
        src, dst = outer if not step.direction else outer[::-1]
        steps.append(Step(wrap(step.raw, src, dst), step.direction, step.gap))
    played = play(engine(), agent(), steps)
    assert played.signatures == ["mining.stratum"]
    assert played.actions[-1] is Action.REJECT and set(played.actions[:-1]) == {Action.ACCEPT}

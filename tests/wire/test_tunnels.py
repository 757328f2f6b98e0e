"""Tunnels: the packet inside each kind, other contents, other packets, any bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.model import GRE, TCP, UDP
from egress.wire.tunnels import IP6, IPIP, carried
from tests.dissection.conversations import SYN_PACKET, geneve, gre, vxlan
from tests.traffic import AGENT6, SERVER6, udp

PACKET6 = udp(AGENT6, SERVER6, 1, 2, b"hello")


@pytest.mark.parametrize("packet", [SYN_PACKET, PACKET6], ids=["IPv4", "IPv6"])
def test_the_packet_inside_each_kind(packet: bytes) -> None:
    assert carried(UDP, vxlan(packet)) == packet
    assert carried(UDP, geneve(packet)) == carried(UDP, geneve(packet, b"")) == packet
    assert carried(GRE, gre(packet)) == carried(GRE, gre(packet, key=b"key!", bridged=True)) == packet
    assert carried(IPIP if packet is SYN_PACKET else IP6, packet) == packet


def test_vxlan_with_a_group_and_with_a_next_protocol() -> None:
    frame = vxlan(SYN_PACKET)[8:]
    assert carried(UDP, b"\x88\x08\0\x07\0\0\7\0" + frame) == SYN_PACKET
    assert carried(UDP, b"\x0c\0\0\3\0\0\7\0" + frame) == SYN_PACKET
    assert carried(UDP, b"\x0c\0\0\1\0\0\7\0" + SYN_PACKET) == SYN_PACKET
    assert carried(UDP, b"\x0c\0\0\2\0\0\7\0" + PACKET6) == PACKET6
    for head in (b"\x0c\0\0\x09\0\0\7\0", b"\x88\xff\0\7\0\0\7\0", b"\x18\0\0\0\0\0\7\0", b"\x08\0\0\0\0\0\7\1"):
        assert carried(UDP, head + frame) is None


def test_what_carries_no_ip_packet_and_what_is_no_tunnel() -> None:
    assert carried(GRE, b"\0\0\x88\xcc" + bytes(20)) == b""  # LLDP
    assert carried(GRE, b"\x30\x81\x88\x0b" + bytes(20)) is None  # PPTP
    assert carried(IPIP, PACKET6) is carried(IP6, SYN_PACKET) is carried(IPIP, b"") is None
    assert carried(TCP, vxlan(SYN_PACKET)) is carried(UDP, SYN_PACKET) is carried(UDP, b"") is None
    assert carried(GRE, b"\0") is None


@given(st.sampled_from([UDP, GRE, IPIP, IP6]), st.binary(max_size=80))
def test_any_bytes_at_all(proto: int, data: bytes) -> None:
    assert carried(proto, data) is None or isinstance(carried(proto, data), bytes)

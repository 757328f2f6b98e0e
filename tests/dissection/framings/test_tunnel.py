"""Tunnels over UDP: VXLAN and Geneve hold, ARP inside too, other datagrams do not."""

from __future__ import annotations

from egress.model import UDP, App
from tests.dissection.conversations import SYN_PACKET, geneve, vxlan
from tests.dissection.framed import IN, OUT, holds

ARP = b"\x08\0\0\0\0\x12\x34\0" + bytes(12) + b"\x08\x06" + bytes(28)


def test_tunnels_hold_and_others_do_not() -> None:
    assert holds(App.TUNNEL, [(OUT, vxlan(SYN_PACKET)), (IN, geneve(SYN_PACKET)), (OUT, ARP)], UDP)
    for data in (SYN_PACKET, b"\x08\0\0\1" + vxlan(SYN_PACKET)[4:], vxlan(SYN_PACKET)[:20], b"\x00"):
        assert not holds(App.TUNNEL, [(OUT, data)], UDP)

"""Serial lines: PPP, Cisco HDLC and Frame Relay, with a direction or without."""

from __future__ import annotations

import contextlib
import struct

import pytest
from scapy.layers import inet, inet6
from scapy.layers.l2 import LLC, SNAP
from scapy.layers.ppp import HDLC, PPP
from scapy.packet import Packet

from egress.capture.link import ip_packet
from egress.errors import MalformedError

V4 = inet.IP(src="10.0.0.1", dst="192.0.2.1") / inet.UDP(sport=1, dport=2) / b"four"
V6 = inet6.IPv6(src="fd00::1", dst="2001:db8::1") / inet.UDP(sport=1, dport=2) / b"six"
EITHER = pytest.mark.parametrize("packet", [V4, V6], ids=["v4", "v6"])


def ethertype(packet: Packet) -> bytes:
    return struct.pack("!H", 0x86DD if packet is V6 else 0x0800)


@EITHER
@pytest.mark.parametrize("address", [b"\x0f\x00", b"\x8f\x00"])
def test_cisco_hdlc(address: bytes, packet: Packet) -> None:
    frame = address + ethertype(packet) + bytes(packet)
    assert ip_packet(104, frame) == bytes(packet)
    assert ip_packet(50, frame) == bytes(packet)
    assert ip_packet(205, b"\x01" + frame) == bytes(packet)


@EITHER
def test_ppp_on_every_line(packet: Packet) -> None:
    bare, framed = bytes(PPP() / packet), bytes(HDLC() / PPP() / packet)
    for frame in (bare, framed):
        assert ip_packet(50, frame) == bytes(packet)
        assert ip_packet(104, frame) == bytes(packet)
        assert ip_packet(166, b"\x00" + frame) == bytes(packet)
        assert ip_packet(204, b"\x01" + frame) == bytes(packet)


@EITHER
@pytest.mark.parametrize("address", [b"\x18\x41", b"\x18\x40\x41", b"\x18\x40\x40\x41"])
def test_frame_relay(address: bytes, packet: Packet) -> None:
    protocol = b"\x8e" if packet is V6 else b"\xcc"
    snap = b"\x80" + bytes(LLC() / SNAP() / packet)[3:]
    for body in (protocol + bytes(packet), snap, b"\xcf" + bytes(PPP() / packet)):
        assert ip_packet(107, address + b"\x03" + body) == bytes(packet)
        assert ip_packet(107, address + b"\x03\x00" + body) == bytes(packet)
        assert ip_packet(206, b"\x01" + address + b"\x03" + body) == bytes(packet)
    assert ip_packet(107, address + ethertype(packet) + bytes(packet)) == bytes(packet)


@pytest.mark.parametrize(
    ("link", "frame"),
    [
        (104, b"\x8f\x00\x80\x35" + bytes(18)),  # Cisco's keep-alive
        (104, b"\x8f\x00\x20\x00" + bytes(18)),  # CDP
        (204, b"\x00\xff\x03\xc0\x21" + bytes(8)),  # LCP
        (107, b"\x18\x41\x03\x08" + bytes(8)),  # Q.933
    ],
)
def test_other_protocols_give_none(link: int, frame: bytes) -> None:
    assert ip_packet(link, frame) is None


@pytest.mark.parametrize("frame", [b"", b"\x18", b"\x18\x40\x40\x40\x41\x03\xcc", b"\x18\x41\x03", b"\x18\x41\x03\x00"])
def test_broken_frame_relay(frame: bytes) -> None:
    with pytest.raises(MalformedError):
        ip_packet(107, frame)


@pytest.mark.parametrize(("link", "header"), [(104, b"\x0f\0\x08\0"), (107, b"\x18\x41\x03\x80\0\0\0\x08\0")])
def test_every_cut(link: int, header: bytes) -> None:
    for size in range(len(header) + 1):
        with contextlib.suppress(MalformedError):
            assert ip_packet(link, header[:size]) is None

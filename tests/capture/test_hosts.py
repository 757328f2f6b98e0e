"""Logs of packet filters: netfilter's in either byte order, OpenBSD's, and what is inside its IPsec."""

from __future__ import annotations

import contextlib
import struct

import pytest
from scapy.layers import inet, inet6
from scapy.packet import Packet

from egress.capture.link import ip_packet
from egress.errors import MalformedError

V4 = inet.IP(src="10.0.0.1", dst="192.0.2.1") / inet.UDP(sport=1, dport=2) / b"four"
V6 = inet6.IPv6(src="fd00::1", dst="2001:db8::1") / inet.UDP(sport=1, dport=2) / b"six"
EITHER = pytest.mark.parametrize("packet", [V4, V6], ids=["v4", "v6"])


def attribute(order: str, kind: int, value: bytes) -> bytes:
    return struct.pack(order + "HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def nflog(order: str, packet: Packet, family: int = 0) -> bytes:
    """Build a frame as ulogd and libpcap get it from the kernel: hook, prefix, mark, interface, time, packet."""
    family = family or (10 if packet is V6 else 2)
    out = struct.pack("!BBH", family, 0, 30)
    for kind, value in ((1, bytes(4)), (10, b"prefix\0"), (2, bytes(4)), (5, bytes(4)), (3, bytes(16))):
        out += attribute(order, kind, value)
    return out + attribute(order, 9, bytes(packet))


@EITHER
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_log_of_netfilter(order: str, packet: Packet) -> None:
    got = ip_packet(239, nflog(order, packet)) or pytest.fail("no packet")
    assert got.startswith(bytes(packet)) and len(got) - len(bytes(packet)) < 4


def test_a_log_of_other_protocols_or_without_a_packet() -> None:
    assert ip_packet(239, nflog("<", V4, family=3)) is None  # ARP
    with pytest.raises(MalformedError, match="no packet"):
        ip_packet(239, struct.pack("!BBH", 2, 0, 30) + attribute("<", 1, bytes(4)))


@EITHER
def test_openbsd(packet: Packet) -> None:
    family = 24 if packet is V6 else 2
    for size, padded in ((61, 64), (64, 64), (100, 100)):
        assert ip_packet(117, bytes([size, family]) + bytes(padded - 2) + bytes(packet)) == bytes(packet)
    for order in "<>":
        assert ip_packet(109, struct.pack(order + "I", family) + bytes(8) + bytes(packet)) == bytes(packet)
    assert ip_packet(117, bytes([64, 7]) + bytes(80)) is None
    assert ip_packet(109, struct.pack("<I", 7) + bytes(80)) is None


@pytest.mark.parametrize(("link", "frame"), [(239, nflog("<", V4)), (117, b"\x40\x02" + bytes(62) + bytes(V4))])
def test_every_cut(link: int, frame: bytes) -> None:
    header = frame.index(bytes(V4))
    for size in range(header + 1):
        with contextlib.suppress(MalformedError):
            assert ip_packet(link, frame[:size]) is None

"""Link layers: the IP packet that scapy put into a frame is extracted."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib.mpls import MPLS
from scapy.layers import inet, inet6
from scapy.layers.dot11 import Dot11
from scapy.layers.l2 import ARP, LLC, SNAP, CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Dot3, Ether, Loopback
from scapy.layers.ppp import HDLC, PPP, PPPoE
from scapy.packet import Packet, Raw

from egress.capture.link import _READERS, _WRAPPERS, ip_packet, link_name, supported
from egress.capture.linknames import NAMES
from egress.errors import MalformedError

V4 = inet.IP(src="10.0.0.1", dst="192.0.2.1") / inet.UDP(sport=1, dport=2) / b"four"
V6 = inet6.IPv6(src="fd00::1", dst="2001:db8::1") / inet.UDP(sport=1, dport=2) / b"six"
EITHER = pytest.mark.parametrize("packet", [V4, V6], ids=["v4", "v6"])

TUNNELS = {
    "plain": Ether(),
    "vlan": Ether() / Dot1Q(vlan=7),
    "qinq": Ether() / Dot1AD(vlan=7) / Dot1Q(vlan=8),
    "old qinq": Ether(type=0x9100) / Raw(b"\x00\x07\x81\x00") / Raw(b"\x00\x08"),
    "mpls": Ether() / MPLS(label=1, s=0) / MPLS(label=2, s=1),
    "pppoe": Ether() / PPPoE(sessionid=1) / PPP(),
    "pppoe in vlan": Ether() / Dot1Q(vlan=7) / PPPoE(sessionid=1) / PPP(),
    "snap": Dot3() / LLC() / SNAP(),
}


def on_wire(layer: Packet, packet: Packet) -> bytes:
    """Put `packet` into `layer`. scapy sets the type of the payload, unless raw bytes are between them."""
    if layer.haslayer(Raw):
        kind = 0x86DD if packet.haslayer(inet6.IPv6) else 0x0800
        return bytes(layer) + struct.pack("!H", kind) + bytes(packet)
    return bytes(layer / packet)


@EITHER
@pytest.mark.parametrize("layer", TUNNELS.values(), ids=TUNNELS.keys())
def test_ethernet(layer: Packet, packet: Packet) -> None:
    assert ip_packet(1, on_wire(layer, packet)) == bytes(packet)


@EITHER
@pytest.mark.parametrize("link", [12, 14, 101, 228, 229])
def test_raw(link: int, packet: Packet) -> None:
    assert ip_packet(link, bytes(packet)) == bytes(packet)


@EITHER
def test_cooked(packet: Packet) -> None:
    kind = 0x86DD if packet is V6 else 0x0800
    assert ip_packet(113, bytes(CookedLinux(proto=kind) / packet)) == bytes(packet)
    assert ip_packet(276, bytes(CookedLinuxV2(proto=kind) / packet)) == bytes(packet)
    vlan = struct.pack("!HH", 7, kind)
    assert ip_packet(113, bytes(CookedLinux(proto=0x8100)) + vlan + bytes(packet)) == bytes(packet)


@EITHER
@pytest.mark.parametrize("family", [2, 10, 24, 28, 30])
def test_loopback_in_either_byte_order(family: int, packet: Packet) -> None:
    assert ip_packet(0, struct.pack("<I", family) + bytes(packet)) == bytes(packet)
    assert ip_packet(0, struct.pack(">I", family) + bytes(packet)) == bytes(packet)
    assert ip_packet(108, struct.pack(">I", family) + bytes(packet)) == bytes(packet)


def test_loopback_of_scapy() -> None:
    assert ip_packet(0, bytes(Loopback(type=2) / V4)) == bytes(V4)


@EITHER
def test_ppp(packet: Packet) -> None:
    assert ip_packet(9, bytes(HDLC() / PPP() / packet)) == bytes(packet)
    assert ip_packet(9, (b"\x57" if packet is V6 else b"\x21") + bytes(packet)) == bytes(packet)


@EITHER
@pytest.mark.parametrize("wifi", [False, True])
def test_headers_that_name_the_link_type_of_the_frame(wifi: bool, packet: Packet) -> None:
    inner = bytes(Dot11(type=2, subtype=0) / LLC() / SNAP() / packet) if wifi else bytes(Ether() / packet)
    link = 105 if wifi else 1
    assert ip_packet(192, struct.pack("<BBHI", 0, 0, 12, link) + b"more" + inner) == bytes(packet)
    assert ip_packet(258, struct.pack("<III", 16, 1, link) + b"more" + inner) == bytes(packet)
    for raw in (12, 101):
        assert ip_packet(258, struct.pack("<III", 12, 1, raw) + bytes(packet)) == bytes(packet)


@EITHER
def test_other_local_networks(packet: Packet) -> None:
    kind = struct.pack("!H", 0x86DD if packet is V6 else 0x0800)
    snap = bytes(LLC() / SNAP() / packet)
    macs = bytes(12)
    assert ip_packet(10, b"\x50" + macs + snap) == bytes(packet)
    assert ip_packet(6, b"\x10\x40" + macs + snap) == bytes(packet)
    routed = b"\x10\x40" + bytes(6) + b"\x80" + bytes(5) + b"\x06\x10\x00\x11\x00\x20"
    assert ip_packet(6, routed + snap) == bytes(packet)
    assert ip_packet(100, snap) == bytes(packet)
    assert ip_packet(122, bytes(16) + snap) == bytes(packet)
    assert ip_packet(138, bytes(16) + kind + bytes(packet)) == bytes(packet)
    assert ip_packet(99, bytes(6) + kind + bytes(36) + bytes(packet)) == bytes(packet)
    assert ip_packet(219, bytes(MPLS(label=1, s=1)) + bytes(packet)) == bytes(packet)
    assert ip_packet(226, bytes(24) + bytes(packet)) == bytes(packet)


@EITHER
@pytest.mark.parametrize(("link", "before"), [(274, 8), (240, 4), (241, 12), (282, 4)])
def test_ethernet_behind_other_bytes(link: int, before: int, packet: Packet) -> None:
    assert ip_packet(link, bytes(before) + bytes(Ether() / packet)) == bytes(packet)


@EITHER
@pytest.mark.parametrize(("link", "tag"), [(281, 4), (284, 4), (285, 8)])
def test_tags_of_switches(link: int, tag: int, packet: Packet) -> None:
    whole = bytes(Ether() / packet)
    assert ip_packet(link, whole[:12] + bytes(tag) + whole[12:]) == bytes(packet)


@EITHER
def test_ppp_over_ethernet_without_ethernet(packet: Packet) -> None:
    assert ip_packet(51, bytes(PPPoE(sessionid=1) / PPP() / packet)) == bytes(packet)


def test_a_link_type_is_named() -> None:
    assert link_name(189) == "link type 189 (USB_LINUX)"
    assert link_name(4242) == "link type 4242"
    assert link_name(-1) == "an unknown link type"
    with pytest.raises(MalformedError, match=r"link type 227 \(CAN_SOCKETCAN\) is not supported"):
        ip_packet(227, bytes(16))


def test_every_supported_link_type_has_a_name() -> None:
    assert not [link for link in (*_READERS, *_WRAPPERS) if link not in NAMES]


def test_padding_is_left_for_the_decoder() -> None:
    assert ip_packet(1, bytes(Ether() / V4) + bytes(10)) == bytes(V4) + bytes(10)


@pytest.mark.parametrize(
    ("link", "frame"),
    [
        (1, bytes(Ether() / ARP())),
        (1, bytes(Ether(type=0x88CC)) + b"lldp"),
        (1, bytes(Dot3() / LLC(dsap=0x42, ssap=0x42, ctrl=3) / b"spanning tree")),
        (1, bytes(Ether() / MPLS(s=1)) + bytes(8)),
        (1, bytes(Ether() / PPPoE() / PPP(proto=0xC021)) + bytes(8)),
        (113, bytes(CookedLinux(proto=0x0806)) + bytes(28)),
        (0, struct.pack("<I", 7) + bytes(28)),
    ],
)
def test_other_protocols_give_none(link: int, frame: bytes) -> None:
    assert ip_packet(link, frame) is None


@pytest.mark.parametrize(
    ("link", "frame"),
    [
        (189, bytes(64)),
        (-1, bytes(64)),
        (1, bytes(12) + b"\x81\x00\x00\x01" * 40),
        (1, bytes(12) + b"\x88\x47" + bytes(200)),
        (1, bytes(12) + b"\x08\x00" + b"\x60"[:0]),
        (101, b"\x10" + bytes(40)),
    ],
)
def test_broken_frames(link: int, frame: bytes) -> None:
    with pytest.raises(MalformedError):
        ip_packet(link, frame)


@pytest.mark.parametrize("layer", TUNNELS.values(), ids=TUNNELS.keys())
def test_every_cut_of_the_link_header(layer: Packet) -> None:
    frame = on_wire(layer, V4)
    header = len(frame) - len(bytes(V4))
    for size in range(header + 1):
        with contextlib.suppress(MalformedError):
            assert ip_packet(1, frame[:size]) is None


@given(st.sampled_from([*_READERS, *_WRAPPERS, 189]), st.binary(max_size=120))
def test_any_bytes(link: int, frame: bytes) -> None:
    try:
        packet = ip_packet(link, frame)
    except MalformedError:
        return
    assert supported(link)
    assert packet is None or (frame.endswith(packet) and packet[0] >> 4 in (4, 6))

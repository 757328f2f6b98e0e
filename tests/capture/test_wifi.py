"""802.11: the packets of data frames, behind the headers of drivers, and frames that cannot be read."""

from __future__ import annotations

import contextlib
import struct

import pytest
from scapy.layers import inet, inet6
from scapy.layers.dot11 import Dot11, Dot11Beacon, Dot11QoS, RadioTap
from scapy.layers.l2 import LLC, SNAP
from scapy.packet import Packet

from egress.capture.link import ip_packet
from egress.errors import MalformedError

V4 = inet.IP(src="10.0.0.1", dst="192.0.2.1") / inet.UDP(sport=1, dport=2) / b"four"
V6 = inet6.IPv6(src="fd00::1", dst="2001:db8::1") / inet.UDP(sport=1, dport=2) / b"six"
EITHER = pytest.mark.parametrize("packet", [V4, V6], ids=["v4", "v6"])
DATA = Dot11(type=2, subtype=0)
SNAPPED = LLC() / SNAP()


@EITHER
@pytest.mark.parametrize("fcs", [b"", b"\1\2\3\4"])
@pytest.mark.parametrize("direction", [0, 1, 2, 3])
def test_data(direction: int, fcs: bytes, packet: Packet) -> None:
    header = Dot11(type=2, subtype=0, FCfield=direction, addr4="02:00:00:00:00:04")
    assert ip_packet(105, bytes(header / SNAPPED / packet) + fcs) == bytes(packet) + fcs


@EITHER
def test_quality_of_service(packet: Packet) -> None:
    plain = bytes(Dot11(type=2, subtype=8) / Dot11QoS() / SNAPPED / packet)
    assert ip_packet(105, plain) == bytes(packet)
    ordered = plain[:1] + bytes([plain[1] | 0x80]) + plain[2:26] + bytes(4) + plain[26:]
    assert ip_packet(105, ordered) == bytes(packet)


@EITHER
@pytest.mark.parametrize(
    "header",
    [
        RadioTap(),
        RadioTap(present="TSFT+Flags+Rate", mac_timestamp=7, Flags=""),
        RadioTap(present="Flags+Ext", Flags="FCS", Ext=[]),
    ],
)
def test_radiotap(header: Packet, packet: Packet) -> None:
    assert ip_packet(127, bytes(header / DATA / SNAPPED / packet)) == bytes(packet)


@EITHER
def test_a_padded_header(packet: Packet) -> None:
    radio = struct.pack("<BBHIQB", 0, 0, 17, 0b11, 1, 0x20)
    frame = bytes(Dot11(type=2, subtype=8) / Dot11QoS())
    assert ip_packet(127, radio + frame + bytes(2) + bytes(SNAPPED / packet)) == bytes(packet)
    assert ip_packet(127, radio[:-1] + b"\0" + frame + bytes(SNAPPED / packet)) == bytes(packet)


@EITHER
def test_older_headers_of_drivers(packet: Packet) -> None:
    frame = bytes(DATA / SNAPPED / packet)
    avs = struct.pack("!II", 0x80211001, 64) + bytes(56)
    assert ip_packet(163, avs + frame) == bytes(packet)
    assert ip_packet(119, avs + frame) == bytes(packet)
    assert ip_packet(119, struct.pack("<II", 0x41, 144) + bytes(136) + frame) == bytes(packet)


@EITHER
def test_a_packet_alone_in_an_aggregate(packet: Packet) -> None:
    inner = bytes(SNAPPED / packet)
    head = bytes(Dot11(type=2, subtype=8)) + b"\x80\x00" + bytes(12) + struct.pack("!H", len(inner))
    assert ip_packet(105, head + inner + bytes(4)) == bytes(packet) + bytes(4)
    with pytest.raises(MalformedError, match="several packets"):
        ip_packet(105, head + inner + bytes(14 + 20))


def test_frames_without_a_packet() -> None:
    beacon = Dot11(type=0, subtype=8) / Dot11Beacon()
    assert ip_packet(105, bytes(beacon)) is None
    assert ip_packet(127, bytes(RadioTap() / beacon)) is None
    assert ip_packet(105, bytes(Dot11(type=1, subtype=13)) + bytes(20)) is None  # an acknowledgement
    assert ip_packet(105, bytes(Dot11(type=2, subtype=4))) is None  # a null function
    assert ip_packet(105, bytes(DATA / LLC(dsap=0x42, ssap=0x42, ctrl=3)) + b"spanning tree") is None


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (Dot11(type=2, subtype=0, FCfield="protected"), "encrypted"),
        (Dot11(type=2, subtype=0, FCfield="MF"), "fragment"),
        (Dot11(type=2, subtype=0, SC=1), "fragment"),
    ],
)
def test_data_that_cannot_be_read_is_no_frame_without_data(frame: Packet, why: str) -> None:
    with pytest.raises(MalformedError, match=why):
        ip_packet(105, bytes(frame / SNAPPED / V4))


@pytest.mark.parametrize("link", [105, 119, 127, 163])
def test_every_cut(link: int) -> None:
    headers = {105: b"", 119: struct.pack("<II", 0x41, 24) + bytes(16), 127: bytes(RadioTap())}
    header = headers.get(link, struct.pack("!II", 0x80211001, 24) + bytes(16))
    whole = header + bytes(Dot11(type=2, subtype=8) / Dot11QoS() / SNAPPED / V4)
    for size in range(len(whole) - len(bytes(V4)) + 1):
        with contextlib.suppress(MalformedError):
            assert ip_packet(link, whole[:size]) is None

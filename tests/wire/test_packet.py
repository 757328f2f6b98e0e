"""decode: agreement with scapy and dpkt on valid packets, and Packet or MalformedError for everything else."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Any

import dpkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_RR
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import GRE
from scapy.layers.sctp import SCTP
from scapy.packet import Raw

from egress.errors import MalformedError
from egress.model import Packet
from egress.wire.fragments import Fragment, fragment
from egress.wire.ip import MAX_EXTENSIONS, addresses
from egress.wire.packet import decode
from tests.examples import examples

PORT, WORD = st.integers(0, 65535), st.integers(0, 2**32 - 1)
PAYLOAD = st.binary(max_size=64)
V4 = st.integers(1, 2**32 - 1).map(lambda n: ".".join(str(byte) for byte in n.to_bytes(4)))
V6 = st.integers(1, 2**128 - 1).map(
    lambda n: ":".join(f"{n.to_bytes(16)[at : at + 2].hex()}" for at in range(0, 16, 2))
)


BYTE = st.integers(0, 255)
NUMBERS = {"h": 0, "r": 43, "f": 44, "a": 51, "d": 60}
TRANSPORTS = {"tcp": 6, "udp": 17, "icmp": 1, "echo": 1, "sctp": 132, "gre": 47}


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    """Any transport over IPv4 with or without options, or over IPv6 with a chain of extension headers."""
    kind = draw(st.sampled_from(sorted(TRANSPORTS)))
    upper = draw(transport(kind))
    if draw(st.booleans()):
        options = [IPOption_NOP()] * draw(st.integers(0, 4)) + [IPOption_RR(routers=["1.2.3.4"])] * draw(
            st.integers(0, 2)
        )
        flags = draw(st.sampled_from([0, "DF"]))
        return bytes(IP(src=draw(V4), dst=draw(V4), options=options, flags=flags, ttl=draw(BYTE)) / upper)
    proto = TRANSPORTS[kind]
    if proto == 1:
        proto, upper = 58, draw(icmpv6(echo=kind == "echo"))
    chain = draw(st.lists(st.sampled_from(sorted(NUMBERS)), max_size=4, unique=True))
    for name in sorted(chain, key=lambda name: name != "a"):  # AH innermost: scapy reads no header behind it
        proto, upper = NUMBERS[name], extension(name, proto, draw(st.integers(0, 20))) / upper
    return bytes(IPv6(src=draw(V6), dst=draw(V6), nh=proto, tc=draw(BYTE), hlim=draw(BYTE)) / upper)


def extension(name: str, following: int, size: int) -> Any:
    padding = [PadN(optdata=b"\0" * size)]
    match name:
        case "h":
            return IPv6ExtHdrHopByHop(nh=following, options=padding)
        case "d":
            return IPv6ExtHdrDestOpt(nh=following, options=padding)
        case "r":
            return IPv6ExtHdrRouting(nh=following, addresses=["::1"] * (size % 3), type=253)
        case "f":
            return IPv6ExtHdrFragment(nh=following, offset=0, m=0, id=size)
        case _:
            return AH(nh=following, spi=size, seq=1, icv=b"\0" * 12, payloadlen=4)


@st.composite
def transport(draw: st.DrawFn, kind: str) -> Any:
    payload, sport, dport = Raw(draw(PAYLOAD)), draw(PORT), draw(PORT)
    match kind:
        case "tcp":
            options = [("NOP", None)] * draw(st.integers(0, 5)) + [("MSS", 1460)] * draw(st.integers(0, 3))
            seq, ack, flags = draw(WORD), draw(WORD), draw(BYTE)
            return TCP(sport=sport, dport=dport, seq=seq, ack=ack, flags=flags, options=options) / payload
        case "udp":
            return UDP(sport=sport, dport=dport) / payload
        case "sctp":
            return SCTP(sport=sport, dport=dport, tag=draw(WORD)) / payload
        case "gre":
            return GRE(proto=0x88BE) / payload
        case "echo":
            return ICMP(type=draw(st.sampled_from([0, 8])), id=sport, seq=dport) / payload
        case _:
            return ICMP(type=3, code=draw(BYTE)) / payload


@st.composite
def icmpv6(draw: st.DrawFn, echo: bool) -> Any:
    if echo:
        kind = draw(st.sampled_from([ICMPv6EchoRequest, ICMPv6EchoReply]))
        return kind(id=draw(PORT), seq=draw(PORT), data=draw(PAYLOAD))
    return ICMPv6DestUnreach(code=draw(BYTE)) / Raw(draw(PAYLOAD))


UPPER = {6: TCP, 17: UDP, 47: GRE, 58: ICMPv6EchoRequest, 132: SCTP}


def seen_by_scapy(raw: bytes) -> tuple[object, ...]:
    """The fields of `Packet` without payload as scapy reads them."""
    ip = (IP if raw[0] >> 4 == 4 else IPv6)(raw)
    src, dst = (raw[12:16], raw[16:20]) if ip.version == 4 else (raw[8:24], raw[24:40])
    upper: Any = ip
    if AH in ip:  # scapy does not look behind it for every protocol
        upper = UPPER[ip[AH].nh](bytes(ip[AH].payload))
    if TCP in upper:
        tcp = upper[TCP]
        return ip.version, 6, src, dst, tcp.sport, tcp.dport, int(tcp.flags) & 0xFF, tcp.seq, tcp.ack
    for kind, proto in ((UDP, 17), (SCTP, 132)):
        if kind in upper:
            return ip.version, proto, src, dst, upper[kind].sport, upper[kind].dport, 0, 0, 0
    if GRE in upper:
        return ip.version, 47, src, dst, 0, 0, 0, 0, 0
    icmp = next(upper[kind] for kind in upper.layers() if "ICMP" in kind.__name__)
    echo = icmp.type in (0, 8, 128, 129)
    proto = 1 if ip.version == 4 else 58
    return ip.version, proto, src, dst, icmp.id if echo else 0, 0, icmp.type << 8 | icmp.code, 0, 0


@given(packets())
def test_headers_agree_with_scapy(raw: bytes) -> None:
    packet = decode(raw)
    assert packet[:9] == seen_by_scapy(raw)
    assert (packet.length, packet.missing) == (len(raw), 0)
    assert fragment(raw) is None


@given(packets())
def test_agrees_with_dpkt(raw: bytes) -> None:
    packet = decode(raw)
    if packet.version == 6 and raw[6] == 44 and raw[40] in NUMBERS.values():
        return  # dpkt raises AttributeError where a header follows the fragment header
    ip = dpkt.ip.IP(raw) if packet.version == 4 else dpkt.ip6.IP6(raw)
    assert (ip.src, ip.dst) == (packet.src, packet.dst)
    if 51 in getattr(ip, "extension_hdrs", {}):
        return  # dpkt measures AH in units of 8 bytes, RFC 4302 in units of 4
    assert ip.p == packet.proto
    inner = ip.data
    if packet.proto == 6:
        assert isinstance(inner, dpkt.tcp.TCP)
        seen = (inner.sport, inner.dport, inner.flags & 0xFF, inner.seq, inner.ack, inner.data)
        assert seen == (packet.sport, packet.dport, packet.flags, packet.seq, packet.ack, packet.payload)
    elif packet.proto == 17:
        assert (inner.sport, inner.dport, inner.data) == (packet.sport, packet.dport, packet.payload)


@given(packets())
def test_the_payload_is_the_end_of_the_packet(raw: bytes) -> None:
    packet = decode(raw)
    assert raw.endswith(packet.payload)
    if packet.proto == 47:
        assert packet.payload[:4] == b"\0\0\x88\xbe"


@given(packets(), st.binary(max_size=46))
def test_link_padding_is_cut_off(raw: bytes, padding: bytes) -> None:
    assert decode(raw + padding) == decode(raw)


@given(packets())
@settings(max_examples=examples(40))
def test_every_truncation(raw: bytes) -> None:
    """A packet that ends too early is MalformedError; a cut copy of it is the same packet with bytes missing."""
    full = decode(raw)
    headers = len(raw) - len(full.payload)
    for size in range(len(raw)):
        with pytest.raises(MalformedError):
            decode(raw[:size])
        if size < headers:
            with pytest.raises(MalformedError):
                decode(raw[:size], len(raw))
        else:
            cut = decode(raw[:size], len(raw))
            assert cut == full._replace(payload=raw[headers:size], missing=len(raw) - size)
        assert len(addresses(raw[:size])) == 4


def only_packet_or_malformed(raw: bytes, wire_length: int | None) -> None:
    assert len(addresses(raw)) == 4
    with suppress(MalformedError):
        packet = decode(raw, wire_length)
        assert isinstance(packet, Packet)
        assert len(packet.src) == len(packet.dst) == (4 if packet.version == 4 else 16)
        assert 0 <= packet.sport <= 65535 >= packet.dport >= 0
        assert packet.missing >= 0
        assert raw.count(packet.payload) or not packet.payload
        assert packet.length <= max(len(raw), wire_length or 0)
        assert packet.missing <= packet.length
    with suppress(MalformedError):
        assert fragment(raw) is None or isinstance(fragment(raw), Fragment)


WIRE = st.none() | st.integers(-1, 70000)


@given(st.binary(max_size=120), WIRE)
@settings(max_examples=examples(300))
def test_random_bytes(raw: bytes, wire_length: int | None) -> None:
    only_packet_or_malformed(raw, wire_length)


@given(st.sampled_from([b"\x45", b"\x46", b"\x4f", b"\x60"]), st.binary(max_size=120), WIRE)
@settings(max_examples=examples(300))
def test_random_bytes_with_a_version(first: bytes, rest: bytes, wire_length: int | None) -> None:
    only_packet_or_malformed(first + rest, wire_length)


@pytest.mark.slow
@given(packets(), st.lists(st.tuples(st.integers(0, 79), BYTE), min_size=1, max_size=4), WIRE)
@settings(max_examples=examples(400))
def test_mutated_packets(raw: bytes, changes: list[tuple[int, int]], wire_length: int | None) -> None:
    mutated = bytearray(raw)
    for at, byte in changes:
        mutated[at % len(mutated)] = byte
    only_packet_or_malformed(bytes(mutated), wire_length)


@given(packets())
def test_the_quick_way_says_what_the_general_way_says(raw: bytes) -> None:
    from egress.wire.packet import _decode

    assert decode(raw) == _decode(raw, len(raw))
    cut = raw[: len(raw) - 3]
    with suppress(MalformedError):
        assert decode(cut, len(raw)) == _decode(cut, len(raw))


# --- one case at a time -----------------------------------------------------------------------------------


def v4(payload: bytes, proto: int, *, total: int | None = None, frag: int = 0, first: int = 0x45) -> bytes:
    total = 20 + len(payload) if total is None else total
    return struct.pack("!BBHHHBBH4s4s", first, 0, total, 7, frag, 64, proto, 0, b"\x0a\0\0\1", b"\x0a\0\0\2") + payload


def v6(payload: bytes, proto: int, *, length: int | None = None) -> bytes:
    length = len(payload) if length is None else length
    return struct.pack("!LHBB16s16s", 6 << 28, length, proto, 64, b"\xfd" + bytes(14) + b"\1", bytes(16)) + payload


def tcp(data: bytes = b"", offset: int = 5) -> bytes:
    return struct.pack("!HHLLBBHHH", 1000, 443, 1, 2, offset << 4, 0x18, 512, 0, 0) + data


def udp(data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("!HHHH", 1000, 53, 8 + len(data) if length is None else length, 0) + data


@pytest.mark.parametrize(
    "raw, says",
    [
        (b"", "neither"),
        (b"\x55" + bytes(60), "neither"),
        (v4(tcp(), 6, first=0x44), "header length"),
        (v4(tcp(), 6, first=0x4F), "IPv4 header"),
        (v4(tcp(), 6, total=19), "header length"),
        (v4(tcp(), 6, total=41), "total length"),
        (v4(tcp(), 6, total=39), "TCP header"),
        (v4(udp(), 17, total=0), "header length"),
        (v4(tcp(offset=4), 6), "offset"),
        (v4(tcp(offset=6), 6), "TCP header"),
        (v4(tcp()[:19], 6), "TCP header"),
        (v4(udp(length=7), 17), "below 8"),
        (v4(udp(length=9), 17), "exceeds"),
        (v4(udp()[:7], 17), "UDP header"),
        (v4(bytes(7), 1), "ICMP header"),
        (v4(bytes(11), 132), "SCTP header"),
        (v6(tcp(), 6, length=21), "payload length"),
        (v6(tcp()[:12], 6), "TCP header"),
        (v6(udp(length=1), 17), "below 8"),
        (v6(bytes(7), 58), "ICMP header"),
        (v6(bytes(7), 0), "extension header"),
        (v6(b"\x06\x01" + bytes(6), 60), "extension header"),
        (v6(b"\x3c\0" + bytes(6) + b"\x06\x09" + bytes(6), 43), "extension header"),
        (v6(tcp(), 0, length=0), "extension header"),
        (v6(b"\x06\0\1\4" + bytes(4) + tcp(), 0, length=0), "jumbo"),
        (v6(b"\x06\0\xc2\4\0\0\1\0" + tcp(), 0, length=0), "jumbo"),
        (v6(b"\x06\0\xc2\4\0\2\0\0" + tcp(), 0, length=0), "payload length"),
    ],
)
def test_inconsistent_packets_are_malformed(raw: bytes, says: str) -> None:
    with pytest.raises(MalformedError, match=says):
        decode(raw)


def test_a_super_packet_of_the_kernel_has_no_length() -> None:
    data = bytes(70000)
    four, six = decode(v4(tcp(data), 6, total=0)), decode(v6(tcp(data), 6, length=0))
    assert (four.payload, four.length, four.missing) == (data, 70040, 0)
    assert (six.payload, six.length, six.missing) == (data, 70060, 0)
    jumbo = v6(b"\x06\0\xc2\4" + struct.pack("!L", 70028) + tcp(data), 0, length=0)
    assert (decode(jumbo).payload, decode(jumbo).length) == (data, 70068)
    for raw in (v4(tcp(data), 6, total=0), v6(tcp(data), 6, length=0), jumbo):
        cut = decode(raw[:3072], len(raw))
        assert (len(cut.payload) + cut.missing, cut.length) == (70000, len(raw))


def test_udp_length_rules_the_payload() -> None:
    assert decode(v4(udp(b"abcd", length=10), 17)).payload == b"ab"
    assert decode(v4(udp(b"abcd", length=0), 17)).payload == b"abcd"
    assert decode(v6(udp(b"abcd", length=0), 17)).payload == b"abcd"


def test_the_chain_of_extension_headers_is_bounded() -> None:
    def chain(length: int) -> bytes:
        return v6((b"\x3c\0" + bytes(6)) * (length - 1) + b"\x06\0" + bytes(6) + tcp(b"x"), 60)

    assert decode(chain(MAX_EXTENSIONS)).payload == b"x"
    with pytest.raises(MalformedError, match="too many"):
        decode(chain(MAX_EXTENSIONS + 1))


def test_headers_may_follow_the_authentication_header() -> None:
    authentication = b"\x3c\4" + bytes(22)
    packet = decode(v6(authentication + b"\x06\0" + bytes(6) + tcp(b"x"), 51))
    assert (packet.proto, packet.dport, packet.payload) == (6, 443, b"x")


def test_other_protocols_keep_everything_after_the_ip_header() -> None:
    assert decode(v4(b"esp bytes", 50))[1:10] == (50, b"\x0a\0\0\1", b"\x0a\0\0\2", 0, 0, 0, 0, 0, b"esp bytes")
    assert decode(v6(b"", 59)).proto == 59
    assert decode(v6(b"\x3b\0" + bytes(6), 135)).proto == 59  # mobility: nothing follows
    assert decode(v4(b"\x06\4" + bytes(22) + tcp(), 51)).proto == 51  # AH over IPv4 stays AH


# --- fragments --------------------------------------------------------------------------------------------


def test_ipv4_fragments() -> None:
    first, last = v4(udp(bytes(8), length=100), 17, frag=0x2000), v4(b"tail", 17, frag=2)
    assert decode(first)[4:6] == (1000, 53)
    assert (decode(first).payload, fragment(first)) == (bytes(8), Fragment(0, True))
    assert decode(last)[1:10] == (17, b"\x0a\0\0\1", b"\x0a\0\0\2", 0, 0, 0, 0, 0, b"tail")
    assert fragment(last) == Fragment(16, False)


def test_ipv6_fragments() -> None:
    first = v6(struct.pack("!BBHL", 17, 0, 1, 9) + udp(bytes(8), length=100), 44)
    last = v6(struct.pack("!BBHL", 17, 0, 16, 9) + b"tail", 44)
    atomic = v6(struct.pack("!BBHL", 6, 0, 0, 9) + tcp(b"whole"), 44)
    assert (decode(first).payload, fragment(first)) == (bytes(8), Fragment(0, True))
    assert (decode(last).sport, decode(last).payload, fragment(last)) == (0, b"tail", Fragment(16, False))
    assert (decode(atomic).dport, decode(atomic).payload, fragment(atomic)) == (443, b"whole", None)


@pytest.mark.parametrize(
    "raw, says",
    [
        (v4(tcp()[:16], 6, frag=0x2000), "TCP header"),  # RFC 1858: the tiny first fragment
        (v4(tcp()[8:], 6, frag=1), "overlaps"),  # RFC 1858, RFC 3128: the one that rewrites its flags
        (v4(bytes(12), 17, frag=0x2000), "multiple of 8"),
        (v4(bytes(16), 17, frag=0x1FFF), "largest"),
        (v6(struct.pack("!BBHL", 6, 0, 1, 9) + tcp()[:16], 44), "TCP header"),  # RFC 7112
        (v6(struct.pack("!BBHL", 60, 0, 1, 9) + b"\x06\x01" + bytes(6), 44), "extension header"),
        (v6(struct.pack("!BBHL", 6, 0, 9, 9) + bytes(8), 44), "overlaps"),
        (v6(struct.pack("!BBHL", 44, 0, 0, 9) + struct.pack("!BBHL", 6, 0, 0, 9) + tcp(), 44), "two"),
    ],
)
def test_hostile_fragments_are_malformed(raw: bytes, says: str) -> None:
    with pytest.raises(MalformedError, match=says):
        decode(raw)


def test_addresses_of_what_cannot_be_decoded() -> None:
    assert addresses(v4(tcp(offset=1), 6)) == (4, b"\x0a\0\0\1", b"\x0a\0\0\2", 6)
    assert addresses(v6(b"", 6)) == (6, b"\xfd" + bytes(14) + b"\1", bytes(16), 6)
    assert addresses(v4(b"", 6)[:18]) == (4, b"\x0a\0\0\1", b"", 6)
    assert addresses(b"") == addresses(b"\x95abc") == (0, b"", b"", 0)

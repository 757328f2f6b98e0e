"""The option of Multipath TCP in a SYN: removed in both families, wherever it stands; scapy reads the result."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.packet import Raw

from egress.wire.mptcp import MPTCP, without_mptcp
from egress.wire.packet import decode

CAPABLE = (MPTCP, bytes.fromhex("0181") + bytes(8))  # MP_CAPABLE, version 1, with a key
JOIN = (MPTCP, bytes.fromhex("1001") + bytes(8))  # MP_JOIN
USUAL: list[Any] = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)]
PREFIXES = {
    "IPv4": IP(src="10.0.0.1", dst="10.0.0.2"),
    "IPv4 options": IP(src="10.0.0.1", dst="10.0.0.2", options=[b"\x94\x04\0\0"]),
    "IPv6": IPv6(src="fd00::1", dst="fd00::2"),
    "IPv6 extension": IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrDestOpt(),
}


def syn(prefix: str, options: list[Any], flags: str = "S", data: bytes = b"") -> bytes:
    packet = PREFIXES[prefix] / TCP(sport=4000, dport=443, seq=7, flags=flags, options=options)
    return bytes(packet / Raw(data) if data else packet)


def options_of(raw: bytes) -> list[Any]:
    return list((IP if raw[0] >> 4 == 4 else IPv6)(raw)[TCP].options)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("option", [CAPABLE, JOIN], ids=["capable", "join"])
@pytest.mark.parametrize("flags", ["S", "SA", "SEC"])
def test_the_option_of_a_syn_becomes_padding_and_all_else_stays(prefix: str, option: Any, flags: str) -> None:
    raw = syn(prefix, [*USUAL, option], flags, b"early data")
    plain = without_mptcp(raw)
    assert plain is not None and len(plain) == len(raw)
    assert [each for each in options_of(plain) if each[0] not in ("NOP", "EOL")] == [
        each for each in USUAL if each[0] != "NOP"
    ]
    assert decode(plain) == decode(raw)
    again = (IP if plain[0] >> 4 == 4 else IPv6)(plain)
    del again[TCP].chksum
    assert bytes(again) == plain, "its checksum is right"
    assert without_mptcp(plain) is None


@pytest.mark.parametrize("prefix", PREFIXES)
def test_other_packets_are_left_alone(prefix: str) -> None:
    assert without_mptcp(syn(prefix, USUAL)) is None
    assert without_mptcp(syn(prefix, [])) is None
    assert without_mptcp(syn(prefix, [CAPABLE], "A", b"data")) is None, "no SYN"
    assert without_mptcp(syn(prefix, [CAPABLE])[:-1]) is None, "not whole"


def test_options_after_a_wrong_length_or_the_end_of_the_list_are_not_read() -> None:
    raw = bytearray(syn("IPv4", [("NOP", None), CAPABLE, ("NOP", None), ("NOP", None), ("NOP", None)]))
    at = raw.index(bytes((MPTCP, 12)))
    for wrong in (0, 1, 200):
        raw[at + 1] = wrong
        assert without_mptcp(bytes(raw)) is None
    raw[at + 1], raw[at - 1] = 12, 0
    assert without_mptcp(bytes(raw)) is None


def test_each_of_several_is_removed() -> None:
    plain = without_mptcp(syn("IPv4", [CAPABLE, ("MSS", 1460), CAPABLE]))
    assert plain is not None and bytes((MPTCP, 12)) not in plain


@given(st.binary(max_size=120), st.sampled_from([b"\x45", b"\x4f", b"\x60", b""]))
def test_it_never_raises(data: bytes, first: bytes) -> None:
    raw = first + data
    if len(raw) > 9:
        raw = raw[:6] + b"\x06" + raw[7:9] + b"\x06" + raw[10:]
    plain = without_mptcp(raw)
    assert plain is None or len(plain) == len(raw)


@given(st.binary(min_size=20, max_size=40))
def test_any_options_give_a_packet_that_says_the_same(options: bytes) -> None:
    options = options[: len(options) // 4 * 4]
    size = 20 + len(options)
    header = bytes((0x0F, 0xA0, 0x01, 0xBB, *bytes(8), size // 4 << 4, 2, *bytes(6)))
    total = 20 + size
    raw = bytes((0x45, 0, total >> 8, total & 255, *bytes(4), 64, 6, *bytes(10))) + header + options
    plain = without_mptcp(raw)
    assert plain is None or decode(plain) == decode(raw)

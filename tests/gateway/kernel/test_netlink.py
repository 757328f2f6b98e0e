"""Netlink messages and attributes, byte by byte, whole, cut and garbled."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.gateway.kernel import netlink


def test_a_request_and_its_bytes() -> None:
    found = netlink.request(0x102, b"abcd", flags=netlink.ACK, sequence=7)
    assert struct.unpack_from("=IHHII", found) == (20, 0x102, 5, 7, 0)  # NLM_F_REQUEST | NLM_F_ACK
    assert found[16:] == b"abcd"
    assert netlink.generic(10, 7400) == bytes([10, 0]) + (7400).to_bytes(2)


def test_messages_are_split() -> None:
    data = (
        netlink.request(0x100, b"1234")
        + netlink.request(0x101, b"123456789012")
        + struct.pack("=IHHIIi", 20, 3, 2, 0, 0, 0)
    )
    assert [(kind, len(body)) for kind, body in netlink.messages(data)] == [(0x100, 4), (0x101, 12), (3, 4)]


def test_an_acknowledgement_is_told_from_other_messages() -> None:
    def error(sequence: int, code: int) -> bytes:
        return struct.pack("=IHHIIi", 36, 2, 0, sequence, 0, code) + bytes(16)

    assert netlink.acknowledged(error(3, 0), 3) == 0
    assert netlink.acknowledged(error(3, -95), 3) == 95
    assert netlink.acknowledged(error(4, -95), 3) is None
    assert netlink.acknowledged(struct.pack("=IHHII", 16, 3 << 8, 0, 3, 0) + bytes(20), 3) is None


@given(st.binary(max_size=64))
def test_any_bytes_are_no_error(raw: bytes) -> None:
    assert netlink.acknowledged(raw, 1) is None or raw[8:12] == struct.pack("=I", 1)


def test_an_errno_is_raised_and_success_is_not() -> None:
    netlink.check(netlink.errno(struct.pack("=i", 0)))
    netlink.check(netlink.errno(b"12"))
    with pytest.raises(PermissionError):
        netlink.check(netlink.errno(struct.pack("=i", -1)))


def test_attributes_come_back_without_the_flags_of_their_type() -> None:
    data = netlink.attribute(1, b"abc") + netlink.attribute(0x8000 | 2, b"") + netlink.attribute(0x4000 | 3, b"wxyz")
    assert len(data) % 4 == 0
    assert netlink.attributes(data) == {1: b"abc", 2: b"", 3: b"wxyz"}
    assert netlink.attributes(data[:-1]) == {1: b"abc", 2: b""}


@given(st.binary(max_size=200))
def test_any_bytes_are_split_and_decoded(data: bytes) -> None:
    assert sum(len(body) for _, body in netlink.messages(data)) <= len(data)
    assert sum(map(len, netlink.attributes(data).values())) <= len(data)

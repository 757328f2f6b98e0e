"""SSH as its peers send it: both sides of a key exchange, version 1, and any bytes."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.errors import MalformedError
from egress.wire.ssh import MAX_MESSAGES
from egress.wire.sshframing import SshFraming
from tests.wire.test_ssh import kexinit, packet, packet1

IDENT = b"SSH-2.0-x\r\n"
KEXINIT = kexinit([b"a"] * 8)


def fed(data: bytes, size: int = 1 << 20, *, server: bool = False) -> SshFraming:
    framing = SshFraming(server=server)
    for at in range(0, len(data), size):
        framing.feed(data[at : at + size])
    return framing


@pytest.mark.parametrize("size", [1, 5, 1 << 20])
def test_after_newkeys_nothing_can_be_seen(size: int) -> None:
    begun = IDENT + KEXINIT + packet(bytes([30]) + bytes(40))
    assert not fed(begun, size).over
    assert fed(begun + packet(bytes([21])) + bytes(range(256)), size).over


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_the_first_packet_of_version_1(size: int) -> None:
    assert fed(b"SSH-1.5-x\n" + packet1(2, bytes(20)), size).over
    assert fed(b"SSH-1.99-x\n" + packet1(3, bytes(20)), size).over
    with pytest.raises(MalformedError, match="SSH-1"):
        fed(b"SSH-1.5-x\n" + packet1(99, bytes(20)), size)


def test_a_key_exchange_has_an_end() -> None:
    ignored = packet(bytes([2]) + bytes(8))
    fed(IDENT + ignored * MAX_MESSAGES)
    with pytest.raises(MalformedError, match="without an end"):
        fed(IDENT + ignored * (MAX_MESSAGES + 1))


def test_lines_before_the_identification_are_a_servers() -> None:
    assert not fed(b"Welcome\r\n" + IDENT, server=True).over
    with pytest.raises(MalformedError, match="not an SSH"):
        fed(b"Welcome\r\n" + IDENT)


@given(st.binary(max_size=400), st.booleans(), st.integers(1, 60))
def test_any_bytes_at_all(data: bytes, server: bool, size: int) -> None:
    with suppress(MalformedError):
        fed(IDENT * server + data, size, server=server)

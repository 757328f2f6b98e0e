"""QUIC's Initial keys: packets sealed by code of the tests' own open with the keys of their version only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.errors import MalformedError
from egress.wire.quickeys import SAMPLE, V1, V2, InitialKeys
from tests.wire.test_quic import DCID, Client, crypto

FRAMES = crypto(0, bytes(60))
NUMBER_AT = 7 + len(DCID) + 1 + 2  # after the header of a packet without a token


@pytest.mark.parametrize("version", [V1, V2])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_packet_opens_with_its_own_keys_only(version: int, size: int) -> None:
    packet = Client(version=version).seal(FRAMES, 7, size=size)
    assert InitialKeys(DCID, version).open(packet, NUMBER_AT, -1) == (7, FRAMES)
    assert InitialKeys(DCID, V1 + V2 - version).open(packet, NUMBER_AT, -1) is None
    assert InitialKeys(b"other id", version).open(packet, NUMBER_AT, -1) is None


def test_a_short_packet_number_continues_the_highest_one() -> None:
    packet = Client().seal(FRAMES, 0x123456F0, size=1)
    assert InitialKeys(DCID, V1).open(packet, NUMBER_AT, 0x123456EE) == (0x123456F0, FRAMES)
    assert InitialKeys(DCID, V1).open(packet, NUMBER_AT, -1) is None


def test_reserved_bits_are_an_error() -> None:
    with pytest.raises(MalformedError, match="reserved bits"):
        InitialKeys(DCID, V1).open(Client().seal(FRAMES, first=4), NUMBER_AT, -1)


@given(st.binary(min_size=NUMBER_AT + 4 + SAMPLE, max_size=200), st.integers(-1, 2**62 - 1))
def test_random_bytes_open_with_no_keys(data: bytes, largest: int) -> None:
    assert InitialKeys(DCID, V1).open(data, NUMBER_AT, largest) is None

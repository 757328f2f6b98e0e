"""Fragments: what is one, and that taking datagrams apart and joining them loses nothing."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.packet import Raw

from egress.errors import MalformedError
from egress.wire import fragments
from egress.wire.fragments import fragmented, may_be_fragment, take_apart, whole
from egress.wire.packet import decode
from tests.wire.test_packet import packets

SIZES = st.integers(200, 600)


def pieces(size: int, *, six: bool) -> tuple[bytes, list[bytes]]:
    """A datagram as scapy makes it, and its fragments."""
    payload = UDP(sport=7, dport=9) / Raw(bytes(at % 251 for at in range(size)))
    if not six:
        packet = IP(src="10.0.0.1", dst="10.0.0.2", id=7) / payload
        return bytes(packet), [bytes(each) for each in fragment(packet, 104)]
    ip = IPv6(src="fd00::1", dst="fd00::2")
    cut = fragment6(ip / IPv6ExtHdrFragment(id=7) / payload, 200)
    return bytes(ip / payload), [bytes(each) for each in cut]


@pytest.mark.parametrize("six", [False, True])
@given(SIZES)
def test_a_datagram_taken_apart_is_joined_again(six: bool, size: int) -> None:
    datagram, cut = pieces(size, six=six)
    parts = [take_apart(each) for each in cut]
    places = [fragments.fragment(each) for each in cut]
    assert all(map(fragmented, cut)) and all(map(may_be_fragment, cut))
    assert len({part.key for part in parts}) == 1
    at = 0
    for place, part in zip(places, parts, strict=True):
        assert place == (at, part is not parts[-1])
        at += len(part.data)
    joined = whole(parts[0].head, b"".join(part.data for part in parts))
    assert decode(joined)[:9] == decode(datagram)[:9]
    assert decode(joined).payload == decode(datagram).payload


@given(packets())
def test_whole_packets_are_not_fragments(raw: bytes) -> None:
    assert not fragmented(raw) and fragments.fragment(raw) is None


@given(st.binary(max_size=60))
def test_what_the_quick_test_rules_out_is_no_fragment(raw: bytes) -> None:
    found = None
    with suppress(MalformedError):
        found = fragments.fragment(raw)
    assert found is None or may_be_fragment(raw)


def test_a_cut_fragment_and_a_datagram_past_the_largest_are_refused() -> None:
    for six in (False, True):
        _, cut = pieces(300, six=six)
        with pytest.raises(MalformedError, match="captured"):
            take_apart(cut[0][:-1])
        with pytest.raises(MalformedError, match="largest"):
            whole(take_apart(cut[0]).head, bytes(70000))

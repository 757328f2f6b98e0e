"""Reassembly: fragments in any order give the datagram; hostile fragments gain nothing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers import inet, inet6

from egress.capture.fragments import MAX_DATAGRAMS, TIMEOUT, Reassembler
from egress.errors import MalformedError
from egress.wire.packet import decode


def datagram4(size: int, identity: int = 7) -> inet.IP:
    body = bytes(range(256)) * (size // 256 + 1)
    return inet.IP(src="10.0.0.1", dst="192.0.2.1", id=identity) / inet.UDP(sport=1, dport=2) / body[:size]


def datagram6(size: int, *, extension: bool = False) -> inet6.IPv6:
    body = bytes(range(256)) * (size // 256 + 1)
    head = inet6.IPv6(src="fd00::1", dst="2001:db8::1")
    if extension:
        head /= inet6.IPv6ExtHdrHopByHop(options=[inet6.PadN(optdata=bytes(4))])
    return head / inet6.IPv6ExtHdrFragment(id=9) / inet.UDP(sport=1, dport=2) / body[:size]


def pieces4(size: int, part: int, identity: int = 7) -> list[bytes]:
    return [bytes(piece) for piece in inet.fragment(datagram4(size, identity), part)]


def feed(reassembler: Reassembler, pieces: list[bytes], ts: float = 0.0) -> list[bytes]:
    return [whole for piece in pieces if (whole := reassembler.add(piece, ts)) is not None]


@given(st.integers(100, 3000), st.integers(8, 1480), st.randoms(use_true_random=False))
def test_ipv4_in_any_order(size: int, part: int, shuffle: random.Random) -> None:
    pieces = pieces4(size, part)
    shuffle.shuffle(pieces)
    (whole,) = feed(Reassembler(), pieces)
    assert decode(whole) == decode(bytes(datagram4(size)))


@given(st.integers(1300, 5000), st.booleans(), st.randoms(use_true_random=False))
def test_ipv6_in_any_order(size: int, extension: bool, shuffle: random.Random) -> None:
    packet = datagram6(size, extension=extension)
    pieces = [bytes(piece) for piece in inet6.fragment6(packet, 1280)]
    assert len(pieces) > 1
    shuffle.shuffle(pieces)
    (whole,) = feed(Reassembler(), pieces)
    got = decode(whole)
    assert (got.proto, got.sport, got.dport, got.missing) == (17, 1, 2, 0)
    assert got.payload == bytes(packet[inet.UDP].payload)


def test_whole_packets_pass_untouched() -> None:
    reassembler = Reassembler()
    for packet in (bytes(datagram4(10)), bytes(inet6.IPv6() / inet.UDP()), bytes(datagram6(10))):
        assert reassembler.add(packet, 0.0) is packet  # the last one is an atomic fragment


def test_duplicates_are_ignored() -> None:
    pieces = pieces4(1000, 400)
    (whole,) = feed(Reassembler(), [pieces[0], pieces[0], pieces[2], pieces[2], pieces[1]])
    assert decode(whole) == decode(bytes(datagram4(1000)))


def test_two_datagrams_are_kept_apart() -> None:
    one, two = pieces4(1000, 400, 1), pieces4(1000, 400, 2)
    assert len(feed(Reassembler(), [one[0], two[0], two[1], one[1], one[2], two[2]])) == 2


@pytest.mark.parametrize("shift", [-8, 8])
def test_a_datagram_with_an_overlap_is_discarded(shift: int) -> None:
    reassembler = Reassembler()
    pieces = pieces4(1000, 400)
    moved = bytearray(pieces[1])
    offset = int.from_bytes(moved[6:8], "big") + shift // 8
    moved[6:8] = offset.to_bytes(2, "big")
    assert feed(reassembler, [pieces[1]]) == []
    with pytest.raises(MalformedError, match="overlap"):
        reassembler.add(bytes(moved), 0.0)
    assert feed(reassembler, [pieces[0], pieces[2]]) == []


def test_a_last_fragment_short_of_what_came_before() -> None:
    reassembler = Reassembler()
    pieces = pieces4(1000, 8)
    early_end = bytearray(pieces[10])
    early_end[6] &= 0x1F
    feed(reassembler, [pieces[20], pieces[11]])
    with pytest.raises(MalformedError, match="disagree"):
        reassembler.add(bytes(early_end), 0.0)


def test_a_fragment_cut_by_the_capture() -> None:
    with pytest.raises(MalformedError, match="not captured whole"):
        Reassembler().add(pieces4(1000, 400)[0][:-1], 0.0)


def test_an_old_datagram_is_forgotten() -> None:
    reassembler = Reassembler()
    pieces = pieces4(1000, 400)
    feed(reassembler, pieces[:2], 0.0)
    assert feed(reassembler, pieces[2:], TIMEOUT + 1) == []


def test_memory_is_bounded() -> None:
    reassembler = Reassembler()
    for identity in range(MAX_DATAGRAMS * 2):
        feed(reassembler, pieces4(1000, 400, identity)[:1])
    assert len(reassembler._pending) == MAX_DATAGRAMS
    assert feed(reassembler, pieces4(1000, 400, 0)[1:]) == []  # the oldest made room
    assert len(feed(reassembler, pieces4(1000, 400, MAX_DATAGRAMS * 2 - 1)[1:])) == 1


@given(st.data())
def test_mutated(data: st.DataObject) -> None:
    six = data.draw(st.booleans())
    pieces = [bytes(p) for p in inet6.fragment6(datagram6(1500), 1280)] if six else pieces4(300, 96)
    reassembler = Reassembler()
    for piece in pieces * 2:
        broken = bytearray(piece[: data.draw(st.integers(0, 120))])
        for _ in range(data.draw(st.integers(0, 2))):
            if broken:
                broken[data.draw(st.integers(0, min(60, len(broken) - 1)))] = data.draw(st.integers(0, 255))
        try:
            reassembler.add(bytes(broken), 0.0)
        except MalformedError:
            continue


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 3), st.booleans()), max_size=24))
def test_any_pieces_give_a_sound_datagram_or_none(places: list[tuple[int, int, bool]]) -> None:
    reassembler = Reassembler()
    for offset, size, more in places:
        field = offset | (0x2000 if more else 0)
        header = inet.IP(src="10.0.0.1", dst="192.0.2.1", id=1, frag=offset, flags="MF" if more else 0, proto=253)
        try:
            whole = reassembler.add(bytes(header / bytes(size * 8)), 0.0)
        except MalformedError:
            continue
        if whole is not None and field:
            assert decode(whole).length == len(whole)

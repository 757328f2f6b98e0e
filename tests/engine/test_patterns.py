"""Patterns are found across packets, in any of many streams."""

from __future__ import annotations

import gc

from hypothesis import given
from hypothesis import strategies as st

from egress.engine.patterns import TAIL, Patterns, Scan
from egress.model import ACK, PSH, Packet
from egress.wire.packet import decode
from signatures import load
from tests.traffic import AGENT4, SERVER4, tcp

PATTERNS = Patterns(load())
SEQ = 2**32 - 40  # the sequence number wraps on the way


def segment(seq: int, data: bytes) -> Packet:
    return decode(tcp(AGENT4, SERVER4, 40000, 443, PSH | ACK, seq, 1, data))


def scan(before: bytes = b"") -> Scan:
    made = PATTERNS.scan()
    assert made is not None
    made.follow(before)
    return made


@given(
    st.binary(max_size=60),
    st.sampled_from([b"SSH-2.0-OpenSSH", b'{"method":"mining.subscribe"}']),
    st.integers(1, 9),
)
def test_a_pattern_is_found_wherever_it_is_cut_and_what_came_before_is_at_hand(
    noise: bytes, text: bytes, size: int
) -> None:
    made, data, earlier = scan(b"first\nearlier"), noise + b"\n" + text, b"earlier"
    for at in range(0, len(data), size):
        packet = segment((SEQ + at) & 0xFFFFFFFF, data[at : at + size])
        if made.hit(packet):
            break
    else:
        raise AssertionError("not found")
    assert made.tail == (earlier + data[:at]).rpartition(b"\n")[2]


@given(st.binary(max_size=3 * TAIL), st.lists(st.integers(0, 3 * TAIL), max_size=8))
def test_the_line_that_lasts_is_at_hand_however_the_bytes_are_cut(data: bytes, cuts: list[int]) -> None:
    """The tail is that of all bytes so far together, with newlines as rare and as common as one likes."""
    data = data.replace(b"S", b"\n").replace(b'"', b"\n")  # no pattern
    before, at = data[: len(data) // 3], len(data) // 3
    made = scan(before)
    for end in sorted({min(at + cut, len(data)) for cut in cuts}):
        assert not made.hit(segment(at, data[at:end]))
        at = end
        assert made.tail == data[:at][-TAIL:].rpartition(b"\n")[2]


def test_without_patterns_there_is_nothing_to_scan() -> None:
    assert Patterns([]).scan() is None


def test_a_scan_outlives_what_made_it() -> None:
    made = Patterns(load()).scan()
    assert made is not None
    rubbish = [bytearray(10_000) for _ in range(100)]
    gc.collect()
    assert made.hit(segment(0, b"SSH-2.0-x")) and len(rubbish) == 100

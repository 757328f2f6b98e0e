"""Reassembly: the same bytes come out once, for any order, overlap and repetition of segments."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egress.dissection.stream import MAX_PENDING, SegmentOverflowError, Stream, distance
from tests.examples import examples

CAPACITY = 65536


def strict(**changes: bool) -> Stream:
    return Stream(strict=True, capacity=CAPACITY, **changes)


def shuffled(data: bytes, seed: int) -> list[tuple[int, bytes]]:
    """Overlapping, repeated, disordered segments that together hold `data`."""
    rng = random.Random(seed)
    segments, at = [], 0
    while at < len(data):
        size = rng.randrange(1, 40)
        back = max(0, at - rng.randrange(0, 8))
        segments.append((back, data[back : at + size]))
        at += size
    segments += [rng.choice(segments) for _ in range(4)]
    rng.shuffle(segments)
    return segments


@given(st.binary(min_size=1, max_size=400), st.integers(0, 2**32 - 1), st.integers(0, 10**6))
def test_order_does_not_matter(data: bytes, base: int, seed: int) -> None:
    stream = strict()
    stream.start(base)
    out = b"".join(stream.feed((base + at) & 0xFFFFFFFF, part) for at, part in shuffled(data, seed))
    assert out == data
    assert stream.conflict is None and stream.waiting == 0 and not stream.pending
    assert stream.next == (base + len(data)) & 0xFFFFFFFF


@given(st.binary(min_size=2, max_size=100), st.data())
def test_any_changed_byte_of_a_retransmission_is_noticed(data: bytes, draw: st.DataObject) -> None:
    stream = strict()
    stream.start(7)
    stream.feed(7, data)
    at = draw.draw(st.integers(0, len(data) - 2))
    size = draw.draw(st.integers(2, len(data) - at))
    changed = bytearray(data[at : at + size])
    spot = draw.draw(st.integers(0, size - 1))
    changed[spot] ^= 0x20
    assert stream.feed(7 + at, bytes(changed)) == b""
    assert stream.conflict is not None
    assert stream.conflict.seq == 7 + at + spot
    assert stream.conflict.before[:1] != stream.conflict.after[:1]


def test_two_versions_of_a_segment_that_waits_are_noticed() -> None:
    stream = strict()
    stream.start(0)
    stream.feed(10, b"benign....")
    stream.feed(10, b"mining....")
    assert stream.conflict is not None


def test_overlap_of_waiting_segments_is_noticed_when_they_are_delivered() -> None:
    stream = strict()
    stream.start(0)
    stream.feed(4, b"efgh")
    stream.feed(6, b"XXij")
    assert stream.feed(0, b"abcd") == b"abcdefghij"
    assert stream.conflict is not None and stream.conflict.before.startswith(b"gh")


def test_a_keep_alive_octet_is_no_contradiction_once_all_is_acknowledged() -> None:
    stream = strict()
    stream.start(0)
    stream.feed(0, b"abc")
    stream.acknowledge(3)
    assert stream.feed(2, b"\x00") == b"" and stream.conflict is None


def test_the_same_octet_before_it_is_acknowledged_is_one() -> None:
    stream = strict()
    stream.start(0)
    stream.feed(0, b"abc")
    stream.acknowledge(2)
    stream.feed(2, b"\x00")
    assert stream.conflict is not None


def test_a_strict_stream_takes_no_more_than_it_can_hold() -> None:
    stream = strict()
    stream.start(0)
    for at in range(1, 66):
        stream.feed(at * 1000, bytes(999))
    with pytest.raises(SegmentOverflowError):
        stream.feed(66000, bytes(999))
    assert stream.waiting <= CAPACITY
    other = strict()
    other.start(0)
    for at in range(MAX_PENDING):
        other.feed(2 + at * 2, b"x")
    with pytest.raises(SegmentOverflowError):
        other.feed(5000, b"x")
    assert len(other.pending) <= MAX_PENDING
    assert other.held() >= MAX_PENDING * 64  # the memory that a tiny waiting segment really takes


def test_a_strict_stream_believes_no_acknowledgement_of_bytes_it_has_not_seen() -> None:
    stream = strict()
    stream.start(0)
    stream.feed(5, b"world")
    assert stream.acknowledge(10) == b""
    assert stream.feed(0, b"hello") == b"helloworld" and stream.unseen == 0


def test_a_lenient_stream_skips_what_the_receiver_had_and_counts_it() -> None:
    stream = Stream(strict=False, capacity=CAPACITY)
    stream.start(0)
    stream.feed(5, b"world")
    assert stream.acknowledge(10) == b"world"
    assert stream.unseen == 5


def test_a_lenient_stream_goes_on_past_a_full_buffer() -> None:
    stream = Stream(strict=False, capacity=1000)
    stream.start(0)
    out = b"".join(stream.feed(at, bytes([65 + at // 100]) * 100) for at in range(100, 2000, 100))
    assert len(out) > 500 and stream.unseen == 100 and stream.waiting <= 1000


def test_truncated_capture_counts_the_missing_bytes() -> None:
    stream = Stream(strict=False, capacity=CAPACITY)
    stream.start(0)
    assert stream.feed(0, b"abc", missing=7) == b"abc"
    assert stream.feed(10, b"def") == b"def"
    assert stream.unseen == 7
    assert stream.feed(0, b"abc", missing=7) == b"" and stream.next == 13


def test_picked_up_in_mid_stream_earlier_bytes_are_news() -> None:
    stream = strict(early=True)
    stream.feed(100, b"later")
    assert stream.feed(95, b"early") == b"early"
    assert stream.feed(98, b"lylat") == b"ly" and stream.conflict is None
    assert stream.next == 105


@given(st.integers(0, 2**32 - 1), st.integers(-(2**31), 2**31 - 1))
def test_distance_is_signed_and_wraps(base: int, by: int) -> None:
    assert distance((base + by) & 0xFFFFFFFF, base) == by


@settings(max_examples=examples(200))
@given(
    st.booleans(),
    st.booleans(),
    st.lists(
        st.tuples(st.integers(0, 2**32 - 1) | st.integers(0, 300), st.binary(max_size=50), st.integers(0, 20)),
        max_size=60,
    ),
)
def test_nothing_makes_it_raise_or_grow(is_strict: bool, early: bool, segments: list[tuple[int, bytes, int]]) -> None:
    stream = Stream(strict=is_strict, capacity=500, early=early)
    stream.start(50)
    for seq, data, missing in segments:
        try:
            stream.feed(seq, data, missing)
        except SegmentOverflowError:
            assert is_strict
        stream.acknowledge(seq)
        assert stream.waiting == sum(map(len, stream.pending.values())) <= 500 + 50
        assert stream.held() >= 0


@pytest.mark.parametrize("acknowledged", [False, True])
@pytest.mark.parametrize("slot", [1 << 20, 1 << 24, 1 << 26])
@pytest.mark.parametrize("seed", range(40))
def test_numbers_that_come_round_are_other_bytes(seed: int, slot: int, acknowledged: bool) -> None:
    """Keep few segments of a long transfer, at numbers that meet again each 4 GiB."""
    rng = random.Random(seed)
    stream = Stream(strict=False, capacity=CAPACITY)
    at = 0
    for _ in range(400):
        size = rng.randrange(1, 1400)
        stream.feed(at % 2**32, rng.randbytes(size))
        if acknowledged:
            stream.acknowledge((at + size) % 2**32)
        assert stream.conflict is None
        at += slot * rng.randrange(1, 1 + (5 << 28) // slot)


def test_a_window_further_the_same_numbers_are_still_the_same_bytes() -> None:
    stream = Stream(strict=False, capacity=CAPACITY)
    stream.feed(1, b"first")
    stream.feed(2**29, b"far")
    stream.feed(1, b"other")
    assert stream.conflict is not None


def test_what_is_forgotten_is_compared_no_more() -> None:
    stream = Stream(strict=False, capacity=100)
    stream.start(10)
    assert stream.feed(10, b"abc") == b"abc"
    stream.forget()
    assert stream.held() == 0
    assert stream.feed(10, b"xyzdef") == b"def"
    assert stream.conflict is None


def test_a_segment_costs_the_same_beside_many_that_wait() -> None:
    def cost(waiting: int) -> float:
        stream = Stream(strict=True, capacity=65536)
        stream.start(0)
        for number in range(waiting):
            stream.feed(10_000 + 2 * number, b"a")
        began = time.process_time()
        for seq in range(2000):
            assert stream.feed(seq, b"a") == b"a"
        return time.process_time() - began

    few, many = (min(cost(waiting) for _ in range(3)) for waiting in (1, MAX_PENDING - 7))
    assert many < 5 * few  # with all of them sorted for each segment: 100


@given(st.integers(0, 2**32 - 1), st.permutations(range(30)), st.booleans())
def test_any_order_gives_the_bytes_in_order_across_the_wrap(isn: int, order: list[int], strict: bool) -> None:
    stream = Stream(strict=strict, capacity=65536)
    stream.start(isn)
    data = bytes(range(90))
    out = b"".join(
        stream.feed((isn + 3 * number) & 0xFFFFFFFF, data[3 * number : 3 * number + 3 + number % 4]) for number in order
    )
    assert out == data and not stream.pending and not stream.order and stream.conflict is None

"""Bytes inside a protocol are dissected like the flow's own, to a bounded depth, breadth and cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.dissection.dissector import Dissector
from egress.dissection.events import Event, HttpAsked, Named, SshSpoken, StratumSpoken, TlsOpened, Unread
from egress.dissection.layer import AMPLIFICATION, MAX_CHANNELS, NESTING
from egress.model import Direction
from tests.dissection.boxes import BOXES, Counter, box
from tests.traffic import client_hello

OUT = Direction.OUT
SUBSCRIBE = b'{"id":1,"method":"mining.subscribe","params":["cgminer/4.11"]}\n'
GET = b"GET /x HTTP/1.1\r\nHost: www.example.org\r\n\r\n"
SSH = b"SSH-2.0-\r\n"  # reported at the last hyphen, with the rest of the line that the segment holds: here nothing
INSIDE = [SUBSCRIBE, GET, GET + SUBSCRIBE, SSH, client_hello("www.example.org"), b"nothing known\r\n"]


def events(data: bytes, sizes: list[int] | None = None) -> list[Event]:
    dissector, found, at = Dissector(registry=BOXES), list[Event](), 0
    for size in [*(sizes or ()), len(data)]:
        found += dissector.feed(OUT, data[at : at + size])
        at += size
    return found


def nested(data: bytes, depth: int) -> bytes:
    for _ in range(depth):
        data = box(data)
    return data


@given(st.sampled_from(INSIDE), st.integers(0, NESTING), st.lists(st.integers(1, 50), max_size=20))
def test_what_is_inside_gives_the_events_it_gives_outside(data: bytes, depth: int, sizes: list[int]) -> None:
    assert events(nested(data, depth), sizes) == events(data)


@given(st.sampled_from(INSIDE), st.integers(1, NESTING), st.lists(st.integers(1, 50), max_size=20))
def test_what_follows_a_protocol_gives_the_events_it_gives_alone(data: bytes, depth: int, sizes: list[int]) -> None:
    assert events(box(b"", b".") * depth + data, sizes) == events(data)


def test_deeper_than_the_bound_only_lines_are_read() -> None:
    deep = NESTING + 1
    assert [type(event) for event in events(nested(SUBSCRIBE, deep))] == [Unread, StratumSpoken]
    assert [type(event) for event in events(nested(b"SSH-2.0-Go\r\n", deep))] == [Unread, SshSpoken]
    for data in (GET, client_hello("a.test"), box(SUBSCRIBE)):
        assert events(nested(data, deep)) == [Unread(len(data))]


def test_channels_are_streams_of_their_own() -> None:
    head, tail = SUBSCRIBE[:20], SUBSCRIBE[20:]
    pieces = [(head, b"S", 1), (GET[:9], b"S", 2), (tail, b"s", 1), (GET[9:], b"s", 2)]
    data = b"".join(box(*piece, first=not at) for at, piece in enumerate(pieces))
    assert [type(event) for event in events(data)] == [StratumSpoken, HttpAsked, Named]
    again = box(head, b"S") + box(tail, b"S", first=False)  # the second begins another stream on the same channel
    assert events(again) == []


def test_no_more_channels_than_the_bound_are_open() -> None:
    many = b"".join(box(SUBSCRIBE[:20], b"S", at, first=not at) for at in range(MAX_CHANNELS + 2))
    rest = b"".join(box(SUBSCRIBE[20:], b"s", at, first=False) for at in range(MAX_CHANNELS + 2))
    found = [type(event) for event in events(many + rest)]
    assert found.count(StratumSpoken) == MAX_CHANNELS
    assert found.count(Unread) == 2 * 2 and len(found) == MAX_CHANNELS + 4, "what was left out is stated"


def test_the_forms_of_bytes_decide_what_may_read_them() -> None:
    assert [type(event) for event in events(box(SUBSCRIBE, b"R"))] == [StratumSpoken]
    assert events(box(SUBSCRIBE, b"A")) == []
    assert events(box(GET, b"R")) == events(box(b"x\nSSH-2.0-Go\r\n", b"R")) == []
    assert [type(event) for event in events(box(b"SSH-2.0-Go\r\n", b"A"))] == [SshSpoken]


def test_datagrams_can_be_inside_a_stream() -> None:
    found = events(box(b"\xbb\xbc" + SUBSCRIBE, b"d"))
    assert [type(event) for event in found] == [StratumSpoken]


@pytest.mark.parametrize("size", [1, 7, 5000])
def test_unpacked_bytes_are_dissected_to_a_bounded_cost(size: int) -> None:
    """A compressed bomb must cost no more than bytes that are sent as they are."""
    Counter.total, sent = 0, b"\xb0" + b"!" * 5000
    dissector = Dissector(registry=BOXES)
    for at in range(0, len(sent), size):
        list(dissector.feed(OUT, sent[at : at + size]))
    assert len(sent) < Counter.total <= (AMPLIFICATION + 1) * len(sent)


def test_a_box_that_broke_its_protocol_is_read_by_lines() -> None:
    found = events(box(b"", b"!") + GET + SUBSCRIBE)
    assert [type(event) for event in found] == [StratumSpoken]
    assert not any(isinstance(event, (TlsOpened, HttpAsked)) for event in found)

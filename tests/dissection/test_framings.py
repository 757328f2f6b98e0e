"""Framings: whole conversations hold in any segmentation; random and changed bytes end at the first that contradict."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egress.dissection.registry import REGISTRY
from egress.errors import MalformedError
from egress.model import TCP, UDP, App
from tests.dissection.conversations import GET, conversations, datagrams, fragmented_hello
from tests.dissection.framed import IN, OUT, before_the_fault, cut, framing, holds
from tests.examples import examples

OVER_TCP = sorted(REGISTRY.framings[TCP])
# The most bytes of a random stream that pass before it is refused, if each comes in a segment of its own. The docs
# give these figures.
BYTE_BY_BYTE = {"tls": 2, "ssh": 0, "http": 5, "http2": 1, "dns": 13, "socks": 1, "stratum": 5}


def test_every_application_has_a_framing() -> None:
    assert set(REGISTRY.framings[TCP]) | set(REGISTRY.framings[UDP]) == set(App) - {App.UNKNOWN}
    assert set(conversations()) == set(REGISTRY.framings[TCP])
    assert set(datagrams()) == set(REGISTRY.framings[UDP])


@pytest.mark.parametrize("app", OVER_TCP)
def test_every_prefix_of_a_conversation_holds_in_any_segmentation(app: str) -> None:
    for turns in conversations()[App(app)]:
        assert holds(app, turns)
        assert holds(app, cut(turns, [1460]))
        if sum(len(data) for _, data in turns) < 20_000:
            assert holds(app, cut(turns, [1]))


@settings(max_examples=examples(60))
@given(st.data())
def test_conversations_hold_in_drawn_segmentations(data: st.DataObject) -> None:
    app = data.draw(st.sampled_from(OVER_TCP))
    turns = data.draw(st.sampled_from(conversations()[App(app)]))
    sizes = data.draw(st.lists(st.integers(1, 3000), min_size=1, max_size=8))
    assert holds(app, cut(turns, sizes))


@pytest.mark.parametrize("app", sorted(REGISTRY.framings[UDP]))
def test_conversations_of_datagrams_hold(app: str) -> None:
    for turns in datagrams()[App(app)]:
        assert holds(app, turns, UDP)


@pytest.mark.parametrize("app", OVER_TCP)
def test_of_random_bytes_none_passes_and_cut_byte_by_byte_a_few(app: str) -> None:
    chance = random.Random(app)
    streams = [chance.randbytes(2000) for _ in range(400)]
    assert sum(before_the_fault(app, data, 1460) for data in streams) == 0
    assert max(before_the_fault(app, data, 1) for data in streams) <= BYTE_BY_BYTE[app]


def test_random_datagrams_do_not_pass() -> None:
    chance = random.Random(1)
    for _ in range(400):
        data = chance.randbytes(chance.randrange(1, 1400))
        assert not holds(App.DNS, [(OUT, data)], UDP)
        assert not holds(App.QUIC, [(OUT, data)], UDP)
        assert not holds(App.TUNNEL, [(OUT, data)], UDP)


@settings(max_examples=examples(150))
@given(st.data())
def test_any_bytes_in_any_place_raise_nothing_else(data: st.DataObject) -> None:
    app = data.draw(st.sampled_from(OVER_TCP))
    turns = list(data.draw(st.sampled_from(conversations()[App(app)])))
    at = data.draw(st.integers(0, len(turns) - 1))
    direction, whole = turns[at]
    place = data.draw(st.integers(0, min(len(whole), 400)))
    turns[at] = direction, whole[:place] + data.draw(st.binary(max_size=40)) + whole[place + 1 :]
    holds(app, cut(turns, data.draw(st.lists(st.integers(1, 3000), min_size=1, max_size=4))))


@pytest.mark.parametrize("other", OVER_TCP)
@pytest.mark.parametrize("app", OVER_TCP)
def test_no_protocol_passes_as_another(app: str, other: str) -> None:
    carried = {("stratum", "http"), ("http", "stratum")}  # getwork is HTTP
    for turns in conversations()[App(other)]:
        spoken = any(direction is OUT for direction, _ in turns)
        if app == other or (app, other) in carried or not spoken:
            continue
        assert not holds(app, turns), turns[:1]


@pytest.mark.parametrize(
    "app, fits, fails",
    [
        ("tls", b"\x17\x03\x03\x00\x05hello", b"hello"),
        ("http", GET, b"\x00\x01"),
        ("http2", b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8), b"\xff" * 9),
        ("dns", b"\x00\x11\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\x00\x00\x01\x00\x01", b"\x00\x01"),
        ("stratum", b'{"id":1}\n', b"\x00\x01"),
    ],
)  # fmt: skip
def test_in_mid_stream_the_client_must_begin_a_message(app: str, fits: bytes, fails: bytes) -> None:
    for data, holding in ((fits, True), (fails, False)):
        held = framing(app)
        held.pick_up()
        held.feed(IN, b"\xff\xfe the middle of something")
        try:
            held.feed(OUT, data)
        except MalformedError:
            assert not holding
        else:
            assert holding


@pytest.mark.parametrize("app", ["ssh", "socks"])
def test_where_nothing_shows_in_mid_stream_it_is_not_picked_up(app: str) -> None:
    with pytest.raises(MalformedError, match="beginning"):
        framing(app).pick_up()


@pytest.mark.parametrize("app", OVER_TCP)
def test_a_blind_direction_is_not_checked(app: str) -> None:
    held = framing(app)
    held.blind[OUT] = True
    held.feed(OUT, bytes(range(256)))


def test_a_hello_in_pieces_costs_little() -> None:
    """A try to read a hello costs time for each record: a hello of a thousand records is not tried with each byte."""
    held = framing("tls")
    for byte in fragmented_hello(1):
        held.feed(OUT, bytes([byte]))
    held.feed(OUT, b"\x14\x03\x03\x00\x01\x01")

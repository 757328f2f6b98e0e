"""One direction of a stream: making few readers must lose no event."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from egress.dissection.events import SshSpoken
from egress.dissection.layer import Both, Shared
from egress.dissection.protocol import Fact, Form, Identified, Place, Reader
from egress.dissection.registry import REGISTRY
from egress.dissection.side import HEAD_BYTES, Side
from egress.model import TCP, App, Direction
from tests.examples import examples
from tests.traffic import client_hello

OUT, IN = Direction.OUT, Direction.IN
SUBSCRIBE = b'{"id":1,"method":"mining.subscribe","params":["cgminer/4.11"]}\n'
BODY = b'{"id":0,"method":"getblocktemplate","params":[{"capabilities":["coinbasetxn"]}]}'
PIECES = [
    SUBSCRIBE,
    SUBSCRIBE.replace(b'"', b"'"),
    b"/*x*/" + SUBSCRIBE.replace(b'"', b"'"),
    b" \t\xef\xbb\xbf",
    b"\0",
    b"\r\n",
    b"{",
    b"'",
    b"//",
    b"GET /x HTTP/1.1\r\nHost: www.Example.org:8080\r\n\r\n",
    b"GET / HTTP/1.1\n",
    b"GET / HTTP/1.1\nbad field\n\n",
    b"CONNECT pool.example.org:3333 HTTP/1.1\r\nHost: pool.example.org:3333\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY,
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200\r\n\r\nSSH-2.0-x\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"PRI * HTTP/1.1\r\n\r\n",
    b"SSH-2.0-OpenSSH_9\r\n",
    b"SSH-chisel-v3-client\r\n",
    b"\0\0\0\x0c\x0a\x15" + bytes(10),
    b"220 hi\r\n",
    b"\x05\x01\x00\x05\x01\x00\x03\x08pool.com\x0d\x05",
    b"\x05\x00\x05\x00\x00\x01\0\0\0\0\0\0",
    b"\x04\x01\x0d\x05\x00\x00\x00\x01user\x00pool.com\x00",
    client_hello("www.example.org"),
    client_hello("www.example.org")[:60],
    b"\x16\x03\x03\x00\x04\x02\x00\x00\x00",
    b"\x16\x03\x01\x3f\xff\x01\n",
    b"\x15\x03\x01\0\2\2\x28",
]
SYNTAX = st.lists(st.sampled_from(b"\n\0 {[\"'/*}]:,\\a\r\xef\xbb\xbf"), max_size=40).map(bytes)
TALK = st.lists(
    st.tuples(st.sampled_from([OUT, OUT, IN]), st.sampled_from(PIECES) | st.binary(max_size=60) | SYNTAX), max_size=10
)


class Thorough(Side):
    """A direction without economies: each protocol sees all bytes of a head each time, all readers are made at once,
    and each is kept when it is done.
    """

    __slots__ = ()

    def _begin(self, place: Place, *, identified: bool = True) -> None:
        super()._begin(place, identified=identified)
        self._readers = self._shared.registry.readers(place, None)

    def _identify(self, data: bytes, facts: list[Fact]) -> bytes:
        head = self._head + data
        whole = super()._identify(data, facts)
        if self._follower is None and len(head) < HEAD_BYTES:
            self._candidates, self._head = self._shared.registry.streams[self._place.form], head
        return whole

    def _give_up(self, done: Reader) -> None:
        readers = self._readers
        super()._give_up(done)
        self._readers = readers


def facts(kind: type[Side], talk: list[tuple[Direction, bytes]], sizes: list[int]) -> list[list[Fact]]:
    """The facts from each segment: `sizes` are those of the segments, the last size for all that are left."""
    shared, both = Shared(REGISTRY, kind), Both()
    sides = [kind(Place(Form.STREAM, direction, TCP), shared, both) for direction in Direction]
    found, sizes = [], list(sizes)
    for direction, data in talk:
        while data:
            size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
            shared.left += 1 << 20
            found.append(sides[direction].feed(data[:size], direction))
            data = data[size:]
    return found


@settings(max_examples=examples(400), deadline=None)
@given(TALK, st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_readers_that_are_made_late_and_given_up_early_lose_nothing(
    talk: list[tuple[Direction, bytes]], sizes: list[int]
) -> None:
    assert facts(Side, talk, sizes) == facts(Thorough, talk, sizes)


def test_no_reader_is_made_before_a_byte_comes_and_none_that_cannot_be_needed() -> None:
    side = Side(Place(Form.STREAM, IN, TCP), Shared(REGISTRY, Side), {})
    assert side._readers is None
    side.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", IN)
    assert side._readers == []


def test_a_candidate_that_cannot_match_any_more_is_given_up() -> None:
    side = Side(Place(Form.STREAM, OUT, TCP), Shared(REGISTRY, Side), {})
    side.feed(b"G", OUT)
    assert {protocol.app for protocol in side._candidates} == {App.HTTP}
    side.feed(b"%", OUT)
    side.feed(b"GET / HTTP/1.1\r\n\r\n" * 3, OUT)
    assert side._candidates == ()


def test_at_most_one_protocol_claims_a_beginning() -> None:
    """The order of the protocols does not matter."""
    place = Place(Form.STREAM, OUT, TCP)
    for piece in PIECES:
        for size in range(len(piece)):
            claims = [each for each in REGISTRY.streams[Form.STREAM] if each.identify(piece[: size + 1], place)]
            assert len(claims) <= 1


def test_an_inner_protocol_replaces_its_carrier() -> None:
    side = Side(Place(Form.STREAM, OUT, TCP), Shared(REGISTRY, Side), {})
    side._shared.left = 1000
    found = side.feed(b"\x05\x01\x00\x05\x01\x00\x03\x08pool.com\x0d\x05" + SUBSCRIBE, OUT)
    assert [fact.app for fact in found if isinstance(fact, Identified)] == [App.SOCKS, App.STRATUM]


def test_a_line_protocol_that_is_certain_ends_what_was_a_guess() -> None:
    """A line that looks like the beginning of a TLS hello, then SSH up to its encryption."""
    side = Side(Place(Form.STREAM, OUT, TCP), Shared(REGISTRY, Side), {})
    begin = b"\x80\x2e\x01\x03\x01\0\x15\0\0\0\x10\nSSH-1.5-x\n"
    kinds = [type(fact) for fact in side.feed(begin, OUT)]
    opaque = [side.opaque]
    assert SshSpoken in kinds
    assert side.feed(b"\xff" * 6, OUT) == []
    assert [*opaque, side.opaque] == [False, True]
    assert side.feed(b"\xff" * 40, OUT) == []

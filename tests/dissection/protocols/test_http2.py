"""HTTP/2 in dissection: each request states its server."""

from __future__ import annotations

import hpack

from egress.dissection.events import Named
from egress.dissection.protocol import Form, Identified, Place, Step
from egress.dissection.protocols.http2 import Http2
from egress.model import TCP, App, Direction
from egress.wire.http2 import PREFACE

OUT, IN = Place(Form.STREAM, Direction.OUT, TCP), Place(Form.STREAM, Direction.IN, TCP)
SETTINGS = b"\0\0\0\4\0\0\0\0\0"


def request(host: str, stream: int) -> bytes:
    fields = [(":method", "GET"), (":scheme", "http"), (":authority", host), (":path", "/")]
    block = bytes(hpack.Encoder().encode(fields))
    return len(block).to_bytes(3) + b"\1\5" + stream.to_bytes(4) + block


def follow(data: bytes, place: Place = OUT, size: int = 10**6) -> list[Step]:
    assert Http2.identify(data, place)
    follower = Http2().follow(data, place)
    steps, at = follower.feed(data[: len(PREFACE)]), len(PREFACE)
    while at < len(data):
        steps += follower.feed(data[at : at + size])
        at += size
    return steps


def test_each_request_states_its_server_in_segments_of_any_size() -> None:
    data = PREFACE + SETTINGS + request("a.example.org", 1) + request("b.example.org", 3)
    expected = [
        Identified(App.HTTP2, "a.example.org"),
        Named("a.example.org", hidden=False),
        Identified(App.HTTP2, "b.example.org"),
        Named("b.example.org", hidden=False),
    ]
    assert follow(data) == follow(data, size=1) == expected
    assert follow(data, IN) == [expected[0], expected[2]]


def test_a_broken_connection_hides_every_further_name() -> None:
    assert follow(PREFACE + b"\0\0\0\6\0\0\0\0\0" + request("a.example.org", 1)) == [Named("", hidden=True)]

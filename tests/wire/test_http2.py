"""HTTP/2 requests: whole, byte by byte, spread over frames, padded, disagreeing, mutated."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from egress.errors import MalformedError
from egress.wire.http import Opaque, RequestStream
from egress.wire.http2 import MAX_BLOCK, MAX_LIST, PREFACE, H2Request, H2RequestStream, starts_http2
from tests.examples import examples

DATA, HEADERS, PRIORITY, SETTINGS, PUSH_PROMISE, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 4, 5, 6, 8, 9
END_STREAM, END_HEADERS, PADDED, PRIORITIZED = 0x1, 0x4, 0x8, 0x20
Fields = list[tuple[str, str]]


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def get(authority: str | None = "a.example", *more: tuple[str, str], path: str = "/") -> Fields:
    named = [] if authority is None else [(":authority", authority)]
    return [(":method", "GET"), (":scheme", "http"), *named, (":path", path), *more]


def block(fields: Fields, encoder: Encoder | None = None) -> bytes:
    return bytes((encoder or Encoder()).encode(fields))


def request(fields: Fields, stream: int = 1, encoder: Encoder | None = None, flags: int = END_HEADERS) -> bytes:
    return frame(HEADERS, block(fields, encoder), flags, stream)


BEGIN = frame(SETTINGS, b"\0\3\0\0\0\x64")


def read(*frames: bytes) -> list[H2Request]:
    return H2RequestStream().feed(BEGIN + b"".join(frames))


def a_connection() -> tuple[bytes, list[H2Request]]:
    """The frames of an ordinary client: three requests that share the compression, content, trailers, other frames."""
    encoder = Encoder()
    data = BEGIN + frame(WINDOW_UPDATE, b"\0\1\0\0") + frame(SETTINGS, flags=1)
    data += request(get("A.Example:8080", ("user-agent", "x" * 50)), 1, encoder, END_HEADERS | END_STREAM)
    data += request([(":method", "POST"), *get("b.example.", ("te", "trailers"), path="/p?q")[1:]], 3, encoder)
    data += frame(DATA, b"\0\0\5\1\5" * 4000, 0, 3) + frame(PING, bytes(8))
    data += request([("checksum", "1")], 3, encoder, END_HEADERS | END_STREAM)
    data += frame(0xFA, b"an unknown frame", 0xFF, 7)
    data += request(get("[2001:db8::1]:80", ("user-agent", "x" * 50)), 5, encoder, END_HEADERS | END_STREAM)
    seen = [
        H2Request(1, "GET", "a.example", "/"),
        H2Request(3, "POST", "b.example", "/p?q"),
        H2Request(5, "GET", "2001:db8::1", "/"),
    ]
    return data, seen


@pytest.mark.parametrize("size", [1, 2, 9, 10, 1000, 100_000])
def test_segmentation_does_not_matter(size: int) -> None:
    data, expected = a_connection()
    stream = H2RequestStream()
    assert [seen for at in range(0, len(data), size) for seen in stream.feed(data[at : at + size])] == expected
    assert stream.feed(b"\0\0\5\0\0trailing") == []


def test_every_truncation_gives_a_beginning() -> None:
    data, expected = a_connection()
    for size in [*range(500), *range(20_000, len(data))]:
        seen = H2RequestStream().feed(data[:size])
        assert seen == expected[: len(seen)]


def test_a_block_over_continuations() -> None:
    whole = block(get())
    for cut in range(len(whole) + 1):
        frames = frame(HEADERS, whole[:cut], 0, 1) + frame(CONTINUATION, b"", 0, 1)
        assert read(frames, frame(CONTINUATION, whole[cut:], END_HEADERS, 1)) == [H2Request(1, "GET", "a.example", "/")]


def test_padding_and_priority() -> None:
    whole = block(get())
    for pad in (0, 1, 255):
        for flags, extra in ((0, b""), (PRIORITIZED, b"\x80\0\0\0\7")):
            padded = frame(HEADERS, bytes([pad]) + extra + whole + bytes(pad), END_HEADERS | PADDED | flags, 1)
            assert read(padded) == [H2Request(1, "GET", "a.example", "/")]


def test_who_is_asked() -> None:
    assert read(request(get(None, ("host", "A.example:80"))))[0].authority == "a.example"
    assert read(request(get("a.example", ("host", "A.EXAMPLE."))))[0].authority == "a.example"
    assert read(request(get(None)))[0].authority == ""
    connect = [(":method", "CONNECT"), (":authority", "a.example:22")]
    assert read(request(connect)) == [H2Request(1, "CONNECT", "a.example", "")]
    websocket = [(":method", "CONNECT"), (":protocol", "websocket"), *get()[1:]]
    assert read(request(websocket)) == [H2Request(1, "CONNECT", "a.example", "/")]


def test_the_table_may_grow_as_servers_allow_and_no_further() -> None:
    encoder = Encoder()
    encoder.header_table_size = 65536
    many = [request(get("a.example", (f"x-{number}", "v" * 900)), 2 * number + 1, encoder) for number in range(60)]
    again = [request(get("a.example", (f"x-{number}", "v" * 900)), 2 * number + 201, encoder) for number in range(60)]
    assert sum(map(len, again)) < 60 * 30  # the table is in use
    assert len(read(*many, *again)) == 120
    assert read(frame(HEADERS, b"\x20\x3f\xe1\x1f" + block(get()), END_HEADERS, 1))  # to 0 and back to 4096
    encoder.header_table_size = 65537
    with pytest.raises(MalformedError, match="decode"):
        read(request(get(), 1, encoder))


GOOD = request(get())


def huge() -> bytes:
    """A short block that says one long field again and again."""
    encoder = Encoder()
    return block([("x", "y" * 4000)], encoder) + block([("x", "y" * 4000)], encoder) * (MAX_LIST // 4000)


@pytest.mark.parametrize(
    "data, says",
    [
        (GOOD, "SETTINGS"),
        (frame(SETTINGS, flags=1), "SETTINGS"),
        (frame(SETTINGS, stream=1), "SETTINGS"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "SETTINGS"),
        (BEGIN + request(get(), 2), "stream of the server"),
        (BEGIN + request(get(), 0), "stream of the server"),
        (BEGIN + request(get(), 3) + GOOD, "used before"),
        (BEGIN + GOOD + GOOD, "used before"),
        (BEGIN + frame(PUSH_PROMISE, b"\0\0\0\2", END_HEADERS, 1), "PUSH_PROMISE"),
        (BEGIN + frame(CONTINUATION, b"", END_HEADERS, 1), "out of place"),
        (BEGIN + frame(HEADERS, b"", 0, 1) + frame(CONTINUATION, b"", 0, 3), "interrupted"),
        (BEGIN + frame(HEADERS, b"", 0, 1) + frame(DATA, b"x", 0, 1), "interrupted"),
        (BEGIN + frame(HEADERS, b"", 0, 1) + GOOD, "interrupted"),
        (BEGIN + frame(HEADERS, bytes(MAX_BLOCK + 1), 0, 1), "too long"),
        (BEGIN + frame(HEADERS, bytes(MAX_BLOCK), 0, 1) + frame(CONTINUATION, b"x", 0, 1), "too long"),
        (BEGIN + frame(HEADERS, b"", END_HEADERS | PADDED, 1), "padding is cut off"),
        (BEGIN + frame(HEADERS, b"\2x", END_HEADERS | PADDED, 1), "padding is longer"),
        (BEGIN + frame(HEADERS, b"\0" * 4, END_HEADERS | PRIORITIZED, 1), "priority"),
        (BEGIN + frame(HEADERS, b"\xff\xff\xff\xff\xff\xff", END_HEADERS, 1), "decode"),
        (BEGIN + frame(HEADERS, b"\xc0", END_HEADERS, 1), "decode"),
        (BEGIN + frame(HEADERS, b"\x00\x05ab", END_HEADERS, 1), "decode"),
        (BEGIN + frame(HEADERS, huge(), END_HEADERS, 1), "decode"),
        (BEGIN + frame(HEADERS, b"\x20\x3f\xe1\x1f\x20" + block(get()), END_HEADERS, 1), "more than twice"),
        (BEGIN + frame(HEADERS, b"", END_HEADERS, 1), "without a method"),
        (BEGIN + request([("x", "y")]), "without a method"),
        (BEGIN + request([(":method", "CONNECT")]), "without a target"),
        (BEGIN + request(get("a.example", (":authority", "b.example"))), "out of place"),
        (BEGIN + request([(":authority", "b.example"), *get()]), "repeated"),
        (BEGIN + request([(":status", "200"), *get()]), "unknown"),
        (BEGIN + request([("x", "y"), *get()]), "out of place"),
        (BEGIN + request(get("a.example", ("Host", "b.example"))), "upper case"),
        (BEGIN + request(get("a.example", ("host", "b.example"))), "disagree"),
        (BEGIN + request(get("", ("host", "b.example"))), "disagree"),
        (BEGIN + request(get(None, ("host", "a.example"), ("host", "a.example"))), "two HTTP Host"),
        (BEGIN + request(get("user@a.example")), "does not parse"),
        (BEGIN + request(get("a.example b")), "does not parse"),
    ],
)
def test_what_is_refused_stays_refused(data: bytes, says: str) -> None:
    stream = H2RequestStream()
    for chunk, reason in ((data, says), (b"", "before"), (GOOD, "before")):
        with pytest.raises(MalformedError, match=reason):
            stream.feed(chunk)


def test_memory_is_bounded() -> None:
    stream = H2RequestStream()
    stream.feed(BEGIN + b"\xff\xff\xff\0\0\0\0\0\1")  # 16 MiB of content
    for _ in range(20):
        stream.feed(bytes(65536))
        assert not stream._kept


@given(st.binary(max_size=200))
@settings(max_examples=examples(300))
def test_random_bytes(data: bytes) -> None:
    only_requests(data)
    only_requests(BEGIN + data)
    only_requests(BEGIN + frame(HEADERS, data, END_HEADERS, 1))


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), min_size=1, max_size=4), st.integers(1, 60))
@settings(max_examples=examples(300))
def test_mutated_connections_however_cut(changes: list[tuple[int, int]], size: int) -> None:
    mutated = bytearray(a_connection()[0][:300])
    for at, byte in changes:
        mutated[at % len(mutated)] = byte
    data = bytes(mutated)
    assert only_requests(data) == only_requests(data, size)


def only_requests(data: bytes, size: int = 1 << 20) -> bool:
    """Read all requests, each of which must be well-formed; return whether the connection was, too."""
    stream = H2RequestStream()
    with suppress(MalformedError):
        for at in range(0, len(data), size):
            for seen in stream.feed(data[at : at + size]):
                assert seen.stream & 1
                assert seen.method
                assert seen.authority.isascii()
        return True
    return False


def test_the_preface_identifies_a_client() -> None:
    assert starts_http2(PREFACE + b"\0") is True
    assert all(starts_http2(PREFACE[:size]) is None for size in range(len(PREFACE)))
    assert starts_http2(b"PRI * HTTP/1.1") is False
    assert RequestStream().feed(PREFACE) == [Opaque(PREFACE, True)]  # to HTTP/1 it is another protocol

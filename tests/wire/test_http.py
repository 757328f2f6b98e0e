"""HTTP/1.x: whole, in every segmentation, with what follows it, mutated; and against dpkt."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import dpkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egress.errors import MalformedError
from egress.wire.http import (
    MAX_CHUNK_LINE,
    MAX_FIELDS,
    MAX_HEAD,
    Body,
    HttpRequest,
    HttpResponse,
    Opaque,
    RequestStream,
    ResponseStream,
)
from egress.wire.http_start import starts_http
from tests.examples import examples

Fact = HttpRequest | HttpResponse | Body | Opaque


def request(line: str = "GET / HTTP/1.1", *fields: str) -> bytes:
    return "\r\n".join([line, *fields, "", ""]).encode("latin-1")


def walk(stream: RequestStream | ResponseStream, *chunks: bytes) -> list[Fact]:
    """Feed chunks, joining neighbouring pieces of one body or one opaque rest: they stand in no fixed sizes."""
    facts: list[Fact] = []
    for chunk in chunks:
        for fact in stream.feed(chunk):
            before = facts[-1] if facts else None
            if isinstance(fact, Body) and isinstance(before, Body) and not before.last:
                facts[-1] = Body(before.data + fact.data, fact.last)
            elif isinstance(fact, Opaque) and isinstance(before, Opaque):
                facts[-1] = Opaque(before.data + fact.data, fact.desync)
            else:
                facts.append(fact)
    return facts


def asked(data: bytes) -> list[Fact]:
    return walk(RequestStream(), data)


def answered(data: bytes, *methods: str) -> list[Fact]:
    stream = ResponseStream()
    for method in methods:
        stream.asked(HttpRequest(method, "/", "", "", "1.1"))
    return walk(stream, data)


GET = HttpRequest("GET", "/", "", "", "1.1")
POST = request("POST /rpc HTTP/1.1", "Host: Node.Example:8080", "Content-Length: 5") + b"hello"
CHUNKED = request("PUT /x HTTP/1.1", "Host: a", "Transfer-Encoding: Chunked") + (
    b"4\r\nwiki\r\n5;name=value\r\npedia\r\n0\r\nTrailer: x\r\n\r\n"
)
POSTED = HttpRequest("POST", "/rpc", "node.example", "", "1.1")
PUT = HttpRequest("PUT", "/x", "a", "", "1.1")


def test_requests_one_after_another() -> None:
    assert asked(POST + request() + CHUNKED + POST) == [
        POSTED,
        Body(b"hello", True),
        GET,
        PUT,
        Body(b"wikipedia", True),
        POSTED,
        Body(b"hello", True),
    ]


def test_bare_line_feeds_and_blank_lines_before_a_request() -> None:
    assert asked(b"\r\n\nGET / HTTP/1.1\nHost: B.\n\n") == [GET._replace(host="b")]


@pytest.mark.parametrize(
    "line, fields, host",
    [
        ("GET / HTTP/1.1", ["Host: EXAMPLE.com"], "example.com"),
        ("GET / HTTP/1.1", ["Host:\texample.com:8080 "], "example.com"),
        ("GET / HTTP/1.0", [], ""),
        ("GET / HTTP/1.1", ["Host: [2001:DB8::1]:80"], "2001:db8::1"),
        ("GET http://user@Proxy.example:3128/a HTTP/1.1", ["Host: proxy.example"], "proxy.example"),
        ("GET http://a.example?q=http://b/ HTTP/1.1", [], "a.example"),
        ("CONNECT Pool.Example:443 HTTP/1.1", ["Host: other"], "pool.example"),
        ("OPTIONS * HTTP/1.1", ["Host: a"], "a"),
    ],
)
def test_whom_a_request_is_for(line: str, fields: list[str], host: str) -> None:
    first = asked(request(line, *fields))[0]
    assert isinstance(first, HttpRequest)
    assert first.host == host


@pytest.mark.parametrize(
    "data, says",
    [
        (request("POST / HTTP/1.1", "Content-Length: 5", "Content-Length: 6"), "single number"),
        (request("POST / HTTP/1.1", "Content-Length: 5, 6"), "single number"),
        (request("POST / HTTP/1.1", "Content-Length: +5"), "single number"),
        (request("POST / HTTP/1.1", "Content-Length: -1"), "single number"),
        (request("POST / HTTP/1.1", "Content-Length: "), "single number"),
        (request("POST / HTTP/1.1", "Content-Length: " + "9" * 19), "single number"),
        (request("POST / HTTP/1.1", "Content-Length: 5", "Transfer-Encoding: chunked"), "both"),
        (request("POST / HTTP/1.1", "Transfer-Encoding: chunked, gzip"), "does not end"),
        (request("POST / HTTP/1.1", "Transfer-Encoding: xchunked"), "does not end"),
        (request("POST / HTTP/1.1", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), "not allowed"),
        (request("POST / HTTP/1.0", "Transfer-Encoding: chunked"), "not allowed"),
        (request("POST / HTTP/1.1", "Transfer-Encoding : chunked"), "field"),
        (request("POST / HTTP/1.1", "X: a", " Transfer-Encoding: chunked"), "field"),
        (request("POST / HTTP/1.1", "X: a\rTransfer-Encoding: chunked"), "field"),
        (request("POST / HTTP/1.1", "X: a\0"), "field"),
        (request("POST / HTTP/1.1", "no colon"), "field"),
        (request("GET / HTTP/1.1", *["X: y"] * (MAX_FIELDS + 1)), "too many"),
        (request("GET / HTTP/1.1", "X: " + "y" * MAX_HEAD), "too long"),
        (b"GET /" + b"y" * MAX_HEAD, "too long"),
        (request("GET / HTTP/1.1", "Host: a", "Host: a"), "two"),
        (request("GET / HTTP/1.1", "Host: a/@b"), "host"),
        (request("GET http://a/ HTTP/1.1", "Host: b"), "disagree"),
        (request("CONNECT a@b HTTP/1.1"), "host"),
        (request("GET /a b HTTP/1.1"), "request line"),
        (request("GET / HTTP/2.0"), "request line"),
        (b"GET /\n\n", "request line"),
        (CHUNKED[: CHUNKED.index(b"4\r")] + b"0x4\r\n", "chunk size"),
        (CHUNKED[: CHUNKED.index(b"4\r")] + b"-4\r\n", "chunk size"),
        (CHUNKED[: CHUNKED.index(b"4\r")] + b"f" * 16 + b"\r\n", "chunk size"),
        (CHUNKED[: CHUNKED.index(b"4\r")] + b"4;" + b"x" * MAX_CHUNK_LINE, "line is too long"),
        (CHUNKED[: CHUNKED.index(b"4\r")] + b"4\r\nwikiX", "longer"),
        (CHUNKED[: CHUNKED.index(b"4\r")] + b"0\r\nbad\r\n", "field"),
        (CHUNKED[: CHUNKED.index(b"4\r")] + b"0\r\n" + b"a: b\r\n" * 20000, "trailer"),
    ],
)
def test_ambiguous_or_boundless_requests_are_malformed(data: bytes, says: str) -> None:
    whole, bytewise = RequestStream(), RequestStream()
    with pytest.raises(MalformedError, match=says):
        whole.feed(data)
    with pytest.raises(MalformedError, match=says):
        for at in range(len(data)):
            bytewise.feed(data[at : at + 1])
    for stream in (whole, bytewise):
        with pytest.raises(MalformedError, match=says):
            stream.feed(b"")


def test_what_stood_before_a_fault_is_kept() -> None:
    stream = RequestStream()
    with pytest.raises(MalformedError):
        stream.feed(POST + request("GET / HTTP/1.1", "bad"))
    assert stream.salvage == [POSTED, Body(b"hello", True)]


def test_equal_lengths_said_twice_are_one() -> None:
    assert asked(request("POST / HTTP/1.1", "Content-Length: 2, 2") + b"ab")[1] == Body(b"ab", True)


# --- where HTTP ends --------------------------------------------------------------------------------------


def test_after_connect_the_client_is_opaque() -> None:
    head = request("CONNECT a:22 HTTP/1.1", "Content-Length: 3", "Transfer-Encoding: chunked")
    assert asked(head + b"SSH-2.0-x\r\n") == [
        HttpRequest("CONNECT", "a:22", "a", "", "1.1"),
        Opaque(b"SSH-2.0-x\r\n", False),
    ]


def test_after_upgrade_the_client_is_opaque() -> None:
    head = request("GET /ws HTTP/1.1", "Upgrade: WebSocket", "Connection: keep-alive, Upgrade")
    assert asked(head + b"\x82\x01x") == [
        HttpRequest("GET", "/ws", "", "websocket", "1.1"),
        Opaque(b"\x82\x01x", False),
    ]
    posted = request("POST / HTTP/1.1", "Upgrade: h2c", "Connection: upgrade", "Content-Length: 2")
    assert asked(posted + b"ab" + b"rest")[1:] == [Body(b"ab", True), Opaque(b"rest", False)]
    plain = asked(request("GET / HTTP/1.1", "Upgrade: websocket") + request())
    assert plain == [GET, GET]  # Connection does not name it, so nothing was asked


@pytest.mark.parametrize("rest", [b'{"id":1}\n', b"\x16\x03\x01\0\5", b"\0", b"SSH-2.0-x\r\n", b"HELO me\r\n"])
def test_what_is_not_http_at_a_boundary_is_a_desync(rest: bytes) -> None:
    assert asked(rest) == [Opaque(rest, True)]
    assert asked(POST + rest + b"GET / HTTP/1.1\r\n\r\n")[2:] == [Opaque(rest + b"GET / HTTP/1.1\r\n\r\n", True)]


def test_answers() -> None:
    data = (
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        b"HTTP/1.1 204 No Content\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
        b"HTTP/1.1 304\r\nContent-Length: 9\r\n\r\n"
        b"HTTP/1.0 200 OK\r\n\r\nto the end"
    )
    assert answered(data) == [
        HttpResponse(100, "1.1"),
        HttpResponse(200, "1.1"),
        Body(b"ok", True),
        HttpResponse(204, "1.1"),
        HttpResponse(200, "1.1"),
        Body(b"a", True),
        HttpResponse(304, "1.1"),
        HttpResponse(200, "1.0"),
        Body(b"to the end", False),
    ]


def test_an_answer_is_read_by_its_request() -> None:
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    assert answered(ok + ok + b"ab", "HEAD", "GET") == [HttpResponse(200, "1.1")] * 2 + [Body(b"ab", True)]
    assert answered(b"HTTP/1.1 100 C\r\n\r\n" + ok + ok, "HEAD", "HEAD")[1:] == [HttpResponse(200, "1.1")] * 2


def test_where_a_tunnel_opens() -> None:
    ok, refused = b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 407 Who\r\nContent-Length: 0\r\n\r\n"
    opened = [HttpResponse(200, "1.1"), Opaque(b"SSH-2.0-y", False)]
    assert answered(refused + ok + b"SSH-2.0-y", "CONNECT", "CONNECT") == [HttpResponse(407, "1.1"), *opened]
    switched = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x82\x00"
    assert answered(switched, "GET") == [HttpResponse(101, "1.1"), Opaque(b"\x82\x00", False)]


@pytest.mark.parametrize(
    "data, says",
    [
        (b"HTTP/1.1 200OK\r\n\r\n", "status line"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "both"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "single number"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", "does not end"),
    ],
)
def test_ambiguous_answers_are_malformed(data: bytes, says: str) -> None:
    with pytest.raises(MalformedError, match=says):
        answered(data)


# --- properties -------------------------------------------------------------------------------------------

NAME = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,12}", fullmatch=True).map("X-".__add__)
FIELDS = st.lists(st.tuples(NAME, st.from_regex(r"[!-~]([ -~]{0,20}[!-~])?", fullmatch=True)), max_size=4)


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A valid request and its body."""
    fields, body = [f"{name}: {value}" for name, value in draw(FIELDS)], draw(st.binary(max_size=40))
    method = draw(st.sampled_from(["GET", "POST", "PUT", "DELETE"]))
    if not draw(st.booleans()):
        return request(f"{method} /p HTTP/1.1", *fields, f"Content-Length: {len(body)}") + body, body
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=4)))
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True) if a < b]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return request(f"{method} /p HTTP/1.1", *fields, "Transfer-Encoding: chunked") + chunks + b"0\r\n\r\n", body


def segments(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(ends)]


CUTS = st.lists(st.integers(0, 10000), max_size=30)


@given(st.lists(requests(), max_size=4), CUTS)
def test_segmentation_changes_nothing(messages: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    data = b"".join(message for message, _ in messages)
    facts = walk(RequestStream(), *segments(data, cuts))
    assert facts == asked(data) == walk(RequestStream(), *(data[at : at + 1] for at in range(len(data))))
    assert b"".join(fact.data for fact in facts if isinstance(fact, Body)) == b"".join(body for _, body in messages)
    assert sum(isinstance(fact, HttpRequest) for fact in facts) == len(messages)


@given(requests())
def test_agrees_with_dpkt(message: tuple[bytes, bytes]) -> None:
    theirs = dpkt.http.Request(message[0])
    first = asked(message[0])[0]
    assert isinstance(first, HttpRequest)
    assert (first.method, first.target, first.version) == (theirs.method, theirs.uri, theirs.version)
    assert theirs.body == message[1]


def outcome(stream: RequestStream | ResponseStream, chunks: list[bytes]) -> tuple[list[Fact], str]:
    facts: list[Fact] = []
    try:
        for chunk in chunks:
            facts += stream.feed(chunk)
    except MalformedError as error:
        return [*facts, *stream.salvage], str(error)
    return facts, ""


def without_sizes(facts: list[Fact]) -> list[object]:
    """Facts with bodies as the bytes they bring: how those were cut is the segmentation's doing."""
    seen: list[object] = []
    for fact in facts:
        piece = fact.data if isinstance(fact, Body | Opaque) else None
        if piece is None or not seen or not isinstance(seen[-1], bytes):
            seen.append(fact if piece is None else piece)
        else:
            seen[-1] += piece
    return seen


MUTATIONS = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=4)
ANSWER = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"
)


@given(st.sampled_from([POST + CHUNKED, CHUNKED + POST, ANSWER, b""]), MUTATIONS, st.binary(max_size=30), CUTS)
@settings(max_examples=examples(400))
def test_mutations_give_facts_or_malformed(
    data: bytes, changes: list[tuple[int, int]], tail: bytes, cuts: list[int]
) -> None:
    mutated = bytearray(data + tail)
    for at, byte in changes:
        if mutated:
            mutated[at % len(mutated)] = byte
    for kind in (RequestStream, ResponseStream):
        facts, fault = outcome(kind(), [bytes(mutated)])
        again, same = outcome(kind(), segments(bytes(mutated), cuts))
        assert (without_sizes(facts), fault) == (without_sizes(again), same)
    said = [starts_http(bytes(mutated[:size])) for size in range(len(mutated) + 1)]
    known = [answer for answer in said if answer is not None]
    assert said == [None] * (len(said) - len(known)) + known[:1] * len(known)


def test_memory_is_bounded() -> None:
    stream = RequestStream()
    stream.feed(request("POST / HTTP/1.1", "Content-Length: 999999999999999999"))
    for _ in range(50):
        stream.feed(bytes(100_000))
    assert len(stream._buffer) == 0
    endless = RequestStream()
    with suppress(MalformedError):
        for _ in range(50):
            endless.feed(b"GET /" + b"a" * 10_000)
    assert len(endless._buffer) <= MAX_HEAD

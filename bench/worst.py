"""The worst known input of each parser: conversations that make the engine work the most for a byte."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable

from hpack import Encoder, HeaderTuple, NeverIndexedHeaderTuple

from egress.dissection.stream import MAX_PENDING
from egress.model import Direction
from egress.wire.http2 import PREFACE
from egress.wire.websocket import BINARY
from tests.dissection.conversations import CHANGED, MASK, UPGRADE, frame_of
from tests.traffic import AGENT4, SERVER4, Step, Talk, udp

SEGMENT = 1400
POST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def fill(piece: bytes, size: int, begin: bytes = b"") -> bytes:
    """Return `begin` and then whole pieces, in all at most `size` bytes, but at least one piece."""
    return begin + piece * max(1, (size - len(begin)) // len(piece))


def repeated(
    piece: bytes, begin: bytes = b"", *, segment: int = SEGMENT, dport: int = 80
) -> Callable[[int], list[Step]]:
    """Return a function of a size that makes a connection in which the agent sends `begin` and repeats a piece."""
    return lambda size: Talk(dport=dport).open().client(fill(piece, size, begin), segment=segment).steps


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Make an HTTP/2 frame (RFC 9113 section 4.1)."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def http2(*fields: HeaderTuple) -> Callable[[int], list[Step]]:
    """Return a function of a size that makes HTTP/2 requests with the pseudo-header fields and these fields."""
    usual = {":method": "GET", ":scheme": "http", ":authority": "a.example", ":path": "/"}
    headers = [*(HeaderTuple(*field) for field in usual.items()), *fields]

    def make(size: int) -> list[Step]:
        encoder, data, stream = Encoder(), PREFACE + frame(4, 0, 0), 1
        while len(data) < size:
            data += frame(1, 5, stream, encoder.encode(headers))
            stream += 2
        return Talk(dport=80).open().client(data).steps

    return make


def websocket(size: int) -> list[Step]:
    """Make a WebSocket whose messages, of `size` bytes in all, inflate to some twenty times as many bytes of calls."""
    talk = Talk(dport=80).open().client(UPGRADE % b"websocket").server(CHANGED % b"websocket")
    chosen, packer, sent = random.Random(1), zlib.compressobj(wbits=-15), 0
    while sent < size:
        calls = b"".join(b'{"id":%d,"method":"a","params":[]}\n' % chosen.randrange(64) for _ in range(900))
        data = (packer.compress(calls) + packer.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")
        message = frame_of(BINARY, data, mask=MASK, compressed=True)
        talk.client(message)
        sent += len(message)
    return talk.steps


def waiting(size: int) -> list[Step]:
    """Make a connection with a hole: almost as many segments wait beyond it as may wait, and it never closes.

    Then the agent sends `size` bytes in order, one per segment.
    """
    talk = Talk().open()
    for number in range(MAX_PENDING - 7):
        talk.raw_client(size + 10 + 2 * number, b"\x81")
    return talk.client(b"\x81" * size, segment=1).steps


def answers(records: Callable[[int, int], bytes], name: bytes) -> Callable[[int], list[Step]]:
    """Return a function of a size that makes DNS queries and their answers, of 401 records each.

    The first record of an answer is owned by `name`. `records` makes the others, which point at that name: it takes the
    offset of the name and the number of records.
    """

    def make(size: int) -> list[Step]:
        steps, number = list[Step](), 0
        while size > 0:
            number += 1
            question = b"\1a\0" + struct.pack("!HH", 5, 1)
            first = name + struct.pack("!HHIH", 16, 1, 60, 0)
            body = first + records(12 + len(question), 400)
            reply = struct.pack("!HHHHHH", number, 0x8180, 1, 401, 0, 0) + question + body
            query = struct.pack("!HHHHHH", number, 0x100, 1, 0, 0, 0) + question
            steps.append(Step(udp(AGENT4, SERVER4, 40000, 53, query), Direction.OUT, 0.001))
            steps.append(Step(udp(SERVER4, AGENT4, 53, 40000, reply), Direction.IN, 0.001))
            size -= len(reply)
        return steps

    return make


def to_one(at: int, count: int) -> bytes:
    """Make aliases whose owner and target are pointers to one name."""
    return struct.pack("!HHHIHH", 0xC000 | at, 5, 1, 60, 2, 0xC000 | at) * count


def to_each(at: int, count: int) -> bytes:
    """Make aliases whose owners and targets point at the labels of a name in turn (each label has one byte)."""
    targets = [0xC000 | at + 2 * (number % 120) for number in range(count + 7)]
    pairs = zip(targets, targets[7:], strict=False)
    return b"".join(struct.pack("!HHHIHH", owner, 5, 1, 60, 2, target) for owner, target in pairs)


LONG = b"\1b" * 126 + b"\0"

INPUTS: dict[str, Callable[[int], list[Step]]] = {
    "bytes of no protocol": repeated(b"\x81"),
    "the same, a byte each": repeated(b"\x81", segment=1),
    "505 segments wait": waiting,
    "TLS records of a byte": repeated(b"\x16\x03\x01\0\1\1", dport=443),
    "DNS, to one name": answers(to_one, LONG),
    "DNS, to each label": answers(to_each, LONG),
    "HTTP requests": repeated(b"GET / HTTP/1.1\n\n"),
    "HTTP requests, a body": repeated(b"POST / HTTP/1.1\nContent-Length:1\n\na"),
    "HTTP fields": repeated(b"GET / HTTP/1.1\n" + b"a:\n" * 255 + b"\n"),
    "HTTP chunks of a byte": repeated(b"1\na\n", POST),
    "HTTP trailers": repeated(b"a:\n", POST + b"0\n"),
    "HTTP/2 requests": http2(),
    "HTTP/2 fields": http2(*[HeaderTuple("a", "b")] * 300),
    "HTTP/2 literals": http2(*[NeverIndexedHeaderTuple("a", "")] * 300),
    "HTTP/2 Huffman": http2(NeverIndexedHeaderTuple("a", "0" * 10_000)),
    "HTTP/2 empty frames": repeated(frame(0, 0, 1), PREFACE + frame(4, 0, 0)),
    "WebSocket, compressed": websocket,
    "WebSocket, empty frames": lambda size: (
        Talk(dport=80)
        .open()
        .client(UPGRADE % b"websocket")
        .server(CHANGED % b"websocket")
        .client(fill(frame_of(BINARY, b"", mask=MASK), size))
        .steps
    ),
    "JSON, lines that open": repeated(b"{\n"),
    "JSON, empty objects": repeated(b"{}\n"),
    "JSON, objects in one": repeated(b"{}\n", b"{\n"),
    "JSON, short calls": repeated(b'{"method":"a","params":[]}\n'),
    "JSON, not valid": repeated(b'{"method":x,"a":"","b":""}\n'),
    "JSON, deep": repeated(b'{"a":'),
    "loose JSON": repeated(b"{'a':1}\n"),
    "loose JSON, open quotes": repeated(b"{'\n"),
    "loose JSON, longer": repeated(b"{'aaaaaaaaaaaaaaaaa\n"),
    "loose JSON, strings": repeated(b"{" + b"''" * 10 + b"}\n"),
    "loose JSON, comments": repeated(b"//\n"),
    "lines of an SSH hello": repeated(b"a\n", dport=22),
}

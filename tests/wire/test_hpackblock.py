"""Header blocks decode as the `hpack` package decodes them, whatever their bytes, and in less time."""

from __future__ import annotations

import time

from hpack import Decoder, Encoder, HPACKError, NeverIndexedHeaderTuple
from hypothesis import example, given
from hypothesis import strategies as st

from egress.errors import MalformedError
from egress.wire.hpackblock import Field, FieldReader

LIST, TABLE = 700, 4096


def ours(blocks: list[bytes]) -> list[list[Field] | None]:
    """Read blocks up to one that does not decode."""
    reader, read = FieldReader(LIST, TABLE), list[list[Field] | None]()
    for block in blocks:
        try:
            read.append(reader.read(block))
        except MalformedError:
            return [*read, None]
    return read


def theirs(blocks: list[bytes]) -> list[list[Field] | None]:
    decoder, read = Decoder(max_header_list_size=LIST), list[list[Field] | None]()
    for block in blocks:
        try:
            read.append([(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)])
        except HPACKError:
            return [*read, None]
    return read


NAMES = st.sampled_from(["a", "host", ":method", "cookie", "x" * 70])
VALUES = st.text("aB0/ é", max_size=20)
FIELDS = st.lists(st.tuples(NAMES, VALUES, st.booleans()), max_size=6)


@given(st.lists(FIELDS, max_size=4), st.booleans())
def test_blocks_of_an_encoder(blocks: list[list[tuple[str, str, bool]]], huffman: bool) -> None:
    encoder = Encoder()
    encoder.header_table_size = 150
    sent = [
        encoder.encode([NeverIndexedHeaderTuple(n, v) if never else (n, v) for n, v, never in fields], huffman=huffman)
        for fields in blocks
    ]
    read = ours(sent)
    assert read == theirs(sent)
    small = all(sum(32 + len(n) + len(v.encode()) for n, v, _ in fields) <= LIST for fields in blocks)
    if small:
        assert read == [[(n.encode(), v.encode()) for n, v, _ in fields] for fields in blocks]


INDEXED = [b"\x82", b"\xbd", b"\xbe", b"\xbf", b"\x80", b"\xff", b"\xff\0"]
NUMBERS = [b"\xff\x80\x80\x80\x80\0", b"\xff\x80\x80\x80\x80\x80\0"]
LITERALS = [b"\x40\1a\1b", b"\0\1a\0", b"\x10\1a\1b", b"\x42\1x", b"\2\1y", b"\x0f\1\1z", b"\x7f\0\1w"]
HUFFMAN = [b"\x40\1a\x81\x1f", b"\x40\1a\x81\x18"]
CUT = [b"\x40", b"\0\5a", b"\x40\1a\x7f"]
LONG = [b"\0\1b\x7f\x49" + b"v" * 200]
SIZES = [b"\x20", b"\x3f\x20", b"\x3f\xe1\x1f", b"\x3f\xe2\x1f"]
PIECES = st.sampled_from([*INDEXED, *NUMBERS, *LITERALS, *LITERALS, *HUFFMAN, *CUT, *LONG, *SIZES])


@given(st.lists(st.lists(PIECES, max_size=5).map(b"".join), max_size=3))
@example([b"\x3f\x60" + b"\x40\1a\1b" * 3, b"\xbe\xbf\xc0", b"\xc4"])
def test_any_bytes(blocks: list[bytes]) -> None:
    read = ours(blocks)
    assert [block is None for block in read] == [block is None for block in theirs(blocks)]
    assert read == theirs(blocks)


def test_a_field_of_the_table_costs_little() -> None:
    block = b"\x82" * 2000

    def cost(read: object) -> float:
        assert callable(read)
        began = time.process_time()
        for _ in range(5):
            assert len(read(block)) == 2000
        return time.process_time() - began

    plain = Decoder()
    reader = FieldReader(10**6, 4096)
    plain.max_header_list_size = 10**6
    assert min(cost(reader.read) for _ in range(5)) < min(cost(plain.decode) for _ in range(5)) / 2

"""The names of a DNS message: as a plain reader reads them, each label once, however often it is pointed at."""

from __future__ import annotations

import struct
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from egress.errors import MalformedError
from egress.wire import dns
from egress.wire.dnsnames import HEADER, MAX_HOPS, MAX_NAME, Names, skip_name

ZEROS = b"\0" * HEADER


def plain(payload: bytes, at: int) -> tuple[list[bytes], int] | None:
    """Read a name's labels as RFC 1035 says, keeping nothing; None: it is malformed."""
    labels: list[bytes] = []
    start, after, hops = at, 0, 0
    while at < len(payload) and payload[at]:
        size = payload[at]
        if size >= 0xC0:
            if at + 1 == len(payload):
                return None
            target, hops, after = (size & 0x3F) << 8 | payload[at + 1], hops + 1, after or at + 2
            if not HEADER <= target < start or hops > MAX_HOPS:
                return None
            start = at = target
        elif size < 0x40 and at + 1 + size <= len(payload):
            labels.append(payload[at + 1 : at + 1 + size])
            at += 1 + size
        else:
            return None
        if sum(map(len, labels)) + len(labels) + 1 > MAX_NAME:
            return None
    return (labels, after or at + 1) if at < len(payload) else None


def read(names: Names, at: int) -> tuple[str, int] | None:
    try:
        return names.read(at)
    except MalformedError:
        return None


BYTES = st.sampled_from(bytes([0, 0, 1, 1, 2, 3, 0xC0, 0xC0, *range(HEADER, HEADER + 30)]))


@given(st.lists(BYTES, max_size=60).map(bytes), st.permutations(range(40)))
@example(b"\1a\xc0\x0c\1b\xc0\x0e", [4, 0, *range(1, 4), *range(5, 40)])
def test_names_are_those_of_a_plain_reader_in_any_order(body: bytes, order: list[int]) -> None:
    payload = ZEROS + body
    names = Names(payload)
    for at in order:
        expected = plain(payload, HEADER + at)
        if expected is not None:
            text = ".".join("".join(dns_escaped(byte) for byte in label) for label in expected[0])
            assert read(names, HEADER + at) == (text, expected[1])
            assert skip_name(payload, HEADER + at) == expected[1]
        else:
            assert read(names, HEADER + at) is None


def dns_escaped(byte: int) -> str:
    text = chr(byte).lower()
    return text if text in "abcdefghijklmnopqrstuvwxyz0123456789-_" else f"\\{byte:03d}"


def test_bounds_hold_across_names_that_were_read_before() -> None:
    tail = b"\x3f" + b"a" * 63
    payload = ZEROS + tail * 3 + b"\0" + b"\x3e" + b"b" * 62 + b"\xc0\x0c" + b"\x3d" + b"b" * 61 + b"\xc0\x0c"
    names = Names(payload)
    end = HEADER + 193
    assert names.read(HEADER)[1] == end
    assert read(names, end) is None and plain(payload, end) is None
    assert len(names.read(end + 65)[0]) == MAX_NAME - 2
    ladder = ZEROS + b"\0" + b"".join(struct.pack("!H", 0xC000 | HEADER + max(0, 2 * i - 1)) for i in range(200))
    names = Names(ladder)
    hops = [read(names, HEADER + 1 + 2 * i) is not None for i in range(200)]
    assert hops == [plain(ladder, HEADER + 1 + 2 * i) is not None for i in range(200)]
    assert sum(hops) == MAX_HOPS


def test_a_name_that_must_not_be_compressed() -> None:
    names = Names(ZEROS + b"\1a\0\1b\xc0\x0c")
    assert names.read(HEADER, plain=True) == ("a", HEADER + 3)
    assert names.read(HEADER + 3) == ("b.a", HEADER + 7)
    with pytest.raises(MalformedError, match="pointer"):
        names.read(HEADER + 3, plain=True)


def pointing(target: bytes) -> bytes:
    """Make an answer of 400 aliases whose owner and target are pointers to one name."""
    at = HEADER + 7
    first = target + struct.pack("!HHIHH", 5, 1, 60, 2, 0xC000 | at)
    others = struct.pack("!HHHIHH", 0xC000 | at, 5, 1, 60, 2, 0xC000 | at) * 399
    return struct.pack("!HHHHHH", 1, 0x8180, 1, 400, 0, 0) + b"\1a\0\0\5\0\1" + first + others


def test_a_long_name_costs_its_bytes_once_however_many_records_point_at_it() -> None:
    def cost(message: bytes) -> float:
        began = time.process_time()
        assert len(dns.answer(message).records) == 400
        return time.process_time() - began

    short, long = pointing(b"\1b\0"), pointing(b"\1b" * 126 + b"\0")
    assert min(cost(long) for _ in range(5)) < 4 * min(cost(short) for _ in range(5))  # read anew each time: 30

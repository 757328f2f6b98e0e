"""Record headers: in any segmentation, and the first byte that is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.errors import MalformedError
from egress.wire.tlsrecords import LONGEST, Records, record_length

kinds, sizes = st.integers(20, 24), st.integers(1, 300)


@given(st.lists(st.tuples(kinds, st.integers(0, 4), sizes), max_size=8), st.lists(st.integers(1, 90), min_size=1))
def test_records_in_any_segmentation(listed: list[tuple[int, int, int]], cuts: list[int]) -> None:
    data = b"".join(bytes([kind, 3, minor]) + size.to_bytes(2) + bytes(size) for kind, minor, size in listed)
    records, at, number = Records(), 0, 0
    while at < len(data):
        size = cuts[number % len(cuts)]
        records.feed(data[at : at + size])
        at, number = at + size, number + 1
    assert (records.left, records.begun) == (0, b"")
    records.feed(b"\x17\x03")
    assert records.begun == b"\x17\x03"
    with pytest.raises(MalformedError, match="not the header"):
        records.feed(b"\x05")


@pytest.mark.parametrize(
    "header", [b"\x13", b"\x19", b"\x17\x02", b"\x17\x03\x05", b"\x17\x03\x03\x48\x01", b"\x17\x03\x03\x00\x00"]
)
def test_what_no_record_begins_with(header: bytes) -> None:
    with pytest.raises(MalformedError):
        record_length(header)


def test_the_longest_record() -> None:
    assert record_length(b"\x17\x03\x03" + LONGEST.to_bytes(2)) == LONGEST
    assert record_length(b"\x17\x03\x03\x48") is None

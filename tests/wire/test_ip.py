"""Single fields of IP headers: they agree with `decode`, and with packets that were cut anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.errors import MalformedError
from egress.wire.ip import addresses, destination, header, quoted, source, total_length
from egress.wire.packet import decode
from tests.wire.test_packet import packets


@given(packets(), st.integers(0, 200))
def test_fields_agree_with_the_whole_reading(raw: bytes, size: int) -> None:
    packet, cut = decode(raw), raw[: max(size, 40)]
    assert (source(cut), destination(cut), total_length(cut)) == (packet.src, packet.dst, packet.length)
    assert addresses(cut)[:3] == (packet.version, packet.src, packet.dst)
    read = header(raw, len(raw))
    assert (read.proto, read.src, read.dst, read.end) == (packet.proto, packet.src, packet.dst, packet.length)
    fixed = quoted(cut, packet.version)
    assert fixed is not None and fixed[1:3] == (packet.src, packet.dst)
    assert fixed.start <= read.start
    assert quoted(cut, 10 - packet.version) is None


@given(packets(), st.integers(1, 60))
def test_a_cut_packet_has_the_fields_that_are_left(raw: bytes, size: int) -> None:
    cut = raw[:size]
    assert decode(raw).src.startswith(source(cut)) and decode(raw).dst.startswith(destination(cut))
    four = raw[0] >> 4 == 4
    assert total_length(cut) == (decode(raw).length if len(cut) >= (20 if four else 40) else len(cut))
    assert (quoted(cut, 4 if four else 6) is None) == (len(cut) < (20 if four else 40))


@pytest.mark.parametrize("raw", [b"", b"\x00", b"\x95abc"])
def test_other_versions_are_not_read(raw: bytes) -> None:
    assert addresses(raw) == (0, b"", b"", 0)
    assert quoted(raw, 4) is quoted(raw, 6) is None
    assert total_length(raw) == len(raw)
    with pytest.raises(MalformedError, match="neither"):
        header(raw, len(raw))

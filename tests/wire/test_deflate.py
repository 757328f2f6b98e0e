"""Compressed messages: with a window that lives on or not, in pieces, bombs, any bytes."""

from __future__ import annotations

import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.errors import MalformedError
from egress.wire.deflate import RATIO, ROOM, Inflate


def compressed(*messages: bytes, takeover: bool = True) -> list[bytes]:
    """Compress messages as RFC 7692 section 7.2.1 says."""
    state, out = zlib.compressobj(wbits=-15), []
    for message in messages:
        out.append((state.compress(message) + state.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff"))
        state = state if takeover else zlib.compressobj(wbits=-15)
    return out


@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=5), st.booleans(), st.integers(1, 30))
def test_messages_in_pieces(messages: list[bytes], takeover: bool, size: int) -> None:
    inflate = Inflate()
    for message, data in zip(messages, compressed(*messages, takeover=takeover), strict=True):
        cuts = range(0, len(data), size)
        assert b"".join(inflate.feed(data[at : at + size], ends=at == cuts[-1]) for at in cuts) == message


def test_a_bomb_is_given_up() -> None:
    (data,) = compressed(bytes(10_000_000))
    with pytest.raises(MalformedError, match="too much"):
        Inflate().feed(data, ends=True)


def test_a_bomb_in_tiny_pieces_is_given_up() -> None:
    (data,) = compressed(bytes(10_000_000))
    inflate, out = Inflate(), 0
    with pytest.raises(MalformedError, match="too much"):
        for at in range(0, len(data), 4):
            out += len(inflate.feed(data[at : at + 4], ends=False))
            assert out <= ROOM + RATIO * (at + 4)


def test_a_final_block_ends_a_message_only() -> None:
    inflate, final = Inflate(), zlib.compressobj(wbits=-15)
    assert inflate.feed(final.compress(b"one") + final.flush(), ends=True) == b"one"
    assert inflate.feed(compressed(b"two")[0], ends=True) == b"two"


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_at_all(data: bytes, ends: bool) -> None:
    with suppress(MalformedError):
        Inflate().feed(data, ends=ends)

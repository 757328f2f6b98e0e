"""SOCKS: where the handshake ends, in both directions, and that nothing else is taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.wire.socks import handshake

NAME = b"\x03\x08pool.com\x0d\x05"
HANDSHAKES = [
    b"\x05\x01\x00\x05\x01\x00" + NAME,
    b"\x05\x01\x00\x05\x03\x00\x01\x01\x02\x03\x04\x00\x16",
    b"\x05\x02\x00\x02\x01\x04user\x02pw\x05\x01\x00\x04" + bytes(16) + b"\x00\x16",
    b"\x05\x00\x05\x00\x00\x01" + bytes(6),
    b"\x05\x02\x01\x00\x05\x00\x00" + NAME,
    b"\x04\x01\x00\x16\x01\x02\x03\x04user\x00",
    b"\x04\x01\x00\x16\x00\x00\x00\x01\x00pool.com\x00",
    b"\x00\x5a" + bytes(6),
]


@pytest.mark.parametrize("data", HANDSHAKES)
@pytest.mark.parametrize("after", [b"", b"{", b"SSH-2.0-x\r\n", bytes(40)])
def test_it_ends_where_the_proxied_bytes_begin(data: bytes, after: bytes) -> None:
    assert handshake(data + after) == len(data)
    assert all(handshake(data[:size]) is None for size in range(len(data)))


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"SSH-2.0-x",
        b"\x16\x03",
        b"\x05\x00\x00",
        b"\x05\x01\x00\x05\x09",
        b"\x05\x01\x00\x05\x01\x00\x02",
        b"\x04\x09",
        b"\x04\x01" + b"x" * 600,
        b"\x00\x00",
        b"\x05\x02\x01\x01",
    ],
)
def test_none_of_these(data: bytes) -> None:
    assert handshake(data + bytes(8)) == 0


@given(
    st.binary(max_size=40) | st.sampled_from(HANDSHAKES).flatmap(lambda head: st.binary(max_size=9).map(head.__add__))
)
def test_an_answer_is_final_and_nothing_raises(data: bytes) -> None:
    answers = [handshake(data[:size]) for size in range(len(data) + 1)]
    decided = [answer for answer in answers if answer is not None]
    assert len(set(decided)) <= 1 and None not in answers[answers.index(decided[0]) :] if decided else True

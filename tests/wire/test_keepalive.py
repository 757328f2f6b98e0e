"""Keep-alives: each protocol's ping is known with its answer, and nothing longer or else is one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.wire.keepalive import LONGEST, is_test, pong

MASK = bytes((1, 2, 3, 4))
PINGS = {
    b"\x89\x80" + MASK: b"\x8a\0",
    b"\x89\x84" + MASK + b"\0\0\0\0": b"\x8a\x04" + MASK,
    b"\x8a\x80" + MASK: b"\x8a\0",  # a pong that nobody asked for, RFC 6455 section 5.5.3
    b"\0\0\x08\x06\0\0\0\0\0abcdefgh": b"\0\0\x08\x06\x01\0\0\0\0abcdefgh",
    b"\xc0\0": b"\xd0\0",
    b"\x08\0\0\0\0\0\0\xce": b"\x08\0\0\0\0\0\0\xce",
    b"*1\r\n$4\r\nPING\r\n": b"+PONG\r\n",
}
TESTS = [
    b"Q\0\0\0\rSELECT 1\0",
    b"Q\0\0\0\x0eselect 1;\0",
    b"Q\0\0\0\x06;\0",
    b"S\0\0\0\x04",
    b"\x01\0\0\0\x0e",
    b"\x09\0\0\0\x03SELECT 1",
    b"A1 NOOP\r\n",
    b"NOOP\r\n",
    b"PING irc.example.org\r\n",
]
OTHERS = [
    b"",
    b"\x89\x80" + MASK + b"x",  # longer than it says
    b"\x81\x80" + MASK,  # a text frame
    b"\x89\0",  # a client must mask
    b"\0\0\x08\x06\x01\0\0\0\0abcdefgh",  # an acknowledgement
    b"Q\0\0\0\x14SELECT secret()\0",
    b"NOOP and more\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
]


@pytest.mark.parametrize(("ping", "answer"), PINGS.items())
def test_a_ping_has_its_answer(ping: bytes, answer: bytes) -> None:
    assert pong(ping) == answer and not is_test(ping)


@pytest.mark.parametrize("request_", TESTS)
def test_a_query_that_tests_a_connection(request_: bytes) -> None:
    assert is_test(request_) and pong(request_) is None


@pytest.mark.parametrize("request_", OTHERS)
def test_other_requests(request_: bytes) -> None:
    assert pong(request_) is None and not is_test(request_)


@pytest.mark.parametrize("request_", [*PINGS, *TESTS])
def test_a_keep_alive_with_more_behind_it_is_none(request_: bytes) -> None:
    assert pong(request_ + b"more") is None and not is_test(request_ + b"more")


@given(
    st.binary(max_size=LONGEST)
    | st.sampled_from([*PINGS, *TESTS]).flatmap(lambda known: st.binary().map(known.__add__))
)
def test_any_bytes_get_an_answer(data: bytes) -> None:
    answer = pong(data)
    assert answer is None or (not is_test(data) and len(answer) <= max(len(data), 8))

"""TLS: hellos that do not parse, other servers, and headers that no record has."""

from __future__ import annotations

import pytest

from tests.dissection.conversations import Turn
from tests.dissection.framed import IN, OUT, contradicts
from tests.traffic import client_hello

HELLO = client_hello("a.example")


@pytest.mark.parametrize(
    "turns",
    [
        [(OUT, HELLO), (OUT, b"\x19\x03\x03\x00\x05hello")],
        [(OUT, HELLO + b"\x17\x03\x03\x48\x01")],
        [(OUT, HELLO + b"\x17\x03\x03\x00\x00")],
        [(OUT, HELLO + b"\x17\x02")],
        [(OUT, HELLO[:-1] + b"\x00\xff")],  # lengths inside the hello that do not fit
        [(OUT, HELLO), (IN, b"HTTP/1.1 400 Bad Request\r\n")],
        [(OUT, HELLO), (IN, b"\x16\x03\x03\x00\x05\x0b\x00\x00\x01\x00")],  # no ServerHello
        [(OUT, b"\x80\x2e\x01\x00\x02" + b"\x00\x15\x00\x00\x00\x10" + bytes(37))],  # SSL 2 itself
        [(OUT, b"\x17\x03\x03\x00\x05hello")],
        [(OUT, b"\x16\x03\x01\x40\x00\x01\x00\xff\xff" + b"\x03\x03" + bytes(40000))],
    ],
)
def test_the_first_bytes_that_contradict_are_refused(turns: list[Turn]) -> None:
    assert contradicts("tls", turns)

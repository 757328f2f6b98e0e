"""HTTP/1: requests that do not parse, other servers, and what follows a change of the protocol."""

from __future__ import annotations

import pytest

from egress.wire.websocket import TEXT
from tests.dissection.conversations import CHANGED, GET, MASK, UPGRADE, Turn, frame_of
from tests.dissection.framed import IN, OUT, contradicts

IDENT = b"SSH-2.0-OpenSSH_9.9\r\n"


@pytest.mark.parametrize(
    "turns",
    [
        [(OUT, GET + b"\x00\x01\x02\x03")],
        [(OUT, GET + b"SSH-2.0-x\r\n")],
        [(OUT, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")],
        [(OUT, GET), (IN, b"\x00\x01")],
        [(IN, b"220 mail.example ESMTP\r\n")],
        [(OUT, UPGRADE % b"websocket" + frame_of(TEXT, b"early", mask=MASK))],  # the server has not agreed
        [(OUT, UPGRADE % b"websocket"), (IN, CHANGED % b"websocket"), (OUT, b"raw bytes")],
        [(OUT, UPGRADE % b"websocket"), (IN, CHANGED % b"websocket"), (OUT, frame_of(TEXT, b"unmasked"))],
        [(OUT, UPGRADE % b"tcp"), (IN, CHANGED % b"tcp"), (OUT, b"/ # ls")],
        [(OUT, UPGRADE % b"h2c"), (IN, CHANGED % b"h2c"), (OUT, b"raw")],
        [(OUT, GET), (IN, CHANGED % b"websocket" + b"raw"), (OUT, b"\0raw")],  # nobody asked for it
        [(OUT, b"CONNECT a:22 HTTP/1.1\r\nHost: a\r\n\r\n"), (IN, b"HTTP/1.1 200 OK\r\n\r\n"), (OUT, IDENT)],
    ],
)
def test_the_first_bytes_that_contradict_are_refused(turns: list[Turn]) -> None:
    assert contradicts("http", turns)

"""SSH: other first lines of a client, and packets that no key exchange has."""

from __future__ import annotations

import pytest

from tests.dissection.conversations import Turn
from tests.dissection.framed import IN, OUT, contradicts

IDENT = b"SSH-2.0-OpenSSH_9.9\r\n"


@pytest.mark.parametrize(
    "turns",
    [
        [(OUT, b"hello\r\n")],
        [(OUT, b"SSH-2.0-" + b"a" * 260)],
        [(OUT, b"SSH-2\n")],
        [(OUT, IDENT + b"\x00\x00\x00\x0c\x0a\x5a")],  # no message of a key exchange
        [(OUT, IDENT + b"\x00\x00\x00\x0d\x0a\x14")],  # not a multiple of the block
        [(OUT, IDENT + b"\x7f\x00\x00\x00")],
        [(OUT, IDENT + b"\x00\x00\x00\x1c\x04\x14" + bytes(26))],  # KEXINIT without lists
        [(IN, b"\x00\x01\x02")],
        [(IN, b"a\n" * 70)],
        [(IN, b"a" * 17000)],
    ],
)
def test_the_first_bytes_that_contradict_are_refused(turns: list[Turn]) -> None:
    assert contradicts("ssh", turns)

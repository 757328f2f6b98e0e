"""HTTP/2: frames without a preface, out of place, or of a wrong length."""

from __future__ import annotations

import pytest

from tests.dissection.conversations import H2, OK, Turn
from tests.dissection.framed import IN, OUT, contradicts


@pytest.mark.parametrize(
    "turns",
    [
        [(OUT, H2 + b"\x00\x00\x04\x06\x00\x00\x00\x00\x00")],  # a PING of four bytes
        [(OUT, H2 + b"\x00\x00\x04\x00\x00\x00\x00\x00\x00")],  # DATA of no stream
        [(OUT, H2[:24] + b"\x00\x00\x00\x01\x00\x00\x00\x00\x01")],  # no SETTINGS first
        [(OUT, H2), (IN, OK)],
    ],
)
def test_the_first_bytes_that_contradict_are_refused(turns: list[Turn]) -> None:
    assert contradicts("http2", turns)

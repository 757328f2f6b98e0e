"""DNS over TCP: messages that are too short, of the wrong side, or not whole."""

from __future__ import annotations

import pytest

from tests.dissection.conversations import Turn
from tests.dissection.framed import OUT, contradicts


@pytest.mark.parametrize(
    "turns",
    [
        [(OUT, b"\x00\x05")],
        [(OUT, b"\x00\x20" + b"\x12\x34\x81\x80" + bytes(8))],  # an answer of the client
        [(OUT, b"\x00\x11" + b"\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\x3f" + bytes(4))],
    ],
)
def test_the_first_bytes_that_contradict_are_refused(turns: list[Turn]) -> None:
    assert contradicts("dns", turns)

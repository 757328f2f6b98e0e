"""SOCKS: a server that answers otherwise."""

from __future__ import annotations

import pytest

from tests.dissection.conversations import Turn
from tests.dissection.framed import IN, OUT, contradicts


@pytest.mark.parametrize(
    "turns",
    [
        [(OUT, b"\5\1\0"), (IN, b"\5\7")],
    ],
)
def test_the_first_bytes_that_contradict_are_refused(turns: list[Turn]) -> None:
    assert contradicts("socks", turns)

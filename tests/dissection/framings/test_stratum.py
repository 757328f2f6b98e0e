"""Mining: bytes that no JSON text has."""

from __future__ import annotations

import pytest

from tests.dissection.conversations import Turn
from tests.dissection.framed import OUT, contradicts


@pytest.mark.parametrize(
    "turns",
    [
        [(OUT, b'{"a":1}x')],
        [(OUT, b'{"a":"\x01"}')],
        [(OUT, b'{"a":1]')],
        [(OUT, b"[" * 100)],
    ],
)
def test_the_first_bytes_that_contradict_are_refused(turns: list[Turn]) -> None:
    assert contradicts("stratum", turns)

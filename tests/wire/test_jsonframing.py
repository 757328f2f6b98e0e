"""Streams of JSON texts: whatever `json` writes passes in any segmentation; what it refuses does not."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.errors import MalformedError
from egress.wire.jsonframing import MAX_DEPTH, JsonFraming

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def fed(data: bytes, size: int) -> None:
    framing = JsonFraming()
    for at in range(0, len(data), size):
        framing.feed(data[at : at + size])


@given(st.lists(st.lists(values, max_size=3), min_size=1, max_size=4), st.booleans(), st.integers(1, 50))
def test_what_json_writes_passes(texts: list[object], ascii_only: bool, size: int) -> None:
    fed("\n".join(json.dumps(text, ensure_ascii=ascii_only) for text in texts).encode(), size)


@pytest.mark.parametrize("data", [b"x", b"{}x", b'{"a\n"}', b"{]", b"{}}", b'{"a":\x01}', b"[" * (MAX_DEPTH + 1)])
def test_what_is_no_text_does_not(data: bytes) -> None:
    for size in (1, 100):
        with pytest.raises(MalformedError):
            fed(data, size)


@given(st.binary(max_size=200), st.integers(1, 50))
def test_any_bytes_at_all(data: bytes, size: int) -> None:
    with suppress(MalformedError):
        fed(b'{"a":' + data, size)

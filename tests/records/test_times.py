"""Times as text and as microseconds: exact to the microsecond, in order, and back again."""

from __future__ import annotations

import math
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.errors import MalformedError
from egress.records.times import MAX_MICROS, from_iso, iso, micros

seconds = st.floats(0, 4_294_967_295)


@pytest.mark.parametrize(
    ("ts", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000000Z"),
        (-5.0, "1970-01-01T00:00:00.000000Z"),
        (math.nan, "1970-01-01T00:00:00.000000Z"),
        (1e300, "2106-02-07T06:28:15.999999Z"),
        (math.inf, "2106-02-07T06:28:15.999999Z"),
        (0.9999999, "1970-01-01T00:00:01.000000Z"),
    ],
)
def test_a_capture_can_hold_any_time(ts: float, text: str) -> None:
    assert iso(ts) == text


@given(seconds)
def test_iso_agrees_with_datetime(ts: float) -> None:
    assert round(datetime.fromisoformat(iso(ts)).timestamp() * 1e6) == micros(ts)


@given(st.integers(0, MAX_MICROS))
def test_a_time_read_back_has_the_same_microsecond(count: int) -> None:
    text = iso(count / 1_000_000)
    assert micros(from_iso(text)) == count
    assert iso(from_iso(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-23T15:06:02.123456",
        "2026-11-23 15:06:02.123456Z",
        "2026-11-23T15:06:02.12345Z",
        "2026-11-23T15:06:02.123456+",
        "2026-13-23T15:06:02.123456Z",
        "1969-12-31T23:59:59.999999Z",
        "2106-02-07T06:28:16.000000Z",
    ],
)
def test_other_forms_of_a_time_are_malformed(text: str) -> None:
    with pytest.raises(MalformedError):
        from_iso(text)

"""Times as text and as whole microseconds: the forms in which records, messages and the database hold them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

from egress.errors import MalformedError

# Up to here (the year 2106) a float of seconds names each microsecond; later times of a hostile capture are cut to it.
MAX_MICROS = (1 << 32) * 1_000_000 - 1

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def micros(ts: float) -> int:
    """Convert seconds since the epoch to whole microseconds, cut to 1970..2106 (NaN gives 1970)."""
    if 0.0 <= ts < 4294967296.0:
        return min(round(ts * 1e6), MAX_MICROS)
    return MAX_MICROS if ts > 0 else 0


def iso(ts: float) -> str:
    """Write seconds since the epoch as `2026-11-23T15:06:02.123456Z` (cut to 1970..2106)."""
    second, rest = divmod(micros(ts), 1_000_000)
    return f"{_second(second)}.{rest:06d}Z"


@lru_cache(maxsize=256)  # a busy journal writes thousands of records a second
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def from_iso(text: str) -> float:
    """Read seconds since the epoch from a text in exactly the form of `iso`. Raises MalformedError."""
    if len(text) != len("2026-11-23T15:06:02.123456Z") or text[10] != "T" or text[-1] != "Z":
        raise MalformedError("is not a UTC time with microseconds")
    try:
        count = (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND
    except ValueError:
        raise MalformedError("is not a UTC time with microseconds") from None
    if not 0 <= count <= MAX_MICROS:
        raise MalformedError("is outside 1970..2106")
    return count / 1_000_000

"""Pages of a listing: `limit` and an opaque `cursor`. Also the parameters for times and durations."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

from api.problems import wrong_parameter

T = TypeVar("T")
MAX_CURSOR = 1024  # characters
_INTEGER = 2**63  # range of a database's integers
_FAR = 1e12  # seconds; later than any valid time
_DURATION = re.compile(r"([0-9]{1,5})([smhdw])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
INSTANT = "an instant with its time zone (2030-01-31T12:00:00Z)"

Limit = Annotated[int, Query(ge=1, le=1000, description="At most this many items.")]
Cursor = Annotated[
    str | None, Query(max_length=MAX_CURSOR, description="`next` of the previous page; default: the first page.")
]
Since = Annotated[
    str | None,
    Query(max_length=64, description="From this instant on, or from so long ago (1h, 7d).", examples=["1h"]),
]
Until = Annotated[
    str | None,
    Query(max_length=64, description="Up to this instant, or up to so long ago (1h, 7d).", examples=["5m"]),
]


class Page(BaseModel, Generic[T]):
    """One page of a listing."""

    items: list[T]
    next: str | None = Field(description="Cursor of the next page; null: this is the last page.")


def page(found: Sequence[T], limit: int, key: Callable[[T], Sequence[object]]) -> tuple[Sequence[T], str | None]:
    """Split up to `limit` + 1 found items: return the page, and the next page's cursor, made by `key`."""
    if len(found) <= limit:
        return found, None
    return found[:limit], encode(key(found[limit - 1]))


def encode(values: Sequence[object]) -> str:
    text = json.dumps(list(values), separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(cursor: str | None, *kinds: type) -> tuple[Any, ...] | None:
    """Decode a cursor to the values given to `encode`, checked to be of these types; None without a cursor.

    Raises ProblemError (400) for a cursor that this listing did not make.
    """
    if cursor is None:
        return None
    wrong = wrong_parameter("cursor", "is not a cursor of this listing; omit it for the first page", 400)
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        values = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True).decode())
    except (ValueError, binascii.Error, RecursionError):
        raise wrong from None
    if not isinstance(values, list) or len(values) != len(kinds):
        raise wrong
    if not all(type(value) is kind and _storable(value) for value, kind in zip(values, kinds, strict=True)):
        raise wrong
    return tuple(values)


def _storable(value: object) -> bool:
    """Return True if a database can store the value."""
    match value:
        case int():
            return -_INTEGER <= value < _INTEGER
        case float():
            return abs(value) < _FAR
        case str():
            return "\0" not in value and not any("\ud800" <= char <= "\udfff" for char in value)
    return False


def moment(name: str, text: str | None, now: float) -> float | None:
    """Convert an instant, or a duration before `now`, to seconds since the epoch. Raises ProblemError (422)."""
    if text is None or text == "":
        return None
    if (ago := _DURATION.fullmatch(text)) is not None:
        return now - int(ago[1]) * _SECONDS[ago[2]]
    if (found := parse_instant(text)) is not None:
        return found
    raise wrong_parameter(name, f"must be {INSTANT} or a duration such as 5m, 1h, 7d")


def parse_instant(text: str) -> float | None:
    """Convert an instant with its time zone to seconds since the epoch; None for anything else."""
    try:
        when = datetime.fromisoformat(text)
        if when.tzinfo is not None and 1970 <= when.astimezone(UTC).year < 9999:
            return when.timestamp()
    except (ValueError, OverflowError):
        pass
    return None


def duration(name: str, text: str) -> float:
    """Convert 5m, 1h or 30d to seconds. Raises ProblemError (422)."""
    if (match := _DURATION.fullmatch(text)) is None or not int(match[1]):
        raise wrong_parameter(name, "must be a duration such as 1h, 7d, 4w")
    return float(int(match[1]) * _SECONDS[match[2]])


def instant(ts: float | None) -> str | None:
    """Format a time as `2030-01-31T12:00:00Z`; None for None."""
    return None if ts is None else datetime.fromtimestamp(ts, UTC).isoformat().replace("+00:00", "Z")

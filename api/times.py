"""Times and durations in parameters and bodies: instants with a time zone, and durations such as 1h."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query

from api.problems import wrong_field, wrong_parameter

_DURATION = re.compile(r"([0-9]{1,5})([smhdw])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_INSTANT = "an instant with its time zone (2030-01-31T12:00:00Z)"

Since = Annotated[
    str | None,
    Query(max_length=64, description="From this instant on, or from this long ago (1h, 7d).", examples=["1h"]),
]
Until = Annotated[
    str | None,
    Query(max_length=64, description="Up to this instant, or up to this long ago (1h, 7d).", examples=["5m"]),
]


def moment(name: str, text: str | None, now: float) -> float | None:
    """Convert an instant, or a duration before `now`, to seconds since the epoch; None if empty.

    Raises ProblemError (422) that names the parameter.
    """
    if text is None or text == "":
        return None
    if (ago := _DURATION.fullmatch(text)) is not None:
        return now - int(ago[1]) * _SECONDS[ago[2]]
    if (found := parse_instant(text)) is not None:
        return found
    raise wrong_parameter(name, f"must be {_INSTANT} or a duration such as 5m, 1h, 7d")


def moment_in(field: str, text: str, now: float) -> float | None:
    """Convert an instant in a body, or the word `now`, to seconds since the epoch; None if empty.

    Raises ProblemError (422) that names the field.
    """
    if not text:
        return None
    if text == "now":
        return now
    if (found := parse_instant(text)) is not None:
        return found
    raise wrong_field(field, f"must be {_INSTANT} or now")


def parse_instant(text: str) -> float | None:
    """Convert an instant with a time zone, of 1970 to 9998, to seconds since the epoch; None for anything else."""
    try:
        when = datetime.fromisoformat(text)
        if when.tzinfo is not None and 1970 <= when.astimezone(UTC).year < 9999:
            return when.timestamp()
    except (ValueError, OverflowError):
        pass
    return None


def duration(name: str, text: str) -> float:
    """Convert a duration such as 5m, 1h or 30d, more than 0, to seconds. Raises ProblemError (422)."""
    if (match := _DURATION.fullmatch(text)) is None or not int(match[1]):
        raise wrong_parameter(name, "must be a duration such as 1h, 7d, 4w")
    return float(int(match[1]) * _SECONDS[match[2]])


def instant(ts: float | None) -> str | None:
    """Format a time as `2030-01-31T12:00:00Z`; None for None."""
    return None if ts is None else datetime.fromtimestamp(ts, UTC).isoformat().replace("+00:00", "Z")

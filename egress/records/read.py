"""Reads records back from the JSON that `egress.records.eve` writes, also of older gateways."""

from __future__ import annotations

import json
from typing import cast

from egress.errors import MalformedError
from egress.records.eve import EVENTS
from egress.records.kinds import MAX_LINE
from egress.records.shape import TIME, JournalLine

TIME_BYTES = len('{"timestamp":"2026-11-23T15:06:02.123456Z"')  # the beginning of each line


def parse_line(raw: bytes) -> JournalLine:
    """Read the record in one line of a journal.

    Raises MalformedError for a line that is too long, is not JSON or is not a record (`from_eve`).
    """
    if len(raw) > MAX_LINE:
        raise MalformedError(f"line of {len(raw)} bytes")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        raise MalformedError("not JSON") from None
    return from_eve(document)


def record_time(beginning: bytes) -> float:
    """Read the time of a record from the first TIME_BYTES of its line. Raises MalformedError."""
    try:
        document = json.loads(beginning[:TIME_BYTES] + b"}")
        return TIME.read(document["timestamp"])
    except (ValueError, LookupError, TypeError):
        raise MalformedError("not the beginning of a line") from None


def from_eve(document: object) -> JournalLine:
    """Read a record back from the output of `to_eve`; unknown keys are ignored. Raises MalformedError."""
    if not isinstance(document, dict):
        raise MalformedError("not an object")
    event = document.get("event_type")
    layout = EVENTS.get(event) if isinstance(event, str) else None
    if layout is None:
        raise MalformedError("unknown event_type")
    return cast(JournalLine, layout.read(document))

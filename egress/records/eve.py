"""Writes records as EVE-style JSON (Suricata's eve.json vocabulary), as in the journal; docs/records.md has the keys.

Times are ISO 8601 in UTC with microseconds, bytes are base64. `egress.records.read` reads the lines back.
"""

from __future__ import annotations

from typing import Any, get_args

from egress.records.layout import Layout
from egress.records.shape import JournalLine, ProcessRecord

LAYOUTS: dict[type[JournalLine], Layout] = {shape: Layout(shape) for shape in get_args(JournalLine)}
EVENTS: dict[str, Layout] = {shape.event_type: layout for shape, layout in LAYOUTS.items()}


def to_eve(record: JournalLine) -> dict[str, Any]:
    """Return the record as a mapping of JSON types."""
    return LAYOUTS[type(record)].write(record)


def line(record: JournalLine) -> bytes:
    """Return the record as one line of ASCII JSON, with its newline."""
    return LAYOUTS[type(record)].encode(record).encode("ascii") + b"\n"


def process_part(record: ProcessRecord | None) -> dict[str, Any] | None:
    """Return the `process` object of a record's JSON; None without a record."""
    return None if record is None else to_eve(record)["process"]

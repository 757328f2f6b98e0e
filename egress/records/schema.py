"""The JSON Schema of the records (draft 2020-12) and the list of their keys, both made from the declarations."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

from egress.records.eve import EVENTS
from egress.records.kinds import Schema
from egress.records.layout import OBJECTS, Layout, Objects

WIDTH = 120  # of the lines of docs/records.md


class Key(NamedTuple):
    """One key of a record: `flow.bytes_out`; in a list: `evidence.packets[].data`."""

    path: str
    kind: str
    meaning: str


def schema() -> Schema:
    """Return the JSON Schema that every line of a journal follows."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:egress:records",
        "title": "Records of egress",
        "description": "One line of a journal: a decision or a finding of the gateway, as an EVE-style JSON object.",
        "type": "object",
        "required": ["timestamp", "event_type"],
        "oneOf": [{"$ref": f"#/$defs/{event}"} for event in EVENTS],
        "$defs": {event: layout.schema() for event, layout in EVENTS.items()},
    }


def text() -> str:
    """Return the JSON Schema as the text of a file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def keys(layout: Layout, before: str = "") -> Iterator[Key]:
    """Yield every key of a layout, in the order of a journal's line; `before` is the beginning of their paths."""
    part = ""
    for field in layout.fields:
        if field.part != part:
            part = field.part
            yield Key(part, "object", OBJECTS[part])
        kind = field.at.kind
        path = f"{before}{field.at.path}[]" if kind.schema.get("type") == "array" else before + field.at.path
        yield Key(path, kind.name, field.at.meaning)
        if isinstance(kind, Objects):
            yield from keys(kind.layout, f"{path}.")


def markdown() -> str:
    """Return the list of all keys of all kinds of record, as Markdown for docs/records.md."""
    return "\n".join(
        "\n".join([f"## {event}", "", _wrapped(layout.about), "", *map(_item, keys(layout)), ""])
        for event, layout in EVENTS.items()
    )


def _item(key: Key) -> str:
    """Return the Markdown list item of one key."""
    return _wrapped(f"- `{key.path}` ({key.kind}): {key.meaning}")


def _wrapped(words: str) -> str:
    indent = "  " if words.startswith("- ") else ""
    return textwrap.fill(words, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)

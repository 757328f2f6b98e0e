"""The JSON Schema of the records (`records.schema.json`, draft 2020-12), and its fields as a list for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

_Schema = dict[str, Any]


class Field(NamedTuple):
    """One key of a record: `flow.bytes_out`; in a list: `evidence.packets[].data`."""

    path: str
    kind: str
    meaning: str


def text() -> str:
    """The schema's own text."""
    return resources.files("egress.records").joinpath("records.schema.json").read_text(encoding="utf-8")


@cache
def schema() -> _Schema:
    loaded: _Schema = json.loads(text())
    return loaded


def events() -> dict[str, _Schema]:
    """Each event_type's part of the schema."""
    return {found["properties"]["event_type"]["const"]: found for found in map(_resolve, schema()["oneOf"])}


def fields(event: str) -> Iterator[Field]:
    """Every key of an event's records, in the order in which they are written."""
    return _fields(events()[event], "")


def markdown() -> str:
    """All fields of all events as docs/records.md has them."""
    parts = []
    for name, event in events().items():
        rows = "\n".join(f"| `{each.path}` | {each.kind} | {each.meaning} |" for each in fields(name))
        parts.append(f"## {name}\n\n{event['description']}\n\n| key | value | meaning |\n|---|---|---|\n{rows}\n")
    return "\n".join(parts)


def _fields(part: _Schema, before: str) -> Iterator[Field]:
    for name, given in part["properties"].items():
        found, path = _resolve(given), before + name
        if found.get("type") == "array":
            path, inner = path + "[]", _resolve(found["items"])
            yield Field(path, f"list of {_kind(inner)}", found.get("description", ""))
            found = inner
        else:
            yield Field(path, _kind(found), found.get("description", ""))
        if "properties" in found:
            yield from _fields(found, path + ".")


def _resolve(part: _Schema) -> _Schema:
    """What `$ref` stands for; a description beside it is the nearer one."""
    if "$ref" not in part:
        return part
    target = schema()["$defs"][part["$ref"].rpartition("/")[2]]
    return {**target, **{key: part[key] for key in part if key != "$ref"}}


def _kind(part: _Schema) -> str:
    """What its value may be, in a word or two."""
    if "const" in part:
        return f"`{part['const']}`"
    if "enum" in part:
        return ", ".join(f"`{value}`" for value in part["enum"])
    kind = part.get("title") or str(part["type"])
    return {"string": "text", "integer": "number"}.get(kind, kind)

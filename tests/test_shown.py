"""Each field of a flow and of a finding is shown and can be searched for, or is listed here with the reason.

A new field fails these tests until it is shown, searched or listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql import visitors

from egress.cli.output.story import finding_lines, flow_lines
from egress.errors import InputError
from egress.records.eve import LAYOUTS
from egress.records.kinds import Base64, Kind, Number, OrNull, Texts, Timestamp, Word
from egress.records.shape import ADDRESS, FlowRecord, Record
from egress.store.database.tables import findings, flows
from egress.store.query.reader import SORTS
from egress.store.query.search import FIELDS, one
from egress.store.query.story import FlowStory
from egress.store.recording.steps import StepContext
from tests.store import samples

UNSEARCHED_FLOW = {
    "end": "`since:` and `until:` ask for `updated` and `start`",
    "sport": "the port of a client is random",
    "community_id": "a key for other tools",
    "unseen_bytes": "a remark on the other counts",
}
UNSEARCHED_FINDING = {
    "technique": "it follows from the signature",
    "summary": "a sentence for people",
    "evidence": "bytes",
    "time": "`since:` and `until:` ask for the times of its flow",
    **dict.fromkeys(("flow_id", "agent", "action", "mode", "rule_id", "policy_version"), "its flow has it"),
    **dict.fromkeys(("proto", "src", "sport", "dst", "dport", "community_id"), "its flow has it"),
}
UNSORTED = {
    **dict.fromkeys(("flow_id", "community_id"), "an id"),
    **dict.fromkeys(("state", "direction", "mode"), "a few words"),
    **dict.fromkeys(("src", "sport"), "it says little about a flow"),
    "end": "near `updated`",
    "policy_version": "it grows with time",
    "unseen_bytes": "a remark on the other counts",
    "names": "a list",
    "app_expected": "few flows have it",
}
# The story of a finding shows its flow beside it.
OF_THE_FLOW = {
    *("finding_id", "flow_id", "agent", "proto", "src", "sport", "dst", "dport", "community_id"),
    *("rule_id", "policy_version"),
}
EXAMPLES = ("1", "192.0.2.1", "2h", "low", "flow", "accept", "rule", "enforce", "out", "new", "found")


def other(kind: Kind, value: Any) -> Any:
    """Return another value of the same kind."""
    if isinstance(kind, OrNull):
        return other(kind.kind, samples.START) if value is None else None
    if isinstance(kind, Word):
        words = list(kind.enumeration or kind.words)
        return words[(words.index(value) + 1) % len(words)]
    if isinstance(kind, Number | Timestamp):
        return value + 100
    if isinstance(kind, Texts):
        return (*value, "other.example")
    if isinstance(kind, Base64):
        return bytes(value) + b"other"
    return "203.0.113.99" if kind is ADDRESS else f"{value}other"


def hidden(record: Any, shown: Callable[[Any], object]) -> set[str]:
    """The fields of a record that do not change the output."""
    found = set()
    for field in LAYOUTS[type(record)].stored:
        changed = replace(record, **{field.name: other(field.at.kind, getattr(record, field.name))})
        if shown(changed) == shown(record):
            found.add(field.name)
    return found


def searched(table: sa.Table) -> set[str]:
    """The columns of a table that terms of the query language ask for."""
    found = set()
    for name, field in FIELDS.items():
        for example in EXAMPLES:
            with suppress(InputError):
                found |= columns([one(name, example, field.table, samples.START)], table)
                break
        else:
            raise AssertionError(f"EXAMPLES needs a value for {name}:")
    return found


def columns(expressions: Iterable[sa.ColumnElement[Any]], table: sa.Table) -> set[str]:
    """The names of a table's columns in expressions."""
    parts = (part for expression in expressions for part in visitors.iterate(expression))
    return {part.name for part in parts if isinstance(part, sa.Column) and part.table is table}


def story(flow: FlowRecord) -> list[str]:
    return list(flow_lines(FlowStory(flow, (), None, None, {}, (), False, StepContext(()))))


def names(record: Record) -> set[str]:
    return {field.name for field in fields(record)}


def test_the_story_of_a_flow_shows_every_field() -> None:
    lived = replace(samples.FLOW, end=samples.FLOW.updated)
    assert hidden(samples.FLOW, story) & hidden(lived, story) == set()


def test_the_story_of_a_finding_shows_every_field_that_its_flow_lacks() -> None:
    assert hidden(samples.FINDING, lambda finding: list(finding_lines("finding", finding))) == OF_THE_FLOW


def test_every_field_can_be_searched_for() -> None:
    assert searched(flows) == names(samples.FLOW) - set(UNSEARCHED_FLOW)
    assert searched(findings) == names(samples.FINDING) - set(UNSEARCHED_FINDING)


def test_flows_are_sorted_by_every_field() -> None:
    assert columns(SORTS.values(), flows) == names(samples.FLOW) - set(UNSORTED)

"""Layouts: a declared field is written, read and described, at any place of its key."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest

from egress.errors import MalformedError
from egress.records.kinds import Number, OrNull, Text, Texts, Word
from egress.records.layout import OBJECTS, At, Layout, Objects


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf."""

    size: Annotated[int, At("size", Number(), "its size")]
    hue: Annotated[str, At("hue", Word(("green", "red")), "its colour")] = "green"


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree

    with leaves.
    """

    kind: ClassVar[Annotated[str, At("event_type", Word(["tree"]), "the kind")]] = "tree"
    height: Annotated[int | None, At("flow.height", OrNull(Number()), "its height")]
    name: Annotated[str, At("proto", Text(), "its name")]
    leaves: Annotated[tuple[Leaf, ...], At("flow.leaves", Objects(Leaf, 2), "its leaves")]
    tags: Annotated[tuple[str, ...], At("tags", Texts(2), "its tags", absent=["old"])] = ("old",)


LAYOUT = Layout(Tree)
OAK = Tree(None, "100 % oak", (Leaf(1), Leaf(2, "red")), ())
WRITTEN = {
    "event_type": "tree",
    "proto": "100 % oak",
    "flow": {"height": None, "leaves": [{"size": 1, "hue": "green"}, {"size": 2, "hue": "red"}]},
    "tags": [],
}


def test_a_record_is_written_in_the_declared_places() -> None:
    assert LAYOUT.write(OAK) == WRITTEN
    assert list(LAYOUT.write(OAK)) == list(WRITTEN)
    assert LAYOUT.encode(OAK) == json.dumps(WRITTEN, separators=(",", ":"))


def test_a_record_is_read_back() -> None:
    assert LAYOUT.read(WRITTEN) == OAK
    assert LAYOUT.read({**WRITTEN, "root": 1}) == OAK


def test_a_key_that_older_lines_lack_is_read_as_declared() -> None:
    older = {key: value for key, value in WRITTEN.items() if key != "tags"}
    assert LAYOUT.read(older).tags == ("old",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"proto": 1}, "proto is not text"),
        ({"flow": 1}, "flow is not an object"),
        ({"flow": {"leaves": []}}, "flow.height is not a number from 0 to 9223372036854775807"),
        ({"flow": {"height": 1, "leaves": [1]}}, "flow.leaves is not a list of objects"),
        ({"flow": {"height": 1, "leaves": [{}]}}, "flow.leaves size is not a number from 0 to 9223372036854775807"),
    ],
)
def test_what_was_not_written_is_malformed(change: dict[str, object], message: str) -> None:
    with pytest.raises(MalformedError) as found:
        LAYOUT.read({**WRITTEN, **change})
    assert str(found.value) == message


def test_the_schema_has_the_bounds_and_the_meanings() -> None:
    schema = LAYOUT.schema()
    assert schema["description"] == "A tree with leaves."
    assert schema["required"] == ["event_type", "proto", "flow", "tags"]
    assert schema["properties"]["flow"]["description"] == OBJECTS["flow"]
    leaves = schema["properties"]["flow"]["properties"]["leaves"]
    assert leaves["items"]["properties"]["size"]["description"] == "its size"

"""Kinds of value: each reads what it writes, encodes what it writes, and refuses everything else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.errors import MalformedError
from egress.model import Direction, Severity
from egress.records.kinds import (
    INDEXED_BYTES,
    MAX_COUNT,
    Base64,
    IndexedText,
    Kind,
    Number,
    OrNull,
    Text,
    Texts,
    Timestamp,
    Word,
)
from egress.records.times import MAX_MICROS
from egress.store.database.columns import plain

times = st.integers(0, MAX_MICROS).map(lambda count: count / 1_000_000)
KINDS: list[tuple[Kind, st.SearchStrategy[object]]] = [
    (Text(), st.text(st.characters())),
    (IndexedText(), st.text(max_size=20)),
    (Word(Severity), st.sampled_from(Severity)),
    (Word(("out", "in")), st.sampled_from(["out", "in"])),
    (Word(("out", "in"), Direction), st.sampled_from(Direction)),
    (Number(), st.integers(0, MAX_COUNT)),
    (Timestamp(), times),
    (Base64(64), st.binary(max_size=64)),
    (Texts(3), st.lists(st.text(), max_size=3).map(tuple)),
    (OrNull(Timestamp()), st.none() | times),
    (OrNull(Number()), st.none() | st.integers(0, MAX_COUNT)),
]


@pytest.mark.parametrize(("kind", "values"), KINDS, ids=[kind.name for kind, _ in KINDS])
@given(data=st.data())
def test_a_value_is_read_as_it_was_written(kind: Kind, values: st.SearchStrategy[object], data: st.DataObject) -> None:
    value = data.draw(values)
    written = value if kind.write is None else kind.write(value)
    assert kind.encode(value) == json.dumps(written, separators=(",", ":"))
    assert kind.read(json.loads(kind.encode(value))) == value


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *((kind, value) for kind, _ in KINDS for value in (..., 1.5, True, {"a": 1})),
        *((kind, None) for kind, _ in KINDS if not isinstance(kind, OrNull)),
        (Text(most=3), "four"),
        (IndexedText(), "x" * (INDEXED_BYTES + 1)),
        (IndexedText(), "\0" * (INDEXED_BYTES // 4 + 1)),
        (Word(Severity), "urgent"),
        (Word(Severity), ["low"]),
        (Number("port", 65535), 65536),
        (Number(), -1),
        (Number(), "1"),
        (Timestamp(), "yesterday"),
        (Base64(3), "AAAAAA=="),
        (Base64(3), "A"),
        (Base64(3), "ä"),
        (Texts(1), ["a", "b"]),
        (Texts(1), [1]),
        (Texts(1), "a"),
    ],
    ids=lambda value: str(getattr(value, "name", value))[:40],
)
def test_other_values_are_malformed(kind: Kind, value: object) -> None:
    with pytest.raises(MalformedError):
        kind.read(value)


@given(st.text(st.characters() | st.just("\0"), max_size=120))
def test_indexed_text_is_bounded_as_the_database_stores_it(text: str) -> None:
    stored = len(plain(text).encode())
    if stored <= INDEXED_BYTES:
        assert IndexedText().read(text) == text
    else:
        with pytest.raises(MalformedError):
            IndexedText().read(text)

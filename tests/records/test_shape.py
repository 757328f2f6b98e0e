"""The declarations of the records: complete, without contradiction, and nothing left over."""

from __future__ import annotations

import dataclasses

import pytest

from egress.records.eve import LAYOUTS
from egress.records.layout import OBJECTS, ORDER, Layout
from egress.records.shape import EvidencePacket

DECLARED: dict[type, Layout] = {**LAYOUTS, EvidencePacket: Layout(EvidencePacket)}


@pytest.mark.parametrize("shape", DECLARED)
def test_each_field_is_declared_and_each_key_is_one_field(shape: type) -> None:
    layout = DECLARED[shape]
    assert [field.name for field in layout.stored] == [field.name for field in dataclasses.fields(shape)]
    paths = [field.at.path for field in layout.fields]
    assert len(set(paths)) == len(paths)
    assert all(field.at.meaning for field in layout.fields)


@pytest.mark.parametrize("shape", LAYOUTS)
def test_a_key_that_older_lines_lack_has_the_default_of_its_field(shape: type) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(shape)}
    later = [field for field in LAYOUTS[shape].fields if field.at.absent is not ...]
    assert all(field.at.kind.read(field.at.absent) == defaults[field.name] for field in later)


def test_the_order_and_the_objects_have_no_leftovers() -> None:
    fields = [field for layout in LAYOUTS.values() for field in layout.fields]
    assert set(ORDER) <= {field.at.path for field in fields}
    assert set(OBJECTS) == {field.part for field in fields if field.part}

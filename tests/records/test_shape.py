"""The declarations of the records: complete, without contradiction, and nothing left over."""

from __future__ import annotations

import dataclasses

import pytest

from egress.records.eve import FORMS
from egress.records.form import OBJECTS, ORDER, Form
from egress.records.shape import EvidencePacket

DECLARED: dict[type, Form] = {**FORMS, EvidencePacket: Form(EvidencePacket)}


@pytest.mark.parametrize("shape", DECLARED)
def test_each_field_is_declared_and_each_key_is_one_field(shape: type) -> None:
    form = DECLARED[shape]
    assert [field.name for field in form.stored] == [field.name for field in dataclasses.fields(shape)]
    paths = [field.at.path for field in form.fields]
    assert len(set(paths)) == len(paths)
    assert all(field.at.meaning for field in form.fields)


@pytest.mark.parametrize("shape", FORMS)
def test_a_key_that_older_lines_lack_has_the_default_of_its_field(shape: type) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(shape)}
    later = [field for field in FORMS[shape].fields if field.at.absent is not ...]
    assert all(field.at.kind.read(field.at.absent) == defaults[field.name] for field in later)


def test_the_order_and_the_objects_have_no_leftovers() -> None:
    fields = [field for form in FORMS.values() for field in form.fields]
    assert set(ORDER) <= {field.at.path for field in fields}
    assert set(OBJECTS) == {field.part for field in fields if field.part}

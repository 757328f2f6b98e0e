"""Mark values in place: our four bits change, all others stay."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.gateway.kernel.marks import VALUES, Marks

MASKS = [0xF << shift for shift in range(29)]


@given(st.integers(0, 0xFFFFFFFF), st.sampled_from(MASKS), st.sampled_from(sorted(VALUES)))
def test_put_changes_our_bits_only(mark: int, mask: int, name: str) -> None:
    marks = Marks(mask)
    changed = marks.put(mark, name)
    assert changed & ~mask == mark & ~mask
    assert changed & mask == marks.value(name)
    assert (changed & mask) >> marks.shift == VALUES[name]


@pytest.mark.parametrize("mask", MASKS)
def test_under_the_refusal_mask_only_refused_and_dropped_are_refusals(mask: int) -> None:
    marks = Marks(mask)
    refusals = {name for name in VALUES if marks.value(name) & marks.refusal_mask == marks.value("refused")}
    assert refusals == {"refused", "dropped"}


def test_values_differ_and_fit_four_bits() -> None:
    assert all(one != other for one, other in itertools.combinations(VALUES.values(), 2))
    assert all(0 <= value < 16 for value in VALUES.values())


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(KeyError):
        Marks(0xF).value("else")

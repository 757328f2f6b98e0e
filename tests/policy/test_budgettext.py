"""Budgets as text and as JSON: they read as they were written; errors state the right form."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.model import Budget, BudgetSpan, Measure
from egress.policy.budgettext import (
    MAX_LIMIT,
    budget_text,
    budgets_from_json,
    budgets_to_json,
    check_budgets,
    parse_budget,
)

limits = st.integers(1, MAX_LIMIT) | st.builds(lambda n, e: n * 10**e, st.integers(1, 9000), st.sampled_from([3, 6, 9]))
budgets = st.builds(Budget, st.sampled_from(Measure), limits, st.sampled_from(BudgetSpan))
several = st.lists(budgets, max_size=6, unique_by=lambda budget: (budget.measure, budget.span)).map(tuple)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes=10mb/hour", Budget(Measure.BYTES, 10_000_000, BudgetSpan.HOUR)),
        ("bytes=10M/hour", Budget(Measure.BYTES, 10_000_000, BudgetSpan.HOUR)),
        ("bytes=3kB/minute", Budget(Measure.BYTES, 3_000, BudgetSpan.MINUTE)),
        ("bytes=2g/episode", Budget(Measure.BYTES, 2_000_000_000, BudgetSpan.EPISODE)),
        ("bytes=512b/minute", Budget(Measure.BYTES, 512, BudgetSpan.MINUTE)),
        ("bytes=512/minute", Budget(Measure.BYTES, 512, BudgetSpan.MINUTE)),
        ("connections=100/minute", Budget(Measure.CONNECTIONS, 100, BudgetSpan.MINUTE)),
        ("destinations=20/episode", Budget(Measure.DESTINATIONS, 20, BudgetSpan.EPISODE)),
    ],
)
def test_what_people_write(text: str, expected: Budget) -> None:
    assert parse_budget(text) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must be MEASURE=LIMIT/SPAN, such as bytes=10mb/hour"),
        ("10mb", "must be MEASURE=LIMIT/SPAN"),
        ("bytes=10mb", "must be MEASURE=LIMIT/SPAN"),
        ("bytes=/hour", "must be MEASURE=LIMIT/SPAN"),
        ("bytes=-1/hour", "must be MEASURE=LIMIT/SPAN"),
        ("bytes=1.5gb/hour", "must be MEASURE=LIMIT/SPAN"),
        ("bytes=1_0/hour", "must be MEASURE=LIMIT/SPAN"),
        ("bytes=١/hour", "must be MEASURE=LIMIT/SPAN"),
        ("bytes = 10/hour", "must be MEASURE=LIMIT/SPAN"),
        ("bytes=10/hour\n", "must be MEASURE=LIMIT/SPAN"),
        ("Bytes=10/hour", "must be MEASURE=LIMIT/SPAN"),
        ("packets=10/hour", "must be bytes or connections or destinations"),
        ("bytes=10/day", "must end with /minute or /hour or /episode"),
        ("bytes=10mib/hour", "a whole number, for bytes also with k, m or g"),
        ("connections=1k/hour", "a whole number, for bytes also with k, m or g"),
        ("destinations=5b/hour", "a whole number, for bytes also with k, m or g"),
        ("bytes=0/hour", "from 1 to 9007199254740991"),
        ("bytes=9999999999999999gb/hour", "from 1 to 9007199254740991"),
        ("bytes=9007199254740992/hour", "from 1 to 9007199254740991"),
        ("bytes=99999999999999999/hour", "must be MEASURE=LIMIT/SPAN"),
    ],
)
def test_what_is_no_budget_says_what_is(text: str, complaint: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_budget(text)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


@given(budgets)
def test_what_is_written_is_what_is_read(budget: Budget) -> None:
    assert parse_budget(budget_text(budget)) == budget


def test_the_text_is_short() -> None:
    assert budget_text(Budget(Measure.BYTES, 10_000_000, BudgetSpan.HOUR)) == "bytes=10mb/hour"
    assert budget_text(Budget(Measure.BYTES, 1_500, BudgetSpan.HOUR)) == "bytes=1500/hour"
    assert budget_text(Budget(Measure.CONNECTIONS, 1000, BudgetSpan.MINUTE)) == "connections=1000/minute"


@given(st.text(max_size=30) | st.builds("{}={}/{}".format, st.sampled_from(Measure), st.text(max_size=9), st.text()))
def test_any_text_is_a_budget_or_one_phrase(text: str) -> None:
    try:
        budget = parse_budget(text)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    assert 0 < budget.limit <= MAX_LIMIT and parse_budget(budget_text(budget)) == budget


@given(several)
def test_json_brings_them_back(wanted: tuple[Budget, ...]) -> None:
    assert budgets_from_json(json.loads(json.dumps(budgets_to_json(wanted)))) == wanted


GOOD = {"measure": "bytes", "limit": 5, "span": "hour"}


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        "bytes=5/hour",
        ["bytes=5/hour"],
        [{}],
        [{**GOOD, "limit": "5"}],
        [{**GOOD, "limit": True}],
        [{**GOOD, "limit": 5.0}],
        [{**GOOD, "limit": 0}],
        [{**GOOD, "measure": "packets"}],
        [{**GOOD, "measure": []}],
        [{**GOOD, "span": None}],
        [{**GOOD, "more": 1}],
        [GOOD, GOOD],
    ],
)
def test_any_other_json_is_a_value_error(document: object) -> None:
    with pytest.raises(ValueError):
        budgets_from_json(document)


def test_one_budget_for_each_measure_and_span() -> None:
    hour = Budget(Measure.BYTES, 10, BudgetSpan.HOUR)
    check_budgets(
        (hour, Budget(Measure.BYTES, 10, BudgetSpan.MINUTE), Budget(Measure.CONNECTIONS, 10, BudgetSpan.HOUR))
    )
    with pytest.raises(ValueError, match="bytes/hour twice"):
        check_budgets((hour, Budget(Measure.BYTES, 20, BudgetSpan.HOUR)))

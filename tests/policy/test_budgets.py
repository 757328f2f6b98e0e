"""Budgets: use is counted in its window, and is allowed exactly up to the limit."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.model import Budget, BudgetSpan, Measure
from egress.policy.budgets import Budgets, renews
from tests.traffic import agent

MINUTE = 1_700_000_040.0  # the start of a minute
HOUR = 1_699_999_200.0  # the start of an hour
BYTES = Budget(Measure.BYTES, 1000, BudgetSpan.MINUTE)


def remote(number: int) -> bytes:
    return number.to_bytes(4)


def test_no_budgets_no_state() -> None:
    budgets, who = Budgets(), agent()
    assert budgets.note_flow(who, remote(1), MINUTE) is None and budgets.note_bytes(who, 10**12, MINUTE) is None
    assert budgets.used(who, MINUTE) == ()


def test_bytes_up_to_the_limit_and_then_no_more_until_the_window_ends() -> None:
    budgets, who = Budgets(), agent(budgets=(BYTES,))
    assert budgets.note_bytes(who, 999, MINUTE) is None
    assert budgets.note_bytes(who, 1, MINUTE + 1) is None
    assert budgets.used(who, MINUTE + 1) == ((BYTES, 1000),)
    assert budgets.note_bytes(who, 1, MINUTE + 2) == BYTES
    assert budgets.note_bytes(who, 0, MINUTE + 59.999) == BYTES
    assert renews(BYTES, MINUTE + 59.999) == MINUTE + 60
    assert budgets.note_bytes(who, 1000, MINUTE + 60) is None
    assert budgets.used(who, MINUTE + 119) == ((BYTES, 1000),) and budgets.used(who, MINUTE + 120) == ((BYTES, 0),)


def test_a_packet_that_went_over_leaves_no_room_for_a_small_one() -> None:
    budgets, who = Budgets(), agent(budgets=(BYTES,))
    assert budgets.note_bytes(who, 1500, MINUTE) == BYTES
    assert budgets.note_bytes(who, 1, MINUTE) == BYTES


@pytest.mark.parametrize(
    ("span", "begin", "length"),
    [(BudgetSpan.MINUTE, MINUTE, 60), (BudgetSpan.HOUR, HOUR, 3600), (BudgetSpan.EPISODE, HOUR, math.inf)],
)
def test_windows(span: BudgetSpan, begin: float, length: float) -> None:
    budget = Budget(Measure.CONNECTIONS, 2, span)
    budgets, who = Budgets(), agent(budgets=(budget,))
    last = begin + min(length, 1e9) - 1e-3
    assert [budgets.note_flow(who, remote(1), at) for at in (begin, last, last)] == [None, None, budget]
    assert renews(budget, last) == begin + length
    if span is BudgetSpan.EPISODE:
        budgets.forget(who.name)
        assert budgets.note_flow(who, remote(1), last) is None
    else:
        assert budgets.note_flow(who, remote(1), begin + length) is None


def test_destinations_are_distinct_and_those_within_stay_so() -> None:
    budget = Budget(Measure.DESTINATIONS, 2, BudgetSpan.HOUR)
    budgets, who = Budgets(), agent(budgets=(budget,))
    tries = [budgets.note_flow(who, remote(number), HOUR) for number in (1, 1, 2, 3, 1, 2, 4)]
    assert tries == [None, None, None, budget, None, None, budget]
    for number in range(1000):
        budgets.note_flow(who, remote(number), HOUR)
    assert budgets.used(who, HOUR) == ((budget, 2),)


def test_a_destination_refused_for_one_budget_uses_nothing_of_another() -> None:
    minute, hour = Budget(Measure.DESTINATIONS, 1, BudgetSpan.MINUTE), Budget(Measure.DESTINATIONS, 2, BudgetSpan.HOUR)
    budgets, who = Budgets(), agent(budgets=(hour, minute))
    assert [budgets.note_flow(who, remote(n), HOUR) for n in (1, 2, 3)] == [None, minute, minute]
    assert [budgets.note_flow(who, remote(n), HOUR + 60) for n in (3, 3, 4)] == [None, None, hour]
    assert dict(budgets.used(who, HOUR + 60)) == {minute: 1, hour: 2}


def test_nothing_means_nothing() -> None:
    for measure in Measure:
        budget = Budget(measure, 0, BudgetSpan.EPISODE)
        budgets, who = Budgets(), agent(budgets=(budget,))
        opened, sent = budgets.note_flow(who, remote(1), MINUTE), budgets.note_bytes(who, 1, MINUTE)
        assert (sent if measure is Measure.BYTES else opened) == budget


def test_an_edit_keeps_what_was_used_and_the_stricter_of_two_speaks() -> None:
    budgets, who = Budgets(), agent(budgets=(BYTES,))
    budgets.note_bytes(who, 600, MINUTE)
    strict = replace(BYTES, limit=700)
    edited = agent(budgets=(strict, BYTES))
    assert budgets.note_bytes(edited, 100, MINUTE) is None
    assert budgets.note_bytes(edited, 1, MINUTE) == strict
    assert budgets.note_bytes(agent(budgets=(replace(BYTES, span=BudgetSpan.HOUR),)), 900, MINUTE) is None


def test_agents_do_not_share() -> None:
    budgets, one, two = Budgets(), agent(name="a", budgets=(BYTES,)), agent(name="b", budgets=(BYTES,))
    assert budgets.note_bytes(one, 1001, MINUTE) == BYTES and budgets.note_bytes(two, 1000, MINUTE) is None


def test_a_clock_that_steps_back() -> None:
    budgets, who = Budgets(), agent(budgets=(BYTES,))
    budgets.note_bytes(who, 1000, MINUTE)
    assert budgets.note_bytes(who, 1, MINUTE - 1) == BYTES
    assert budgets.note_bytes(who, 1, MINUTE - 86400) is None


steps = st.lists(st.tuples(st.floats(0, 90), st.integers(0, 5), st.integers(0, 400)), max_size=40)


@given(steps, st.sampled_from(list(BudgetSpan)), st.integers(0, 6))
def test_agrees_with_an_obvious_reference(some: list[tuple[float, int, int]], span: BudgetSpan, limit: int) -> None:
    sent, opened, distinct = (Budget(m, limit * (100 if m is Measure.BYTES else 1), span) for m in Measure)
    budgets = [(Budgets(), agent(budgets=(budget,))) for budget in (sent, opened, distinct)]
    length = {BudgetSpan.MINUTE: 60, BudgetSpan.HOUR: 3600, BudgetSpan.EPISODE: 1e12}[span]
    history: list[tuple[float, bytes, int]] = []
    now = HOUR + 3500
    for pause, number, size in some:
        now += pause
        history.append((now, remote(number), size))
        window = [each for each in history if each[0] // length == now // length]
        order = list(dict.fromkeys(each[1] for each in window))
        expected = (
            sum(each[2] for each in window) > sent.limit,
            len(window) > opened.limit,
            order.index(remote(number)) >= distinct.limit,
        )
        (b, b_who), (c, c_who), (d, d_who) = budgets
        found = (
            b.note_bytes(b_who, size, now) is not None,
            c.note_flow(c_who, remote(number), now) is not None,
            d.note_flow(d_who, remote(number), now) is not None,
        )
        assert found == expected

"""Bindings: the answers that an agent received, for as long as they are valid, within bounds."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.policy.bindings import FLOOR, GRACE, MAX_BINDINGS, MAX_NAMES, MAX_TTL, Bindings

A, B = b"\x01" * 4, b"\x02" * 16
START = 1_700_000_000.0


def bound(ttl: float, after: float) -> frozenset[str]:
    bindings = Bindings()
    bindings.bind("a1", ["x.org"], A, ttl, START)
    return bindings.names_of("a1", A, START + after)


def test_every_name_of_the_chain_in_one_spelling() -> None:
    bindings = Bindings()
    bindings.bind("a1", ["WWW.Example.org.", "edge.cdn.example"], A, 300, START)
    assert bindings.names_of("a1", A, START) == {"www.example.org", "edge.cdn.example"}
    assert bindings.names_of("a1", B, START) == bindings.names_of("a2", A, START) == frozenset()


@pytest.mark.parametrize(
    ("ttl", "holds"),
    [
        (300, 300 + GRACE),
        (0, FLOOR + GRACE),
        (1, FLOOR + GRACE),
        (-1, FLOOR + GRACE),
        (1 << 31, FLOOR + GRACE),
        (math.nan, FLOOR + GRACE),
        (math.inf, FLOOR + GRACE),
        ((1 << 31) - 1, MAX_TTL + GRACE),
    ],
)
def test_it_holds_for_its_ttl_and_the_grace(ttl: float, holds: float) -> None:
    assert bound(ttl, 0) == bound(ttl, holds - 1e-3) == {"x.org"}
    assert bound(ttl, holds) == frozenset()


def test_a_later_answer_extends_and_never_shortens() -> None:
    bindings = Bindings()
    bindings.bind("a1", ["x.org"], A, 3600, START)
    bindings.bind("a1", ["x.org"], A, 1, START + 10)
    assert bindings.names_of("a1", A, START + 3600)
    bindings.bind("a1", ["x.org"], A, 3600, START + 3600)
    assert bindings.names_of("a1", A, START + 7200)


def test_an_agent_that_goes_is_forgotten() -> None:
    bindings = Bindings()
    for agent in ("a1", "a2"):
        bindings.bind(agent, ["x.org"], A, 300, START)
    bindings.forget("a1")
    bindings.forget("nobody")
    assert not bindings.names_of("a1", A, START) and bindings.names_of("a2", A, START)


def test_one_address_holds_the_names_bound_last() -> None:
    bindings = Bindings()
    for number in range(200):
        bindings.bind("a1", ["kept.org", f"h{number}.org"], A, 300, START)
    held = bindings.names_of("a1", A, START)
    assert len(held) == MAX_NAMES == bindings.size("a1")
    assert {"kept.org", "h199.org"} <= held and "h0.org" not in held


def test_an_agent_fills_only_its_own_share() -> None:
    bindings = Bindings()
    bindings.bind("a2", ["other.org"], A, 300, START)
    for number in range(MAX_BINDINGS + 10):
        bindings.bind("a1", ["x.org"], number.to_bytes(4), 300, START)
    assert bindings.size("a1") == MAX_BINDINGS
    assert not bindings.names_of("a1", (9).to_bytes(4), START) and bindings.names_of("a1", (10).to_bytes(4), START)
    assert bindings.names_of("a2", A, START)


answers = st.tuples(st.sampled_from("abc"), st.sampled_from([A, B]), st.sampled_from([0, 70, 200]), st.integers(0, 100))


@given(st.lists(answers, max_size=30), st.integers(0, 400))
def test_agrees_with_an_obvious_reference(answers: list[tuple[str, bytes, int, int]], later: int) -> None:
    answers.sort(key=lambda answer: answer[3])
    bindings = Bindings()
    for name, address, ttl, at in answers:
        bindings.bind("a1", [name], address, ttl, START + at)
    now = START + 100 + later
    for address in (A, B):
        holds = {name for name, where, ttl, at in answers if where == address and START + at + max(ttl, 60) + 30 > now}
        assert bindings.names_of("a1", address, now) == holds

"""The worst known inputs: each byte is inspected, and four times the bytes cost about four times the time."""

from __future__ import annotations

import pytest

from bench.costs import seconds
from bench.worst import INPUTS
from egress.model import Action
from tests.traffic import agent, engine, play

pytestmark = pytest.mark.slow  # measures times

SIZE = 12_000


@pytest.mark.parametrize("name", INPUTS)
def test_cost_grows_with_the_bytes(name: str) -> None:
    few, many = INPUTS[name](SIZE), INPUTS[name](4 * SIZE)
    most = 9 * min(seconds(few) for _ in range(3))
    # A start-up cost makes the ratio less than 4; quadratic: 16. A disturbed measurement is made again.
    assert any(seconds(many) < most for _ in range(2))


@pytest.mark.parametrize("name", INPUTS)
def test_no_input_is_refused_and_so_no_longer_inspected(name: str) -> None:
    played = play(engine(), agent(), INPUTS[name](SIZE))
    assert set(played.actions) == {Action.ACCEPT} and not played.findings

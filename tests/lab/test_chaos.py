"""`make chaos`: its canaries get out where nothing guards, its witness sees them, and a guarding gateway holds them."""

from __future__ import annotations

import pytest

from bench.chaos.faults import CONTROL, NONE
from bench.chaos.trial import run
from tests.lab.net import needs_root

pytestmark = [pytest.mark.lab, needs_root]

RATE = 100.0


def test_without_a_gateway_everything_gets_out() -> None:
    result = run(CONTROL, RATE)
    assert not result.note and result.canaries > RATE
    assert (result.canaries_out, result.contents_out) == (result.canaries, result.contents)
    assert not result.held


def test_with_a_gateway_nothing_does_and_each_allowed_flow_has_a_record() -> None:
    result = run(NONE, RATE)
    assert result.held, result
    assert result.canaries > RATE and result.contents > 0 and result.passed > 20

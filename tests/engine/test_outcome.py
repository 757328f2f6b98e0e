"""The outcome of a packet that changes nothing has no records."""

from __future__ import annotations

from egress.engine.outcome import Outcome
from tests.traffic import Talk, agent, engine


def test_only_a_packet_that_changes_something_has_records() -> None:
    first, *others = Talk(dport=9).open().play(engine(), agent()).outcomes
    assert len(first.records) == 1
    assert others[-1] == Outcome(first.verdict)

"""Bounds on the cost of one agent's flows, so that other agents' flows are looked up in time."""

from __future__ import annotations

import pytest

from egress.gateway.attribution import finder
from egress.gateway.attribution.finder import Finder
from tests.gateway.attribution.test_decoders import NOTE

NOWHERE = 0x7FFFFFFF  # no interface has this index


def test_an_agent_whose_look_ups_take_long_waits_for_the_next_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finder, "LOOKING", 0.0)
    looked = Finder()

    def reason(agent: str, now: float) -> str:
        record = looked.take(NOTE._replace(agent=agent, time=now, interface=NOWHERE), now)
        assert record is not None
        return record.reason

    assert "interface to the agent is gone" in reason("hostile", 1000.0)
    assert "took too long" in reason("hostile", 1000.9)
    assert "interface to the agent is gone" in reason("rome", 1000.9)
    assert "interface to the agent is gone" in reason("hostile", 1001.0)
    looked.close()

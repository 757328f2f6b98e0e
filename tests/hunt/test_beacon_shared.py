"""beacon.shared: agents that call in turns, or live too short for a rhythm of their own; and fleets that only work."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from egress.hunt.hunters.beacon_shared import MAX_AGENTS, together
from egress.records.shape import FlowRecord
from egress.store.query.history import HistoryTarget, Series
from tests.hunt.histories import DAY, SINCE, WEEK, beacon, flow, flows, haul, stored, week

ID = "beacon.shared"


def _in_turns(agents: int) -> list[FlowRecord]:
    """One call every half hour, by a changing agent."""
    rng = np.random.default_rng(1)
    beats = week(beacon(rng, 1800, 0.2, 400))
    whose = rng.integers(0, agents, len(beats))
    return [
        flow(start, agent=f"agent-{who}", dst="203.0.113.9") for start, who in zip(beats.tolist(), whose, strict=True)
    ]


def test_agents_that_call_in_turns(tmp_path: Path) -> None:
    with stored(tmp_path, _in_turns(8)) as engine:
        leads = haul(engine, ID).leads
        assert haul(engine, "beacon.slow").leads == ()
    assert {lead.agent for lead in leads} == {f"agent-{number}" for number in range(8)}
    for lead in leads:
        assert "one of 8 that called 203.0.113.9:443/tcp" in lead.summary
        assert not any(f"agent-{number}" in lead.summary + lead.evidence for number in range(8))


def test_short_lives_of_one_period(tmp_path: Path) -> None:
    """Three gaps each prove nothing; those of forty sandboxes do."""
    rng = np.random.default_rng(2)
    records = []
    for number in range(40):
        begin = rng.uniform(0, 6.9 * DAY)
        records += flows(begin + beacon(rng, 600, 0.3, 4), agent=f"agent-{number}", dst="203.0.113.9")
    with stored(tmp_path, records) as engine:
        leads = haul(engine, ID).leads
        assert haul(engine, "beacon.slow").leads == ()
    assert len(leads) == MAX_AGENTS
    assert "about every 8." in leads[0].summary


def test_what_one_agent_does_alone_is_not_shared(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    records = flows(beacon(rng, 1800, 0.1, 300), dst="203.0.113.9")
    records += flows(rng.uniform(0, 7 * DAY, 5), agent="other", dst="203.0.113.9")
    with stored(tmp_path, records) as engine:
        assert haul(engine, ID).leads == ()
        assert len(haul(engine, "beacon.slow").leads) == 1


@pytest.mark.parametrize("shape", [1.0, 4.0])
@pytest.mark.parametrize("alike", [True, False])
def test_fleets_that_work_are_not_found(shape: float, *, alike: bool) -> None:
    """Agents with turns of the same pace, and each with its own."""
    rng = np.random.default_rng(4)
    highest = -math.inf
    for _ in range(30):
        moments, of = [], []
        for agent in range(12):
            mean = 1200.0 if alike else float(10 ** rng.uniform(2, 4))
            starts = SINCE + week(rng.uniform(0, 6 * DAY) + np.cumsum(rng.gamma(shape, mean / shape, 30)))
            moments.append(starts)
            of.append(np.full(len(starts), agent))
        order = np.argsort(np.concatenate(moments))
        times = np.rint(np.concatenate(moments)[order] * 1e6).astype(np.int64)
        names = tuple(f"agent-{agent}" for agent in range(12))
        found = together(Series("", HistoryTarget(), times, names, np.concatenate(of)[order], 0), WEEK)
        highest = max(highest, -math.inf if found is None else found.log_e)
    assert highest < math.log(100)

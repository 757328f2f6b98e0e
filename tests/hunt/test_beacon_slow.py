"""beacon.slow over stored flows: by address, by name, by questions to the DNS; and what work does not look like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from egress.hunt.hunter import Settings
from egress.model import Action, Reason
from egress.records.shape import FlowRecord
from egress.store.query.history import Window
from tests.hunt.histories import DAY, SINCE, WEEK, beacon, flow, flows, haul, named, query, stored, week

pytestmark = pytest.mark.slow  # simulations

ID = "beacon.slow"


@pytest.mark.parametrize("dst", ["203.0.113.9", "2001:db8::9"])
def test_a_beacon_among_work(tmp_path: Path, dst: str) -> None:
    rng = np.random.default_rng(1)
    records = flows(beacon(rng, 1800, 0.2, 300, missed=0.1), dst=dst)
    for number in range(20):
        records += flows(week(np.cumsum(rng.gamma(1 + number % 4, 900, 800))), dst=f"198.51.100.{number}")
    with stored(tmp_path, records) as engine:
        found = haul(engine, ID)
    assert [(lead.agent, lead.target.dst) for lead in found.leads] == [("trainer", dst)]
    assert "about every 27." in found.leads[0].summary
    assert "gaps=" in found.leads[0].evidence and "alpha=0.005" in found.leads[0].evidence
    assert "21 series were long enough" in found.notes[-1]


def test_a_beacon_behind_changing_addresses_is_one_by_its_name(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    beats = beacon(rng, 3600, 0.3, 160)
    records = [
        flow(start, **named("C2.example.net", f"203.0.113.{place}"))
        for start, place in zip(beats.tolist(), rng.integers(1, 250, len(beats)), strict=True)
    ]
    with stored(tmp_path, records) as engine:
        (lead,) = haul(engine, ID).leads
    assert lead.destination == "c2.example.net"


def test_names_bound_stand_in_where_the_bytes_say_none(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    beats = beacon(rng, 3600, 0.2, 160)
    fields = {"app_proto": "ssh", "names": ("git.example.net", "x.example.net")}
    records = [flow(start, dst=f"203.0.113.{number % 200}", **fields) for number, start in enumerate(beats.tolist())]
    with stored(tmp_path, records) as engine:
        (lead,) = haul(engine, ID).leads
    assert lead.destination == "git.example.net"


def test_questions_by_a_clock(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    beats = beacon(rng, 1200, 0.2, 400)
    records = [query(start, f"{rng.bytes(8).hex()}.t.example.net") for start in beats.tolist()]
    records += [query(start, "9.9.0.192.in-addr.arpa") for start in beats.tolist()]
    with stored(tmp_path, records) as engine:
        (lead,) = haul(engine, ID).leads
    assert lead.destination == "example.net"
    assert "queried example.net" in lead.summary


def test_each_beacon_is_told_once(tmp_path: Path) -> None:
    """The same flows are a series by address and one by name."""
    records = flows(beacon(np.random.default_rng(5), 900, 0.2, 300), **named("c2.example.net"))
    with stored(tmp_path, records) as engine:
        assert [lead.destination for lead in haul(engine, ID).leads] == ["c2.example.net"]


def test_refused_beats_count(tmp_path: Path) -> None:
    refused = {"action": Action.REJECT, "reason": Reason.DEFAULT, "packets_in": 0}
    with stored(tmp_path, flows(beacon(np.random.default_rng(6), 900, 0.2, 300), **refused)) as engine:
        assert len(haul(engine, ID).leads) == 1


def test_only_flows_of_the_window_that_the_agent_opened(tmp_path: Path) -> None:
    beats = beacon(np.random.default_rng(7), 900, 0.2, 300)
    records = flows(beats, direction="in") + flows(beats - 10 * DAY, dst="203.0.113.8")
    records += flows(beats, agent="other", dst="203.0.113.7")
    with stored(tmp_path, records) as engine:
        assert haul(engine, ID, Window(SINCE, SINCE + 7 * DAY, "train*")).leads == ()
        assert [lead.agent for lead in haul(engine, ID).leads] == ["other"]


def test_order_and_duplicates_of_rows_do_not_matter(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    records = [*flows(beacon(rng, 900, 0.2, 200)), *flows(beacon(rng, 1800, 0.1, 200), dst="203.0.113.9")]
    shuffled: list[FlowRecord] = [records[index] for index in rng.permutation(len(records))]
    (tmp_path / "other").mkdir()
    with stored(tmp_path, records) as one, stored(tmp_path / "other", shuffled + shuffled[:50]) as other:
        assert haul(one, ID) == haul(other, ID)
        assert len(haul(one, ID).leads) == 2


def test_a_hunt_over_work_alone_finds_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    records = []
    for number in range(60):
        mean = 10 ** rng.uniform(3.3, 4.3)
        starts = week(np.cumsum(rng.gamma(4, mean / 4, int(8 * DAY / mean))))
        records += flows(starts, agent=f"agent-{number % 7}", dst=f"198.51.100.{number}")
    with stored(tmp_path, records) as engine:
        assert haul(engine, ID, WEEK, Settings(alpha=0.5)).leads == ()


def test_a_smaller_alpha_asks_for_more(tmp_path: Path) -> None:
    with stored(tmp_path, flows(np.arange(16) * 3600.0)) as engine:
        assert len(haul(engine, ID, settings=Settings(alpha=0.01)).leads) == 1
        assert haul(engine, ID, settings=Settings(alpha=1e-12)).leads == ()

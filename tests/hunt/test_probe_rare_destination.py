"""probe.rare-destination: what is new to a fleet, by registered domain; nothing without a before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from egress.hunt.hunters.probe_rare_destination import IN_ALL, MOST
from egress.model import Action, Mode, Reason
from egress.records.shape import FlowRecord
from tests.hunt.histories import DAY, WEEK, flow, flows, haul, named, query, stored

ID = "probe.rare-destination"
HABIT = [-20 * DAY, -10 * DAY, -2 * DAY, 3 * DAY]


def _before() -> list[FlowRecord]:
    return flows(HABIT, agent="old", **named("www.example.org")) + flows(HABIT, agent="old", dst="198.51.100.1")


def test_only_what_is_new_to_all(tmp_path: Path) -> None:
    records = _before()
    records += flows([DAY, 2 * DAY], **named("cdn-7.example.org", "203.0.113.1"))  # another host of a known domain
    records += flows([DAY], dst="198.51.100.1")  # another agent's habit
    records += flows([DAY, 2 * DAY], bytes_out=5000, **named("a.example.net"))
    records += flows([DAY], bytes_out=90, **named("b.example.net"))  # the same domain
    records += flows([DAY], dst="2001:db8::7", server_name="", bytes_out=70)
    with stored(tmp_path, records) as engine:
        found = haul(engine, ID)
    assert [(lead.agent, lead.destination) for lead in found.leads] == [
        ("trainer", "example.net"),
        ("trainer", "2001:db8::7"),
    ]
    assert "3 flows, 10090 bytes out" in found.leads[0].summary
    assert "flows_before=0" in found.leads[0].evidence


def test_a_name_that_was_only_said_hides_nothing(tmp_path: Path) -> None:
    records = [*_before(), flow(DAY, dst="203.0.113.66", server_name="www.example.org", names=())]
    with stored(tmp_path, records) as engine:
        assert [lead.destination for lead in haul(engine, ID).leads] == ["203.0.113.66"]


def test_a_typing_error_is_no_habit_and_a_rollout_is_not_rare(tmp_path: Path) -> None:
    records = [*_before(), *flows([-5 * DAY, DAY], **named("x.example.net"))]
    records += [flow(DAY, agent=f"agent-{number}", **named("y.example.com")) for number in range(3)]
    with stored(tmp_path, records) as engine:
        assert [lead.destination for lead in haul(engine, ID).leads] == ["example.net"]


def test_other_agents_count_also_where_only_some_are_asked_about(tmp_path: Path) -> None:
    records = [*_before(), *(flow(DAY, agent=f"agent-{number}", dst="203.0.113.1") for number in range(3))]
    records += [flow(DAY, agent="agent-1", dst="203.0.113.2"), flow(DAY, agent="agent-2", dst="203.0.113.3")]
    with stored(tmp_path, records) as engine:
        found = haul(engine, ID, replace(WEEK, agent="agent-1")).leads
    assert [(lead.agent, lead.destination) for lead in found] == [("agent-1", "203.0.113.2")]


def test_only_what_passed_counts(tmp_path: Path) -> None:
    refused = {"action": Action.REJECT, "reason": Reason.DEFAULT}
    records = [*_before(), flow(DAY, dst="203.0.113.1", **refused), query(DAY, "x.example.net", dst="198.51.100.1")]
    records += [flow(DAY, dst="203.0.113.2", mode=Mode.MONITOR, **refused)]
    with stored(tmp_path, records) as engine:
        assert [lead.destination for lead in haul(engine, ID).leads] == ["203.0.113.2"]


def test_without_a_day_of_before_it_says_so(tmp_path: Path) -> None:
    with stored(tmp_path, flows([-0.5 * DAY, DAY])) as engine:
        found = haul(engine, ID)
    assert found.leads == ()
    assert "need a day of history" in found.notes[0]


def test_an_empty_database(tmp_path: Path) -> None:
    with stored(tmp_path, []) as engine:
        assert haul(engine, ID).leads == ()


def test_it_does_not_flood(tmp_path: Path) -> None:
    records = _before()
    for agent in range(30):
        records += [flow(DAY, agent=f"agent-{agent}", dst=f"2001:db8:{agent:x}::{number:x}") for number in range(20)]
    with stored(tmp_path, records) as engine:
        found = haul(engine, ID)
    assert len(found.leads) == IN_ALL
    assert max(sum(lead.agent == f"agent-{agent}" for lead in found.leads) for agent in range(30)) <= MOST
    assert f"{30 * 20 - IN_ALL} rare destinations left out" in found.notes[0]

"""A hunt as a whole: leads become findings that say what happened, once, and that rules can silence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy.engine import Engine

from egress.errors import InputError
from egress.hunt.hunter import MAX_LEADS, HunterReport, Lead, Settings, Strongest
from egress.hunt.hunters import load
from egress.hunt.run import HuntResult, hunt
from egress.model import Action, Effect, Mode, Reason, Rule, Severity
from egress.records.shape import FlowRecord
from egress.store.database.database import writing
from egress.store.policy.audit import Actor
from egress.store.policy.edits import Edit
from egress.store.query.history import DAY as DAY_MICROS
from egress.store.query.history import History, HistoryTarget, Window, keep
from egress.store.query.reader import flow
from tests.hunt.histories import DAY, SINCE, WEEK, beacon, flows, named, stored


def _beacon(**fields: object) -> list[FlowRecord]:
    return flows(beacon(np.random.default_rng(1), 1800, 0.2, 300), **{**named("c2.example.net"), **fields})


def _slow(engine: Engine, window: Window = WEEK) -> HuntResult:
    (result,) = hunt(engine, load(["beacon.slow"]), window, Settings())
    return result


def test_a_finding_is_on_the_flow_it_ends_with(tmp_path: Path) -> None:
    records = _beacon(policy_version=7, mode=Mode.MONITOR, community_id="1:x=")
    with stored(tmp_path, records) as engine:
        (found,) = _slow(engine).findings
        last = flow(engine, found.flow_id)
    assert last == records[-1]
    assert (found.agent, found.time, found.dst, found.community_id) == (last.agent, last.start, last.dst, "1:x=")
    assert (found.action, found.effect, found.mode) == (Action.ACCEPT, Effect.NONE, Mode.MONITOR)
    assert (found.signature, found.technique, found.policy_version) == ("beacon.slow", "T1071", 7)


def test_hunting_twice_stores_once_and_a_day_later_again(tmp_path: Path) -> None:
    with stored(tmp_path, _beacon()) as engine:
        first = _slow(engine).findings
        assert first == _slow(engine).findings
        assert [keep(engine, first), keep(engine, first)] == [1, 0]
        # The same day's beacon from a longer history is the same finding, however strong it is by then.
        longer = _slow(engine, replace(WEEK, since=SINCE - 20 * DAY)).findings
        assert [each.finding_id for each in longer] == [each.finding_id for each in first]
        earlier = _slow(engine, replace(WEEK, until=SINCE + 4 * DAY)).findings
        assert keep(engine, earlier) == 1


def test_a_rule_that_exempts_it_silences_it(tmp_path: Path) -> None:
    with stored(tmp_path, _beacon(rule_id="poll", reason=Reason.RULE, policy_version=1)) as engine:
        with writing(engine) as connection:
            rule = Rule("poll", Action.ACCEPT, destination="c2.example.net", exempt=("beacon.*",))
            Edit(connection, Actor("uid:0 (root)"), 5.0).add([rule])
        result = _slow(engine)
    assert (result.findings, result.exempted) == ((), 1)


def test_a_rule_that_exempts_something_else_does_not(tmp_path: Path) -> None:
    with stored(tmp_path, _beacon(rule_id="poll", reason=Reason.RULE, policy_version=1)) as engine:
        with writing(engine) as connection:
            rule = Rule("poll", Action.ACCEPT, destination="c2.example.net", exempt=("beacon.timing",))
            Edit(connection, Actor("uid:0 (root)"), 5.0).add([rule])
        assert len(_slow(engine).findings) == 1


class _Imagining:
    """Returns a lead whose flow is not stored."""

    id, technique, about = "beacon.imagined", "T1071", "nothing"

    def hunt(self, history: History, settings: Settings) -> HunterReport:
        return HunterReport((_lead("nobody", 1.0),), ("a note",))


def _lead(agent: str, strength: float, destination: str = "x") -> Lead:
    return Lead(agent, HistoryTarget(dst="192.0.2.1"), 5 * DAY_MICROS, destination, Severity.LOW, "s", "e", strength)


def test_a_lead_without_its_flow_is_counted(tmp_path: Path) -> None:
    with stored(tmp_path, []) as engine:
        (result,) = hunt(engine, [_Imagining()], WEEK, Settings())
    assert result.findings == ()
    assert result.notes == ("a note", "1 lead left out: the flows are not stored any more")


def test_every_hunter_hears_of_progress_and_stands_an_empty_history(tmp_path: Path) -> None:
    heard: set[str] = set()
    with stored(tmp_path, _beacon()) as engine:
        hunt(engine, load(), WEEK, Settings(), lambda hunter, rows: heard.add(hunter) if rows else None)
        for result in hunt(engine, load(), Window(0.0, 1.0), Settings()):
            assert result.findings == ()
    assert {"beacon.slow", "beacon.shared", "tunnel.slow-leak"} <= heard


def test_the_strongest_stay_whatever_comes_first() -> None:
    leads = [_lead(f"a{number % 7}", float(number * 37 % 101), str(number)) for number in range(3 * 101)]
    kept = []
    for order in (leads, leads[::-1]):
        strongest = Strongest(5)
        for lead in order:
            strongest.add(lead)
        kept.append(list(strongest))
        assert strongest.left_out == len(leads) - 5
    assert kept[0] == kept[1]
    assert [lead.strength for lead in kept[0]] == sorted((lead.strength for lead in leads), reverse=True)[:5]
    assert MAX_LEADS == 1000


@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"alpha": 1.0}, {"leak_bytes": 0}, {"baseline": 0.0}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Settings(**wrong)  # type: ignore[arg-type]

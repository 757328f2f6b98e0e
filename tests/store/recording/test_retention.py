"""Retention deletes records that are too old or too many, in small steps, and no others, on both databases."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Engine

from egress.config import Config, Retention, build
from egress.errors import InputError
from egress.model import Action, Rule
from egress.records.shape import Record
from egress.store.database import days, tables
from egress.store.database.database import storing, writing
from egress.store.policy import audit, tokens
from egress.store.policy.audit import Actor
from egress.store.policy.edits import Edit
from egress.store.recording import retention
from egress.store.recording.evidence import SIZE, held, oversize
from egress.store.recording.maintenance import Maintenance
from egress.store.recording.sizes import holdings, oldest
from egress.store.recording.writer import store
from tests.examples import examples
from tests.store import samples

DAY = 86400.0
NOW = time.time() // DAY * DAY + 43_200  # noon, so that a moment more is the same day
ROOT = Actor("uid:0 (root)")


def _flow(number: int, age: float, quiet: float | None = None) -> Record:
    """Begun `age` days ago, its latest record `quiet` days ago."""
    return samples.numbered(number, start=NOW - age * DAY, updated=NOW - (age if quiet is None else quiet) * DAY)


def _evidence(number: int, age: float, size: int = 100) -> Record:
    packet = replace(samples.EVIDENCE.packets[0], data=b"E" * size)
    return replace(samples.EVIDENCE, finding_id=f"{number:016x}", time=NOW - age * DAY, packets=(packet,))


def _store(engine: Engine, records: Iterable[Record]) -> None:
    with storing(engine) as connection:
        store(connection, records)


def _prune(engine: Engine, kept: Retention) -> Counter[str]:
    with engine.connect() as connection:
        wanted = retention.cuts(connection, kept, NOW)
        expected = {name: number for name, number in retention.count(connection, wanted).items() if number}
    gone: Counter[str] = Counter()
    for step in retention.prune(engine, wanted):
        assert step.count >= 0 and not step.busy
        gone[step.table] += step.count
    assert +gone == expected  # what a dry run says is what goes
    return +gone


def _ids(engine: Engine, column: sa.Column[str]) -> list[int]:
    with engine.connect() as connection:
        return sorted(int(each, 16) for each in connection.scalars(sa.select(column)))


def test_records_past_their_days_go(engine: Engine) -> None:
    found = [replace(samples.FINDING, finding_id=f"{age:016x}", time=NOW - age * DAY) for age in (1, 9, 11)]
    odd = [replace(samples.ANOMALY, time=NOW - age * DAY) for age in (1, 11)]
    process = replace(samples.PROCESS, time=NOW - 11 * DAY)
    _store(engine, [*(_flow(age, age) for age in range(15)), *found, *odd, process, _evidence(1, 1), _evidence(2, 11)])
    _prune(engine, Retention(days=10))
    assert _ids(engine, tables.flows.c.flow_id) == list(range(11))
    assert _ids(engine, tables.findings.c.finding_id) == [1, 9]
    assert _ids(engine, tables.evidence.c.finding_id) == [1]
    with engine.connect() as connection:
        gone = retention.gone(connection)
        assert {name: each.count for name, each in gone.items()} == {
            "flows": 4, "findings": 1, "anomalies": 1, "processes": 1, "evidence": 1,
        }  # fmt: skip
        assert gone["flows"].before == pytest.approx(NOW // DAY * DAY - 10 * DAY)
        seen = {each.table: each for each in holdings(connection).records}
        assert seen["flows"].rows == 11 and seen["flows"].pruned == gone["flows"] and seen["steps"].rows == 0
        assert seen["flows"].oldest == oldest(connection) == pytest.approx(NOW - 10 * DAY)
    assert _prune(engine, Retention(days=10)) == Counter()


def test_a_flow_that_lives_stays_and_goes_with_its_last_record(engine: Engine) -> None:
    """Its day may have been made when it began (a week ago), or be dropped, or never have existed."""
    _store(engine, [_flow(1, 5, 0), _flow(2, 5), _flow(3, 100, 0), _flow(4, 100)])
    _prune(engine, Retention(days=3))
    assert _ids(engine, tables.flows.c.flow_id) == [1, 3]
    later = replace(samples.numbered(1, start=NOW - 5 * DAY, updated=NOW + 60), packets_out=99)
    _store(engine, [later, samples.numbered(2, start=NOW - 5 * DAY, updated=NOW)])  # a late record of one that went
    assert _ids(engine, tables.flows.c.flow_id) == [1, 2, 3]
    with engine.connect() as connection:
        query = sa.select(tables.flows.c.packets_out).where(tables.flows.c.flow_id == later.flow_id)
        assert connection.scalars(query).all() == [99]


def test_many_go_a_few_at_a_time(engine: Engine) -> None:
    many = [_flow(number, 100) for number in range(2 * retention.ROWS + 5)]
    _store(engine, [*many, _flow(9999, 1)])
    steps = [step.count for step in retention.prune(engine, retention.older(NOW - 2 * DAY)) if step.table == "flows"]
    assert max(steps) <= retention.ROWS and sum(steps) == len(many)
    assert _ids(engine, tables.flows.c.flow_id) == [9999]


def test_stopped_anywhere_it_goes_on(engine: Engine) -> None:
    _store(engine, [_flow(number, 100) for number in range(retention.ROWS + 5)])
    wanted = retention.older(NOW - 2 * DAY)
    next(retention.prune(engine, wanted))
    for _ in retention.prune(engine, wanted):
        pass
    with engine.connect() as connection:
        assert retention.gone(connection)["flows"].count == retention.ROWS + 5
    assert _ids(engine, tables.flows.c.flow_id) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(25), deadline=None)
@given(sizes=st.lists(st.integers(1, 60), max_size=8), most=st.integers(1, 600))
def test_the_oldest_packets_go_until_the_rest_fits(engine: Engine, sizes: list[int], most: int) -> None:
    with writing(engine) as connection:
        connection.execute(tables.evidence.delete())
    _store(engine, [_evidence(number, number / 1000, size) for number, size in enumerate(sizes)])
    with engine.connect() as connection:
        query = sa.select(tables.evidence.c.finding_id, SIZE)
        each = {int(row[0], 16): row[1] for row in connection.execute(query)}
        fits = [number for number in sorted(each) if sum(each[before] for before in range(number + 1)) <= most]
        assert (oversize(connection, most) == 0.0) == (len(fits) == len(each))
    _prune(engine, Retention(days=0, evidence_days=0, evidence_bytes=most))
    assert _ids(engine, tables.evidence.c.finding_id) == fits
    with engine.connect() as connection:
        assert held(connection) <= most


def test_packets_go_before_their_finding_and_never_outlive_it(engine: Engine) -> None:
    _store(engine, [replace(samples.FINDING, time=NOW - 5 * DAY), _evidence(1, 5), _evidence(2, 1)])
    assert _prune(engine, Retention(days=10, evidence_days=3)) == {"evidence": 1}
    assert _prune(engine, Retention(days=3, evidence_days=10)) == {"findings": 1}
    _store(engine, [_evidence(1, 5)])
    assert _prune(engine, Retention(days=3, evidence_days=0)) == {"evidence": 1}


def test_it_is_seen_when_nobody_prunes(engine: Engine) -> None:
    _store(engine, [_flow(1, 12), _flow(2, 100, 0)])
    with engine.connect() as connection:
        for kept, late in ((11, False), (9, True), (0, False)):
            assert retention.behind(connection, Retention(days=kept), NOW) is late


def test_for_ever_is_for_ever(engine: Engine) -> None:
    _store(engine, [_flow(1, 10_000), _evidence(1, 10_000)])
    assert _prune(engine, Retention(days=0, evidence_days=0, evidence_bytes=0)) == Counter()


def test_what_is_no_record_stays(engine: Engine) -> None:
    with writing(engine) as connection:
        Edit(connection, ROOT, 5.0).add([Rule("r", Action.ACCEPT)])
        tokens.create(connection, ROOT, name="ci", role="admin", ts=5.0)
    others = [table for table in tables.metadata.tables.values() if table not in retention.RECORDS]
    before = _rows(engine, others)
    _prune(engine, Retention(days=1))
    assert _rows(engine, others) == before
    assert {"audit", "policies", "rules", "tokens", "approvals", "agents"} <= {table.name for table in others}
    with engine.connect() as connection:
        assert audit.verify(connection).broken is None


def _rows(engine: Engine, wanted: list[sa.Table]) -> dict[str, int | None]:
    with engine.connect() as connection:
        return {table.name: connection.scalar(sa.select(sa.func.count()).select_from(table)) for table in wanted}


def test_steps_go_with_the_records(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(tables.steps.insert(), [_step(1, 1), _step(2, 11)])
    assert _prune(engine, Retention(days=10)) == {"steps": 1}


def _step(number: int, age: float) -> dict[str, object]:
    return {
        "agent": "a", "episode": "e", "id": str(number), "tool": "t", "summary": "", "start": NOW - age * DAY,
        "end": None, "until": NOW, "source": "api", "call_id": "", "trace_id": "", "span_id": "", "reporter": "",
        "reported": NOW,
    }  # fmt: skip


def test_a_day_that_is_read_stays_and_the_rest_of_the_work_is_done(postgresql_engine: Engine) -> None:
    engine = postgresql_engine
    _store(engine, [_flow(1, 5), replace(samples.FINDING, time=NOW - 5 * DAY)])
    with engine.connect() as reader:
        reader.execute(sa.select(tables.flows).limit(1))
        steps = list(retention.prune(engine, retention.older(NOW - DAY), 0.1))
    assert [step.busy for step in steps if step.busy] == [days.name("flows", int(NOW // DAY) - 5)]
    assert sum(step.count for step in steps if step.table == "findings") == 1
    assert _ids(engine, tables.flows.c.flow_id) == [1]


def test_upkeep_makes_days_ahead_and_prunes_a_step_at_a_time(engine: Engine) -> None:
    _store(engine, [_flow(number, 100) for number in range(retention.ROWS + 5)])
    upkeep = Maintenance(engine, Retention(days=10))
    for _ in range(40):
        assert upkeep.step() == ""
    assert _ids(engine, tables.flows.c.flow_id) == []
    today = int(time.time() // DAY)
    with engine.connect() as connection:
        for table in tables.DAYED:
            ahead = [today, today + 1] if engine.dialect.name == "postgresql" else []
            assert days.existing(connection, table) == ahead
    _store(engine, [_flow(1, 100)])
    assert upkeep.step() == "" and _ids(engine, tables.flows.c.flow_id) == [1]  # the next round is not due


def test_upkeep_says_what_went_wrong_and_goes_on(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.exec_driver_sql("ALTER TABLE pruned RENAME TO elsewhere")
    _store(engine, [_flow(1, 100)])
    upkeep = Maintenance(engine, Retention(days=10))
    assert any("pruned" in upkeep.step() for _ in range(20))
    assert upkeep.step() == ""


@pytest.mark.parametrize("wrong", [{"days": -1}, {"evidence_bytes": -1}, {"days": 40000}, {"weeks": 1}, {"days": 1.5}])
def test_settings_that_mean_nothing(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match="retention"):
        build(Config, {"retention": wrong}, "egress.yaml")


def test_a_flow_that_lives_on_while_its_row_is_chosen_stays(postgresql_engine: Engine) -> None:
    """PostgreSQL waits for the writer of the row, and would then delete it by the old values."""
    engine = postgresql_engine
    _store(engine, [_flow(1, 200)])
    steps: list[retention.PruneStep] = []
    pruning = threading.Thread(target=lambda: steps.extend(retention.prune(engine, {tables.flows: NOW - 90 * DAY})))
    with storing(engine) as connection:
        store(connection, [_flow(1, 200, quiet=0)])
        pruning.start()
        with engine.connect() as looking:
            while not looking.scalar(sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
                time.sleep(0.01)
    pruning.join()
    assert [step.count for step in steps] == [0]
    assert _ids(engine, tables.flows.c.flow_id) == [1]


def test_a_hosts_wrong_clock_takes_nothing_away(postgresql_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    _store(postgresql_engine, [_flow(1, 0)])
    monkeypatch.setattr(time, "time", lambda: NOW + 200 * DAY)
    upkeep = Maintenance(postgresql_engine, Retention(days=90))
    for _ in range(20):
        assert upkeep.step() == ""
    assert _ids(postgresql_engine, tables.flows.c.flow_id) == [1]

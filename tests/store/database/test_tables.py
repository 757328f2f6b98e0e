"""Dataclasses and tables: each dataclass has a table, field for column, and is read back unchanged."""

from __future__ import annotations

from dataclasses import fields

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Engine

from egress.errors import MalformedError
from egress.model import Agent, Hold, Rule, Step
from egress.records.shape import (
    AnomalyRecord,
    EvidenceRecord,
    FindingRecord,
    FlowRecord,
    FoldedRecord,
    ProcessRecord,
    Record,
)
from egress.store.database import tables
from egress.store.database.database import writing
from egress.store.policy.approvals import Approval
from egress.store.policy.audit import AuditEntry
from egress.store.policy.tokens import Token
from egress.store.recording.seals import parse_record
from egress.store.recording.storedseal import StoredSeal
from egress.store.recording.writer import rows, store
from tests.examples import examples
from tests.store import samples

SHAPES = [
    (FlowRecord, tables.flows, samples.FLOW),
    (FindingRecord, tables.findings, samples.FINDING),
    (AnomalyRecord, tables.anomalies, samples.ANOMALY),
    (EvidenceRecord, tables.evidence, samples.EVIDENCE),
    (ProcessRecord, tables.processes, samples.PROCESS),
    (FoldedRecord, tables.folded, samples.FOLDED),
    (StoredSeal, tables.seals, samples.STORED_SEAL),
]


@pytest.mark.parametrize(("shape", "table", "_record"), SHAPES)
def test_fields_are_columns_in_the_same_order(shape: type, table: sa.Table, _record: Record) -> None:
    assert [field.name for field in fields(shape)] == [column.name for column in table.columns]


def test_an_agents_columns_are_its_fields_and_its_attachment() -> None:
    wanted = [field.name for field in fields(Agent)] + ["kind", "value", "created", "host"]
    assert [column.name for column in tables.agents.columns] == wanted


def test_a_rules_columns_are_its_fields_and_when_it_counts() -> None:
    wanted = [field.name for field in fields(Rule)] + ["source", "added", "removed", "host"]
    assert [column.name for column in tables.rules.columns] == wanted


def test_an_approvals_columns_are_its_fields_and_those_of_the_hold_first() -> None:
    columns = [column.name for column in tables.approvals.columns]
    assert columns == [field.name for field in fields(Approval)]
    assert columns[: len(fields(Hold))] == [field.name for field in fields(Hold)]


def test_an_audit_entrys_and_a_tokens_columns_are_its_fields() -> None:
    assert [column.name for column in tables.audit.columns] == [field.name for field in fields(AuditEntry)]
    assert {column.name for column in tables.tokens.columns} == {field.name for field in fields(Token)} | {"hash"}


def test_a_steps_columns_are_its_fields_and_it_comes_back_as_it_was(engine: Engine) -> None:
    assert [column.name for column in tables.steps.columns] == [field.name for field in fields(Step)]
    with writing(engine) as connection:
        connection.execute(tables.steps.insert(), rows([samples.STEP]))
    with engine.connect() as connection:
        assert Step(*connection.execute(sa.select(tables.steps)).one()) == samples.STEP


@pytest.mark.parametrize(("shape", "table", "record"), SHAPES)
def test_a_record_comes_back_as_it_was(engine: Engine, shape: type, table: sa.Table, record: Record) -> None:
    with writing(engine) as connection:
        store(connection, [record])
    with engine.connect() as connection:
        assert shape(*connection.execute(sa.select(table)).one()) == record


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(60), deadline=None)
@given(record=samples.records)
def test_any_record_can_be_stored(engine: Engine, record: Record) -> None:
    """Nothing a journal line can say makes the database refuse: one such line would stop every record after it."""
    with engine.connect() as connection:
        store(connection, [record])
        shape, table = next((shape, table) for shape, table, _ in SHAPES if isinstance(record, shape))
        stored = shape(*connection.execute(sa.select(table)).one())
        connection.rollback()
    assert stored == record or "\0" in repr(record) or "\\x00" in repr(record)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(60), deadline=None)
@given(text=st.text(st.characters(), max_size=20))
def test_text_no_database_takes_is_stored_escaped(engine: Engine, text: str) -> None:
    raw = samples.line_with_name(text)
    try:
        record = parse_record(raw)
    except MalformedError:
        pytest.fail("a name is text")
    with engine.connect() as connection:
        store(connection, [record])
        name = connection.scalar(sa.select(tables.flows.c.server_name))
        connection.rollback()
    assert name is not None and "\0" not in name
    name.encode("utf-8")


def test_a_flow_keeps_its_latest_record(engine: Engine) -> None:
    first, second, third = (samples.numbered(1, updated=float(when), packets_out=when) for when in (10, 20, 30))
    again = samples.numbered(1, updated=30.0, packets_out=31)
    with writing(engine) as connection:
        store(connection, [first, third])
        store(connection, [second, again])
        store(connection, [first, second])
    with engine.connect() as connection:
        assert FlowRecord(*connection.execute(sa.select(tables.flows)).one()) == again


def test_times_are_exact_and_ordered(engine: Engine) -> None:
    with writing(engine) as connection:
        store(connection, [samples.numbered(number, start=1_795_446_362 + number / 1e6) for number in range(5)])
    query = sa.select(sa.type_coerce(tables.flows.c.start, sa.BigInteger)).order_by(tables.flows.c.start)
    with engine.connect() as connection:
        assert list(connection.scalars(query)) == [1_795_446_362_000_000 + number for number in range(5)]

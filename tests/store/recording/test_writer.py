"""The stored rows depend neither on the database nor on the way records arrive: one by one, in a batch, twice."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError

from egress.records.shape import Record
from egress.store.database import tables
from egress.store.database.database import storing, writing
from egress.store.recording.writer import store
from tests.examples import examples
from tests.store import samples

# Few ids, times and counts, so that many records have one key.
_TIME = st.sampled_from([samples.START, samples.START + 1e-7, samples.START + 86400, 0.0, 4294967295.9])
_WORD = st.sampled_from(["a", "b", "a\0", "a\\x00", "\ud800", "Ä"])
_CLASHING = st.one_of(
    st.builds(
        lambda flow_id, start, updated, agent, names: replace(
            samples.FLOW, flow_id=flow_id, start=start, updated=updated, agent=agent, names=names
        ),
        *(_WORD, _TIME, _TIME, _WORD, st.lists(_WORD, max_size=2).map(tuple)),
    ),
    st.builds(
        lambda finding_id, time, summary, evidence: replace(
            samples.FINDING, finding_id=finding_id, time=time, summary=summary, evidence=evidence
        ),
        *(_WORD, _TIME, _WORD, st.binary(max_size=4)),
    ),
    st.builds(
        lambda time, detail, count: replace(samples.ANOMALY, time=time, detail=detail, count=count),
        *(_TIME, _WORD, st.integers(0, 3)),
    ),
    st.builds(
        lambda finding_id, time, agent: replace(samples.EVIDENCE, finding_id=finding_id, time=time, agent=agent),
        *(_WORD, _TIME, _WORD),
    ),
)
_BATCHES = st.lists(st.lists(_CLASHING | samples.records, max_size=12), max_size=3)


def _rows(engine: Engine, batches: Iterable[Sequence[Record]]) -> dict[str, list[Any]]:
    """The rows after these batches, which are rolled back."""
    with engine.connect() as connection:
        for batch in batches:
            store(connection, batch)
        found = {
            table.name: sorted(map(tuple, connection.execute(sa.select(table))), key=repr) for table in tables.DAYED
        }
        connection.rollback()
    return found


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(60), deadline=None)
@given(batches=_BATCHES)
def test_batches_single_records_and_both_databases_agree(
    sqlite_engine: Engine, postgresql_engine: Engine, batches: list[list[Record]]
) -> None:
    single = [[record] for batch in batches for record in batch]
    found = _rows(sqlite_engine, single)
    assert _rows(sqlite_engine, batches) == found
    assert _rows(postgresql_engine, single) == found
    assert _rows(postgresql_engine, batches) == found
    assert _rows(postgresql_engine, [*batches, *single[-1:]]) == found


def test_many_at_once(engine: Engine) -> None:
    """More than a database's variables or a buffer hold, in any order, each flow many times."""
    many = [samples.numbered(number, updated=float(turn)) for number in range(3000) for turn in range(3)]
    random.Random(4).shuffle(many)
    with storing(engine) as connection:
        store(connection, many)
        store(connection, many[:100])
    with engine.connect() as connection:
        found = connection.execute(
            sa.select(sa.func.count(), sa.func.min(tables.flows.c.updated)).select_from(tables.flows)
        ).one()
    assert tuple(found) == (3000, 2.0)


def test_what_the_database_refuses_is_an_error_of_its_own(engine: Engine) -> None:
    """Nothing of the transaction is kept."""
    beyond = replace(samples.FLOW, bytes_out=1 << 70)
    with pytest.raises((DBAPIError, OverflowError)), writing(engine) as connection:
        store(connection, [samples.FINDING])
        store(connection, [samples.FLOW, beyond])
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.findings)) == 0

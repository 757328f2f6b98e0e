"""The questions of the commands and the API go by an index, on both databases: on ten million flows it decides.

With few rows PostgreSQL would rather read them all, and is told not to: what is pinned is that the index serves.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from bench.plans import explained
from bench.questions import QUESTIONS, Known, Question
from egress.model import Action
from egress.store.database.database import open_database, writing
from egress.store.database.matching import glob
from egress.store.database.tables import DAYED, flows
from egress.store.recording.writer import store
from tests.store import samples
from tests.store.postgres import Server

NOW = time.time()
KNOWN = Known(NOW, "a1", "10.0.0.3", samples.FLOW.flow_id, samples.FINDING.finding_id, "r1")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> Iterator[Engine]:
    """A database with flows of four days, so that what a day has is few; the questions only read it."""
    if request.param == "sqlite":
        engine = open_database(f"sqlite:///{shutil.copy(empty_database, tmp_path_factory.mktemp('plans'))}")
    else:
        server: Server = request.getfixturevalue("server")
        engine = open_database(server.new("template_egress"))
    _fill(engine)
    yield engine
    engine.dispose()


def _fill(engine: Engine) -> None:
    flows = [
        samples.numbered(
            number,
            start=NOW - number * 100,
            updated=NOW - number * 100 + 1,
            agent=f"a{number % 50}",
            dst=f"10.0.{number % 3}.{number % 200}",
            action=Action.REJECT if number % 50 == 0 else Action.ACCEPT,
            rule_id=f"r{number % 40}",
        )
        for number in range(3000)
    ]
    with writing(engine) as connection:
        store(connection, [samples.FLOW, samples.FINDING, samples.ANOMALY, samples.EVIDENCE, *flows])
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            connection.exec_driver_sql("ANALYZE")


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
def test_a_question_goes_by_its_index(filled: Engine, question: Question) -> None:
    steps = [step for _, plan in explained(filled, question, KNOWN, "enable_seqscan = off") for step in plan]
    assert steps
    if question.index:
        name = _name(filled, question)
        assert [step for step in steps if re.search(name, step)], steps
        assert not [step for step in steps if _reads_all(question.table, step) and not re.search(name, step)], steps


def _name(engine: Engine, question: Question) -> str:
    """A pattern of its index's name: each partition's is named by PostgreSQL."""
    columns, primary = question.index.replace(" ", "_"), question.index.startswith(("flow_id start", "finding_id time"))
    if engine.dialect.name == "sqlite":
        return rf"\b{f'sqlite_autoindex_{question.table}_1' if primary else f'ix_{question.table}_{columns}'}\b"
    return rf"\b{question.table}_(rest|d\d+)_{'pkey' if primary else f'{columns}_idx'}\b"


def _reads_all(table: str, step: str) -> bool:
    return bool(re.search(rf"SCAN {table}\b|Seq Scan on {table}_", step))


def test_none_is_forgotten() -> None:
    """An index that no question needs costs the recorder for nothing."""
    asked = {(question.table, tuple(question.index.split())) for question in QUESTIONS if question.index}
    kept = {(table.name, tuple(column.name for column in index.columns)) for table in DAYED for index in table.indexes}
    assert kept - asked <= ALSO


# Of retention, of what `show` and the joins ask, of what follows.
ALSO = {
    ("findings", ("flow_id",)),
    ("anomalies", ("time",)),
    ("evidence", ("time",)),
    ("processes", ("time",)),
    ("folded", ("time",)),
    ("seals", ("time",)),
}


def test_a_glob_of_many_agents_walks_flows_in_their_order_on_sqlite(filled: Engine) -> None:
    """An index of agents would find all of theirs, to be sorted for the newest few."""
    if filled.dialect.name == "sqlite":
        with filled.connect() as connection:
            query = sa.select(flows).where(glob(flows.c.agent, "a*")).order_by(flows.c.start.desc()).limit(100)
            compiled = query.compile(filled)
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", ("a*", 100, 0)).all()
        assert [row[3] for row in plan] == ["SCAN flows USING INDEX ix_flows_start"]

"""Values that egress never writes are reported where rows become dataclasses, whatever column they are in."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError

from egress.model import Action
from egress.records.shape import AnomalyRecord, EvidenceRecord, FindingRecord, FlowRecord, ProcessRecord, Record
from egress.store.database.database import open_database, writing
from egress.store.database.errors import DamagedDataError
from egress.store.database.rows import checked, decode, decode_first, decoding, whole
from egress.store.database.tables import anomalies, evidence, findings, flows, processes
from egress.store.recording.writer import store
from tests.store import samples

TABLES: dict[type[Record], sa.Table] = {
    FlowRecord: flows,
    FindingRecord: findings,
    AnomalyRecord: anomalies,
    EvidenceRecord: evidence,
    ProcessRecord: processes,
}
RECORDS: list[Record] = [samples.FLOW, samples.FINDING, samples.ANOMALY, samples.EVIDENCE, samples.PROCESS]
ODD = ["'text'", "x'ff00'", "1e308", "-5", "NULL", "'[1, {}]'", "'{'", f"'{'[' * 100_000}'"]


class Pair(NamedTuple):
    name: str
    number: int | None


@pytest.fixture
def damaged(tmp_path: Path, empty_database: Path) -> Engine:
    return open_database(f"sqlite:///{shutil.copy(empty_database, tmp_path / 'case.db')}")


@pytest.mark.parametrize("kind", TABLES, ids=lambda kind: kind.__name__)
def test_a_damaged_column_is_an_error_of_the_data_or_a_value_of_its_type(damaged: Engine, kind: type[Any]) -> None:
    table = TABLES[kind]
    with writing(damaged) as connection:
        store(connection, RECORDS)
    with damaged.connect() as connection:
        (good,) = decode(kind, connection.execute(sa.select(table)))
    for column in (each.name for each in table.columns):
        seen = [_harmed(damaged, kind, column, value) for value in ODD]
        assert any(each is None for each in seen), f"{column}: no value is refused"
        for record in seen:
            for each in fields(kind) if record is not None else ():
                was, now = getattr(good, each.name), getattr(record, each.name)
                assert isinstance(now, type(was)) or None in (was, now), (column, each.name, now)


def _harmed(engine: Engine, kind: type[Any], column: str, value: str) -> Any:
    """The record as it is read with another value in a column; None where the value is refused."""
    assert engine.url.database
    with closing(sqlite3.connect(engine.url.database, isolation_level=None)) as plain:
        plain.execute("PRAGMA ignore_check_constraints=ON")
        plain.execute("BEGIN")
        try:
            plain.execute(f'UPDATE {TABLES[kind].name} SET "{column}" = {value}')
        except sqlite3.IntegrityError:  # NOT NULL
            return None
        plain.execute("COMMIT")
    try:
        with engine.connect() as connection:
            return decode_first(kind, connection.execute(sa.select(TABLES[kind])))
    except (DamagedDataError, DBAPIError):
        return None
    finally:
        with writing(engine) as connection:
            connection.execute(TABLES[kind].delete())
            store(connection, RECORDS)


def test_an_error_names_the_field() -> None:
    with pytest.raises(DamagedDataError, match="number holds str, not int or NoneType"):
        list(decode(Pair, [("a", 1), ("b", None), ("c", "d")]))
    with pytest.raises(DamagedDataError, match="column 2 holds float, not int"):
        list(checked([("a", 1), ("b", 1.5)], str, int))


def test_good_rows_come_in_their_order() -> None:
    assert list(decode(Pair, [("a", 1), ("b", None)])) == [Pair("a", 1), Pair("b", None)]
    assert decode_first(Pair, []) is None


def test_an_unknown_word_in_an_enum_is_an_error_of_the_data(damaged: Engine) -> None:
    query = sa.select(sa.type_coerce(sa.literal("perhaps"), flows.c.action.type))
    with damaged.connect() as connection, pytest.raises(DamagedDataError, match="perhaps"):
        list(checked(connection.execute(query), Action))


def test_a_count_is_whole() -> None:
    assert whole(7) == whole(7.0) == 7
    for wrong in (7.5, float("inf"), float("nan"), 1e308, "seven", None):
        with pytest.raises(DamagedDataError):
            whole(wrong)


def test_an_error_of_ours_passes() -> None:
    """A bug in the code that handles rows must not be reported as damage."""
    with pytest.raises(ZeroDivisionError):
        for pair in decode(Pair, [("a", 0)]):
            _ = 1 // (pair.number or 0)
    with pytest.raises(DamagedDataError), decoding():
        int("x")

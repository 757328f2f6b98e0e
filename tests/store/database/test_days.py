"""The days of the record tables on PostgreSQL: made when needed, by any process, without blocking others."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError

from egress.store.database import days
from egress.store.database.database import open_database, storing
from egress.store.database.tables import DAYED, evidence, flows
from egress.store.recording.writer import store
from tests.store import samples

NOW = time.time()
TODAY = int(NOW // 86400)


def _flow(number: int, day: int, **fields: object) -> object:
    return samples.numbered(number, start=day * 86400 + 5.0, updated=NOW, **fields)


def _where(engine: Engine) -> dict[str, int]:
    """Partition of `flows` → rows in it."""
    where = sa.text("SELECT CAST(CAST(tableoid AS regclass) AS text), count(*) FROM flows GROUP BY 1")
    with engine.connect() as connection:
        return {row[0]: row[1] for row in connection.execute(where)}


def _store(engine: Engine, *records: object) -> None:
    with storing(engine) as connection:
        store(connection, records)  # type: ignore[arg-type]


@contextmanager
def _reader(engine: Engine) -> Iterator[None]:
    """A reader that does not end."""
    with engine.connect() as connection:
        connection.execute(sa.select(flows).limit(1))
        yield


@given(st.integers(0, 49_709))
def test_a_partitions_name_says_its_day(day: int) -> None:
    assert days.day_of(days.name("flows", day)) == day
    assert days.is_partition(days.name("flows", day)) and days.is_partition(days.rest("flows"))


@pytest.mark.parametrize("table", ["flows", "flows_d2026", "rest", "agents", "_d20261126"])
def test_other_tables_are_no_days(table: str) -> None:
    assert not days.is_partition(table)


def test_records_of_around_now_are_in_days(postgresql_engine: Engine) -> None:
    engine = postgresql_engine
    _store(engine, *(_flow(number, TODAY - number) for number in range(3)))
    assert _where(engine) == {days.name("flows", TODAY - number): 1 for number in range(3)}
    with engine.connect() as connection:
        assert days.existing(connection, flows) == [TODAY - 2, TODAY - 1, TODAY]
        assert days.existing(connection, evidence) == []


def test_times_from_anywhere_make_no_days(postgresql_engine: Engine) -> None:
    _store(postgresql_engine, *(_flow(day, day) for day in range(0, 49_710, 7) if abs(day - TODAY) > days.PAST))
    assert set(_where(postgresql_engine)) == {"flows_rest"}


def test_sqlite_has_none(sqlite_engine: Engine) -> None:
    _store(sqlite_engine, _flow(1, TODAY))
    with sqlite_engine.connect() as connection:
        assert days.existing(connection, flows) == []


def test_whoever_reads_on_holds_nobody_up(postgresql_engine: Engine) -> None:
    """The rest takes the records meanwhile, and gives them back."""
    with _reader(postgresql_engine):
        began = time.monotonic()
        _store(postgresql_engine, _flow(1, TODAY), _flow(2, TODAY - 1))
        assert time.monotonic() - began < 5
        assert _where(postgresql_engine) == {"flows_rest": 2}
    later = replace(samples.numbered(1, start=TODAY * 86400 + 5.0), updated=NOW + 1)
    _store(postgresql_engine, later)
    assert _where(postgresql_engine) == {"flows_rest": 1, days.name("flows", TODAY): 1}
    _store(postgresql_engine, _flow(3, TODAY - 1))
    assert _where(postgresql_engine) == {days.name("flows", TODAY): 1, days.name("flows", TODAY - 1): 2}
    with postgresql_engine.connect() as connection:
        updated = connection.scalar(sa.select(flows.c.updated).where(flows.c.flow_id == later.flow_id))
    assert updated == pytest.approx(NOW + 1)


def test_many_make_the_same_days_at_once(postgresql_url: str, postgresql_engine: Engine) -> None:
    wrong: list[BaseException] = []

    def record(number: int) -> None:
        engine = open_database(postgresql_url)
        try:
            for day in range(4):
                _store(engine, _flow(number * 10 + day, TODAY - day), replace(samples.FINDING, time=NOW - day * 86400))
        except BaseException as error:
            wrong.append(error)
            raise
        finally:
            engine.dispose()

    threads = [threading.Thread(target=record, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sum(_where(postgresql_engine).values()) == 16


def test_a_day_is_dropped_but_for_what_lives(postgresql_engine: Engine) -> None:
    engine = postgresql_engine
    day = TODAY - 3
    silent = samples.numbered(1, start=day * 86400.0, updated=day * 86400.0)
    _store(engine, silent, _flow(2, day), _flow(3, TODAY))
    with storing(engine) as connection:
        assert days.drop(connection, flows, day, NOW - 3600, 1.0) == 1
        assert days.drop(connection, flows, day, NOW - 3600, 1.0) == 0
    assert _where(engine) == {"flows_rest": 1, days.name("flows", TODAY): 1}
    _store(engine, silent)  # a late record: whatever it is, it is stored
    assert sum(_where(engine).values()) == 3


def test_a_day_that_is_read_stays(postgresql_engine: Engine) -> None:
    _store(postgresql_engine, _flow(1, TODAY))
    with _reader(postgresql_engine), pytest.raises(DBAPIError) as caught, storing(postgresql_engine) as connection:
        days.drop(connection, flows, TODAY, NOW + 10, 0.1)
    assert getattr(caught.value.orig, "sqlstate", "") == "55P03"
    assert _where(postgresql_engine) == {days.name("flows", TODAY): 1}


def test_text_is_compared_by_code_point_in_every_day(postgresql_engine: Engine) -> None:
    _store(postgresql_engine, *(_flow(number, TODAY, agent=name) for number, name in enumerate(("a", "B", "Ä", "_"))))
    with postgresql_engine.connect() as connection:
        for table in (flows, sa.table(days.name("flows", TODAY), sa.column("agent"))):
            ordered = connection.scalars(sa.select(table.c.agent).order_by(table.c.agent))
            assert list(ordered) == ["B", "_", "a", "Ä"]
        other = sa.text(
            "SELECT relname, attname FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid JOIN pg_collation o"
            " ON o.oid = attcollation WHERE relnamespace = to_regnamespace('public') AND relkind IN ('r', 'p')"
            " AND collname <> 'C' AND NOT attisdropped"
        )
        assert connection.execute(other).all() == []


def test_every_table_of_records_has_its_day_in_its_key() -> None:
    for table, column in DAYED.items():
        assert column.primary_key, table.name


def test_a_later_migration_alters_the_whole_table(postgresql_engine: Engine) -> None:
    """Days that are there, the rest, and days made afterwards: a migration names none of them."""
    _store(postgresql_engine, _flow(1, TODAY), _flow(2, 1))
    with postgresql_engine.begin() as connection:
        op = Operations(MigrationContext.configure(connection))
        with op.batch_alter_table("flows") as batch:
            batch.add_column(sa.Column("later", sa.Text(), nullable=False, server_default="new"))
            batch.drop_constraint("ck_flows_state", type_="check")
            batch.create_check_constraint("ck_flows_state", "state <> 'never'")
        op.create_index("ix_flows_later", "flows", ["later"])
    with storing(postgresql_engine) as connection:
        assert days.ensure(connection, flows, [TODAY - 1])
    inspector = sa.inspect(postgresql_engine)
    for table in (days.name("flows", TODAY), days.name("flows", TODAY - 1), days.rest("flows")):
        assert "later" in {column["name"] for column in inspector.get_columns(table)}
        assert ["later"] in [index["column_names"] for index in inspector.get_indexes(table)]
        assert "never" in next(
            each["sqltext"] for each in inspector.get_check_constraints(table) if each["name"] == "ck_flows_state"
        )


def test_a_day_of_which_the_rest_has_very_much_is_made_all_the_same(postgresql_url: str) -> None:
    """However long a statement may take: else no batch of that day would ever be stored."""
    late = days.name("flows", TODAY)
    plain, hasty = (open_database(postgresql_url + way) for way in ("", "?options=-c%20statement_timeout%3D500ms"))
    with _reader(plain):
        _store(hasty, _flow(1, TODAY))  # somebody reads: the rest takes it
    assert _where(plain) == {days.rest("flows"): 1}
    with plain.begin() as connection:
        body = "BEGIN PERFORM pg_sleep(0.7); RETURN NULL; END"
        connection.exec_driver_sql(f"CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS '{body}'")
        connection.exec_driver_sql(
            f"CREATE TRIGGER slowly BEFORE DELETE ON {days.rest('flows')} EXECUTE FUNCTION slowly()"
        )
    _store(hasty, _flow(2, TODAY))
    assert _where(plain) == {late: 2}
    with storing(hasty) as connection:
        assert days.ensure(connection, flows, [TODAY + 1])
        assert connection.scalar(sa.text("SHOW statement_timeout")) == "500ms"
    for each in (plain, hasty):
        each.dispose()

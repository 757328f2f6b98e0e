"""The audit chain: what was noted comes back, and no byte of it can be changed without `verify` saying where."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from egress.store.database import tables
from egress.store.database.database import writing
from egress.store.policy import audit
from egress.store.policy.audit import START, Actor, Verified
from tests.examples import examples

ROOT = Actor("uid:0 (root)", "req-1")
COLUMNS = ("seq", "time", "actor", "request_id", "action", "target", "before", "after", "previous", "hash")


def _fill(connection: Connection, count: int = 5) -> None:
    for number in range(count):
        after = {"name": "über\x00", "number": number}
        audit.note(
            connection, ROOT, 100.5 + number, f"rule.{'create' if number % 2 else 'delete'}", f"r{number}", None, after
        )


def test_entries_come_back_newest_first(engine: Engine) -> None:
    with writing(engine) as connection:
        assert audit.latest(connection) == 0 and audit.entries(connection, limit=9) == ()
        _fill(connection)
        assert audit.latest(connection) == 5
        newest, *_, oldest = audit.entries(connection, limit=9)
        assert (newest.seq, newest.time, newest.actor, newest.request_id) == (5, 104.5, ROOT.name, "req-1")
        assert (newest.target, newest.before, newest.after) == ("r4", None, {"name": "über\x00", "number": 4})
        assert oldest.previous == START
        assert [entry.seq for entry in audit.entries(connection, limit=2, before_seq=4)] == [3, 2]
        assert [entry.seq for entry in audit.entries(connection, limit=9, since=101.5, until=102.5)] == [3, 2]
        assert [entry.seq for entry in audit.entries(connection, limit=9, action="*.create")] == [4, 2]
        assert audit.entries(connection, limit=9, actor="token:*") == ()


def test_a_whole_chain_verifies(engine: Engine) -> None:
    with writing(engine) as connection:
        assert audit.verify(connection) == Verified(0, START)
        _fill(connection)
        assert audit.verify(connection) == Verified(5, audit.entries(connection, limit=1)[0].hash)


def test_any_text_can_be_noted(engine: Engine) -> None:
    odd = "\x00\ud800\x1b[2J über"
    with writing(engine) as connection:
        audit.note(connection, Actor(odd, odd), 1.0, "rule.create", odd, {odd: odd}, [odd, 1.5, None])
        assert audit.verify(connection).broken is None
        (entry,) = audit.entries(connection, limit=1)
    assert (entry.before, entry.after) == ({odd: odd}, [odd, 1.5, None])
    assert entry.actor == entry.target == "\\x00\\ud800\x1b[2J über"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET target = 'x' WHERE seq = 2",
        "DELETE FROM audit WHERE seq = 5",
        "DELETE FROM audit",
    ],
)
def test_the_database_refuses_to_change_entries(engine: Engine, statement: str) -> None:
    with writing(engine) as connection:
        _fill(connection)
    with pytest.raises(DBAPIError, match="never changed"), writing(engine) as connection:
        connection.exec_driver_sql(statement)
    with engine.connect() as connection:
        assert audit.verify(connection).count == 5


def test_nor_can_one_be_replaced(sqlite_engine: Engine) -> None:
    with writing(sqlite_engine) as connection:
        _fill(connection)
    replacing = (
        "INSERT OR REPLACE INTO audit SELECT 5, time, 'x', '', action, target, before, after, previous, hash FROM audit"
    )
    with pytest.raises(DBAPIError, match="never changed"), writing(sqlite_engine) as connection:
        connection.exec_driver_sql(f"{replacing} WHERE seq = 5")


def test_nor_all_at_once(postgresql_engine: Engine) -> None:
    with pytest.raises(DBAPIError, match="never changed"), writing(postgresql_engine) as connection:
        connection.exec_driver_sql("TRUNCATE audit")


def _unguard(connection: Connection) -> None:
    """Remove the triggers, as the owner of the database can."""
    if connection.dialect.name == "sqlite":
        for name in ("audit_update", "audit_delete", "audit_insert"):
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
    else:
        connection.exec_driver_sql("ALTER TABLE audit DISABLE TRIGGER USER")


def test_it_says_what_is_wrong(engine: Engine) -> None:
    with writing(engine) as connection:
        _fill(connection)
        _unguard(connection)
        head = audit.entries(connection, limit=1, before_seq=3)[0].hash
        for statement, broken, why in (
            ("DELETE FROM audit WHERE seq = 3", 3, "entry 3 is missing: entry 4 follows 2"),
            ("UPDATE audit SET target = 'x' WHERE seq = 3", 3, "entry 3 was changed: its hash does not match"),
            ("UPDATE audit SET previous = 'x' WHERE seq = 3", 3, "entry 3 does not follow from the one before"),
        ):
            with connection.begin_nested() as save:
                connection.exec_driver_sql(statement)
                assert audit.verify(connection) == Verified(2, head, broken, why)
                save.rollback()
        connection.exec_driver_sql("DELETE FROM audit WHERE seq = 1")
        assert audit.verify(connection) == Verified(0, START, 1, "the first entry is 2, not 1")


def test_an_entry_rewritten_with_its_hash_breaks_the_next(engine: Engine) -> None:
    with writing(engine) as connection:
        _fill(connection)
        _unguard(connection)
        forged = {"target": "x", "hash": "0" * 64}
        connection.execute(tables.audit.update().where(tables.audit.c.seq == 3).values(**forged))
        entry = audit.entries(connection, limit=1, before_seq=4)[0]
        fields = [entry.actor, entry.request_id, entry.action, "x", None]
        after = audit._canonical(entry.after)
        right = audit._digest(3, 102_500_000, [*fields, after, entry.previous])
        connection.execute(tables.audit.update().where(tables.audit.c.seq == 3).values(hash=right))
        assert audit.verify(connection).broken == 4


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(80), deadline=None)
@given(seq=st.integers(1, 5), column=st.sampled_from(COLUMNS), place=st.integers(0, 200), bit=st.integers(0, 7))
def test_no_bit_of_any_column_can_be_flipped(
    sqlite_engine: Engine, seq: int, column: str, place: int, bit: int
) -> None:
    """SQLite, which stores whatever bytes there are."""
    with sqlite_engine.connect() as connection, connection.begin() as transaction:
        _fill(connection)
        _unguard(connection)
        old = connection.exec_driver_sql(f'SELECT "{column}" FROM audit WHERE seq = {seq}').scalar_one()
        new, kind = _flipped(old, place, bit)
        connection.exec_driver_sql(f'UPDATE audit SET "{column}" = CAST(? AS {kind}) WHERE seq = {seq}', (new,))
        found = audit.verify(connection)
        if column == "seq" and isinstance(new, int) and new < seq:
            assert found.broken is not None
        else:
            assert found.broken == seq and found.count == seq - 1
        transaction.rollback()


def _flipped(old: Any, place: int, bit: int) -> tuple[Any, str]:
    if isinstance(old, int):
        flipped = old ^ (1 << (place + bit) % 48)
        return (flipped if not 0 < flipped <= 5 else old + 1000), "INTEGER"
    data = bytearray((old or "").encode() or b" ")
    data[place % len(data)] ^= 1 << bit
    return bytes(data), "TEXT"


def test_whoever_runs_it_has_a_name() -> None:
    assert audit.local_actor().name.startswith(f"uid:{os.getuid()}")
    assert replace(audit.local_actor(), request_id="x").request_id == "x"


def test_the_columns_are_all_of_them(engine: Engine) -> None:
    assert tuple(column["name"] for column in sa.inspect(engine).get_columns("audit")) == COLUMNS

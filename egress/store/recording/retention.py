"""How long records are kept. What is too old or too much is taken away in small steps, between which others write.

A day goes whole on PostgreSQL; rows go a few at a time. A flow is as old as its latest record: one that still lives
is never taken away. Audit, policies, rules, agents, approvals and tokens are no records and stay.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from egress.config import Retention
from egress.records.times import micros
from egress.store.database import days
from egress.store.database.database import storing
from egress.store.database.rows import decode
from egress.store.database.tables import DAYED, evidence, flows, pruned, steps
from egress.store.recording.evidence import oversize
from egress.store.recording.writer import upsert

RECORDS: dict[sa.Table, sa.Column[float]] = {**DAYED, steps: steps.c.start}  # table → the time that counts
ROWS = 1000  # taken away in one transaction: some tens of milliseconds
PATIENCE = 1.0  # seconds that a day waits for those who read it; who comes after it waits as long
DAY = 86400.0

Cuts = Mapping[sa.Table, float]  # what is older (seconds since the epoch) goes


@dataclass(frozen=True, slots=True)
class PruneStep:
    """One transaction."""

    table: str
    count: int  # rows gone
    busy: str = ""  # the day that somebody reads: it stays for now


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was taken away of a table, ever."""

    table: str
    count: int  # rows
    before: float  # seconds; what is older is gone
    time: float  # when rows were last taken away


def cuts(connection: Connection, kept: Retention, now: float) -> Cuts:
    """What these settings say at this moment: whole days (UTC) of records, and the evidence that is too much."""
    records = _whole_days(now, kept.days)
    found = dict.fromkeys(RECORDS, records) if kept.days else {}
    size = oversize(connection, kept.evidence_bytes) if kept.evidence_bytes else 0.0
    packets = max(records, _whole_days(now, kept.evidence_days), size)
    return found | ({evidence: packets} if packets else {})


def older(before: float) -> Cuts:
    """All records of before a moment."""
    return dict.fromkeys(RECORDS, before)


def count(connection: Connection, wanted: Cuts) -> dict[str, int]:
    """How many rows of each table would go."""
    counted = {}
    for table, before in wanted.items():
        query = sa.select(sa.func.count()).select_from(table).where(*_old(table, before))
        counted[table.name] = connection.scalar(query) or 0
    return counted


def behind(connection: Connection, kept: Retention, now: float) -> bool:
    """Whether there are flows two days past their time: nobody prunes, or cannot."""
    before = _whole_days(now, kept.days) - 2 * DAY
    late = sa.select(sa.literal(1)).where(*_old(flows, before)).limit(1)
    return bool(kept.days and connection.scalar(late))


def prune(engine: Engine, wanted: Cuts, patience: float = PATIENCE) -> Iterator[PruneStep]:
    """Take away what is older, a step at each call. Stopped anywhere it can be begun again. Raises DBAPIError."""
    for table, before in wanted.items():
        if (yield from _days(engine, table, before, patience)):
            yield from _rows(engine, table, before)


def gone(connection: Connection) -> dict[str, Pruned]:
    """By table, what was taken away so far."""
    query = sa.select(pruned.c.records, pruned.c.count, pruned.c.before, pruned.c.time)
    return {each.table: each for each in decode(Pruned, connection.execute(query))}


def _whole_days(now: float, kept: int) -> float:
    return (now - kept * DAY) // DAY * DAY if kept else 0.0


def _old(table: sa.Table, before: float) -> list[sa.ColumnElement[bool]]:
    late = [table.c.updated < before] if "updated" in table.c else []
    return [RECORDS[table] < before, *late]


def _days(engine: Engine, table: sa.Table, before: float, patience: float) -> Generator[PruneStep, None, bool]:
    """Returns whether all of them are gone, so that only rows are left to take away."""
    with engine.connect() as connection:
        there = days.existing(connection, table)
    for day in there:
        if (day + 1) * DAY > before:
            break
        try:
            with storing(engine) as connection:
                number = days.drop(connection, table, day, before, patience)
                _note(connection, table, number, before)
        except DBAPIError as error:
            if not days.busy(error):
                raise
            yield PruneStep(table.name, 0, days.name(table.name, day))
            return False
        yield PruneStep(table.name, number)
    return True


def _rows(engine: Engine, table: sa.Table, before: float) -> Iterator[PruneStep]:
    key = list(table.primary_key)
    chosen = sa.select(*key).where(*_old(table, before)).order_by(RECORDS[table]).limit(ROWS)
    number = ROWS
    while number == ROWS:
        with storing(engine) as connection:
            # Asked again: PostgreSQL chooses before it waits for whoever writes to a row, which may live on by then.
            gone = sa.delete(table).where(sa.tuple_(*key).in_(chosen), *_old(table, before))
            number = connection.execute(gone).rowcount
            _note(connection, table, number, before)
        yield PruneStep(table.name, number)


def _note(connection: Connection, table: sa.Table, number: int, before: float) -> None:
    if not number:
        return
    statement = upsert(connection, pruned)
    new = statement.excluded
    latest = sa.case((new.before > pruned.c.before, new.before), else_=pruned.c.before)
    values = {"count": pruned.c.count + new["count"], "before": latest, "time": new.time}
    row = {"records": table.name, "count": number, "before": micros(before) / 1e6, "time": time.time()}
    connection.execute(statement.on_conflict_do_update(index_elements=[pruned.c.records], set_=values), row)

"""Steps and what happened during them, joined in SQL.

Databases must go from each time of steps to what happened in it, by the index over (agent, time): the other way round
each row of a large table looks through all the times before it, and comparing all with all takes minutes. Neither
database finds out by itself, and each has its own way to be told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import array

from egress.store.database.matching import spelled
from egress.store.database.tables import steps

Expression = sa.ColumnElement[bool]


def during(table: sa.FromClause, times: sa.FromClause) -> Expression:
    """Joins rows of flows or findings (or of an alias of either) with the `_times` of steps."""
    agent, happened = table.c.agent, table.c.get("time", table.c.get("start"))
    when, start, until = (sa.type_coerce(column, sa.BigInteger) for column in (happened, times.c.start, times.c.until))
    return spelled(
        # With an expression on the steps' side only the other side's index is of use.
        sqlite=sa.and_(agent == times.c.agent.concat(""), when.between(start + 0, until + 0)),
        # Only with = alone could it sort or hash both sides by agent.
        postgresql=sa.and_(agent == sa.any_(array([times.c.agent])), when.between(start, until)),
    )


def happened_during(table: sa.Table, found: Expression) -> Expression:
    """Whether a row of flows or findings happened during a step of which `found` holds."""
    key: sa.Column[Any] = next(iter(table.primary_key.columns))
    there = table.alias()
    inside = sa.select(there.c[key.name]).where(during(there, _times(found)))
    apart = inside.offset(0).subquery()  # by the offset it is a list made once, and not taken apart again
    return spelled(sqlite=key.in_(inside), postgresql=sa.exists().where(apart.c[key.name] == key).correlate(table))


def with_steps(table: sa.Table, names: list[str]) -> sa.Subquery:
    """The key of each row of flows or findings that happened during steps, with columns of those, each pair once."""
    key: sa.Column[Any] = next(iter(table.primary_key.columns))
    said = list(dict.fromkeys(names))
    times = _times(sa.true(), said)
    return sa.select(key, *(times.c[name] for name in said)).where(during(table, times)).subquery("during")


def _times(found: Expression, names: Sequence[str] = ()) -> sa.Subquery:
    """When, of each agent and these columns, any step was under way of which `found` holds: times that do not touch.

    However many steps a framework says are under way at once, what happened is looked up once.
    """
    said = [steps.c.agent, *(sa.type_coerce(steps.c[name], sa.Text).label(name) for name in names)]
    start, until = (sa.type_coerce(steps.c[name], sa.BigInteger) for name in ("start", "until"))
    order = (start, steps.c.episode, steps.c.id)
    before = sa.func.max(until).over(partition_by=said, order_by=order, rows=(None, -1))
    first = sa.case((start <= before, 0), else_=1).label("first")
    place = sa.func.row_number().over(partition_by=said, order_by=order).label("place")
    times = (start.label("start"), until.label("until"))
    each = sa.select(*said, *times, first, place).where(found).subquery("each_step").c
    same = [each[column.name] for column in said]
    run = sa.func.sum(each.first).over(partition_by=same, order_by=each.place, rows=(None, 0)).label("run")
    runs = sa.select(*same, each.start, each.until, run).subquery("runs").c
    same = [runs[column.name] for column in said]
    whole = sa.select(*same, sa.func.min(runs.start).label("start"), sa.func.max(runs.until).label("until"))
    return whole.group_by(*same, runs.run).subquery("times")

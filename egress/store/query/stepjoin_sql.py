"""Joins of flows and findings with the steps that were under way, in SQL.

The database must start at the steps and look up the rows in each of their times by the index over (agent, time). In the
other direction every row of a large table is compared with all steps that began before it, and a full comparison takes
minutes. Neither planner finds this order without help, and each needs help of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import array

from egress.store.database.matching import for_dialect
from egress.store.database.tables import steps

Expression = sa.ColumnElement[bool]


def during(table: sa.FromClause, times: sa.FromClause) -> Expression:
    """The condition that a row of flows or findings (or of an alias) began, or was made, in an interval of `_times`."""
    agent, happened = table.c.agent, table.c.get("time", table.c.get("start"))
    when, start, until = (sa.type_coerce(column, sa.BigInteger) for column in (happened, times.c.start, times.c.until))
    return for_dialect(
        # An expression on the side of the steps leaves only the index of the other side.
        sqlite=sa.and_(agent == times.c.agent.concat(""), when.between(start + 0, until + 0)),
        # With a plain = the planner would sort or hash both sides by agent.
        postgresql=sa.and_(agent == sa.any_(array([times.c.agent])), when.between(start, until)),
    )


def happened_during(table: sa.Table, found: Expression) -> Expression:
    """The condition that a row of flows or findings began, or was made, during a step that fulfils `found`."""
    key: sa.Column[Any] = next(iter(table.primary_key.columns))
    there = table.alias()
    inside = sa.select(there.c[key.name]).where(during(there, _times(found)))
    apart = inside.offset(0).subquery()  # OFFSET keeps it a subquery that is run once
    return for_dialect(sqlite=key.in_(inside), postgresql=sa.exists().where(apart.c[key.name] == key).correlate(table))


def with_steps(table: sa.Table, names: list[str]) -> sa.Subquery:
    """The query for the ids of flows or findings during steps, with the columns `names` of these steps, each pair once.

    A flow or finding during no step is left out.
    """
    key: sa.Column[Any] = next(iter(table.primary_key.columns))
    columns = list(dict.fromkeys(names))
    times = _times(sa.true(), columns)
    return sa.select(key, *(times.c[name] for name in columns)).where(during(table, times)).subquery("during")


def _times(found: Expression, names: Sequence[str] = ()) -> sa.Subquery:
    """The intervals in which a step that fulfils `found` was under way, per agent and combination of columns `names`.

    They are merged where they overlap, so that a row is looked up once, however many steps are under way at once.
    """
    keys = [steps.c.agent, *(sa.type_coerce(steps.c[name], sa.Text).label(name) for name in names)]
    start, until = (sa.type_coerce(steps.c[name], sa.BigInteger) for name in ("start", "until"))
    order = (start, steps.c.episode, steps.c.id)
    before = sa.func.max(until).over(partition_by=keys, order_by=order, rows=(None, -1))
    first = sa.case((start <= before, 0), else_=1).label("first")
    place = sa.func.row_number().over(partition_by=keys, order_by=order).label("place")
    times = (start.label("start"), until.label("until"))
    each = sa.select(*keys, *times, first, place).where(found).subquery("each_step").c
    same = [each[column.name] for column in keys]
    run = sa.func.sum(each.first).over(partition_by=same, order_by=each.place, rows=(None, 0)).label("run")
    runs = sa.select(*same, each.start, each.until, run).subquery("runs").c
    same = [runs[column.name] for column in keys]
    whole = sa.select(*same, sa.func.min(runs.start).label("start"), sa.func.max(runs.until).label("until"))
    return whole.group_by(*same, runs.run).subquery("times")

"""Steps and what happened during them, joined in SQL.

Databases must go from each step to what happened in it, by the index over (agent, time): the other way round each row
of a large table looks through all the steps before it, and comparing all with all takes minutes. Neither database
finds out by itself, and each has its own way to be told.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import array

from egress.store.matching import spelled
from egress.store.tables import steps

Expression = sa.ColumnElement[bool]


def during(table: sa.FromClause) -> Expression:
    """Joins rows of flows or findings (or of an alias of either) with the steps under way."""
    agent, happened = table.c.agent, table.c.get("time", table.c.get("start"))
    when, start, until = (sa.type_coerce(column, sa.BigInteger) for column in (happened, steps.c.start, steps.c.until))
    return spelled(
        # With an expression on the steps' side only the other side's index is of use.
        sqlite=sa.and_(agent == steps.c.agent.concat(""), when.between(start + 0, until + 0)),
        # Only with = alone could it sort or hash both sides by agent.
        postgresql=sa.and_(agent == sa.any_(array([steps.c.agent])), when.between(start, until)),
    )


def happened_during(table: sa.Table, found: Expression) -> Expression:
    """Whether a row of flows or findings happened during a step of which `found` holds."""
    key: sa.Column[Any] = next(iter(table.primary_key.columns))
    there = table.alias()
    inside = sa.select(there.c[key.name]).where(found, during(there))
    apart = inside.offset(0).subquery()  # by the offset it is a list made once, and not taken apart again
    return spelled(sqlite=key.in_(inside), postgresql=sa.exists().where(apart.c[key.name] == key).correlate(table))


def with_steps(table: sa.Table, names: list[str]) -> sa.Subquery:
    """The key of each row of flows or findings that happened during steps, with columns of those, each pair once."""
    key: sa.Column[Any] = next(iter(table.primary_key.columns))
    said = [sa.type_coerce(steps.c[name], sa.Text).label(name) for name in dict.fromkeys(names)]
    return sa.select(key, *said).where(during(table)).distinct().subquery("during")

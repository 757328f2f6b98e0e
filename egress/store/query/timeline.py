"""Counts the activity of agents over time: flows, bytes, refused flows and findings, in intervals of equal length."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from egress.model import Action
from egress.records.times import micros
from egress.store.database.rows import checked, decoding, whole
from egress.store.database.sqlite import fenced
from egress.store.database.tables import findings, flows
from egress.store.query.reader import Filter, conditions

STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800)


@dataclass(frozen=True, slots=True)
class Axis:
    """The time axis: `count` intervals of `step` seconds from `begin` on (seconds since the epoch)."""

    begin: int
    step: int
    count: int

    @property
    def end(self) -> int:
        """The end of the last interval, seconds since the epoch."""
        return self.begin + self.step * self.count


@dataclass(slots=True)
class Activity:
    """The activity of an agent, a number for each interval. A flow counts, with all its bytes, where it began."""

    agent: str
    flows: list[int]
    bytes: list[int]
    refused: list[int]
    findings: list[int]
    signatures: Counter[str] = field(default_factory=Counter)  # findings by signature

    @classmethod
    def nothing(cls, agent: str, shown: Axis) -> Activity:
        """Return an activity of zeros over an axis."""
        flows, size, refused, findings = ([0] * shown.count for _ in range(4))
        return cls(agent, flows, size, refused, findings)


def axis(since: float, until: float, most: int, step: int | None = None) -> Axis:
    """Make the axis that contains `since` and `until` (seconds), in intervals of `step` seconds.

    Intervals begin at multiples of their length. Without `step` the shortest of STEPS that gives at most `most`
    intervals is chosen, or whole weeks if none does; with `step` there may be more.
    """
    # Rounded down first: rounding to microseconds could move a time into the next second.
    begin, end = micros(math.floor(since)) // 1_000_000, max(micros(until), micros(since)) // 1_000_000 + 1
    for each in (step,) if step else STEPS:
        found = _axis(begin, end, each)
        if step or found.count <= most:
            return found
    weeks = STEPS[-1]
    return _axis(begin, end, weeks * -(-_axis(begin, end, weeks).count // max(1, most - 1)))


def timeline(engine: Engine, wanted: Filter, shown: Axis, most: int) -> tuple[tuple[Activity, ...], int]:
    """Count the activity of the agents that match `wanted`, over an axis.

    Returns the activities of the `most` agents with most flows and findings, by name, and the number of other agents.
    """
    of_flows = [*conditions(flows, wanted), flows.c.start >= shown.begin, flows.c.start < shown.end]
    of_findings = [*conditions(findings, wanted), findings.c.time >= shown.begin, findings.c.time < shown.end]
    with engine.connect() as connection:
        totals: Counter[str] = Counter()
        for table, terms in ((flows, of_flows), (findings, of_findings)):
            acts = fenced(engine.dialect, sa.select(table.c.agent).where(*terms)).subquery()
            per_agent = sa.select(acts.c.agent, sa.func.count()).group_by(acts.c.agent)
            for agent, count in checked(connection.execute(per_agent), str, int):
                totals[agent] += count
        chosen = sorted(agent for agent, _ in sorted(totals.items(), key=lambda each: (-each[1], each[0]))[:most])
        found = {agent: Activity.nothing(agent, shown) for agent in chosen}
        _add_flows(connection, found, of_flows, shown)
        _add_findings(connection, found, of_findings, shown)
    return tuple(found.values()), len(totals) - len(found)


def span(engine: Engine) -> tuple[float, float] | None:
    """The start of the first stored flow, and the time of the latest record of any (seconds); None without flows."""
    with engine.connect() as connection:
        begin, end = connection.execute(sa.select(sa.func.min(flows.c.start), sa.func.max(flows.c.updated))).one()
    return None if begin is None else (begin, end)


def starts(engine: Engine, wanted: Filter, dst: str, limit: int) -> list[float]:
    """The starts (seconds) of the newest `limit` flows to an address that match `wanted`, oldest first."""
    query = sa.select(flows.c.start).where(*conditions(flows, wanted), flows.c.dst == dst)
    with engine.connect() as connection:
        return list(connection.scalars(query.order_by(flows.c.start.desc()).limit(limit)))[::-1]


def _axis(begin: int, end: int, step: int) -> Axis:
    first = begin // step
    return Axis(first * step, step, -(-end // step) - first)


def _add_flows(connection: Connection, found: dict[str, Activity], terms: Iterable[Any], shown: Axis) -> None:
    size = flows.c.bytes_out + flows.c.bytes_in
    refused = sa.case((flows.c.action == Action.ACCEPT, 0), else_=1)
    each = sa.select(flows.c.agent, _step(flows.c.start, shown), size.label("size"), refused.label("refused"))
    acts = fenced(connection.dialect, each.where(*terms, flows.c.agent.in_(found))).subquery()
    by = acts.c.agent, acts.c.nth_step
    query = sa.select(*by, sa.func.count(), sa.func.sum(acts.c.size), sa.func.sum(acts.c.refused)).group_by(*by)
    for agent, step, count, total, no in connection.execute(query):
        size_, refused_ = whole(total), whole(no)
        with decoding():
            activity = found[agent]
            activity.flows[step], activity.bytes[step], activity.refused[step] = count, size_, refused_


def _add_findings(connection: Connection, found: dict[str, Activity], terms: Iterable[Any], shown: Axis) -> None:
    each = sa.select(findings.c.agent, _step(findings.c.time, shown), findings.c.signature)
    made = fenced(connection.dialect, each.where(*terms, findings.c.agent.in_(found))).subquery()
    query = sa.select(*made.c, sa.func.count()).group_by(*made.c)
    for agent, step, signature, count in checked(connection.execute(query), str, int, str, int):
        with decoding():
            found[agent].findings[step] += count
            found[agent].signatures[signature] += count


def _step(time: sa.ColumnElement[float], shown: Axis) -> sa.Label[int]:
    since = sa.type_coerce(time, sa.BigInteger) - sa.literal(shown.begin * 1_000_000, sa.BigInteger)
    return (since // sa.literal(shown.step * 1_000_000, sa.BigInteger)).label("nth_step")

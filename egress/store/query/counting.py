"""Counts flows in groups (by agent, destination, hour, …), with their findings, bytes, first and last times."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from egress.model import Action
from egress.records.shape import ProcessStatus
from egress.records.times import iso
from egress.store.database.rows import decoding, whole
from egress.store.database.sqlite import fenced
from egress.store.database.tables import findings, flows, processes, steps
from egress.store.query.processes import OF_FLOW
from egress.store.query.reader import CHUNK, Filter, conditions
from egress.store.query.stepjoin_sql import with_steps

HOUR, DAY = 3600, 86400  # seconds
ORDERS = ("flows", "findings", "refused", "bytes", "first", "last")

_Column = sa.ColumnElement[Any]


@dataclass(frozen=True, slots=True)
class Count:
    """The counts of one group of flows.

    With a key of findings (signature, severity) only flows with findings count, at the times of the findings. With a
    key of steps (tool, episode) a flow or finding counts in each step that was under way, or in the group "" if none
    was.
    """

    values: tuple[str, ...]  # one for each key, in their order
    flows: int
    findings: int  # 0 without a key of findings
    refused: int  # flows rejected, dropped or held; in monitor mode: that would have been
    bytes: int  # of both directions
    first: float  # seconds
    last: float


@dataclass(frozen=True, slots=True)
class _Key:
    """A key to group by: the columns it needs, and its text from their values."""

    columns: Callable[[_Column], tuple[_Column, ...]]  # from the time by which rows are grouped
    text: Callable[..., str] = str  # from the values of the columns
    of_findings: bool = False
    of_processes: bool = False
    of_steps: str = ""  # a column of steps; `columns` then only gives the number of columns


def _of(column: _Column, *, of_findings: bool = False) -> _Key:
    return _Key(lambda _: (column,), of_findings=of_findings)


def _each(seconds: int, digits: int) -> _Key:
    def columns(time: _Column) -> tuple[_Column, ...]:
        return (sa.type_coerce(time, sa.BigInteger) // sa.literal(seconds * 1_000_000, sa.BigInteger),)

    return _Key(columns, lambda count: iso(count * seconds)[:digits].replace("T", " "))


def _name_columns(_: _Column) -> tuple[_Column, ...]:
    read = flows.c.server_name
    return read, sa.case((read == "", sa.type_coerce(flows.c.names, sa.Text)), else_="[]")


def _of_process(column: _Column) -> _Key:
    return _Key(lambda _: (processes.c.status, column), _known, of_processes=True)


def _known(status: str | None, value: object) -> str:
    """The value as text if the process was found, else the result of the search in parentheses."""
    return str(value) if status == ProcessStatus.FOUND else f"({status or 'not looked for'})"


KEYS: dict[str, _Key] = {
    "agent": _of(flows.c.agent),
    "signature": _of(findings.c.signature, of_findings=True),
    "severity": _of(findings.c.severity, of_findings=True),
    "dest": _of(flows.c.dst),
    "name": _Key(_name_columns, lambda read, bound: read or ", ".join(json.loads(bound))),
    "port": _of(flows.c.dport),
    "proto": _of(flows.c.proto),
    "app": _of(flows.c.app_proto),
    "action": _of(flows.c.action),
    "reason": _of(flows.c.reason),
    "rule": _of(flows.c.rule_id),
    "process": _of_process(processes.c.exe),
    "pid": _of_process(processes.c.pid),
    "container": _of_process(processes.c.container),
    "tool": _Key(lambda _: (steps.c.tool,), of_steps="tool"),
    "episode": _Key(lambda _: (steps.c.episode,), of_steps="episode"),
    "hour": _each(HOUR, 16),
    "day": _each(DAY, 10),
}


def count_by(
    engine: Engine, wanted: Filter, keys: Sequence[str], limit: int | None = None, order: str = "flows"
) -> Generator[Count, None, None]:
    """Count the flows that match `wanted`, grouped by one or more of KEYS.

    Yields at most `limit` groups (None: all), those with the greatest `order` (one of ORDERS) first. `limit` and `sort`
    of `wanted` are ignored. Raises InvalidQueryError, DamagedDataError.
    """
    chosen = [KEYS[key] for key in keys]
    rows = fenced(engine.dialect, _rows(wanted, chosen)).subquery()
    parts = [column for column in rows.c if column.name.startswith("key_")]
    sums = {
        "flows": sa.func.count(),
        "findings": sa.func.sum(rows.c.made),
        "refused": sa.func.sum(rows.c.refused),
        "bytes": sa.func.sum(rows.c.bytes),
        "first": sa.func.min(rows.c.first),
        "last": sa.func.max(rows.c.last),
    }
    query = sa.select(*parts, *sums.values()).group_by(*parts).order_by(sums[order].desc(), *parts).limit(limit)
    with engine.connect() as connection:
        for row in connection.execute(query.execution_options(yield_per=CHUNK)):
            yield _count(row, chosen)


def _count(row: Sequence[Any], keys: Sequence[_Key]) -> Count:
    values = iter(row)
    with decoding():
        texts = tuple(key.text(*(next(values) for _ in key.columns(flows.c.start))) for key in keys)
    count, made, refused, size, first, last = values
    return Count(texts, count, whole(made), whole(refused), whole(size), first, last)


def _rows(wanted: Filter, keys: Sequence[_Key]) -> sa.Select[Any]:
    """The query with one row for each flow in each group."""
    refused = sa.case((flows.c.action == Action.ACCEPT, 0), else_=1)
    size = flows.c.bytes_out + flows.c.bytes_in
    of_processes = any(key.of_processes for key in keys)
    source: sa.FromClause = flows.outerjoin(processes, OF_FLOW) if of_processes else flows
    of_findings = any(key.of_findings for key in keys)
    time = findings.c.time if of_findings else flows.c.start
    named = [key.of_steps for key in keys if key.of_steps]
    during = with_steps(findings if of_findings else flows, named) if named else None
    parts = [column for key in keys for column in _parts(key, time, during)]
    labelled = [part.label(f"key_{number}") for number, part in enumerate(parts)]
    if not of_findings:
        made = sa.literal(0).label("made")
        first, last = flows.c.start.label("first"), flows.c.updated.label("last")
        if during is not None:
            source = source.outerjoin(during, during.c.flow_id == flows.c.flow_id)
        counted = sa.select(*labelled, made, refused.label("refused"), size.label("bytes"), first, last)
        return counted.select_from(source).where(*conditions(flows, wanted))
    source = source.join(findings, findings.c.flow_id == flows.c.flow_id)
    if during is not None:
        source = source.outerjoin(during, during.c.finding_id == findings.c.finding_id)
    return (
        sa.select(
            *labelled,
            sa.func.count().label("made"),
            sa.func.max(refused).label("refused"),
            sa.func.max(size).label("bytes"),
            sa.func.min(time).label("first"),
            sa.func.max(time).label("last"),
        )
        .select_from(source)
        .where(*conditions(findings, wanted))
        .group_by(*(sa.literal_column(label.name) for label in labelled), flows.c.flow_id)
    )


def _parts(key: _Key, time: _Column, during: sa.Subquery | None) -> tuple[_Column, ...]:
    if not key.of_steps or during is None:
        return key.columns(time)
    return (sa.func.coalesce(during.c[key.of_steps], ""),)

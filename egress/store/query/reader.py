"""Reading records back: flows, findings and what is known of each agent. Everything streams; nothing is changed."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from egress.model import Action
from egress.records.shape import FindingRecord, FlowRecord, ProcessRecord
from egress.store.database.matching import glob, inside
from egress.store.database.tables import anomalies as anomaly_table
from egress.store.database.tables import findings as finding_table
from egress.store.database.tables import flows as flow_table
from egress.store.query import processes
from egress.store.query.search import compile_query

CHUNK = 500  # flows whose findings are fetched together
CLOCK = 86400.0  # seconds that a clock may have gone back between a flow's start and a finding of it

_Terms = list[sa.ColumnElement[bool]]
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Filter:
    """Which flows or findings; None or empty: any. Globs: `*`, `?`, `[a-z]`, `[!a-z]`; case matters."""

    query: str = ""  # in the language of egress.store.query.search
    now: float = 0.0  # seconds: from which the query counts back (since:2h)
    agent: str = ""  # glob
    signature: str = ""  # glob; of flows: that have such a finding
    action: Action | None = None
    dest: _Network | None = None
    since: float | None = None  # seconds; flows: still active then or later. Findings: made then or later
    until: float | None = None  # seconds; flows: begun by then. Findings: made by then
    begun: float | None = None  # seconds; begun (findings: made) then or later
    limit: int | None = None  # the newest this many; sorted: the last of that order
    skip: int = 0  # not the very last ones, but those before this many
    sort: str = ""  # flows: one of SORTS, with a - before it the other way round. Empty: by time


# What in a query leaves few flows: a since, or a term about findings or ids that must hold.
_RECENT = re.compile(r"\bsince\b")
_FEW = re.compile(r"(?:^|[\s(])(?:signature|severity|finding|flow)[:=]")
_OTHERS = re.compile(r"\b(?:or|not)\b|-\(", re.IGNORECASE)
_F = flow_table.c
SORTS: dict[str, sa.ColumnElement[Any]] = {
    "time": _F.start,
    "updated": _F.updated,
    "agent": _F.agent,
    "dest": _F.dst,
    "port": _F.dport,
    "name": _F.server_name,
    "proto": _F.proto,
    "app": _F.app_proto,
    "action": _F.action,
    "reason": _F.reason,
    "rule": _F.rule_id,
    "bytes": _F.bytes_out + _F.bytes_in,
    "bytes_out": _F.bytes_out,
    "bytes_in": _F.bytes_in,
    "packets": _F.packets_out + _F.packets_in,
}


@dataclass(frozen=True, slots=True)
class AgentSummary:
    """What is recorded of one agent, attached or not."""

    agent: str
    flows: int
    accepted: int
    refused: int  # rejected or dropped; in monitor mode: would have been
    findings: int
    anomalies: int  # packets refused without a flow
    first: float | None  # start of its first flow, seconds
    last: float | None  # last record of any of its flows


class Told(NamedTuple):
    """A flow with what belongs to it."""

    flow: FlowRecord
    findings: tuple[FindingRecord, ...]
    process: ProcessRecord | None  # None: nothing is recorded of it


def flows(engine: Engine, wanted: Filter) -> Generator[FlowRecord, None, None]:
    """Flows in the order of their start, newest last."""
    with engine.connect() as connection:
        yield from _flows(connection, wanted)


def findings(engine: Engine, wanted: Filter) -> Generator[FindingRecord, None, None]:
    """Findings in the order of their time, newest last."""
    table = finding_table
    query = _newest_last(table, conditions(table, wanted), table.c.time, table.c.finding_id, wanted)
    with engine.connect() as connection:
        for row in connection.execution_options(yield_per=CHUNK).execute(query):
            yield FindingRecord(*row)


def stories(engine: Engine, wanted: Filter) -> Generator[Told, None, None]:
    """Flows as `flows` gives them, each with all its findings and its process, as of one moment."""
    with engine.connect() as connection:
        found = _flows(connection, wanted)
        while chunk := list(islice(found, CHUNK)):
            ids = [record.flow_id for record in chunk]
            by_flow, opened = findings_by_flow(connection, chunk), processes.by_flow(connection, ids, _begun(chunk))
            for record in chunk:
                yield Told(record, tuple(by_flow.get(record.flow_id, ())), opened.get(record.flow_id))


def flow(engine: Engine, flow_id: str) -> FlowRecord | None:
    """The flow with exactly this id."""
    with engine.connect() as connection:
        row = connection.execute(sa.select(flow_table).where(flow_table.c.flow_id == flow_id)).first()
    return None if row is None else FlowRecord(*row)


def flow_ids(engine: Engine, prefix: str, limit: int = 10) -> tuple[str, ...]:
    """The first flow ids that begin with these hex digits."""
    column = flow_table.c.flow_id
    # An id's digits end at f, so every id with the prefix sorts below prefix + g.
    query = sa.select(column).where(column >= prefix, column < prefix + "g").order_by(column).limit(limit)
    with engine.connect() as connection:
        return tuple(connection.scalars(query))


def findings_of(engine: Engine, flow_id: str) -> tuple[FindingRecord, ...]:
    """One flow's findings, oldest first."""
    with engine.connect() as connection:
        return tuple(_findings(connection, [flow_id], 0.0).get(flow_id, ()))


def finding_ids(engine: Engine, prefix: str, limit: int = 10) -> tuple[str, ...]:
    """The first finding ids that begin with these hex digits."""
    column = finding_table.c.finding_id
    query = sa.select(column).where(column >= prefix, column < prefix + "g").order_by(column).limit(limit)
    with engine.connect() as connection:
        return tuple(connection.scalars(query))


def agents(engine: Engine, only: str | None = None) -> tuple[AgentSummary, ...]:
    """Every agent there is a record of, by name, with counts; or only the one of that name."""
    table = flow_table
    accepted = sa.func.sum(sa.case((table.c.action == Action.ACCEPT, 1), else_=0))
    counts = sa.select(
        table.c.agent, sa.func.count(), accepted, sa.func.min(table.c.start), sa.func.max(table.c.updated)
    )
    with engine.connect() as connection:
        per_flow = {row[0]: row for row in connection.execute(_each_agent(counts, table, only))}
        per_finding = _per_agent(connection, finding_table, sa.func.count(), only)
        per_anomaly = _per_agent(connection, anomaly_table, sa.func.sum(anomaly_table.c.count), only)
    summaries = []
    for name in sorted({*per_flow, *per_finding, *per_anomaly}):
        _, total, good, first, last = per_flow.get(name, (name, 0, 0, None, None))
        noted, odd = per_finding.get(name, 0), per_anomaly.get(name, 0)
        summaries.append(AgentSummary(name, total, int(good), total - int(good), noted, odd, first, last))
    return tuple(summaries)


def conditions(table: sa.Table, wanted: Filter) -> list[sa.ColumnElement[bool]]:
    """What a filter asks of rows of `table`, flows or findings. Raises InvalidQuery."""
    terms: _Terms = [] if not wanted.query else [compile_query(wanted.query, table, wanted.now)]
    if wanted.agent:
        terms.append(glob(table.c.agent, wanted.agent))
    if wanted.action is not None:
        terms.append(table.c.action == wanted.action)
    if wanted.dest is not None:
        terms.append(inside(table.c.dst, wanted.dest))
    made = finding_table.c
    of_flows = table is flow_table
    if wanted.signature:
        signed = glob(made.signature, wanted.signature)
        terms.append(flow_table.c.flow_id.in_(sa.select(made.flow_id).where(signed)) if of_flows else signed)
    if wanted.since is not None:
        terms.append((table.c.updated if of_flows else made.time) >= wanted.since)
    if wanted.begun is not None:
        terms.append((table.c.start if of_flows else made.time) >= wanted.begun)
    if wanted.until is not None:
        terms.append((table.c.start if of_flows else made.time) <= wanted.until)
    return terms


def _each_agent(counts: sa.Select[Any], table: sa.Table, only: str | None) -> sa.Select[Any]:
    counts = counts.group_by(table.c.agent)
    return counts if only is None else counts.where(table.c.agent == only)


def _per_agent(
    connection: Connection, table: sa.Table, amount: sa.ColumnElement[int], only: str | None
) -> dict[str, int]:
    rows = connection.execute(_each_agent(sa.select(table.c.agent, amount), table, only))
    return {row[0]: int(row[1]) for row in rows}  # PostgreSQL sums up in decimals


def _flows(connection: Connection, wanted: Filter) -> Iterator[FlowRecord]:
    table = flow_table
    key = SORTS[wanted.sort.removeprefix("-") or "time"]
    if key is table.c.start and _narrow(wanted):
        # As an expression, so that what narrows is looked up and sorted, rather than walk all flows in order of start.
        key = sa.type_coerce(table.c.start, sa.BigInteger) + 0
    query = _newest_last(table, conditions(table, wanted), key, table.c.flow_id, wanted)
    for row in connection.execute(query.execution_options(yield_per=CHUNK)):
        yield FlowRecord(*row)


def _narrow(wanted: Filter) -> bool:
    few = _FEW.search(wanted.query) and not _OTHERS.search(wanted.query)
    return bool(wanted.since is not None or wanted.signature or few or _RECENT.search(wanted.query))


def _begun(records: Sequence[FlowRecord]) -> tuple[float, float]:
    starts = [record.start for record in records]
    return min(starts), max(starts)


def findings_by_flow(connection: Connection, records: Sequence[FlowRecord]) -> dict[str, list[FindingRecord]]:
    """All findings of some flows, oldest first, by flow id."""
    if not records:
        return {}
    return _findings(connection, [each.flow_id for each in records], min(each.start for each in records) - CLOCK)


def _findings(connection: Connection, ids: list[str], since: float) -> dict[str, list[FindingRecord]]:
    table = finding_table
    query = sa.select(table).where(table.c.flow_id.in_(ids)).order_by(table.c.time, table.c.finding_id)
    if since > 0:  # the days before need not be looked into
        query = query.where(table.c.time >= since)
    by_flow: dict[str, list[FindingRecord]] = {}
    for row in connection.execute(query):
        record = FindingRecord(*row)
        by_flow.setdefault(record.flow_id, []).append(record)
    return by_flow


def _newest_last(
    table: sa.Table,
    terms: _Terms,
    key: sa.ColumnElement[Any],
    identity: sa.ColumnElement[str],
    wanted: Filter,
) -> sa.Select[Any]:
    up, down = sa.asc, sa.desc
    if wanted.sort.startswith("-"):
        up, down = down, up
    if wanted.limit is None:
        return sa.select(table).where(*terms).order_by(up(key), up(identity))
    newest = sa.select(table, key.label("sort_key")).where(*terms).order_by(down(key), down(identity))
    page = newest.limit(wanted.limit).offset(wanted.skip or None).subquery()
    columns = [page.c[column.name] for column in table.c]
    return sa.select(*columns).order_by(up(page.c.sort_key), up(page.c[identity.name]))

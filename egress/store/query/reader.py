"""Flows, findings and summaries of agents that match a `Filter`; flows and findings are streamed."""

from __future__ import annotations

import ipaddress
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from egress.model import Action
from egress.records.shape import FindingRecord, FlowRecord, ProcessRecord
from egress.store.database.matching import glob, inside
from egress.store.database.rows import checked, decode, decode_first, whole
from egress.store.database.tables import anomalies as anomaly_table
from egress.store.database.tables import findings as finding_table
from egress.store.database.tables import flows as flow_table
from egress.store.database.tables import folded as folded_table
from egress.store.query import processes
from egress.store.query.search import compile_query, is_selective

CHUNK = 500  # flows whose findings are fetched together
CLOCK = 86400.0  # seconds that a clock may have been set back between a flow's start and a finding on it

_Terms = list[sa.ColumnElement[bool]]
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Filter:
    """The flows or findings to read; None or empty matches any. Globs: `*`, `?`, `[a-z]`, `[!a-z]`; case matters."""

    query: str = ""  # in the language of egress.store.query.search
    now: float = 0.0  # seconds: the time from which the query counts back (since:2h)
    agent: str = ""  # glob
    signature: str = ""  # glob; flows: those with such a finding
    action: Action | None = None
    dest: _Network | None = None
    since: float | None = None  # seconds; flows: active then or later. Findings: made then or later
    until: float | None = None  # seconds; flows: begun by then. Findings: made by then
    begun: float | None = None  # seconds; begun (findings: made) then or later
    limit: int | None = None  # read only this many of the newest; with `sort`: of the last in that order
    skip: int = 0  # leave out this many of the newest (or last) before; needs `limit`
    sort: str = ""  # flows: one of SORTS, after a - in descending order. Empty: by time


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
    """Counts of one agent's records; the agent may be attached or gone."""

    agent: str
    flows: int
    accepted: int
    refused: int  # rejected, dropped or held; in monitor mode: that would have been
    findings: int
    anomalies: int  # packets refused without a flow
    folded: int  # flows, findings and refused packets beyond the agent's quota of records
    first: float | None  # start of its first flow, seconds
    last: float | None  # last record of any of its flows


class FlowDetails(NamedTuple):
    """A flow with its findings and its process."""

    flow: FlowRecord
    findings: tuple[FindingRecord, ...]
    process: ProcessRecord | None  # None: none is recorded


def flows(engine: Engine, wanted: Filter) -> Generator[FlowRecord, None, None]:
    """Yield the flows that match, in the order of `wanted.sort`, by default of their start, newest last.

    Raises InvalidQueryError, and DamagedDataError for a row that egress does not write.
    """
    with engine.connect() as connection:
        yield from _flows(connection, wanted)


def findings(engine: Engine, wanted: Filter) -> Generator[FindingRecord, None, None]:
    """Yield the findings that match, in the order of their time, newest last. Raises errors like `flows`."""
    table = finding_table
    query = _newest_last(table, conditions(table, wanted), table.c.time, table.c.finding_id, wanted)
    with engine.connect() as connection:
        yield from decode(FindingRecord, connection.execution_options(yield_per=CHUNK).execute(query))


def flow_details(engine: Engine, wanted: Filter) -> Generator[FlowDetails, None, None]:
    """Yield flows as `flows` does, each with all its findings and its process, all read in one transaction."""
    with engine.connect() as connection:
        found = _flows(connection, wanted)
        while chunk := list(islice(found, CHUNK)):
            ids = [record.flow_id for record in chunk]
            by_flow, opened = findings_by_flow(connection, chunk), processes.by_flow(connection, ids, _begun(chunk))
            for record in chunk:
                yield FlowDetails(record, tuple(by_flow.get(record.flow_id, ())), opened.get(record.flow_id))


def flow(engine: Engine, flow_id: str) -> FlowRecord | None:
    """The flow with exactly this id; None if it is not stored."""
    with engine.connect() as connection:
        return decode_first(
            FlowRecord, connection.execute(sa.select(flow_table).where(flow_table.c.flow_id == flow_id))
        )


def flow_ids(engine: Engine, prefix: str, limit: int = 10) -> tuple[str, ...]:
    """The first `limit` flow ids, sorted, that begin with these hex digits."""
    column = flow_table.c.flow_id
    # Hex digits end at f, so every id with the prefix sorts below prefix + g.
    query = sa.select(column).where(column >= prefix, column < prefix + "g").order_by(column).limit(limit)
    with engine.connect() as connection:
        return tuple(connection.scalars(query))


def findings_of(engine: Engine, flow_id: str) -> tuple[FindingRecord, ...]:
    """The findings of a flow, oldest first."""
    with engine.connect() as connection:
        return tuple(_findings(connection, [flow_id], 0.0).get(flow_id, ()))


def finding_ids(engine: Engine, prefix: str, limit: int = 10) -> tuple[str, ...]:
    """The first `limit` finding ids, sorted, that begin with these hex digits."""
    column = finding_table.c.finding_id
    query = sa.select(column).where(column >= prefix, column < prefix + "g").order_by(column).limit(limit)
    with engine.connect() as connection:
        return tuple(connection.scalars(query))


def agents(engine: Engine, only: str | None = None) -> tuple[AgentSummary, ...]:
    """The summary of each agent with records, sorted by name; or of the agent `only` alone."""
    table = flow_table
    accepted = sa.func.sum(sa.case((table.c.action == Action.ACCEPT, 1), else_=0))
    counts = sa.select(
        table.c.agent, sa.func.count(), accepted, sa.func.min(table.c.start), sa.func.max(table.c.updated)
    )
    with engine.connect() as connection:
        rows = connection.execute(_each_agent(counts, table, only))
        per_flow = {row[0]: row for row in checked(rows, str, int, int | Decimal, float, float)}
        per_finding = _per_agent(connection, finding_table, sa.func.count(), only)
        per_anomaly = _per_agent(connection, anomaly_table, sa.func.sum(anomaly_table.c.count), only)
        per_folded = _per_agent(connection, folded_table, sa.func.sum(folded_table.c.count), only)
    summaries = []
    for name in sorted({*per_flow, *per_finding, *per_anomaly, *per_folded}):
        _, total, good, first, last = per_flow.get(name, (name, 0, 0, None, None))
        noted, odd = per_finding.get(name, 0), per_anomaly.get(name, 0)
        more = per_folded.get(name, 0)
        summaries.append(AgentSummary(name, total, whole(good), total - whole(good), noted, odd, more, first, last))
    return tuple(summaries)


def conditions(table: sa.Table, wanted: Filter) -> list[sa.ColumnElement[bool]]:
    """The filter as conditions on rows of `table`, flows or findings. Raises InvalidQueryError."""
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
    return {row[0]: whole(row[1]) for row in checked(rows, str, int | float | Decimal)}


def _flows(connection: Connection, wanted: Filter) -> Iterator[FlowRecord]:
    table, terms = flow_table, conditions(flow_table, wanted)
    key = SORTS[wanted.sort.removeprefix("-") or "time"]
    if key is table.c.start and (wanted.since is not None or wanted.signature or is_selective(wanted.query)):
        # An expression has no index: the few flows that match are found by their conditions and then sorted. By the
        # column itself the database would walk all flows in the order of their start.
        key = sa.type_coerce(table.c.start, sa.BigInteger) + 0
    query = _newest_last(table, terms, key, table.c.flow_id, wanted)
    yield from decode(FlowRecord, connection.execute(query.execution_options(yield_per=CHUNK)))


def _begun(records: Sequence[FlowRecord]) -> tuple[float, float]:
    starts = [record.start for record in records]
    return min(starts), max(starts)


def findings_by_flow(connection: Connection, records: Sequence[FlowRecord]) -> dict[str, list[FindingRecord]]:
    """All findings of some flows, oldest first, by flow id; a flow without findings is left out."""
    if not records:
        return {}
    return _findings(connection, [each.flow_id for each in records], min(each.start for each in records) - CLOCK)


def _findings(connection: Connection, ids: list[str], since: float) -> dict[str, list[FindingRecord]]:
    table = finding_table
    query = sa.select(table).where(table.c.flow_id.in_(ids)).order_by(table.c.time, table.c.finding_id)
    if since > 0:  # PostgreSQL then skips the partitions of earlier days
        query = query.where(table.c.time >= since)
    by_flow: dict[str, list[FindingRecord]] = {}
    for record in decode(FindingRecord, connection.execute(query)):
        by_flow.setdefault(record.flow_id, []).append(record)
    return by_flow


def _newest_last(
    table: sa.Table,
    terms: _Terms,
    key: sa.ColumnElement[Any],
    identity: sa.ColumnElement[str],
    wanted: Filter,
) -> sa.Select[Any]:
    """The query for the matching rows in the order of `key`; with a limit, for the last of them (see Filter)."""
    up, down = sa.asc, sa.desc
    if wanted.sort.startswith("-"):
        up, down = down, up
    if wanted.limit is None:
        return sa.select(table).where(*terms).order_by(up(key), up(identity))
    newest = sa.select(table, key.label("sort_key")).where(*terms).order_by(down(key), down(identity))
    page = newest.limit(wanted.limit).offset(wanted.skip or None).subquery()
    columns = [page.c[column.name] for column in table.c]
    return sa.select(*columns).order_by(up(page.c.sort_key), up(page.c[identity.name]))

"""Reading records back: flows, findings and what is known of each agent. Everything streams; nothing is changed."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from egress.model import Action, FindingRecord, FlowRecord
from egress.store.tables import anomalies as anomaly_table
from egress.store.tables import findings as finding_table
from egress.store.tables import flows as flow_table

CHUNK = 500  # flows whose findings are fetched together

_Terms = list[sa.ColumnElement[bool]]
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Filter:
    """Which flows or findings; None or empty: any. Globs: `*`, `?`, `[a-z]`, `[!a-z]`; case matters."""

    agent: str = ""  # glob
    signature: str = ""  # glob; of flows: that have such a finding
    action: Action | None = None
    dest: _Network | None = None
    since: float | None = None  # seconds; flows: still active then or later. Findings: made then or later
    until: float | None = None  # seconds; flows: begun by then. Findings: made by then
    limit: int | None = None  # the newest this many


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


def flows(engine: Engine, wanted: Filter) -> Generator[FlowRecord, None, None]:
    """Flows in the order of their start, newest last."""
    with engine.connect() as connection:
        yield from _flows(connection, wanted)


def findings(engine: Engine, wanted: Filter) -> Generator[FindingRecord, None, None]:
    """Findings in the order of their time, newest last."""
    table = finding_table
    terms = _common(table, wanted)
    if wanted.signature:
        terms.append(_glob(table.c.signature, wanted.signature))
    if wanted.since is not None:
        terms.append(table.c.time >= wanted.since)
    if wanted.until is not None:
        terms.append(table.c.time <= wanted.until)
    query = _newest_last(table, terms, (table.c.time, table.c.finding_id), wanted.limit)
    with engine.connect() as connection:
        for row in connection.execution_options(yield_per=CHUNK).execute(query):
            yield FindingRecord(*row)


def stories(engine: Engine, wanted: Filter) -> Generator[tuple[FlowRecord, tuple[FindingRecord, ...]], None, None]:
    """Flows as `flows` gives them, each with all its findings, as of one moment."""
    with engine.connect() as connection:
        found = _flows(connection, wanted)
        while chunk := list(islice(found, CHUNK)):
            by_flow = _findings_of(connection, [record.flow_id for record in chunk])
            for record in chunk:
                yield record, tuple(by_flow.get(record.flow_id, ()))


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
        return tuple(_findings_of(connection, [flow_id]).get(flow_id, ()))


def agents(engine: Engine) -> tuple[AgentSummary, ...]:
    """Every agent there is a record of, by name, with counts."""
    table = flow_table
    accepted = sa.func.sum(sa.case((table.c.action == Action.ACCEPT, 1), else_=0))
    counts = sa.select(
        table.c.agent, sa.func.count(), accepted, sa.func.min(table.c.start), sa.func.max(table.c.updated)
    ).group_by(table.c.agent)
    with engine.connect() as connection:
        per_flow = {row[0]: row for row in connection.execute(counts)}
        per_finding = _per_agent(connection, finding_table, sa.func.count())
        per_anomaly = _per_agent(connection, anomaly_table, sa.func.sum(anomaly_table.c.count))
    summaries = []
    for name in sorted({*per_flow, *per_finding, *per_anomaly}):
        _, total, good, first, last = per_flow.get(name, (name, 0, 0, None, None))
        noted, odd = per_finding.get(name, 0), per_anomaly.get(name, 0)
        summaries.append(AgentSummary(name, total, good, total - good, noted, odd, first, last))
    return tuple(summaries)


def _per_agent(connection: Connection, table: sa.Table, amount: sa.ColumnElement[int]) -> dict[str, int]:
    rows = connection.execute(sa.select(table.c.agent, amount).group_by(table.c.agent))
    return {row[0]: row[1] for row in rows}


def _flows(connection: Connection, wanted: Filter) -> Iterator[FlowRecord]:
    table = flow_table
    terms = _common(table, wanted)
    if wanted.signature:
        made = finding_table.c
        terms.append(sa.exists().where(made.flow_id == table.c.flow_id, _glob(made.signature, wanted.signature)))
    if wanted.since is not None:
        terms.append(table.c.updated >= wanted.since)
    if wanted.until is not None:
        terms.append(table.c.start <= wanted.until)
    start: sa.ColumnElement[Any] = table.c.start
    if wanted.since is not None:
        # As an expression, so that SQLite looks up `updated` and sorts, rather than walk all flows in order of start.
        start = (sa.type_coerce(table.c.start, sa.BigInteger) + 0).label("start")
    query = _newest_last(table, terms, (start, table.c.flow_id), wanted.limit)
    for row in connection.execute(query.execution_options(yield_per=CHUNK)):
        yield FlowRecord(*row)


def _findings_of(connection: Connection, ids: list[str]) -> dict[str, list[FindingRecord]]:
    table = finding_table
    query = sa.select(table).where(table.c.flow_id.in_(ids)).order_by(table.c.time, table.c.finding_id)
    by_flow: dict[str, list[FindingRecord]] = {}
    for row in connection.execute(query):
        record = FindingRecord(*row)
        by_flow.setdefault(record.flow_id, []).append(record)
    return by_flow


def _common(table: sa.Table, wanted: Filter) -> _Terms:
    terms: _Terms = []
    if wanted.agent:
        terms.append(_glob(table.c.agent, wanted.agent))
    if wanted.action is not None:
        terms.append(table.c.action == wanted.action)
    if wanted.dest is not None:
        terms.append(_inside(table.c.dst, wanted.dest))
    return terms


def _glob(column: sa.Column[str], pattern: str) -> sa.ColumnElement[bool]:
    if not set(pattern) & set("*?["):
        return column == pattern
    # SQLite's GLOB is the shell's, but for the sign of a negated set; it uses the index up to the first wildcard.
    return column.op("GLOB", is_comparison=True, return_type=sa.Boolean())(pattern.replace("[!", "[^"))


def _inside(column: sa.Column[str], network: _Network) -> sa.ColumnElement[bool]:
    if network.prefixlen == network.max_prefixlen:
        address = network.network_address
        # Two spellings of an IPv4-mapped IPv6 address are about: Python's and the C library's.
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        return column.in_({str(address), socket.inet_ntop(family, address.packed)})
    return sa.func.in_network(column, str(network), type_=sa.Boolean()).is_(sa.true())


def _newest_last(
    table: sa.Table, terms: _Terms, order: tuple[sa.ColumnElement[Any], sa.ColumnElement[Any]], limit: int | None
) -> sa.Select[*tuple[Any, ...]]:
    query = sa.select(table).where(*terms)
    if limit is None:
        return query.order_by(*order)
    newest = query.order_by(*(term.desc() for term in order)).limit(limit).subquery()
    return sa.select(newest).order_by(newest.c[order[0].name], newest.c[order[1].name])

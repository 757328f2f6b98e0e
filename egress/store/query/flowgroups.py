"""Reads what `egress.whatif` needs of stored flows: groups of equal flows, names of an address, objections.

An objection is a finding that refuses its flow, or its destination (its `effect` is not `none`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from egress.model import Action, Effect, Mode, Reason, Severity
from egress.store.database.matching import glob
from egress.store.database.rows import decode
from egress.store.database.sqlite import fenced
from egress.store.database.tables import findings, flows

CHUNK = 1000  # rows read together
LOOKBACK = 1000  # flows to an address that are searched for its names

_F = flows.c
_EQUAL = (
    _F.agent, _F.proto, _F.dst, _F.dport, _F.app_proto, _F.server_name, _F.names, _F.action, _F.reason, _F.rule_id,
    _F.mode, _F.app_expected,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FlowGroup:
    """Flows opened by one agent that are equal in all that a policy decides by. Times are seconds."""

    agent: str
    proto: str
    dst: str
    dport: int
    app: str
    server_name: str
    names: tuple[str, ...]
    action: Action
    reason: Reason
    rule_id: str
    mode: Mode
    app_expected: str
    signatures: frozenset[str]  # that objected, exempted ones included
    count: int
    first: float  # start of the earliest flow
    last: float  # latest record of any


class ObjectedFlow(NamedTuple):
    """A signature's finding and its flow's destination; the last three fields are empty if the flow is not stored."""

    signature: str
    proto: str
    dst: str
    dport: int
    effect: Effect
    app: str
    server_name: str
    names: tuple[str, ...]


def flow_groups(
    connection: Connection, *, since: float | None = None, until: float | None = None, agent: str = ""
) -> Iterator[FlowGroup]:
    """Group the outbound flows active between `since` and `until` (seconds; None: no limit).

    Yields the groups in the order of their first flow. `agent` is a glob; empty: all agents. Raises DamagedDataError.
    """
    terms = [_F.direction == "out"]
    if agent:
        terms.append(glob(_F.agent, agent))
    if since is not None:
        terms.append(_F.updated >= since)
    if until is not None:
        terms.append(_F.start <= until)
    wanted = sa.select(*_EQUAL, _F.flow_id, _F.start, _F.updated).where(*terms)
    each, objected = fenced(connection.dialect, wanted).subquery(), _objections(agent)
    equal = [each.c[column.name] for column in _EQUAL]
    first, last = sa.func.min(each.c.start).label("first"), sa.func.max(each.c.updated).label("last")
    query = (
        sa.select(*equal, objected.c.signatures, sa.func.count(), first, last)
        .select_from(each.outerjoin(objected, objected.c.flow_id == each.c.flow_id))
        .group_by(*equal, objected.c.signatures)
        .order_by(first)
    )
    rows = connection.execute(query.execution_options(yield_per=CHUNK))
    yield from decode(FlowGroup, (_with_set(row) for row in rows))


def _with_set(row: Sequence[Any]) -> list[Any]:
    values, at = list(row), len(_EQUAL)
    values[at] = frozenset((values[at] or "").split())
    return values


def names_of(connection: Connection, agent: str, address: str) -> frozenset[str]:
    """The names that DNS had bound to an address in this agent's newest LOOKBACK flows to it."""
    newest = sa.select(_F.names).where(_F.dst == address, _F.agent == agent).order_by(_F.start.desc()).limit(LOOKBACK)
    return frozenset(name for names in connection.scalars(newest) for name in names)


def objected_flows(connection: Connection, agent: str) -> Iterator[ObjectedFlow]:
    """Yield the stored findings on an agent by signature and destination; equal ones once.

    Findings that refuse nothing (suspicions, findings of hunts) are left out if their severity is low.
    """
    made = findings.c
    query = (
        sa.select(made.signature, made.proto, made.dst, made.dport, made.effect, _F.app_proto, _F.server_name, _F.names)
        .select_from(findings.outerjoin(flows, _F.flow_id == made.flow_id))
        .where(made.agent == agent, sa.or_(made.effect != Effect.NONE, made.severity != Severity.LOW))
        .distinct()
        .order_by(made.signature, made.proto, made.dst, made.dport)
    )
    rows = connection.execute(query)
    yield from decode(ObjectedFlow, ((*row[:5], row[5] or "", row[6] or "", row[7] or ()) for row in rows))


def _objections(agent: str) -> sa.Subquery:
    """The query for flow ids and the signatures that objected to each, joined by spaces. `agent`: a glob or empty."""
    made = findings.c
    query = sa.select(made.flow_id, made.signature).where(made.effect != Effect.NONE).distinct()
    if agent:
        query = query.where(glob(made.agent, agent))
    pairs = query.order_by(made.flow_id, made.signature).subquery()
    return (
        sa.select(pairs.c.flow_id, sa.func.aggregate_strings(pairs.c.signature, " ").label("signatures"))
        .group_by(pairs.c.flow_id)
        .subquery()
    )

"""Stored flows as deeds: those that policy cannot tell apart are one, so that each is decided once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from egress.model import Action, App, Effect, Mode, Reason
from egress.policy.domain import canonical, is_address
from egress.store.database.matching import glob
from egress.store.database.sqlite import by_itself
from egress.store.database.tables import findings as finding_table
from egress.store.database.tables import flows as flow_table
from egress.whatif.subject import NAMING, Target, recorded

CHUNK = 1000  # rows read together
LOOKBACK = 1000  # flows to an address that are searched for its names


@dataclass(frozen=True, slots=True)
class Deed:
    """Equal flows that an agent opened. Times are seconds."""

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
    signatures: frozenset[str]  # that objected, exempted ones included
    count: int
    first: float  # start of the earliest
    last: float  # latest record of any

    @property
    def target(self) -> Target:
        return recorded(self.proto, self.dst, self.dport, self.app, self.server_name, self.names, self.action)

    @property
    def query(self) -> str:
        """The name it asked the DNS for, the last one if there were several; "" if none was read."""
        return self.server_name if self.app == App.DNS else ""


def deeds(
    connection: Connection, *, since: float | None = None, until: float | None = None, agent: str = ""
) -> Iterator[Deed]:
    """Outbound flows of agents (a glob) active between `since` and `until`, in the order of their first start."""
    flow, objected = flow_table.c, _objections(agent)
    kinds = (
        flow.agent, flow.proto, flow.dst, flow.dport, flow.app_proto, flow.server_name, flow.names,
        flow.action, flow.reason, flow.rule_id, flow.mode,
    )  # fmt: skip
    terms = [flow.direction == "out"]
    if agent:
        terms.append(glob(flow.agent, agent))
    if since is not None:
        terms.append(flow.updated >= since)
    if until is not None:
        terms.append(flow.start <= until)
    acts = by_itself(connection.dialect, sa.select(*kinds, flow.flow_id, flow.start, flow.updated).where(*terms))
    acted = acts.subquery()
    equal = [acted.c[kind.name] for kind in kinds]
    first, last = sa.func.min(acted.c.start).label("first"), sa.func.max(acted.c.updated).label("last")
    query = (
        sa.select(*equal, objected.c.signatures, sa.func.count(), first, last)
        .select_from(acted.outerjoin(objected, objected.c.flow_id == acted.c.flow_id))
        .group_by(*equal, objected.c.signatures)
        .order_by(first)
    )
    for row in connection.execute(query.execution_options(yield_per=CHUNK)):
        values: list[Any] = list(row)
        values[len(kinds)] = frozenset((values[len(kinds)] or "").split())
        yield Deed(*values)


def destination_of(deed: Deed) -> tuple[str, bool]:
    """What a person calls its destination, and whether that is the name in a query."""
    if deed.query:
        return canonical(deed.query), True
    said = canonical(deed.server_name) if deed.app in NAMING else ""
    if said and not is_address(said):
        return said, False
    return (min(deed.names) if deed.names else deed.dst), False


def names_of(connection: Connection, agent: str, address: str) -> frozenset[str]:
    """Names that this agent's newest flows to an address show."""
    flow = flow_table.c
    query = (
        sa.select(flow.names)
        .where(flow.dst == address, flow.agent == agent)
        .order_by(flow.start.desc())
        .limit(LOOKBACK)
    )
    return frozenset(name for names in connection.scalars(query) for name in names)


def _objections(agent: str) -> sa.Subquery:
    """Flow ids with the signatures that objected to each, as words. What was found looking back did not object."""
    made = finding_table.c
    query = sa.select(made.flow_id, made.signature).where(made.effect != Effect.NONE).distinct()
    if agent:
        query = query.where(glob(made.agent, agent))
    pairs = query.order_by(made.flow_id, made.signature).subquery()
    return (
        sa.select(pairs.c.flow_id, sa.func.aggregate_strings(pairs.c.signature, " ").label("signatures"))
        .group_by(pairs.c.flow_id)
        .subquery()
    )

"""The circumstances in which a hold was made, for the person who decides: the process of its flow, the tool calls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from egress.records.shape import ProcessRecord
from egress.store.database.rows import decode
from egress.store.database.tables import steps
from egress.store.query.processes import by_flow

MAX_CALLS = 4  # of one hold; the latest


class Call(NamedTuple):
    """A tool call as its framework reported it (`model.Step`)."""

    episode: str
    tool: str
    summary: str


class Circumstances(NamedTuple):
    """The circumstances in which a hold was made."""

    process: ProcessRecord | None  # None: not looked up (yet)
    calls: tuple[Call, ...]  # that were under way, the latest first


class _Hold(Protocol):
    @property
    def flow_id(self) -> str: ...
    @property
    def agent(self) -> str: ...
    @property
    def time(self) -> float: ...


def circumstances(connection: Connection, holds: Iterable[_Hold]) -> list[Circumstances]:
    """Return the circumstances of holds, in their order."""
    found = list(holds)
    processes = by_flow(connection, [hold.flow_id for hold in found])
    return [Circumstances(processes.get(hold.flow_id), _calls(connection, hold)) for hold in found]


def _calls(connection: Connection, hold: _Hold) -> tuple[Call, ...]:
    during = steps.c.start <= hold.time, steps.c.until >= hold.time
    query = sa.select(steps.c.episode, steps.c.tool, steps.c.summary).where(steps.c.agent == hold.agent, *during)
    latest = query.order_by(steps.c.start.desc(), steps.c.id).limit(MAX_CALLS)
    return tuple(decode(Call, connection.execute(latest)))

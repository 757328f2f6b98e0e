"""Reads the circumstances of holds for the person who decides: the process that opened the flow, and tool calls.

A hold is a flow or DNS query of an agent in mode `ask` that waits for a decision (`model.Hold`).
"""

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
    """A tool call of the agent, as its framework reported it: three fields of `model.Step`."""

    episode: str
    tool: str
    summary: str


class Circumstances(NamedTuple):
    """The process that opened the flow of a hold, and the tool calls under way at the time of the hold."""

    process: ProcessRecord | None  # None: none is recorded (yet)
    calls: tuple[Call, ...]  # the one that began last first; at most MAX_CALLS


class _Hold(Protocol):
    """A hold or an approval: anything with these fields. `time` is seconds."""

    @property
    def flow_id(self) -> str: ...
    @property
    def agent(self) -> str: ...
    @property
    def time(self) -> float: ...


def circumstances(connection: Connection, holds: Iterable[_Hold]) -> list[Circumstances]:
    """Return the circumstances of each hold, in the order of `holds`."""
    found = list(holds)
    processes = by_flow(connection, [hold.flow_id for hold in found])
    return [Circumstances(processes.get(hold.flow_id), _calls(connection, hold)) for hold in found]


def _calls(connection: Connection, hold: _Hold) -> tuple[Call, ...]:
    during = steps.c.start <= hold.time, steps.c.until >= hold.time
    query = sa.select(steps.c.episode, steps.c.tool, steps.c.summary).where(steps.c.agent == hold.agent, *during)
    latest = query.order_by(steps.c.start.desc(), steps.c.id).limit(MAX_CALLS)
    return tuple(decode(Call, connection.execute(latest)))

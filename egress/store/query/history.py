"""Reads stored flows for hunts (slow detectors over history): the starts of flows, agents' traffic by destination.

Each method makes one long query (a pass) in a transaction of its own. The database sorts and sums up and the rows are
streamed, so that one series at a time is in memory. Only flows that an agent opened are read.
"""

from __future__ import annotations

import json
import string
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby, islice
from types import UnionType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from egress.model import Action, Mode
from egress.records.shape import FindingRecord, FlowRecord
from egress.store.database.database import storing, unhurried
from egress.store.database.matching import glob
from egress.store.database.rows import checked, decode, decoding, whole
from egress.store.database.tables import findings, flows
from egress.store.recording.writer import store

CHUNK = 5000  # rows fetched together
MAX_MOMENTS = 200_000  # of one series; later ones are only counted
MAX_BYTES = 1 << 39  # counted of one flow, so that no sum in a database overflows
DAY = 86_400_000_000  # microseconds

_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)  # the same as lower() in both databases
_F = flows.c
_START = sa.type_coerce(_F.start, sa.BigInteger)
_PASSED = sa.or_(_F.action == Action.ACCEPT, _F.mode == Mode.MONITOR)
_NAMED = sa.and_(_F.app_proto != "dns", sa.or_(_F.server_name != "", sa.type_coerce(_F.names, sa.Text) != "[]"))
_OUT, _IN = (sa.case((column > MAX_BYTES, MAX_BYTES), else_=column) for column in (_F.bytes_out, _F.bytes_in))
_PACKETS = sa.case((_F.packets_out > MAX_BYTES, MAX_BYTES), else_=_F.packets_out)
_SAID = sa.func.lower(_F.server_name)
_BOUND = sa.type_coerce(_F.names, sa.Text)


class HistoryTarget(NamedTuple):
    """The destination of flows: an address and port, or a name that the agent used. Empty fields match any."""

    proto: str = ""
    dst: str = ""
    dport: int = -1  # -1: any
    said: str = ""  # the name in the bytes, in lower case; of a DNS query: the queried name
    bound: tuple[str, ...] = ()  # names bound to the address, if the bytes contain none
    under: bool = False  # `said` stands for all names below it, too


@dataclass(frozen=True, slots=True)
class Window:
    """The flows begun from `since` to `until` (seconds, both included) by agents whose name matches a glob."""

    since: float
    until: float
    agent: str = ""  # empty: all


@dataclass(frozen=True, slots=True)
class Series:
    """The starts of the flows to one target, oldest first; of more than MAX_MOMENTS the oldest."""

    agent: str  # empty: of several agents
    target: HistoryTarget
    moments: npt.NDArray[np.int64]  # microseconds
    agents: tuple[str, ...]  # all agents of the series
    of: npt.NDArray[np.int64]  # for each moment, the index of its agent in `agents`
    omitted: int  # number of moments beyond MAX_MOMENTS


@dataclass(frozen=True, slots=True)
class AddressTraffic:
    """The sums over one agent's flows to one address under one name. Times are microseconds."""

    agent: str
    said: str  # as in HistoryTarget
    bound: tuple[str, ...]
    dst: str
    flows: int
    bytes_out: int
    bytes_in: int
    largest: int  # bytes out of the largest flow
    longest: int  # the longest time from the start of a flow to its latest record
    first: int
    last: int  # start of the last flow
    updated: int  # latest record of any flow


@dataclass(frozen=True, slots=True)
class QueriedName:
    """A name that an agent queried. A flow counts for its last query: the names of earlier ones are not stored."""

    agent: str
    name: str
    flows: int
    packets: int  # sent by the agent over UDP
    bytes_out: int  # of these packets
    last: int  # microseconds


class History:
    """Reads the stored flows of a window. `progress` is called with the number of rows read, after each CHUNK of rows.

    All iterators raise DamagedDataError for a value that egress does not write.
    """

    def __init__(self, engine: Engine, window: Window, progress: Callable[[int], object] = lambda _: None) -> None:
        self.engine = engine
        self.window = window
        self._progress = progress

    def count(self) -> int:
        """The number of flows begun in the window."""
        with unhurried(self.engine) as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(flows).where(*self._terms())) or 0

    def oldest(self) -> float | None:
        """The start (seconds) of the oldest of all stored flows, in the window or not; None without flows."""
        with unhurried(self.engine) as connection:
            found: float | None = connection.scalar(sa.select(sa.func.min(_F.start)))
            return found

    def by_endpoint(self, *, fleet: bool = False) -> Iterator[Series]:
        """Yield a series for each protocol, address and port, without DNS queries.

        Each agent has series of its own; with `fleet` one series has the flows of all agents.
        """
        key = (_F.proto, _F.dst, _F.dport)
        return self._series(key, _F.app_proto != "dns", fleet, HistoryTarget)

    def by_name(self, *, fleet: bool = False) -> Iterator[Series]:
        """Yield a series for each name in the bytes (SNI, Host), or without one for the names bound to the address.

        Without DNS queries, and without flows that have neither. `fleet`: as for `by_endpoint`.
        """
        bound = sa.case((_F.server_name == "", _BOUND), else_="[]")
        return self._series(
            (_SAID, bound), _NAMED, fleet, lambda said, names: HistoryTarget(said=said, bound=_names(names))
        )

    def queries(self) -> Iterator[tuple[str, str, int]]:
        """Yield agent, queried name and start (microseconds) of each DNS flow with a query, by agent, oldest first."""
        query = sa.select(_F.agent, _SAID, _START).where(*self._terms(), _F.app_proto == "dns", _F.server_name != "")
        yield from self._rows(query.order_by(_F.agent, _START), str, str, int)

    def traffic(self, *, everyone: bool = False) -> Iterator[AddressTraffic]:
        """Yield the sums of the flows that were not refused, for each agent, name and address, ordered by agent.

        Without DNS queries. `everyone`: of all agents, not only those of the window.
        """
        key = (_F.agent, _SAID, _BOUND, _F.dst)
        updated = sa.type_coerce(_F.updated, sa.BigInteger)
        sums = (
            sa.func.count(), sa.func.sum(_OUT), sa.func.sum(_IN), sa.func.max(_OUT),
            sa.func.max(updated - _START), sa.func.min(_START), sa.func.max(_START), sa.func.max(updated),
        )  # fmt: skip
        terms = (*self._terms(everyone=everyone), _PASSED, _F.app_proto != "dns")
        query = sa.select(*key, *sums).where(*terms).group_by(*key)
        rows = self._rows(query.order_by(_F.agent), *[str] * len(key), *[int | float | Decimal] * len(sums))
        for agent, said, bound, dst, *numbers in rows:
            yield AddressTraffic(agent, said, _names(bound), dst, *map(whole, numbers))

    def earlier(self, since: float) -> Iterator[tuple[HistoryTarget, int]]:
        """Yield the targets (address and names) of all agents' flows from `since` (seconds) until the window begins.

        Each has the number of its flows. Refused flows and DNS queries do not count.
        """
        key = (_SAID, _BOUND, _F.dst)
        before = (_F.direction == "out", _F.start >= since, _F.start < self.window.since)
        query = sa.select(*key, sa.func.count()).where(*before, _PASSED, _F.app_proto != "dns").group_by(*key)
        for said, bound, dst, count in self._rows(query, str, str, str, int):
            yield HistoryTarget(dst=dst, said=said, bound=_names(bound)), count

    def queried_names(self) -> Iterator[QueriedName]:
        """Yield the sums of the DNS flows that were not refused, for each agent and queried name, ordered by agent."""
        packets, size = (sa.func.sum(sa.case((_F.proto == "udp", each), else_=0)) for each in (_PACKETS, _OUT))
        sums = (sa.func.count(), packets, size, sa.func.max(_START))
        terms = (*self._terms(), _PASSED, _F.app_proto == "dns", _F.server_name != "")
        query = sa.select(_F.agent, _SAID, *sums).where(*terms).group_by(_F.agent, _SAID).order_by(_F.agent)
        for agent, name, *numbers in self._rows(query, str, str, *[int | float | Decimal] * len(sums)):
            yield QueriedName(agent, name, *map(whole, numbers))

    def names_under(self, agent: str, domain: str, most: int, limit: int) -> tuple[str, ...]:
        """The first `limit` names, sorted, below `domain` (lower case) that the agent queried in at most `most` flows.

        Refused flows do not count.
        """
        below = _SAID.endswith(f".{domain}", autoescape=True)
        terms = (*self._terms(), _PASSED, _F.app_proto == "dns", _F.agent == agent, below)
        query = sa.select(_SAID).where(*terms).group_by(_SAID).having(sa.func.count() <= most)
        return tuple(row[0] for row in self._rows(query.order_by(_SAID).limit(limit), str))

    def flow(self, agent: str, start: int, target: HistoryTarget) -> FlowRecord | None:
        """The flow of an agent to a target that began at `start` (microseconds); None if it is not stored.

        It need not be in the window.
        """
        query = (
            sa.select(flows).where(_F.agent == agent, _START.between(start, start)).order_by(_F.flow_id).limit(CHUNK)
        )
        with self.engine.connect() as connection:
            return next((flow for flow in decode(FlowRecord, connection.execute(query)) if _fits(flow, target)), None)

    def _series(
        self,
        key: Sequence[sa.ColumnElement[Any]],
        only: sa.ColumnElement[bool],
        fleet: bool,
        target: Callable[..., HistoryTarget],
    ) -> Iterator[Series]:
        columns = (*key, _START, _F.agent) if fleet else (_F.agent, *key, _START)
        query = sa.select(*columns).where(*self._terms(), only)
        width = len(key) + (not fleet)
        kinds = [int if column in (_F.dport, _START) else str for column in columns]
        for found, rows in groupby(self._rows(query.order_by(*columns), *kinds), key=lambda row: row[:width]):
            if fleet:
                yield _fleet_series(target(*found), rows, width)
            else:
                moments = array("q", (row[width] for row in islice(rows, MAX_MOMENTS)))
                agent, *rest = found
                once = np.zeros(len(moments), np.int64)
                yield Series(agent, target(*rest), _numbers(moments), (agent,), once, sum(1 for _ in rows))

    def _terms(self, *, everyone: bool = False) -> list[sa.ColumnElement[bool]]:
        terms = [_F.direction == "out", _F.start >= self.window.since, _F.start <= self.window.until]
        return [*terms, glob(_F.agent, self.window.agent)] if self.window.agent and not everyone else terms

    def _rows(self, query: sa.Select[Any], *columns: type | UnionType) -> Iterator[Any]:
        """Yield the rows of a pass. Raises DamagedDataError for a value that is not of its column's type."""
        with unhurried(self.engine) as connection:
            rows = connection.execute(query.execution_options(yield_per=CHUNK))
            read = 0
            for row in checked(rows, *columns):
                yield row
                read += 1
                if read % CHUNK == 0:
                    self._progress(read)
            if read % CHUNK:
                self._progress(read)


def known_findings(connection: Connection, ids: Sequence[str]) -> frozenset[str]:
    """Return those of the finding ids that are stored."""
    known: set[str] = set()
    for at in range(0, len(ids), CHUNK):
        query = sa.select(findings.c.finding_id).where(findings.c.finding_id.in_(ids[at : at + CHUNK]))
        known.update(connection.scalars(query))
    return frozenset(known)


def keep(engine: Engine, found: Sequence[FindingRecord]) -> int:
    """Store the findings whose ids are not stored yet; returns the number stored."""
    with storing(engine) as connection:
        known = known_findings(connection, [each.finding_id for each in found])
        new = [each for each in found if each.finding_id not in known]
        store(connection, new)
    return len(new)


def _fleet_series(target: HistoryTarget, rows: Iterator[Any], width: int) -> Series:
    moments, of = array("q"), array("q")
    agents: dict[str, int] = {}
    for row in islice(rows, MAX_MOMENTS):
        moments.append(row[width])
        of.append(agents.setdefault(row[width + 1], len(agents)))
    return Series("", target, _numbers(moments), tuple(agents), _numbers(of), sum(1 for _ in rows))


def _numbers(values: array[int]) -> npt.NDArray[np.int64]:
    return np.frombuffer(values, np.int64) if values else np.zeros(0, np.int64)


def _names(bound: str) -> tuple[str, ...]:
    if bound == "[]":
        return ()
    with decoding():
        return tuple(map(str, json.loads(bound)))


def _fits(record: FlowRecord, target: HistoryTarget) -> bool:
    """True if a flow has the destination of the target; the name in its bytes is compared in lower case."""
    said = record.server_name.translate(_LOWER)
    if target.under:
        return said == target.said or said.endswith(f".{target.said}")
    if target.said:
        return said == target.said and target.dst in ("", record.dst)
    if target.bound:
        return record.names == target.bound and target.dst in ("", record.dst)
    return record.dst == target.dst and (target.dport < 0 or target[:3] == (record.proto, record.dst, record.dport))

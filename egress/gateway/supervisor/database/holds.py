"""Write holds to the database: flows and DNS queries that wait in a worker for an operator's decision.

A hold is stored when the wait begins and closed when it ends. If the database cannot be used, new holds are refused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from egress.gateway.supervisor.coalesce import Coalesced
from egress.gateway.supervisor.complaint import Complaint
from egress.gateway.supervisor.database.link import DatabaseAwayError, DatabaseLink
from egress.model import Hold
from egress.store.database.handles import Connection
from egress.store.policy import approvals

EXPIRED, WITHDRAWN = "expired", "withdrawn"

log = logging.getLogger("egress.gateway")


@dataclass(frozen=True, slots=True)
class _Over:
    """The end of a hold: its new state."""

    id: str
    state: str


class HoldDesk:
    """The pending holds of all workers. `refuse(worker, ids)` must order a worker to refuse these holds."""

    def __init__(self, link: DatabaseLink, refuse: Callable[[int, list[str]], None]) -> None:
        self.pending: dict[str, int] = {}  # id -> worker
        self.refused = 0  # holds refused because the database was away
        self._link, self._refuse = link, refuse
        self._unwritten: list[Hold | _Over] = []
        self._writing = Coalesced(self._write)
        self._complaint = Complaint()

    def take_message(self, worker: int, message: dict[str, Any]) -> None:
        """Take a worker's message: {"type": "hold", "hold"} or {"type": "hold.ended", "id", "state"}."""
        if message["type"] == "hold":
            hold = Hold(**{**message["hold"], "names": tuple(message["hold"]["names"])})
            self.pending[hold.id] = worker
            self._unwritten.append(hold)
        elif message["type"] == "hold.ended":
            self._end(message["id"], message["state"])
        self._writing.schedule()

    def worker_gone(self, worker: int) -> None:
        """Withdraw the holds of a worker that has ended."""
        for identifier in [found for found, place in self.pending.items() if place == worker]:
            self._end(identifier, WITHDRAWN)
        self._writing.schedule()

    def deny(self, ids: Iterable[str]) -> None:
        """Order the workers to refuse the holds with these ids, which an operator has denied."""
        self._answer(ids)

    def catch_up(self) -> None:
        """Start to write the changes that could not be written while the database was away."""
        self._writing.schedule()

    async def stop(self) -> None:
        """Withdraw all pending holds, and wait until that is written. Call it once the workers have ended."""
        for identifier in tuple(self.pending):
            self._end(identifier, WITHDRAWN)
        self._writing.schedule()
        await self.written()

    async def written(self) -> None:
        """Wait until all changes so far are written, or the attempt has found the database away."""
        await self._writing.settled()

    def _end(self, identifier: str, state: str) -> None:
        """Have a hold closed in the database: as expired, or for any other `state` as withdrawn.

        If an operator has decided, the database keeps the decision.
        """
        if self.pending.pop(identifier, None) is not None:
            self._unwritten.append(_Over(identifier, EXPIRED if state == EXPIRED else WITHDRAWN))

    async def _write(self) -> None:
        """Write the changes. If the database is away, refuse new holds, and keep the ends of known ones for later."""
        entries, self._unwritten = self._unwritten, []
        if not entries:
            return
        try:
            await self._link.write(lambda connection: _store(connection, entries, self._link.host))
        except DatabaseAwayError as error:
            unasked: set[str] = set()
            known: list[Hold | _Over] = []  # ends of holds that the database has
            for entry in entries:
                if isinstance(entry, Hold):
                    unasked.add(entry.id)
                elif entry.id not in unasked:
                    known.append(entry)
            self._unwritten[:0] = known
            self._answer(unasked)
            for identifier in unasked:  # the database never had it, so its end need not be written
                self.pending.pop(identifier, None)
            self.refused += len(unasked)
            if unasked and self._complaint.due():
                log.error("%d holds are refused, since no one can be asked: %s", len(unasked), error)

    def _answer(self, ids: Iterable[str]) -> None:
        """Order each worker to refuse those of the holds that are pending in it."""
        by_worker: dict[int, list[str]] = {}
        for identifier in ids:
            if (worker := self.pending.get(identifier)) is not None:
                by_worker.setdefault(worker, []).append(identifier)
        for worker, some in by_worker.items():
            self._refuse(worker, some)


def _store(connection: Connection, entries: list[Hold | _Over], host: str) -> None:
    for entry in entries:
        if isinstance(entry, Hold):
            approvals.ask(connection, entry, host)
        else:
            approvals.close(connection, entry.id, entry.state, time.time(), host)

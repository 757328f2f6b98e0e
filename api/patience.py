"""HTTP with limits on the time that a client may take to send a head, to send a body, and to read the response."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.auth import UNIX
from api.connections import Visits

HEAD_SECONDS = 10.0  # from the start of a connection, or the end of the last answer, to a whole request head
BODY_SECONDS = 20.0  # for a body, besides the time that its bytes take at BODY_RATE
BODY_RATE = 4096  # bytes a second
READ_SECONDS = 30.0  # an answer of which the client reads nothing for so long is given up


class PatientProtocol(H11Protocol):
    """HTTP on a connection that a `Door` (`api.connections`) admitted; cuts a client that is late.

    On the unix socket the client's address is `unix:` and its user id.
    """

    visits: Visits  # set by `protocol`

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Find the connection in `visits`, and start the time limit of its first request head; abort if it is gone."""
        super().connection_made(transport)
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._due = self._received = 0.0
        self._state: object = None  # of the request, as h11 names it
        self._visit = self.visits.find(transport.get_extra_info("socket").fileno())
        if self._visit is None:  # expelled meanwhile
            transport.abort()
            return
        if self._visit.peer.startswith(UNIX):
            self.client = (self._visit.peer, 0)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._timer, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Start the time limit of the next request head."""
        self._state = None  # the next head has its own time
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        """Start the time limit for a client that does not read the response."""
        super().pause_writing()
        self._unread = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def _look(self) -> None:
        """When another part of a request begins, start its time limit, and note whether its client is waited for."""
        state = self.conn.their_state
        if state is self._state or self._visit is None:
            return
        self._state, self._received = state, 0.0
        if self._timer is not None:
            self._timer.cancel()
        self._visit.waiting = state in (h11.IDLE, h11.SEND_BODY)
        if self._visit.waiting:
            self.visits.rest(self._visit)
            self._due = self.loop.time() + (HEAD_SECONDS if state is h11.IDLE else BODY_SECONDS)
            self._timer = self.loop.call_at(self._due, self._expire)

    def _expire(self) -> None:
        """Cut a client that is late. A body gets the time that its bytes take at BODY_RATE in addition."""
        due = self._due + (self._received / BODY_RATE if self._state is h11.SEND_BODY else 0.0)
        if due > self.loop.time():
            self._timer = self.loop.call_at(due, self._expire)
        else:
            self.transport.abort()


def protocol(visits: Visits) -> type[PatientProtocol]:
    """Make the protocol class for the connections of one listening socket."""
    return type("_Protocol", (PatientProtocol,), {"visits": visits})

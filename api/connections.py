"""Bounds the number of connections of `egress serve`.

A client that sends half a request occupies a connection until its time limit (`api.patience`). So each peer (an IPv4
address, an IPv6 /64 network, or a user of the unix socket) may have at most A_PEER connections, and each listening
socket at most CONNECTIONS. At a limit, the connection that has waited longest for the rest of a request is closed (one
of the same peer, if the limit is the peer's); if none waits, the new connection is refused. So silent connections
cannot keep others out, not even others of the same peer.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import time
from typing import Any

from api.auth import UNIX
from egress.peers import peer_of

CONNECTIONS = 1000  # open at a time, on each socket that listens
A_PEER = 250  # of these, by one peer
COMPLAINT_SECONDS = 60.0
_PREFIX = 64  # bits of an IPv6 address that are the peer's: one host may have all the rest

log = logging.getLogger("egress.api")


class Visit(socket.socket):
    """An accepted connection of `peer`. Closing it removes it from `visits`. Takes over the file descriptor."""

    def __init__(self, visits: Visits, descriptor: int, peer: str) -> None:
        super().__init__(fileno=descriptor)
        self.descriptor = descriptor
        self.peer = peer
        self.waiting = True  # for the client: the rest of the TLS handshake, of a head, of a body
        self._visits = visits

    def close(self) -> None:
        self._visits.forget(self)
        super().close()

    def expel(self) -> None:
        """Cut the connection. Its protocol reads the end of the stream and closes the socket."""
        self._visits.forget(self)
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)


class Visits:
    """The connections of one listening socket: at most `most`, and at most `a_peer` of one peer.

    They are ordered by the time at which they last began to wait for their client, the earliest first.
    """

    def __init__(self, most: int = CONNECTIONS, a_peer: int = A_PEER) -> None:
        self._most, self._a_peer = most, a_peer
        self._all: dict[int, Visit] = {}
        self._of: dict[str, dict[int, Visit]] = {}
        self._quiet_until = 0.0

    def __len__(self) -> int:
        return len(self._all)

    def admit(self, accepted: socket.socket, peer: str) -> Visit | None:
        """Admit a connection. At a limit, close the one that has waited longest for its client.

        If none waits, close the new one and return None.
        """
        mine = self._of.get(peer, {})
        full = mine if len(mine) >= self._a_peer else self._all if len(self) >= self._most else None
        if full is not None:
            self._complain(peer, len(full))
        if full is not None and not _make_room(full):
            accepted.close()
            return None
        visit = Visit(self, accepted.detach(), peer)
        self.rest(visit)
        return visit

    def _complain(self, peer: str, count: int) -> None:
        """Log that a limit is reached, at most once in COMPLAINT_SECONDS: a flood must not fill the log as well."""
        if time.monotonic() >= self._quiet_until:
            self._quiet_until = time.monotonic() + COMPLAINT_SECONDS
            log.warning(
                "no room for a connection of %s beside %d others: the longest idle ones are closed", peer, count
            )

    def rest(self, visit: Visit) -> None:
        """Note that a connection waits for its client from now on."""
        visit.waiting = True
        for table in (self._all, self._of.setdefault(visit.peer, {})):
            table.pop(visit.descriptor, None)
            table[visit.descriptor] = visit

    def forget(self, visit: Visit) -> None:
        """Remove a connection; no effect if it was removed before."""
        if self._all.get(visit.descriptor) is not visit:
            return
        del self._all[visit.descriptor]
        mine = self._of[visit.peer]
        del mine[visit.descriptor]
        if not mine:
            del self._of[visit.peer]

    def find(self, descriptor: int) -> Visit | None:
        """Return the connection with this file descriptor; None if it was closed."""
        return self._all.get(descriptor)


def _make_room(visits: dict[int, Visit]) -> bool:
    """Cut the connection that has waited longest for its client; return False if none waits."""
    longest = next((visit for visit in visits.values() if visit.waiting), None)
    if longest is not None:
        longest.expel()
    return longest is not None


class Door(socket.socket):
    """A listening socket whose connections are limited by `visits`. Takes over the file descriptor of `listener`."""

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(fileno=listener.detach())
        self.visits = Visits()

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection and return it with its address.

        Raises ConnectionAbortedError, which asyncio expects here, if the connection is refused or has ended already.
        """
        accepted, address = super().accept()
        try:
            peer = peer_name(accepted) if self.family == socket.AF_UNIX else host_of(address[0])
        except OSError:  # it has ended already
            accepted.close()
            raise ConnectionAbortedError from None
        visit = self.visits.admit(accepted, peer)
        if visit is None:
            raise ConnectionAbortedError
        return visit, address


def host_of(address: str) -> str:
    """Return the part of an address that identifies a host: an IPv4 address, also if mapped, or an IPv6 /64 network."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 4:
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.ip_network((int(ip), _PREFIX), strict=False).network_address)


def peer_name(sock: socket.socket) -> str:
    """Format the caller on a unix socket: `unix:UID`, from another network namespace `unix:agent:UID`.

    Authentication (`api.auth`) reads it as the client's address.
    """
    peer = peer_of(sock)
    return f"{UNIX}{peer.uid}" if peer.local else f"{UNIX}agent:{peer.uid}"

"""The gateway's side of its control socket: JSON lines over a Unix stream socket, for root on this host.

Root in another network namespace counts as an agent, and is refused.

Request {"op": name, …}; answer {"ok": true, …} or {"ok": false, "error": one line, "gone": true if the gateway is
ending, "input": true if the request was wrong}. A sandbox belongs to the connection that opened it, and is destroyed
when that closes, for any reason: such a duty is called a lease.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from egress.control import NotRunningError
from egress.errors import EgressError, InputError
from egress.gateway.pipe.messages import encode
from egress.peers import peer_of

MAX_REQUEST = 16 * 1024 * 1024  # bytes of a line: a policy of some ten thousand rules

log = logging.getLogger("egress.gateway")


class Session:
    """One connection of a client, with the `pid` of that process. When it closes, its `leases` are called."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.leases: list[Callable[[], Awaitable[None]]] = []

    async def close(self) -> None:
        """Call the leases, the last one first; an EgressError is logged."""
        while self.leases:
            try:
                await self.leases.pop()()
            except EgressError as error:
                log.error("%s", error)


Handler = Callable[[Session, dict[str, Any]], Awaitable[dict[str, object]]]


class Server:
    """Listens at `path` (mode 0600), and answers each request of root with the result of `handle`.

    An EgressError of `handle` becomes an error answer. Connections of other users are closed.
    """

    def __init__(self, path: Path, handle: Handler) -> None:
        self._path, self._handle = path, handle
        self._server: asyncio.Server | None = None
        self._sessions: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen at the path, replacing a socket file that is there. Raises EgressError if that fails."""
        self._path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            sock.bind(str(self._path))
        except OSError as error:
            raise EgressError(f"cannot listen at {self._path}: {error.strerror}; check run_dir in the config") from None
        finally:
            os.umask(mask)
        self._server = await asyncio.start_unix_server(self._connected, sock=sock, limit=MAX_REQUEST)

    async def close(self) -> None:
        """Stop listening and end every session with its leases."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)
        for task in self._sessions:
            task.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._sessions.add(task)
            task.add_done_callback(self._sessions.discard)
        peer = peer_of(writer.get_extra_info("socket"))
        session = Session(peer.pid)
        try:
            if peer.uid == 0 and peer.local:
                await self._talk(session, reader, writer)
        except (asyncio.CancelledError, ConnectionError, ValueError):
            pass  # closed by either side, or a line past MAX_REQUEST: the session is over
        finally:
            await session.close()
            writer.close()

    async def _talk(self, session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            try:
                answer = {"ok": True, **await self._handle(session, _request(line))}
            except EgressError as error:
                gone, wrong = isinstance(error, NotRunningError), isinstance(error, InputError)
                answer = {"ok": False, "error": str(error), "gone": gone, "input": wrong}
            writer.write(encode(answer))
            await writer.drain()


def _request(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError:
        raise EgressError("the request is not JSON; use the egress command of the same version") from None
    if not isinstance(message, dict) or not isinstance(message.get("op"), str):
        raise EgressError("the request has no op; use the egress command of the same version")
    return message

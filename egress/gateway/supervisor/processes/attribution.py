"""Start, watch and stop the attribution process, and keep the workers' sockets to it.

A pair of sockets for each worker lasts as long as the gateway: the worker inherits one end, the process the other.
Notes that are sent while the process is being replaced wait there. The supervisor holds both ends, so neither breaks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable

from egress.config import Config
from egress.gateway.kernel import privileges
from egress.gateway.kernel.command import confined
from egress.gateway.pipe.messages import JournalGrant, Settings, Setup, encode
from egress.gateway.pipe.note import BUFFER
from egress.gateway.supervisor.processes.companion import Companion

KILL_SECONDS = 2.0  # a process that an agent keeps in the kernel cannot be killed at all: it is left behind
MAX_LEFT = 4  # processes left behind; past it none is started, or an agent could fill the host with them
START_SECONDS = 30.0  # until its first sign of life
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h

log = logging.getLogger("egress.gateway")


class AttributionProcess(Companion):
    """The attribution process for `size` workers; if the config switches it off, none is started.

    `first_grant` returns the journal grant of a process that starts now.
    """

    name = "attribution process"
    left = "it is left behind"

    def __init__(self, config: Config, size: int, first_grant: Callable[[], JournalGrant]) -> None:
        super().__init__()
        self._config, self._first_grant = config, first_grant
        self._left: list[asyncio.subprocess.Process] = []  # killed, and still there
        self._pairs: list[tuple[socket.socket, socket.socket]] = []  # worker's end, the process'
        for _ in range(size if config.attribution else 0):
            # Not datagrams: the kernel queues only ten of them.
            pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            pair[0].setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, BUFFER)
            self._pairs.append(pair)

    def end_of(self, worker: int) -> tuple[int, ...]:
        """Return the descriptor that a worker inherits; empty if attribution is off."""
        return (self._pairs[worker][0].fileno(),) if self._pairs else ()

    async def watch(self) -> None:
        """Start the process if it does not run, and replace it if it is silent. Raises OSError.

        Past MAX_LEFT processes that could not be killed, none is started.
        """
        if not self._config.attribution:
            return
        patience = self._config.watchdog if self._report else START_SECONDS
        if self._process is not None and self.pid is not None and self.silent > patience:
            log.warning("the attribution process (pid %d) gave no sign of life for %.0f s", self.pid, self.silent)
            await self._kill(self._process)
            if self.pid is not None:
                self._leave(self._process)
        self._left = [each for each in self._left if each.returncode is None]
        if len(self._left) < MAX_LEFT:
            await super().watch()

    @property
    def written(self) -> int:
        """Bytes that the process has written to its journal, by its last report; 0 before its first."""
        return int(self._report["journal"]["bytes"]) if self._report else 0

    def grant(self, grant: JournalGrant) -> None:
        """Send the process its journal grant; no effect before its first report."""
        if self.pid is not None and self._process is not None and self._process.stdin is not None and self._report:
            self._process.stdin.write(encode(grant))

    async def stop(self) -> None:
        """Stop the process, and close the workers' sockets to it."""
        await super().stop()
        for end in (end for pair in self._pairs for end in pair):
            end.close()

    def status(self) -> dict[str, object]:
        """Return the state of the process, and its counters as last reported."""
        return {
            "enabled": self._config.attribution,
            "pid": self.pid,
            "restarts": self.restarts,
            "silent": round(self.silent, 1),
            "counters": self._report,
        }

    async def _start(self) -> asyncio.subprocess.Process:
        command, environment = confined("egress.gateway.attribution")
        ends = tuple(ours.fileno() for _, ours in self._pairs)
        self._report = {}
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            cwd="/",
            pass_fds=ends,
        )
        if process.stdin is not None:
            process.stdin.write(encode(self._setup(ends)))
        return process

    def _setup(self, ends: tuple[int, ...]) -> Setup:
        user = privileges.users(self._config.user, self._config.attribution_user).attribution
        return Setup(Settings.of(self._config, user), 0, os.getpid(), (), self._first_grant(), attribution=ends)

    def _leave(self, process: asyncio.subprocess.Process) -> None:
        """Go on without a process that cannot be killed; it ends as soon as the kernel lets it."""
        log.warning("the attribution process (pid %d) cannot be killed: it is left behind", process.pid)
        self._left.append(process)
        self._process = None
        self.restarts += 1
        if self._listening is not None:
            self._listening.cancel()
        if process.stdin is not None:
            process.stdin.close()

    def _end(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is not None:
            process.stdin.close()

    async def _kill(self, process: asyncio.subprocess.Process) -> None:
        process.kill()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), KILL_SECONDS)

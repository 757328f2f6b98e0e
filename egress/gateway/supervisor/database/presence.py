"""Claim this gateway's host name among the gateways that share its database, send heartbeats, and free the name.

If another gateway has the name, this one waits: the other may have been killed. If the other sends a heartbeat
meanwhile, it is another machine of the same name, and this gateway does not start.
"""

from __future__ import annotations

import logging
import secrets
import time
from pathlib import Path

from egress import __version__
from egress.config import Config
from egress.errors import EgressError
from egress.gateway.supervisor.database.link import DatabaseLink
from egress.store.database.handles import Connection
from egress.store.policy import gateways
from egress.store.policy.gateways import StoredGateway

LOOK_SECONDS = 0.5  # between two checks for a free name
BOOT = Path("/proc/sys/kernel/random/boot_id")

log = logging.getLogger("egress.gateway")


class Presence:
    """Claims, renews and frees the name.

    `was` is the name under which this gateway wrote its rows before: they move to the new one ("": written without a
    name; None: there are none to move).
    """

    def __init__(self, config: Config, link: DatabaseLink) -> None:
        self.host = config.host_name
        self._config, self._link = config, link
        self._run = secrets.token_hex(8)
        self._had = False  # it has had the name in this run
        self._shown: int | None = None  # the policy version of the last beat
        self._next = 0.0

    def enter(self, was: str | None) -> None:
        """Claim the name at the start, waiting if another gateway may have been killed.

        Raises EgressError if a living gateway has the name, DatabaseAwayError.
        """
        first: StoredGateway | None = None
        while True:
            with self._link.writing() as connection:
                other = self._claim(connection, was)
            if other is None:
                return
            if first is None:
                first = other
                text = "waiting up to %.0f s for a sign of life of another gateway that is host %s"
                log.warning(text, gateways.SILENT_SECONDS, self.host)
            elif (other.run, other.seen) != (first.run, first.seen):
                raise EgressError(self._taken())
            time.sleep(LOOK_SECONDS)

    async def renew(self, was: str | None) -> None:
        """Claim the name again after the database was away, without waiting.

        Raises DatabaseAwayError, also if another gateway has the name now.
        """
        try:
            other = await self._link.write(lambda connection: self._claim(connection, was))
        except EgressError as error:
            raise self._link.lost(str(error)) from None
        if other is not None:
            raise self._link.lost(self._taken())
        self._next = 0.0

    async def beat(self, version: int, agents: int) -> None:
        """Send a heartbeat, if it is due or the policy has changed, with policy version and number of agents.

        If the name is not ours any more, claims it again. Raises DatabaseAwayError, as `renew` does.
        """
        if version == self._shown and time.monotonic() < self._next:
            return
        alive = lambda connection: gateways.beat(connection, self.host, self._run, version, agents)  # noqa: E731
        if not await self._link.store(alive):
            await self.renew(None)  # a person removed it, or another gateway took it while the database was away
            await self._link.store(alive)
        self._shown, self._next = version, time.monotonic() + gateways.BEAT_SECONDS

    async def leave(self) -> None:
        """Free the name. Raises DatabaseAwayError."""
        await self._link.store(lambda connection: gateways.leave(connection, self.host, self._run))

    def _claim(self, connection: Connection, was: str | None) -> StoredGateway | None:
        """Claim the name. Returns None if it is ours now, else the gateway that has it."""
        place = _place(self._config.run_dir)
        other = gateways.claim(connection, self.host, self._run, place, __version__, had=self._had)
        if other is None:
            gateways.adopt(connection, self.host, was)
            self._had = True
        return other

    def _taken(self) -> str:
        return f"a gateway of another machine is host {self.host} at this database: set another `host` in the config"


def _place(run_dir: Path) -> str:
    """Return a text that identifies the run_dir on this boot of this machine.

    It is equal for gateways that exclude each other by the lock of their run_dir (`startup.only_one`).
    """
    there = run_dir.stat()
    return f"{BOOT.read_text(encoding='ascii').strip()} {there.st_dev}:{there.st_ino}"

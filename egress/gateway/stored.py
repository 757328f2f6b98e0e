"""The agents of the database as they can be attached now: which interface each one is behind."""

from __future__ import annotations

import dataclasses
import logging
import time

import sqlalchemy as sa

from egress.config import Config
from egress.errors import EgressError
from egress.gateway import attach
from egress.gateway.roster import Entry, interface_index
from egress.store.agents import StoredAgent, list_agents
from egress.store.database import explain, open_database

RETRY_SECONDS = 1.0

log = logging.getLogger("egress.gateway")


class Stored:
    """Looks them up; who cannot be attached yet is `absent` (name -> why) and tried again.

    Whatever makes somebody absent, some of it an agent can do (take its addresses away): where its interface is known,
    it stays guarded, and nothing passes.
    """

    def __init__(self, config: Config) -> None:
        self.absent: dict[str, str] = {}
        self._url = config.database_url
        self._opened: sa.Engine | None = None
        self._tried = 0.0
        self._waiting: list[StoredAgent] = []
        self._interfaces: dict[str, str] = {}  # agent name -> where it was last

    def open(self) -> sa.Engine:
        """Open the database, which makes and migrates it on first use."""
        self._opened = open_database(self._url)
        return self._opened

    def close(self) -> None:
        """Also where `open` has failed or was never called."""
        if self._opened is not None:
            self._opened.dispose()

    def entries(self) -> list[Entry]:
        """All that can be attached, and the interfaces of those that cannot. Raises EgressError."""
        found, waiting, absent = [], [], {}
        for stored in self._list():
            try:
                found.append(_entry(stored))
            except EgressError as error:
                waiting.append(stored)
                absent[stored.agent.name] = str(error)
                if interface := attach.behind(stored.kind, stored.value) or self._interfaces.get(stored.agent.name):
                    agent = dataclasses.replace(stored.agent, networks=())
                    found.append(Entry(agent, interface, 0, masquerade=False, absent=True))
        self._interfaces = {entry.agent.name: entry.interface for entry in found}
        for name in absent.keys() - self.absent.keys():
            log.warning("agent %s is not attached yet: %s", name, absent[name])
        self._waiting, self.absent, self._tried = waiting, absent, time.monotonic()
        return found

    def _list(self) -> tuple[StoredAgent, ...]:
        if self._opened is None:
            return ()
        try:
            return list_agents(self._opened)
        except sa.exc.DBAPIError as error:
            raise EgressError(f"cannot read the agents from the database: {explain(error)}") from None

    def awaited(self) -> bool:
        """Whether somebody absent can be attached now; looks every RETRY_SECONDS."""
        if not self._waiting or time.monotonic() < self._tried + RETRY_SECONDS:
            return False
        self._tried = time.monotonic()
        return any(map(_attachable, self._waiting))


def _attachable(stored: StoredAgent) -> bool:
    try:
        _entry(stored)
    except EgressError:
        return False
    return True


def _entry(stored: StoredAgent) -> Entry:
    place = attach.resolve(stored.kind, stored.value, stored.agent.name)
    agent = stored.agent if stored.agent.networks else dataclasses.replace(stored.agent, networks=place.networks)
    return Entry(agent, place.interface, interface_index(place.interface), masquerade=False)

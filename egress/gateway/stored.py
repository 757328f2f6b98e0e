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
from egress.store.database import open_database

RETRY_SECONDS = 5.0

log = logging.getLogger("egress.gateway")


class Stored:
    """Looks them up; who cannot be attached yet is `absent` (name -> why) and tried again."""

    def __init__(self, config: Config) -> None:
        self.absent: dict[str, str] = {}
        self._url = config.database_url
        self._tried = 0.0
        self._waiting: list[StoredAgent] = []

    def open(self) -> sa.Engine:
        """Open the database, which makes and migrates it on first use."""
        self.database = open_database(self._url)
        return self.database

    def close(self) -> None:
        self.database.dispose()

    def entries(self) -> list[Entry]:
        """All that can be attached."""
        found, waiting, absent = [], [], {}
        for stored in list_agents(self.database):
            try:
                found.append(_entry(stored))
            except EgressError as error:
                waiting.append(stored)
                absent[stored.agent.name] = str(error)
        for name in absent.keys() - self.absent.keys():
            log.warning("agent %s is not attached yet: %s", name, absent[name])
        self._waiting, self.absent, self._tried = waiting, absent, time.monotonic()
        return found

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

"""Resolve the attached agents of the database to the interfaces that they are behind now."""

from __future__ import annotations

import dataclasses
import logging
import socket
import time
from collections.abc import Iterable

from egress.errors import EgressError
from egress.gateway.sandbox import attach
from egress.gateway.supervisor.roster import RosterEntry, interface_index
from egress.store.database.tables import SANDBOX
from egress.store.policy.agents import StoredAgent

RETRY_SECONDS = 1.0

log = logging.getLogger("egress.gateway")


class Attachments:
    """Resolves attached agents. An agent that cannot be resolved now is absent (`absent`: name → reason).

    An agent can make itself absent, for example by removing its addresses. Where the interface of an absent agent is
    known, it stays guarded, and no packet passes. `awaited` shows when to try again.
    """

    def __init__(self) -> None:
        self.absent: dict[str, str] = {}
        self._tried = 0.0
        self._waiting: list[StoredAgent] = []
        self._interfaces: dict[str, str] = {}  # agent name -> its last interface
        self._indices: dict[str, int] = {}  # agent name -> the index of its last interface
        self._ways: dict[str, tuple[tuple[tuple[str, int], ...], tuple[str, ...]]] = {}  # others and outside of each

    def entries(self, agents: Iterable[StoredAgent]) -> list[RosterEntry]:
        """Return the roster entries of all agents but sandboxes. Raises EgressError if the tools (`ip`) fail.

        The entry of an absent agent has no networks; if its interface is unknown, too, it has no entry. Logs agents
        that have become absent, and changes of the other interfaces that lead into or out of an agent's namespace.
        """
        found, waiting, absent = [], [], {}
        for stored in agents:
            if stored.kind == SANDBOX:
                continue
            try:
                found.append(_entry(stored))
            except EgressError as error:
                waiting.append(stored)
                absent[stored.agent.name] = str(error)
                if interface := attach.behind(stored.kind, stored.value) or self._interfaces.get(stored.agent.name):
                    agent = dataclasses.replace(stored.agent, networks=())
                    renamed = self._renamed(stored.agent.name, interface)
                    found.append(RosterEntry(agent, interface, 0, masquerade=False, absent=True, others=renamed))
        self._complain(found)
        self._interfaces = {entry.agent.name: entry.interface for entry in found}
        known = {entry.agent.name: entry.index or self._indices.get(entry.agent.name, 0) for entry in found}
        self._indices = {name: index for name, index in known.items() if index}
        for name in absent.keys() - self.absent.keys():
            log.warning("agent %s is not attached yet: %s", name, absent[name])
        self._waiting, self.absent, self._tried = waiting, absent, time.monotonic()
        return found

    def _renamed(self, name: str, interface: str) -> tuple[tuple[str, int], ...]:
        """Return the new name and the index of an absent agent's renamed interface, to guard it under both names."""
        index = self._indices.get(name, 0)
        now = next((each for number, each in socket.if_nameindex() if number == index), interface)
        return () if now == interface else ((now, index),)

    def _complain(self, found: Iterable[RosterEntry]) -> None:
        """Log all interfaces of an agent's namespace besides the one it is attached by, if they have changed.

        A warning for those that lead to this host, which are guarded; an error for those that lead past it.
        """
        before, self._ways = self._ways, {entry.agent.name: (entry.others, entry.outside) for entry in found}
        for name, (others, outside) in self._ways.items():
            if (others, outside) == before.get(name, ((), ())):
                continue
            if others:
                log.warning(
                    "agent %s has further interfaces: %s; they are guarded, other addresses than its own refused",
                    name, ", ".join(each for each, _ in others),
                )  # fmt: skip
            if outside:
                log.error(
                    "agent %s has interfaces that lead PAST THIS HOST, UNGUARDED: %s; remove them from its namespace",
                    name, ", ".join(outside),
                )  # fmt: skip

    def awaited(self) -> bool:
        """Return True if an absent agent can be resolved now. It tries at most every RETRY_SECONDS; else False."""
        if not self._waiting or time.monotonic() < self._tried + RETRY_SECONDS:
            return False
        self._tried = time.monotonic()
        return any(map(_attachable, self._waiting))


def places(agents: Iterable[StoredAgent]) -> set[tuple[object, ...]]:
    """Return the agents' attachments as a set, to compare with another. Sandboxes are left out."""
    return {(each.agent.name, each.kind, each.value, each.agent.networks) for each in agents if each.kind != SANDBOX}


def _attachable(stored: StoredAgent) -> bool:
    try:
        _entry(stored)
    except EgressError:
        return False
    return True


def _entry(stored: StoredAgent) -> RosterEntry:
    place = attach.resolve(stored.kind, stored.value, stored.agent.name)
    agent = stored.agent if stored.agent.networks else dataclasses.replace(stored.agent, networks=place.networks)
    others = tuple((name, interface_index(name)) for name in place.others)
    index = interface_index(place.interface)
    return RosterEntry(agent, place.interface, index, masquerade=False, others=others, outside=place.outside)

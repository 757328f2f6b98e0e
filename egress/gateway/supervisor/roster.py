"""The roster: agents, their interfaces, the worker that each interface belongs to, and the queues of each agent."""

from __future__ import annotations

import dataclasses
import socket
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count

from egress.config import Queue
from egress.gateway.kernel.attachment import Attachment
from egress.gateway.kernel.hostaddresses import host_addresses
from egress.gateway.pipe.messages import Watched
from egress.model import Agent


@dataclass(frozen=True, slots=True)
class RosterEntry:
    """An agent, and the interface that it is behind."""

    agent: Agent
    interface: str
    index: int  # the interface's, when it was looked up; 0: it was gone, or the agent is absent
    masquerade: bool  # a sandbox: its packets leave with the host's address in place of its private one
    absent: bool = False  # its addresses are unknown now: its packets are still queued, and none passes
    others: tuple[tuple[str, int], ...] = ()  # further interfaces that lead to it, and their indices: guarded, too
    outside: tuple[str, ...] = ()  # its interfaces whose packets do not cross this host: they cannot be guarded

    @property
    def places(self) -> tuple[tuple[str, int], ...]:
        """All interfaces of this host that lead to the agent, with their indices; `interface` is the first."""
        return ((self.interface, self.index), *self.others)

    def status(self) -> dict[str, object]:
        """Return the facts about an agent that the gateway's status shows."""
        agent = self.agent
        return {
            "name": agent.name,
            "interface": self.interface,
            "others": [name for name, _ in self.others],
            "outside": self.outside,
            "networks": agent.networks,
            "mode": agent.mode,
            "default": agent.default,
            "quarantined": agent.quarantined,
        }


class Roster:
    """The entries by agent name.

    An agent keeps its queues, and an interface, with all agents behind it, its worker, for as long as it is listed.
    """

    def __init__(self, workers: int, first_queue: int = Queue().base) -> None:
        self.entries: dict[str, RosterEntry] = {}
        self._workers = workers
        self._assigned: dict[str, int] = {}  # by interface
        self._addresses: frozenset[str] = frozenset()  # of this host
        self._first_queue = first_queue
        self._queues: dict[tuple[str, int], int] = {}  # by agent and worker: two cannot hold the same queue

    def replace(self, entries: Iterable[RosterEntry]) -> None:
        """Replace all entries, and read this host's addresses. New interfaces go to workers with the fewest interfaces.

        Raises OSError.
        """
        self.readdress()
        self._list(entries)

    def remove(self, names: Iterable[str]) -> None:
        """Remove the entries of these agents."""
        gone = set(names)
        if gone:
            self._list([entry for name, entry in self.entries.items() if name not in gone])

    def _list(self, entries: Iterable[RosterEntry]) -> None:
        """Replace all entries; assign a worker to each new interface, and queues to each new agent."""
        self.entries = {entry.agent.name: entry for entry in entries}
        present = {entry.interface for entry in self.entries.values()}
        self._assigned = {name: worker for name, worker in self._assigned.items() if name in present}
        for name in sorted(present - self._assigned.keys()):
            load = list(self._assigned.values())
            self._assigned[name] = min(range(self._workers), key=lambda worker: (load.count(worker), worker))
        taken = set(self._queues.values())  # also of agents that go now: their worker may hold them still
        free = (number for number in count(self._first_queue, 2) if number not in taken)
        owners = [(name, self.worker(name)) for name in self.entries]
        self._queues = {owner: self._queues[owner] if owner in self._queues else next(free) for owner in owners}

    def adopt(self, agents: Mapping[str, Agent]) -> bool:
        """Apply the agents' edited settings, except networks, to the entries. Returns True if an entry has changed.

        Networks belong to the attachment: they change with the interfaces, by `replace`.
        """
        before = self.entries
        self.entries = {name: _adopted(entry, agents.get(name)) for name, entry in before.items()}
        return self.entries != before

    def worker(self, name: str) -> int:
        """Return the worker of an agent (KeyError: not on the roster)."""
        return self._assigned[self.entries[name].interface]

    def watched(self, worker: int) -> tuple[Watched, ...]:
        """List the agents of one worker with their queues, once for each interface that leads to them."""
        mine = [name for name in self.entries if self.worker(name) == worker]
        places = [
            (self.entries[name], index, self.queue(name)) for name in mine for _, index in self.entries[name].places
        ]
        return tuple(Watched(entry.agent, index, queue) for entry, index, queue in places)

    def queue(self, name: str) -> int:
        """Return the full-depth queue of an agent (KeyError: not on the roster); the settled one is the next."""
        return self._queues[name, self.worker(name)]

    def crowded(self) -> set[str]:
        """Return the names of agents that share an interface: its packets are all in the queues of one of them."""
        behind = Counter(name for entry in self.entries.values() for name, _ in entry.places)
        return {name for name, entry in self.entries.items() if any(behind[place] > 1 for place, _ in entry.places)}

    def order(self, worker: int) -> dict[str, object]:
        """Return the fields of a worker's order `agents`."""
        return {"agents": self.watched(worker), "nearby": self.nearby}

    def attachments(self) -> list[Attachment]:
        """List the attachments that the kernel rules are made from."""
        return [
            Attachment(
                agent=entry.agent.name,
                interface=name,
                networks=entry.agent.networks,
                queue=self.queue(entry.agent.name),
                settled_queue=self.queue(entry.agent.name) + 1,
                masquerade=entry.masquerade,
            )
            for entry in self.entries.values()
            for name, _ in entry.places
        ]

    @property
    def nearby(self) -> tuple[str, ...]:
        """The addresses of this host and the networks of all agents: a rule for a domain name does not mean them.

        A network of all addresses (0.0.0.0/0), which an agent has whose sources are not checked, is left out.
        """
        networks = {network for entry in self.entries.values() for network in entry.agent.networks}
        networks = {network for network in networks if not network.endswith("/0")}
        return tuple(sorted(self._addresses | networks))

    def readdress(self) -> bool:
        """Read the addresses of this host again. Returns True if they have changed. Raises OSError."""
        before, self._addresses = self._addresses, host_addresses()
        return self._addresses != before

    def moved(self) -> list[str]:
        """List agents of which an interface is gone or is a new one of the same name. Absent agents are left out."""
        here = [(name, entry) for name, entry in self.entries.items() if not entry.absent]
        return [name for name, entry in here if any(interface_index(each) != index for each, index in entry.places)]


def _adopted(entry: RosterEntry, agent: Agent | None) -> RosterEntry:
    if agent is None:
        return entry
    return dataclasses.replace(entry, agent=dataclasses.replace(agent, networks=entry.agent.networks))


def interface_index(name: str) -> int:
    """Return the index of an interface, 0 if there is none of that name."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0

"""The policy and the agents in force now, and the orders that bring a worker to this policy."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator, Set

from egress.gateway.pipe.messages import encode
from egress.gateway.supervisor.snapshot import Snapshot
from egress.model import PolicyChange, Rule
from egress.store.policy.agents import StoredAgent

SLICE = 500  # rules per order: a worker takes an order between two batches of packets
NOTHING = -1  # `base` of orders for a whole policy, which replaces that of the worker


class Current:
    """The state in force. Only the event loop changes it, with no await during a change: readers see a whole state.

    `audit` and `head`: number and hash of the newest audit entry that is included. `host`: this gateway's name.
    """

    def __init__(self) -> None:
        self.version = self.audit = 0
        self.head = self.host = ""
        self.agents: tuple[StoredAgent, ...] = ()
        self.rules: dict[str, Rule] = {}
        self.once: set[str] = set()  # ids of rules that end with the first flow they admit
        self.lingering: set[str] = set()  # ids of spent rules that are removed here, but not from workers
        self._orders: Orders | None = None

    def replace(self, snapshot: Snapshot) -> None:
        """Replace the whole state by that of a snapshot."""
        self.version, self.audit, self.agents = snapshot.version, snapshot.audit, snapshot.agents
        self.head, self.host = snapshot.head, snapshot.host
        self.rules = {rule.id: rule for rule in snapshot.rules}
        self.once = {rule.id for rule in snapshot.rules if rule.once}
        self.lingering.clear()
        self._orders = None

    def orders_for(self, change: PolicyChange, spent: Set[str] = frozenset()) -> Orders | None:
        """Make the orders for a change; call this before `change`. None: send `orders()` after `change` instead.

        `spent`: ids of `once` rules that have admitted their flow. They are not removed from workers, since that would
        end the flow. Where the change adds a rule with such an id again, the workers need the whole policy.
        """
        silent = spent & set(change.removed)
        if any(rule.id in self.lingering or rule.id in silent for rule in change.added):
            return None
        removed = tuple(gone for gone in change.removed if gone not in silent)
        return Orders(dataclasses.replace(change, removed=removed))

    def change(self, change: PolicyChange, spent: Set[str] = frozenset()) -> None:
        """Apply a change to this state. `spent`: as in `orders_for`; workers keep these rules (`lingering`)."""
        for gone in change.removed:
            self.rules.pop(gone, None)
            self.once.discard(gone)
        self.lingering |= spent & set(change.removed)
        for rule in change.added:
            self.rules[rule.id] = rule
            if rule.once:
                self.once.add(rule.id)
        self.lingering -= {rule.id for rule in change.added}
        self.version, self._orders = change.version, None

    def snapshot(self) -> Snapshot:
        """Copy the state, for the disk. Rules are in no particular order: each has its position."""
        return Snapshot(self.version, self.audit, tuple(self.rules.values()), self.agents, self.host, self.head)

    def orders(self) -> Orders:
        """Return the orders for the whole policy; all workers that need the same version get the same object."""
        if self._orders is None:
            ordered = sorted(self.rules.values(), key=lambda rule: (rule.position, rule.id))
            self._orders = Orders(PolicyChange(NOTHING, self.version, (), tuple(ordered)))
        return self._orders


class Orders:
    """A change of policy as lines for a worker: parts, then the commit that applies them all at once.

    The lines are the same for all workers. Each is encoded once, when it is first read: 100,000 rules take a second.
    """

    def __init__(self, change: PolicyChange) -> None:
        self.version = change.version
        self._change = change
        self._lines: list[bytes] = []
        self._parts = max(-(-len(change.added) // SLICE), -(-len(change.removed) // SLICE))

    def __len__(self) -> int:
        return self._parts + 1

    def __iter__(self) -> Iterator[bytes]:
        for number in range(len(self)):
            if number == len(self._lines):
                self._lines.append(self._line(number))
            yield self._lines[number]

    async def encoded(self) -> None:
        """Encode all lines, and let other tasks run in between."""
        for _ in self:
            await asyncio.sleep(0)

    def _line(self, number: int) -> bytes:
        change = self._change
        if number == self._parts:
            return encode({"op": "policy.commit", "base": change.base, "version": change.version})
        chosen = slice(number * SLICE, (number + 1) * SLICE)
        part = {"removed": change.removed[chosen], "added": change.added[chosen]}
        return encode({"op": "policy.part", **part})

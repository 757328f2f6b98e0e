"""What is in force now: the policy's version and rules, the agents; and the orders that bring a worker there."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator, Set

from egress.gateway.pipe.messages import encode
from egress.gateway.supervisor.snapshot import Snapshot
from egress.model import PolicyChange, Rule
from egress.store.policy.agents import StoredAgent

SLICE = 500  # rules of one order: a worker takes them between two batches of packets
NOTHING = -1  # the base of a policy that replaces whatever a worker has


class Current:
    """Changed by the event loop only, and at once: whoever looks between two awaits sees one whole state."""

    def __init__(self) -> None:
        self.version = self.audit = 0
        self.host = ""
        self.agents: tuple[StoredAgent, ...] = ()
        self.rules: dict[str, Rule] = {}
        self.once: set[str] = set()  # ids of rules that are spent by one flow
        self.lingering: set[str] = set()  # spent and gone: workers keep them for the flows they have admitted
        self._orders: Orders | None = None

    def take(self, snapshot: Snapshot) -> None:
        """Replace all of it."""
        self.version, self.audit, self.agents = snapshot.version, snapshot.audit, snapshot.agents
        self.host = snapshot.host
        self.rules = {rule.id: rule for rule in snapshot.rules}
        self.once = {rule.id for rule in snapshot.rules if rule.once}
        self.lingering.clear()
        self._orders = None

    def orders_for(self, change: PolicyChange, spent: Set[str] = frozenset()) -> Orders | None:
        """What workers are to be told of a change; None: they are to begin anew, once it is taken.

        `spent` rules go without a word, for taking them from a worker would end the flow that each was good for. One
        of that id that comes later must be another.
        """
        silent = spent & set(change.removed)
        if any(rule.id in self.lingering or rule.id in silent for rule in change.added):
            return None
        told = tuple(gone for gone in change.removed if gone not in silent)
        return Orders(dataclasses.replace(change, removed=told))

    def change(self, change: PolicyChange, spent: Set[str] = frozenset()) -> None:
        """Take a change."""
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
        """In no particular order: a rule knows its position."""
        return Snapshot(self.version, self.audit, tuple(self.rules.values()), self.agents, self.host)

    def orders(self) -> Orders:
        """The whole policy, for a worker that has none; shared by all that start with this version."""
        if self._orders is None:
            ordered = sorted(self.rules.values(), key=lambda rule: (rule.position, rule.id))
            self._orders = Orders(PolicyChange(NOTHING, self.version, (), tuple(ordered)))
        return self._orders


class Orders:
    """A change of policy as lines for a worker: parts, then the commit that applies them all at once.

    The lines are the same for all workers. They are encoded as they are read, and once: 100,000 rules take a second.
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
        """Encode all of it, and let others run meanwhile."""
        for _ in self:
            await asyncio.sleep(0)

    def _line(self, number: int) -> bytes:
        change = self._change
        if number == self._parts:
            return encode({"op": "policy.commit", "base": change.base, "version": change.version})
        chosen = slice(number * SLICE, (number + 1) * SLICE)
        part = {"removed": change.removed[chosen], "added": change.added[chosen]}
        return encode({"op": "policy.part", **part})

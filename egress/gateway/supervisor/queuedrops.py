"""Count the packets that the kernel dropped at agents' queues.

The kernel's counts begin at 0 whenever a worker binds a queue, so the counts of earlier bindings are added here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from egress.gateway.kernel.drops import STATISTICS, Drops, drops

NONE = Drops(0, 0)


class QueueDrops:
    """The drops of agents' queues since the gateway started. Call `sample` about once a second."""

    def __init__(self, statistics: Path = STATISTICS) -> None:
        self._statistics = statistics
        self._earlier: dict[int, Drops] = {}
        self._now: dict[int, Drops] = {}

    def sample(self, agents: Mapping[str, int]) -> dict[str, int]:
        """Read the counts of the agents' pairs of queues: `agents` maps names to the first number of each pair.

        Returns the number of packets that each agent has lost since the last call; agents without a loss are left out.
        The counts of all other queues are forgotten, since another agent may get their numbers.
        """
        before = {name: self._total(number) for name, number in agents.items()}
        current = drops(self._statistics)
        in_use = [number + each for number in agents.values() for each in (0, 1)]
        for number, old in self._now.items():
            new = current.get(number, NONE)
            if new.queue < old.queue or new.socket < old.socket:
                self._earlier[number] = _sum(self._earlier.get(number, NONE), old)
        self._now = {number: current.get(number, NONE) for number in in_use}
        self._earlier = {number: count for number, count in self._earlier.items() if number in self._now}
        lost = {name: self._total(number) - before[name] for name, number in agents.items()}
        return {name: count for name, count in lost.items() if count > 0}

    def status(self, number: int) -> dict[str, dict[str, int]]:
        """Return the drops of the pair that begins with this number, by queue (full, settled) and by cause."""
        return {name: self._of(number + each)._asdict() for each, name in enumerate(("full", "settled"))}

    def _total(self, number: int) -> int:
        return sum(self._of(number)) + sum(self._of(number + 1))

    def _of(self, number: int) -> Drops:
        return _sum(self._now.get(number, NONE), self._earlier.get(number, NONE))


def _sum(one: Drops, other: Drops) -> Drops:
    return Drops(one.queue + other.queue, one.socket + other.socket)

"""Parked packets: they stay in the kernel's queue until an operator's decision, or the sending process, is known.

Only their handles are kept here. Parked packets take up room in their agent's queue, so their number is bounded: in
all, for each agent, and for each key (a hold's id, a flow's id). A packet beyond a bound is not parked: the caller
answers it at once.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from netfilterqueue import Packet as QueuedPacket

from egress.engine.outcome import Reply
from egress.gateway.kernel.link import Neighbour
from egress.gateway.worker.queue import PacketQueue

NEVER = float("inf")
SHARE = 4  # packets parked for holds take at most this part of the queue's length


class Bounds(NamedTuple):
    """The numbers of packets that may be parked at a time."""

    total: int
    agent: int
    key: int


HOLDS = Bounds(total=512, agent=128, key=8)  # an agent has at most 64 holds: two packets each
REFUSALS = Bounds(total=64, agent=16, key=1)


class ParkedPacket(NamedTuple):
    """A packet that the kernel has no answer for yet: `raw` serves to judge it again, `mark` to refuse it."""

    packet: QueuedPacket
    agent: str
    queue: PacketQueue
    raw: bytes = b""
    mark: int = 0
    until: float = NEVER  # monotonic
    reply: Reply | None = None  # sent in place of the mark
    sender: Neighbour | None = None


class Parked:
    """A store of parked packets by key, in the order of their arrival, within `bounds`."""

    def __init__(self, bounds: Bounds) -> None:
        self.packets = 0
        self.overflowed = 0  # packets that were not parked, since a bound was reached
        self._bounds = bounds
        self._by_key: dict[str, list[ParkedPacket]] = {}  # the oldest key first
        self._of_agent: Counter[str] = Counter()

    @property
    def due(self) -> float:
        """The deadline of the oldest key, NEVER where nothing is parked. All packets wait equally long, or forever."""
        return next(iter(self._by_key.values()))[0].until if self._by_key else NEVER

    def oldest(self) -> str:
        """Return the key that has waited longest. Raises StopIteration where nothing is parked."""
        return next(iter(self._by_key))

    def park(self, key: str, parked: ParkedPacket) -> bool:
        """Keep a packet until its key is released. False: a bound is reached."""
        there, bounds = self._by_key.get(key, []), self._bounds
        if self.packets >= bounds.total or len(there) >= bounds.key or self._of_agent[parked.agent] >= bounds.agent:
            self.overflowed += 1
            return False
        self._by_key[key] = [*there, parked]
        self._of_agent[parked.agent] += 1
        self.packets += 1
        return True

    def release(self, key: str) -> list[ParkedPacket]:
        """Take out all packets of a key; the caller answers them."""
        released = self._by_key.pop(key, [])
        self.packets -= len(released)
        self._of_agent -= Counter(parked.agent for parked in released)
        return released


def for_holds(queue_length: int) -> Parked:
    """Make the store for packets on hold: at most HOLDS, and at most a quarter of the queue."""
    return Parked(HOLDS._replace(total=min(HOLDS.total, queue_length // SHARE)))

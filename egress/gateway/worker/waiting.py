"""Packets that wait for a person (mode ask): they stay in the kernel's queue, and their handles here, by hold.

Bounded, for they take room in the queue that all of a worker's packets need: what is over is not kept, and the caller
drops it. Its sender sends it again.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from netfilterqueue import Packet as QueuedPacket

PACKETS_OF_HOLD = 8
PACKETS_OF_AGENT = 128  # two of each hold it may have; one agent alone leaves room for others
PACKETS = 512
SHARE = 4  # and at most this part of the queue's length


class Kept(NamedTuple):
    """A packet that was not answered."""

    packet: QueuedPacket
    raw: bytes
    agent: str
    settled: bool  # which of the two queues it is in


class Waiting:
    """Keeps packets in the order of their arrival."""

    def __init__(self, queue_length: int) -> None:
        self.packets = 0
        self.overflowed = 0  # not kept, so far
        self._limit = min(PACKETS, queue_length // SHARE)
        self._kept: dict[str, list[Kept]] = {}
        self._of_agent: Counter[str] = Counter()

    def keep(self, hold: str, kept: Kept) -> bool:
        """Until this hold is over. False: there is no room for it."""
        there = self._kept.get(hold, [])
        if (
            self.packets >= self._limit
            or len(there) >= PACKETS_OF_HOLD
            or self._of_agent[kept.agent] >= PACKETS_OF_AGENT
        ):
            self.overflowed += 1
            return False
        self._kept[hold] = [*there, kept]
        self._of_agent[kept.agent] += 1
        self.packets += 1
        return True

    def release(self, hold: str) -> list[Kept]:
        """What waited for this hold, and does not any more."""
        released = self._kept.pop(hold, [])
        self.packets -= len(released)
        self._of_agent -= Counter(kept.agent for kept in released)
        return released

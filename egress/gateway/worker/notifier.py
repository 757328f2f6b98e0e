"""The worker's side: it tells of new flows, and lets a refusal wait a moment for the look-up of who is refused.

A refusal ends what it refuses at once, socket and often process; while it waits, both are there to be looked at. What
passes never waits. Nor does a refusal where nobody looks: one that waited in vain ends the waiting for its agent for a
second.
"""

from __future__ import annotations

import socket
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from netfilterqueue import Packet as QueuedPacket

from egress.gateway.pipe.note import Teller
from egress.model import Action
from egress.records.shape import FlowRecord, Record

PATIENCE = 0.02  # seconds a refusal waits at most
PAUSE = 1.0  # seconds without waiting for an agent of which one waited in vain
MAX_KEPT, MAX_KEPT_AGENT = 64, 16  # refusals that wait at a time
ANSWER_BYTES = 64
_BATCH = 64


class Kept(NamedTuple):
    packet: QueuedPacket
    mark: int
    settled: bool
    agent: str
    until: float  # monotonic


class Asking:
    """`tell` first, then `keep` what is refused; `read` when the socket is readable and `expire` when it is `due`."""

    def __init__(self, descriptors: Sequence[int], answer: Callable[[Kept], None]) -> None:
        self.socket = socket.socket(fileno=descriptors[0]) if descriptors else None  # None: nobody is to be told
        self.vain = 0  # refusals that waited in vain
        self._teller, self._answer = Teller(self.socket), answer
        self._kept: OrderedDict[str, Kept] = OrderedDict()  # by flow id, the oldest first
        self._of_agent: Counter[str] = Counter()
        self._paused: dict[str, float] = {}  # agent → until when

    @property
    def due(self) -> float:
        """When the first refusal has waited long enough (monotonic)."""
        return next(iter(self._kept.values())).until if self._kept else float("inf")

    def tell(self, records: Iterable[Record], interface: int) -> str:
        """Say which of these records begin a flow; the id of one that is refused and may wait, else nothing."""
        told = ""
        for record in records:
            if isinstance(record, FlowRecord) and self._teller.tell(record, interface):
                told = record.flow_id if record.action in (Action.REJECT, Action.DROP) else ""
        return told

    def keep(self, flow_id: str, agent: str, packet: QueuedPacket, mark: int, *, settled: bool) -> bool:
        """Let a refusal wait for the look-up of its flow. False: answer it now."""
        now = time.monotonic()
        if len(self._kept) >= MAX_KEPT or self._of_agent[agent] >= MAX_KEPT_AGENT or flow_id in self._kept:
            return False
        if self._paused.get(agent, 0.0) > now:
            return False
        self._of_agent[agent] += 1
        self._kept[flow_id] = Kept(packet, mark, settled, agent, now + PATIENCE)
        return True

    def read(self) -> None:
        """Answer what has been looked up."""
        assert self.socket is not None
        for _ in range(_BATCH):
            try:
                message = self.socket.recv(ANSWER_BYTES, socket.MSG_DONTWAIT)
            except OSError:
                return
            if not message:
                return
            self._release(message.decode("ascii", "replace"))

    def expire(self, *, all_of_them: bool = False) -> None:
        """Answer what has waited long enough."""
        now = time.monotonic()
        while self._kept and (all_of_them or self.due <= now):
            flow_id, kept = next(iter(self._kept.items()))
            if not all_of_them:
                self.vain += 1
                self._paused = {agent: until for agent, until in self._paused.items() if until > now}
                self._paused[kept.agent] = now + PAUSE
            self._release(flow_id)

    def counters(self) -> dict[str, int]:
        """For the heartbeat."""
        return {"told": self._teller.told, "dropped": self._teller.dropped, "vain": self.vain}

    def _release(self, flow_id: str) -> None:
        kept = self._kept.pop(flow_id, None)
        if kept is not None:
            self._of_agent[kept.agent] -= 1
            self._of_agent += Counter()  # agents come and go: those without any are forgotten
            self._answer(kept)

"""Send notes of new flows to the attribution process, and let refusals wait for its answer.

The attribution process looks up the socket and the process behind a flow. A refusal closes the agent's socket at once,
and the process often ends with it: so a refusal waits up to 20 ms, until both have been looked up. A packet that passes
never waits. While the attribution process does not answer, refusals do not wait either: after a timeout the refusals of
that agent are sent at once for one second.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Sequence

from egress.gateway.pipe.note import NoteSender
from egress.gateway.worker.parked import REFUSALS, Parked, ParkedPacket
from egress.model import Action
from egress.records.shape import FlowRecord, Record

PATIENCE = 0.02  # seconds a refusal waits at most
PAUSE = 1.0  # seconds without waiting for an agent one of whose refusals timed out
ANSWER_BYTES = 64
_BATCH = 64


class Notifier:
    """Sends notes, and parks refusals until their flows have been looked up.

    Call `send` first, then `park` for a refused packet; `read` when the socket is readable, `expire` when it is `due`.
    `answer` is called with each refusal whose wait has ended. `descriptors`: the socket, none if attribution is off.
    """

    def __init__(self, descriptors: Sequence[int], answer: Callable[[ParkedPacket], None]) -> None:
        self.socket = socket.socket(fileno=descriptors[0]) if descriptors else None  # None: attribution is off
        self.timeouts = 0  # refusals that waited PATIENCE seconds without an answer
        self._sender, self._answer = NoteSender(self.socket), answer
        self._parked = Parked(REFUSALS)
        self._paused: dict[str, float] = {}  # agent → until when

    @property
    def due(self) -> float:
        """Monotonic time at which the first refusal will have waited PATIENCE seconds; infinite if none waits."""
        return self._parked.due

    def send(self, records: Iterable[Record], interface: int) -> str:
        """Send a note of each record that begins a flow.

        Returns the id of the refused flow whose packet may be parked; empty if there is none.
        """
        waits = ""
        for record in records:
            if isinstance(record, FlowRecord) and self._sender.send(record, interface):
                waits = record.flow_id if record.action in (Action.REJECT, Action.DROP) else ""
        return waits

    def park(self, flow_id: str, refusal: ParkedPacket) -> bool:
        """Let a refusal wait until its flow is looked up. False: answer it now."""
        now = time.monotonic()
        if self._paused.get(refusal.agent, 0.0) > now:
            return False
        return self._parked.park(flow_id, refusal._replace(until=now + PATIENCE))

    def read(self) -> None:
        """Answer the refusals whose flows have been looked up."""
        assert self.socket is not None
        for _ in range(_BATCH):
            try:
                message = self.socket.recv(ANSWER_BYTES, socket.MSG_DONTWAIT)
            except OSError:
                return
            if not message:
                return
            self._release(message.decode("ascii", "replace"))

    def expire(self) -> None:
        """Answer the refusals that have waited PATIENCE seconds, and park none of their agents for PAUSE seconds."""
        now = time.monotonic()
        while self._parked.due <= now:
            for refusal in self._release(self._parked.oldest()):
                self.timeouts += 1
                self._paused = {agent: until for agent, until in self._paused.items() if until > now}
                self._paused[refusal.agent] = now + PAUSE

    def flush(self) -> None:
        """Answer all refusals now."""
        while self._parked.packets:
            self._release(self._parked.oldest())

    def counters(self) -> dict[str, int]:
        """Return the counts of notes and timeouts, for the heartbeat."""
        return {"told": self._sender.sent, "dropped": self._sender.dropped, "vain": self.timeouts}

    def _release(self, flow_id: str) -> list[ParkedPacket]:
        released = self._parked.release(flow_id)
        for refusal in released:
            self._answer(refusal)
        return released

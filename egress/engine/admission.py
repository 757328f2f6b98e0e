"""Decides whether a packet may begin a flow, by the conditions that come before the rules and that no rule can lift."""

from __future__ import annotations

from egress.engine.flow import Flow, Key
from egress.engine.refusals import Refusals
from egress.engine.tracker import Tracker
from egress.limits import Limits
from egress.model import ACK, ICMP, ICMPV6, SYN, TCP, Action, Agent, Direction, Mode, Packet, Reason, Verdict
from egress.wire.icmp import answers_known

PASS = Verdict(Action.ACCEPT, Reason.DEFAULT)


class Admission:
    """Checks packets that would begin a flow.

    The caller sets `refuse_new` while records cannot be written: each such packet is refused then.
    """

    def __init__(self, limits: Limits, tracker: Tracker, refusals: Refusals) -> None:
        self.refuse_new = False
        self._limits, self._tracker, self._refusals = limits, tracker, refusals
        self._began: float | None = None  # when the first packet of a flow came

    def answer(
        self,
        old: Flow | None,
        key: Key,
        packet: Packet,
        ts: float,
        agent: Agent,
        direction: Direction,
        *,
        settled: bool,
    ) -> Verdict | None:
        """Return the verdict on a packet that begins no flow; None if it may begin one: then the table has room for it.

        The verdict is a refusal, which is recorded (ACCEPT if the agent is only monitored), or ACCEPT for an ICMP error
        about a known flow. `old` is the flow with the same addresses and ports, if there is one: a SYN inside its live
        connection is refused, else `old` is ended. `settled`: the kernel has the connection marked as settled, so it
        may be picked up in mid-stream.
        """
        if self._began is None:
            self._began = ts
        if old is not None:
            if old.state == "established" and ts - old.last < self._limits.tcp_handshake:
                return self._refusals.refuse(agent, packet, ts, Reason.SEQUENCE, "SYN inside a live connection")
            self._tracker.forget(old, ts, "closed")
        if direction is Direction.OUT and not self._tracker.owns(agent, packet.src):
            return self._refusals.refuse(agent, packet, ts, Reason.SPOOFED, "source is not the agent's")
        table = self._tracker.table(agent.name)
        error = direction is Direction.IN and packet.proto in (ICMP, ICMPV6) and answers_known(packet, table.flows)
        if error and not agent.quarantined:
            return PASS
        if self.refuse_new:
            return self.unrecorded(agent, packet, ts)
        if packet.proto == TCP and agent.mode is not Mode.MONITOR and not settled:
            if packet.flags & (SYN | ACK) == SYN | ACK:
                detail = "the answer to a SYN that was not seen"
                return self._refusals.refuse(agent, packet, ts, Reason.SEQUENCE, detail)
            if not packet.flags & SYN and not self._tracker.may_pick_up(table, key, ts - self._began):
                return self._refusals.refuse(agent, packet, ts, Reason.MIDSTREAM, "no beginning was seen")
        if not self._tracker.make_room(table, ts):
            return self._refusals.refuse(agent, packet, ts, Reason.MEMCAP, "no room for another flow")
        return None

    def unrecorded(self, agent: Agent, packet: Packet, ts: float) -> Verdict:
        """Refuse a packet because records cannot be written, and return its verdict."""
        return self._refusals.refuse(agent, packet, ts, Reason.RECORDER, "records cannot be written")

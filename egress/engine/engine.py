"""The engine: one packet in, one verdict and its records out. It opens no socket and reads no clock.

    packet   = decode(raw)                malformed: refused, counted as an anomaly
    flow     = the agent's flow           one for each agent and 5-tuple. A new one is judged at once: spoofed source,
                                          no room, deny rules, allow rules, the agent's default, refused destinations,
                                          budgets
    count, timing                         packets, bytes; did the agent speak first after silence?
      ├─ refused flow ──▶                 the same answer again
      └─ settled flow ──▶                 byte patterns over the visible bytes; a match moves the flow back to full
                                          inspection
    facts    = dissect(ordered bytes)     both directions in order. After a name, a protocol or a DNS query the rules
                                          are asked again
    findings = signatures(fact, flow)     a finding refuses the flow, whatever allowed it, unless the rule exempts the
                                          signature
    answer   = the flow's verdict as it stands now, and the records

Time is an input: `tick(ts)` does the work that is due, `next_tick()` returns the time of the next such work. Equal
input gives equal records. No packet waits in the engine: a packet whose flow is on hold is answered with HOLD, and
judged when it comes again (`egress.engine.holds`). `egress.engine.stage` has the life of a flow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from egress.dissection.events import DnsAsked, Event, Overrun, Unread
from egress.dissection.registry import REGISTRY
from egress.dissection.stream import SegmentOverflowError
from egress.engine.admission import Admission
from egress.engine.findings import Findings
from egress.engine.flow import Flow, Key, flow_key
from egress.engine.holds import Holds
from egress.engine.judge import Judge
from egress.engine.outbox import Outbox
from egress.engine.outcome import Outcome
from egress.engine.patterns import Patterns, with_beginning
from egress.engine.queries import DNS_PORT, Queries
from egress.engine.reassembly import begin_turn, events, repeated_handshake, rhythmic
from egress.engine.refusals import Refusals
from egress.engine.settling import Settling
from egress.engine.signature import Signature
from egress.engine.stage import Stage
from egress.engine.tracker import Tracker
from egress.engine.verdicts import Verdicts
from egress.errors import MalformedError
from egress.limits import Limits
from egress.model import (
    ACK,
    SYN,
    TCP,
    UDP,
    Action,
    Agent,
    Direction,
    Hold,
    Mode,
    Packet,
    Policy,
    PolicyChange,
    Reason,
    Verdict,
)
from egress.records.shape import Record
from egress.wire.fragments import fragmented
from egress.wire.packet import decode

OUT, IN, REFUSED, SETTLED = Direction.OUT, Direction.IN, Stage.REFUSED, Stage.SETTLED
MAX_DEFERRED = 64  # facts of a waiting TCP segment; a segment with more queries than that is refused


class Engine:
    """Judges all traffic of some agents; each agent belongs to one engine.

    `gate_queries`: DNS queries for names that no rule allows are refused. `refuse_ech`: a TLS hello with an ECH
    extension counts as one that hides the name of its server.
    """

    def __init__(
        self,
        limits: Limits,
        policy: Policy,
        signatures: Sequence[Signature],
        *,
        gate_queries: bool = True,
        refuse_ech: bool = False,
    ) -> None:
        self.limits = limits
        outbox = self._outbox = Outbox(limits)
        self.note, self.folded = outbox.note, outbox.folded
        self._refusals = Refusals(outbox)
        self._tracker = Tracker(limits, outbox)
        self.admission = Admission(limits, self._tracker, self._refusals)
        self._judge = Judge(limits, policy, gate_queries=gate_queries, refuse_ech=refuse_ech)
        self._holds = Holds(limits, outbox)
        self._verdicts = Verdicts(self._judge, self._holds, self._tracker, outbox)
        self._queries = Queries(limits, self._judge, self._verdicts, self._tracker, outbox)
        self._findings = Findings(signatures, self._judge, self._verdicts, outbox)
        self._settling = Settling(limits, self._judge, self._verdicts, self._tracker, Patterns(signatures), outbox)

    # --- the path of a packet ---------------------------------------------------------------------------

    def packet(
        self,
        raw: bytes,
        ts: float,
        agent: Agent,
        direction: Direction,
        wire_length: int | None = None,
        *,
        settled: bool = False,
    ) -> Outcome:
        """Judge one IP packet of `agent` at time `ts` (seconds); return its verdict, records, and any reply.

        `wire_length` is its full length if `raw` was cut. `settled`: the kernel has its connection marked as settled;
        if its flow is not known here (any more), the packet begins one, in mid-stream too.
        """
        try:
            packet = decode(raw, wire_length)
            if fragmented(raw):
                raise MalformedError("a fragment: it was not reassembled (is connection tracking on?)")
        except MalformedError as error:
            return self._answer(self._refusals.malformed(agent, raw, ts, str(error)))
        if ts >= self._verdicts.expiry:
            self._verdicts.expire(ts)
        table = self._tracker.table(agent.name)
        key = flow_key(packet, direction)
        flow = table.flows.get(key)
        if flow is not None and flow.who is not agent:
            self._verdicts.adopt(flow, agent, ts)
            flow = table.flows.get(key)
        if flow is not None and flow.due is not None:
            self._verdicts.review(flow, ts)
            flow = table.flows.get(key)
        if flow is None or (packet.proto == TCP and packet.flags & (SYN | ACK) == SYN):
            verdict = self._begin(flow, key, packet, ts, agent, direction, settled)
            if verdict is not None:
                return self._answer(verdict)
            flow = table.flows[key]
        if flow.hold:
            verdict = self._resume(flow, packet, ts)
            if verdict is not None:
                return self._answer(verdict)
        table.touch(flow, ts)
        verdict = self._inspect(flow, packet, raw, ts, direction)
        if verdict is None and not self._outbox.records and self._queries.reply is None:
            return flow.outcome
        return self._answer(verdict or flow.outcome.verdict)

    def _answer(self, verdict: Verdict) -> Outcome:
        """Return the outcome with this verdict, the records written so far, and the reply to a refused query."""
        return Outcome(verdict, self._outbox.take(), self._queries.take())

    # The steps below return a verdict on the packet alone, or None: its flow's verdict is the answer.
    def _inspect(self, flow: Flow, packet: Packet, raw: bytes, ts: float, direction: Direction) -> Verdict | None:
        """Count and inspect a packet as its flow's stage requires. Returns its own verdict, or None (see above)."""
        flow.count(packet, ts, direction)
        counts = flow.who.budgets and direction is OUT and not flow.refused
        if counts and self._judge.count_bytes(flow, packet.length, ts):
            self._verdicts.rejudge(flow, ts)
        if packet.proto == TCP and flow.advance(packet.flags, direction):
            self._tracker.watch(flow)
        burst = flow.client_first(packet, ts, direction, self.limits.idle_gap)
        if flow.stage is SETTLED:
            return self._short(flow, packet, raw, ts, direction, burst)
        if flow.stage is REFUSED:
            asks = direction is OUT and flow.rport == DNS_PORT
            return self._queries.repeat(flow, packet, ts) if asks else None
        return self._long(flow, packet, raw, ts, direction, burst)

    def _short(
        self, flow: Flow, packet: Packet, raw: bytes, ts: float, direction: Direction, burst: bool
    ) -> Verdict | None:
        """Handle a packet of a settled flow: timing (`burst`: as in `events`), byte patterns. Returns as `_inspect`."""
        if packet.missing:
            flow.miss(packet.missing)
        if burst and rhythmic(flow):
            self._signal(flow, begin_turn(flow, packet, ts), ts)
        if direction is IN or flow.stage is REFUSED:
            return None
        if flow.proto == UDP and REGISTRY.reopens(packet.payload):
            if flow.stage is SETTLED:  # a finding may have taken back the flow of a monitored agent just now
                self._settling.reopen(flow)
            return self._long(flow, packet, raw, ts, direction, False)
        if flow.records is not None and packet.payload and not flow.records.holds(packet):
            self._settling.break_off(flow, ts)
        scan = flow.scan
        if scan is not None and packet.payload and flow.stage is SETTLED and scan.hit(packet):
            tail = scan.tail
            self._settling.reopen(flow)
            return self._long(flow, with_beginning(tail, packet), raw, ts, direction, False)
        return None

    def _long(
        self, flow: Flow, packet: Packet, raw: bytes, ts: float, direction: Direction, burst: bool
    ) -> Verdict | None:
        """Dissect all bytes of a packet under inspection; settle its flow if it is due. Returns as `_inspect`."""
        flow.keep_evidence(raw, packet.length, ts, direction, self.limits)
        monitored, listening = flow.who.mode is Mode.MONITOR, flow.stage is Stage.LISTENING
        if packet.missing and not (monitored or flow.partial or listening):
            detail = f"{packet.missing} bytes of the packet did not reach the inspection"
            return self._refusals.refuse(flow.who, packet, ts, Reason.TRUNCATED, detail)
        try:
            for event in events(flow, packet, ts, direction, self.limits.stream_buffer, burst=burst):
                self._signal(flow, event, ts)
        except SegmentOverflowError as full:
            return self._refusals.refuse(flow.who, packet, ts, Reason.SEQUENCE, str(full))
        if (verdict := self._queries.finish(flow, packet, ts)) is not None:
            return verdict
        if flow.hold:  # for a query in it
            flow.uncount(packet, direction)
            self._judge.uncount_bytes(flow, packet.length, ts)
        self._settling.identify(flow, ts)
        if flow.outcome.verdict.action is Action.ACCEPT:
            self._settling.settle_if_due(flow, ts)
        return None

    # --- findings ---------------------------------------------------------------------------------------

    def _signal(self, flow: Flow, event: Event, ts: float) -> None:
        """Pass an event to the rules, then to the signatures. While the flow is on hold the event is kept for later.

        A segment with more than MAX_DEFERRED such events refuses its flow. An `Unread` is only recorded.
        """
        if isinstance(event, Unread):
            self._refusals.unread(flow, event.size, ts)
            return
        if isinstance(event, DnsAsked) and not flow.hold:
            self._queries.asked(flow, event, ts)
        elif not flow.hold and self._judge.observe(flow, event, ts):
            self._verdicts.rejudge(flow, ts)
        if flow.hold:
            if flow.defer(event) > MAX_DEFERRED:
                self._verdicts.object_to(flow, Reason.QUERY, ts)
            return
        self._findings.see(flow, event, ts)

    def _resume(self, flow: Flow, packet: Packet, ts: float) -> Verdict | None:
        """Return the verdict on a packet of a flow on hold; None if the hold is over: the packet is to be inspected.

        Once the hold is over the flow is judged again, and its kept events are passed on.
        """
        if self._verdicts.waits(flow):
            return flow.outcome.verdict
        if self.admission.refuse_new and not flow.admitted:
            return self.admission.unrecorded(flow.who, packet, ts)
        self._verdicts.resume(flow, ts)
        for event in flow.take_deferred():
            self._signal(flow, event, ts)
        return flow.outcome.verdict if flow.hold else None

    # --- a new flow -------------------------------------------------------------------------------------

    def _begin(
        self, old: Flow | None, key: Key, packet: Packet, ts: float, agent: Agent, direction: Direction, settled: bool
    ) -> Verdict | None:
        """Begin a flow with its first packet and return None, or return the verdict on a packet that begins none.

        `old` is the flow that has the packet's addresses and ports already. If it is refused, or if this SYN began it,
        it stays: returns None.
        """
        if old is not None and (old.refused or repeated_handshake(old, packet, direction)):
            return None
        verdict = self.admission.answer(old, key, packet, ts, agent, direction, settled=settled)
        if verdict is not None:
            return verdict
        flow = Flow(agent, key, packet, ts, direction, vouched=settled)
        self._verdicts.admit(flow, ts)
        self._tracker.add(flow)
        self._outbox.counts["flows"] += 1
        self._outbox.flow(flow, ts)
        return None

    # --- time and change --------------------------------------------------------------------------------

    def tick(self, ts: float) -> tuple[Record, ...]:
        """Do the due work, and return its records: late holds, expired rules, silent flows, counted refusals.

        One call judges again and forgets a bounded number of flows. `next_tick` is not later than `ts` while more are
        due.
        """
        self._refusals.tick(ts)
        self._verdicts.tick(ts)
        self._tracker.expire(ts)
        self._outbox.tick(ts)
        return self._outbox.take()

    def next_tick(self) -> float:
        """Return the time at which `tick` has something to do; infinity if there is nothing."""
        return min(part.next_tick() for part in (self._tracker, self._refusals, self._verdicts, self._outbox))

    def withdraw(self, raw: bytes, ts: float, agent: Agent, direction: Direction) -> tuple[Record, ...]:
        """Refuse and forget the flow that the packet just judged began, as its records could not be written.

        Otherwise the first packet, sent again, would find its flow admitted, without any record of it. Returns the
        flow's last records; none, and nothing changes, if the packet began no flow or its flow is refused.
        """
        flow = self._find(raw, agent, direction)
        if flow is None or flow.packets_out + flow.packets_in > 1 or flow.refused:
            return ()
        self._verdicts.refuse(flow, Reason.RECORDER, ts)
        self._tracker.forget(flow, ts, "closed")
        self._tracker.table(agent.name).ended.discard(flow.key)
        return self._outbox.take()

    def _find(self, raw: bytes, agent: Agent, direction: Direction) -> Flow | None:
        """Return the flow of a packet that was judged before (so it decodes); None if it was forgotten since."""
        return self._tracker.table(agent.name).flows.get(flow_key(decode(raw, max(len(raw), 0xFFFF)), direction))

    def set_policy(self, policy: Policy, ts: float) -> tuple[Record, ...]:
        """Judge by other rules from now on, live flows included; a flow that only rules refused may try again.

        Returns the records of the verdicts that changed. Some flows are judged again at once, the others in the ticks
        that follow, and each before its next packet.
        """
        self._verdicts.set_policy(policy, ts)
        return self._outbox.take()

    def change_policy(self, change: PolicyChange, ts: float) -> tuple[Record, ...]:
        """Change some of the rules: as `set_policy`, but only the flows that the change can affect are judged again.

        Raises ValueError, and changes nothing, if the change is of another version than the one in force or does not
        fit it.
        """
        self._verdicts.change_policy(change, ts)
        return self._outbox.take()

    def set_nearby(self, networks: Iterable[str]) -> None:
        """Set the networks of this host and of all agents: a rule with a name admits them only if it is `private`."""
        self._judge.set_nearby(networks)

    def change_agent(self, agent: Agent, ts: float) -> None:
        """Apply an agent's new settings to its holds at once, and to each of its flows from its next packet on.

        Holds that the agent may not have any more (quarantine, another mode) are withdrawn.
        """
        self._verdicts.change_agent(agent, ts)

    def overrun(self, agent: str, dropped: int, ts: float) -> tuple[Record, ...]:
        """Pass to the signatures that the kernel dropped packets of an agent, as its queue was full.

        The event is on the agent's newest flow; without a flow nothing happens. Returns the records of findings.
        """
        if (flow := self._tracker.newest(agent)) is not None:
            self._signal(flow, Overrun(dropped), ts)
        return self._outbox.take()

    @property
    def holds(self) -> Mapping[str, Hold]:
        """The pending holds by id: a live view, which the caller must not change."""
        return self._holds.pending

    def hold_of(self, raw: bytes, agent: Agent, direction: Direction) -> str:
        """Return the id of the hold for which the caller must keep this packet, just answered with HOLD; "" if none."""
        flow = self._find(raw, agent, direction)
        return flow.hold if flow is not None and self._verdicts.waits(flow) else ""

    def answer(self, identifier: str, action: Action, ts: float) -> tuple[Record, ...]:
        """Refuse the flows that wait for this hold, and return their records; does nothing if the hold is over already.

        Raises ValueError for another action than REJECT: to approve is to add a rule.
        """
        if action is not Action.REJECT:
            raise ValueError(f"a hold is answered with reject, or ends when a rule admits it, but not with {action}")
        self._verdicts.deny(identifier, ts)
        return self._outbox.take()

    def ended_holds(self) -> tuple[tuple[str, str], ...]:
        """Return (id, state) of the holds that ended since the last call: approved, denied, expired or withdrawn.

        State `pending`: a query has waited long enough; its packets must be presented again, though the hold goes on.
        Call it after each method that may end one: change_policy, set_policy, change_agent, answer, tick, release and
        packet. Then pass the packets that were kept for the hold to `packet` again, in their order, whatever its state.
        """
        return self._holds.ended()

    def release(self, agent: str, ts: float) -> tuple[Record, ...]:
        """End the flows and holds of an agent that is gone, and forget its names, budgets and refused destinations.

        Returns the last records of the flows. Where the agent has many flows, the ticks that follow end the others.
        """
        self._verdicts.forget(agent)
        self._tracker.drop(agent, ts)
        self._outbox.release(agent, ts)
        return self._outbox.take()

    def shutdown(self, ts: float) -> tuple[Record, ...]:
        """End all flows and holds; return their last records."""
        self._refusals.tick(float("inf"))
        for agent in self._tracker.agents():
            self._verdicts.forget(agent)
        self._tracker.drop_all(ts)
        self._outbox.release_all(ts)
        return self._outbox.take()

    def stats(self) -> dict[str, int]:
        """Return the counters since the start, and the numbers of live flows, buffered bytes and waiting holds."""
        sizes = {"live_flows": self._tracker.live, "buffered_bytes": self._tracker.buffered, "waiting": len(self.holds)}
        return self._outbox.counts | sizes

"""The engine: one packet in, one verdict and its records out. It opens no socket and reads no clock.

    packet   = decode(raw)                bytes -> Packet; malformed ones are refused and counted
    flow     = the agent's flow           one per agent and 5-tuple
    (settled or refused: counters, timing, byte patterns, and out: the short way)
    events   = dissect(flow, packet)      ordered stream bytes -> facts
    findings = signatures(event, flow)    facts and time -> opinions
    verdict  = rules, destinations, findings, in one written order

Time is an input: `tick(ts)` does what is due, `next_tick()` says when. Equal input gives equal records. Nothing waits
in here: a packet whose flow is on hold is answered with HOLD, and looked at when it comes again (`engine.holds`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from egress.dissection.dissector import begins_quic
from egress.dissection.events import Burst, Event
from egress.engine.evidence import Evidence
from egress.engine.flow import Flow, FlowTable, Key, flow_key, repeated_handshake
from egress.engine.outcome import Outcome
from egress.engine.patterns import Patterns, with_beginning
from egress.engine.reassembly import events
from egress.engine.records import finding_record, flow_record
from egress.engine.refusals import Refusals
from egress.engine.settling import Settling
from egress.engine.signature import Signature
from egress.engine.stream import SegmentOverflowError
from egress.engine.tracker import Tracker
from egress.engine.verdicts import Verdicts
from egress.errors import MalformedError
from egress.limits import Limits
from egress.model import (
    ACK,
    ICMP,
    ICMPV6,
    SYN,
    TCP,
    UDP,
    Action,
    Agent,
    Direction,
    Effect,
    Finding,
    Hold,
    Mode,
    Packet,
    Policy,
    PolicyChange,
    Reason,
    Verdict,
)
from egress.policy.rulebook import exempt
from egress.records.shape import Record
from egress.wire.icmp import answers_known
from egress.wire.packet import decode, fragmented

OUT, IN = Direction.OUT, Direction.IN
MAX_DEFERRED = 64  # facts that a waiting TCP segment tells; one with more queries than that is refused
PASS = Outcome(Verdict(Action.ACCEPT, Reason.DEFAULT))


class Engine:
    """The judge of all traffic of some agents; each agent belongs to one engine."""

    def __init__(
        self, limits: Limits, policy: Policy, signatures: Sequence[Signature], *, gate_queries: bool = True
    ) -> None:
        self.limits = limits
        self.refuse_new = False  # records cannot be written: nothing new may pass
        self._listeners: dict[type, list[Signature]] = {}
        for signature in signatures:
            for event in signature.listens:
                self._listeners.setdefault(event, []).append(signature)
        self._counts: Counter[str] = Counter()
        self._tracker = Tracker(limits)
        self._verdicts = Verdicts(limits, policy, self._tracker, self._counts, gate_queries=gate_queries)
        self._judge = self._verdicts.judge
        self._settling = Settling(limits, self._tracker, self._verdicts, Patterns(signatures), self._counts)
        self._refusals = Refusals()
        self._began: float | None = None  # when the first packet of a flow came

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
        """Judge one packet of `agent` at time `ts`; `wire_length` is its full length if `raw` was cut.

        `settled`: the kernel has its connection marked as settled, whether or not this engine remembers it.
        """
        try:
            packet = decode(raw, wire_length)
            if fragmented(raw):
                raise MalformedError("a fragment: nobody reassembles (is connection tracking on?)")
        except MalformedError as broken:
            return self._refusals.malformed(agent, raw, ts, str(broken))
        table = self._tracker.table(agent.name)
        key = flow_key(packet, direction)
        flow = table.flows.get(key)
        records: tuple[Record, ...] = ()
        if flow is not None and flow.who is not agent:
            records = self._verdicts.under(flow, agent, ts)
            flow = table.flows.get(key)
        if flow is None or (packet.proto == TCP and packet.flags & (SYN | ACK) == SYN):
            answer, more = self._admit(table, flow, key, packet, ts, agent, direction, settled)
            records += more
            if answer is not None:
                return Outcome(answer.verdict, records + answer.records)
            flow = table.flows[key]
        if flow.hold:
            answer, more = self._resume(flow, packet, ts, agent)
            records += more
            if answer is not None:
                return Outcome(answer.verdict, records + answer.records)
        flow.count(packet, ts, direction)
        if agent.budgets and direction is OUT and not flow.refused and self._judge.sent(flow, packet.length, ts):
            records += self._verdicts.again(flow, ts)
        table.touch(flow, ts)
        if packet.proto == TCP and flow.advance(packet.flags, direction):
            self._tracker.timers.watch(flow)
        burst = flow.client_first(packet, ts, direction, self.limits.idle_gap)
        if flow.outcome.verdict.action is not Action.ACCEPT:
            return Outcome(flow.outcome.verdict, records) if records else flow.outcome
        if flow.verdict.settled and not flow.listening:
            return self._short(flow, packet, raw, ts, direction, burst, records)
        self._keep(flow, raw, packet, ts, direction)
        return self._long(flow, packet, ts, direction, burst, records)

    def _short(
        self,
        flow: Flow,
        packet: Packet,
        raw: bytes,
        ts: float,
        direction: Direction,
        burst: bool,
        records: tuple[Record, ...],
    ) -> Outcome:
        """A settled flow: counters, timing, byte patterns."""
        flow.unseen += packet.missing
        if burst:
            records += self._signal(flow, Burst(ts), ts)
        if direction is OUT and packet.proto == UDP and begins_quic(packet.payload):
            self._settling.reopen(flow)
            self._keep(flow, raw, packet, ts, direction)
            return self._long(flow, packet, ts, direction, False, records)
        scan = flow.scan if direction is OUT and flow.outcome.verdict.settled else None
        if scan is not None and packet.payload and scan.hit(packet):
            self._settling.reopen(flow)
            self._keep(flow, raw, packet, ts, direction)
            return self._long(flow, with_beginning(scan.tail, packet), ts, direction, False, records)
        return Outcome(flow.outcome.verdict, records) if records else flow.outcome

    def _long(
        self, flow: Flow, packet: Packet, ts: float, direction: Direction, burst: bool, records: tuple[Record, ...]
    ) -> Outcome:
        """An undecided flow: every byte is looked at."""
        if packet.missing and flow.who.mode is not Mode.MONITOR and not (flow.partial or flow.listening):
            detail = f"{packet.missing} bytes of the packet did not reach the inspection"
            return self._refusals.packet(flow.who, packet, ts, Reason.TRUNCATED, detail, records)
        try:
            for event in events(flow, packet, ts, direction, self.limits.stream_buffer, burst=burst):
                records += self._signal(flow, event, ts)
        except SegmentOverflowError as full:
            return self._refusals.packet(flow.who, packet, ts, Reason.SEQUENCE, str(full), records)
        if flow.hold:  # for a query in it
            flow.uncount(packet, direction)
            self._judge.unsent(flow, packet.length, ts)
        records += self._settling.identified(flow, ts)
        if flow.outcome.verdict.action is Action.ACCEPT:
            records += self._settling.settle_if_due(flow, ts)
        return Outcome(flow.outcome.verdict, records) if records else flow.outcome

    # --- findings ---------------------------------------------------------------------------------------

    def _signal(self, flow: Flow, event: Event, ts: float) -> tuple[Record, ...]:
        """Let the judge take note of an event and the signatures see it; carry out what they find."""
        records: tuple[Record, ...] = ()
        if not flow.hold and self._judge.told(flow, event, ts):
            records = self._verdicts.again(flow, ts)
        if flow.hold:
            return records + self._defer(flow, event, ts)
        for signature in self._listeners.get(type(event), ()):
            finding = signature.see(event, flow)
            if finding is not None and finding.signature not in flow.found:
                flow.found.add(finding.signature)
                records += self._object(flow, finding, ts)
        return records

    def _object(self, flow: Flow, finding: Finding, ts: float) -> tuple[Record, ...]:
        self._counts["findings"] += 1
        if exempt(flow.rule, finding.signature):
            return (finding_record(flow, finding, ts, Action.ACCEPT),)
        if finding.effect is Effect.DESTINATION:
            self._judge.destinations.refuse(flow.agent, flow.remote, ts)
        flow.condemned = True
        flow.identify()
        evidence = flow.evidence
        self._verdicts.refuse(flow, Reason.FINDING)
        made = finding_record(flow, finding, ts, Action.REJECT)
        kept = () if evidence is None else (evidence.record(made),)
        return made, *kept, flow_record(flow, ts, flow.state)

    def _keep(self, flow: Flow, raw: bytes, packet: Packet, ts: float, direction: Direction) -> None:
        """A packet of an undecided flow, in case a finding comes of it."""
        if flow.evidence is None:
            if not self.limits.evidence_packets:
                return
            flow.evidence = Evidence(self.limits)
        flow.evidence.keep(raw, packet.length, ts, direction)

    # --- holds ------------------------------------------------------------------------------------------

    def _resume(self, flow: Flow, packet: Packet, ts: float, agent: Agent) -> tuple[Outcome | None, tuple[Record, ...]]:
        """A packet of a flow that waits, or has waited until now: then the flow is judged anew."""
        if self._verdicts.waits(flow):
            return flow.outcome, ()
        if self.refuse_new and not flow.admitted:
            return self._refusals.packet(agent, packet, ts, Reason.RECORDER, "records cannot be written", ()), ()
        flow.hold = ""
        records = self._verdicts.again(flow, ts)
        deferred, flow.deferred = flow.deferred, []
        for event in deferred:
            records += self._signal(flow, event, ts)
        return (flow.outcome if flow.hold else None), records

    def _defer(self, flow: Flow, event: Event, ts: float) -> tuple[Record, ...]:
        """What a waiting packet tells: TCP's bytes are read once, so it is kept; a datagram will be read again."""
        if flow.proto == TCP:
            flow.deferred.append(event)
        if len(flow.deferred) <= MAX_DEFERRED:
            return ()
        flow.objection = self._judge.refuse(Reason.QUERY)
        self._verdicts.decide(flow, flow.objection)
        return (flow_record(flow, ts, flow.state),)

    # --- a new flow -------------------------------------------------------------------------------------

    def _admit(
        self,
        table: FlowTable,
        old: Flow | None,
        key: Key,
        packet: Packet,
        ts: float,
        agent: Agent,
        direction: Direction,
        settled: bool,
    ) -> tuple[Outcome | None, tuple[Record, ...]]:
        """A first packet: make its flow, or answer it without one."""
        records: tuple[Record, ...] = ()
        if self._began is None:
            self._began = ts
        if old is not None:
            if old.refused or repeated_handshake(old, packet, direction):
                return None, ()
            if old.state == "established" and ts - old.last < self.limits.tcp_handshake:
                return self._refusals.packet(agent, packet, ts, Reason.SEQUENCE, "SYN inside a live connection", ()), ()
            records = (self._tracker.forget(old, ts, "closed"),)
        if direction is OUT and not self._tracker.owns(agent, packet.src):
            return self._refusals.packet(agent, packet, ts, Reason.SPOOFED, "source is not the agent's", records), ()
        error = direction is IN and packet.proto in (ICMP, ICMPV6) and answers_known(packet, table.flows)
        if error and not agent.quarantined:
            return Outcome(PASS.verdict, records), ()
        if self.refuse_new:
            return self._refusals.packet(agent, packet, ts, Reason.RECORDER, "records cannot be written", records), ()
        if agent.mode is not Mode.MONITOR and not settled and packet.proto == TCP:
            if packet.flags & (SYN | ACK) == SYN | ACK:
                detail = "the answer to a SYN that was not seen"
                return self._refusals.packet(agent, packet, ts, Reason.SEQUENCE, detail, records), ()
            if not packet.flags & SYN and self._midstream(table, key, ts):
                return self._refusals.packet(agent, packet, ts, Reason.MIDSTREAM, "no beginning was seen", records), ()
        freed = self._tracker.make_room(table, ts)
        if freed is None:
            return self._refusals.packet(agent, packet, ts, Reason.MEMCAP, "no room for another flow", records), ()
        flow = Flow(agent, key, packet, ts, direction)
        self._tracker.add(flow)
        self._counts["flows"] += 1
        self._verdicts.admit(flow, ts)
        return None, (*records, *freed, flow_record(flow, ts, flow.state))

    def _midstream(self, table: FlowTable, key: Key, ts: float) -> bool:
        """Whether a connection without a beginning is refused: nobody can say what its first bytes were.

        After a restart of ours that is nobody's fault, for a time; later, or if we have seen it before, only a
        forgotten flow looks like this, and one that waits to be forgotten between two halves of a message.
        """
        if ts - (self._began or ts) > self.limits.midstream_grace:
            table.ended.clear()
            return True
        return key in table.ended or len(table.ended) >= self.limits.max_flows_agent

    # --- time and change --------------------------------------------------------------------------------

    def tick(self, ts: float) -> tuple[Record, ...]:
        """Do what is due at `ts`: end holds and rules, forget silent flows, report repeated anomalies."""
        changed = self._verdicts.tick(ts)
        return (*self._refusals.anomalies.flush(ts), *changed, *self._tracker.expire(ts))

    def next_tick(self) -> float:
        """When `tick` has something to do; infinity if never."""
        return min(self._tracker.timers.next(), self._refusals.anomalies.due, self._verdicts.next_tick())

    def withdraw(self, raw: bytes, ts: float, agent: Agent, direction: Direction) -> tuple[Record, ...]:
        """The packet just judged did not pass after all, for its records could not be written: undo a flow it began.

        Otherwise the first packet, sent again, would find its flow admitted, and nothing on file about it.
        """
        flow = self._find(raw, agent, direction)
        if flow is None or flow.packets_out + flow.packets_in > 1 or flow.refused:
            return ()
        self._verdicts.refuse(flow, Reason.RECORDER)
        ended = self._tracker.forget(flow, ts, "closed")
        self._tracker.table(agent.name).ended.discard(flow.key)
        return (ended,)

    def _find(self, raw: bytes, agent: Agent, direction: Direction) -> Flow | None:
        """The flow of a packet that was judged: it is known to decode."""
        return self._tracker.table(agent.name).flows.get(flow_key(decode(raw, max(len(raw), 0xFFFF)), direction))

    def set_policy(self, policy: Policy, ts: float) -> tuple[Record, ...]:
        """Judge by other rules from now on, live flows included; what rules alone refused may try again."""
        return self._verdicts.set_policy(policy, ts)

    def change_policy(self, change: PolicyChange, ts: float) -> tuple[Record, ...]:
        """`set_policy` at the cost of the change, and of the flows that it may concern.

        ValueError, and nothing is changed: it is of another version than the one in force, or does not fit it.
        """
        return self._verdicts.change_policy(change, ts)

    def change_agent(self, agent: Agent, ts: float) -> None:
        """Say at once that the agent of this name is another now: `packet` would notice with its next packet only.

        What waits for it and may not any more (quarantine, another mode) is withdrawn.
        """
        self._verdicts.change_agent(agent, ts)

    @property
    def holds(self) -> Mapping[str, Hold]:
        """What waits for a person, by id: a live view, not to be changed."""
        return self._verdicts.holds.pending

    def hold_of(self, raw: bytes, agent: Agent, direction: Direction) -> str:
        """The id of the hold for which this packet, just answered with HOLD, has to be kept; empty: for none."""
        flow = self._find(raw, agent, direction)
        return flow.hold if flow is not None and self._verdicts.waits(flow) else ""

    def answer(self, identifier: str, action: Action, ts: float) -> tuple[Record, ...]:
        """A person refuses what waits for this hold; nothing happens if it is over already.

        ValueError for another action than REJECT: to approve is to add a rule.
        """
        if action is not Action.REJECT:
            raise ValueError(f"a hold is answered with reject, or ends when a rule admits it, but not with {action}")
        return self._verdicts.answer(identifier, ts)

    def ended_holds(self) -> tuple[tuple[str, str], ...]:
        """(id, state) of the holds that ended since the last call: approved, denied, expired or withdrawn.

        Ask after everything but `hold_of` that may end one (change_policy, set_policy, change_agent, answer, tick,
        release, packet), and present again, in their order, the packets that were kept for it, whatever its state.
        """
        return self._verdicts.holds.ended()

    def release(self, agent: str, ts: float) -> tuple[Record, ...]:
        """An agent is gone: end its flows, forget what was refused to it."""
        self._verdicts.forget(agent)
        return self._tracker.drop(agent, ts)

    def shutdown(self, ts: float) -> tuple[Record, ...]:
        """The last records of everything that still lives."""
        ends = [record for agent in self._tracker.agents() for record in self.release(agent, ts)]
        return (*self._refusals.anomalies.flush(float("inf")), *ends)

    def stats(self) -> dict[str, int]:
        """Counters since the start, and how full the tables are."""
        counts = dict(self._counts + self._refusals.counts)
        full = {"live_flows": self._tracker.live, "buffered_bytes": self._tracker.buffered, "waiting": len(self.holds)}
        return counts | full

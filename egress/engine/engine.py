"""The engine: one packet in, one verdict and its records out. It opens no socket and reads no clock.

    packet   = decode(raw)                bytes -> Packet; malformed ones are refused and counted
    flow     = the agent's flow           one per agent and 5-tuple
    (settled or refused: counters, timing, byte patterns, and out: the short way)
    events   = dissect(flow, packet)      ordered stream bytes -> facts
    findings = signatures(event, flow)    facts and time -> opinions
    verdict  = rules, destinations, findings, in one written order

Time is an input: `tick(ts)` does what is due, `next_tick()` says when. Equal input gives equal records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from egress.config import Limits
from egress.engine.dissect import begins_quic
from egress.engine.events import Burst, Event
from egress.engine.flow import Flow, FlowTable, Key, flow_key, repeated_handshake
from egress.engine.judge import Judge
from egress.engine.patterns import Patterns, with_beginning
from egress.engine.policy import UNKNOWN, exempt
from egress.engine.quoted import answers_known
from egress.engine.reassembly import events
from egress.engine.records import finding_record, flow_record
from egress.engine.refusals import Refusals
from egress.engine.signature import Signature
from egress.engine.stream import Overflow
from egress.engine.tracker import Tracker
from egress.errors import Malformed
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
    Mode,
    Outcome,
    Packet,
    Policy,
    Reason,
    Record,
    Verdict,
)
from egress.wire.packet import decode, fragmented

OUT, IN = Direction.OUT, Direction.IN
PASS = Outcome(Verdict(Action.ACCEPT, Reason.DEFAULT))


class Engine:
    """The judge of all traffic of some agents; each agent belongs to one engine."""

    def __init__(
        self, limits: Limits, policy: Policy, signatures: Sequence[Signature], *, gate_queries: bool = True
    ) -> None:
        self.limits = limits
        self.refuse_new = False  # records cannot be written: nothing new may pass
        self._judge = Judge(limits, policy, gate_queries=gate_queries)
        self._expiry = self._judge.rules.next_expiry(float("-inf"))  # when a rule falls silent next
        self._patterns = Patterns(signatures)
        self._listeners: dict[type, list[Signature]] = {}
        for signature in signatures:
            for event in signature.listens:
                self._listeners.setdefault(event, []).append(signature)
        self._tracker = Tracker(limits)
        self._refusals = Refusals()
        self._began: float | None = None  # when the first packet of a flow came
        self._counts: Counter[str] = Counter()

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
                raise Malformed("a fragment: nobody reassembles (is connection tracking on?)")
        except Malformed as broken:
            return self._refusals.malformed(agent, raw, ts, str(broken))
        table = self._tracker.table(agent.name)
        key = flow_key(packet, direction)
        flow = table.flows.get(key)
        records: tuple[Record, ...] = ()
        if flow is None or (packet.proto == TCP and packet.flags & (SYN | ACK) == SYN):
            answer, records = self._admit(table, flow, key, packet, ts, agent, direction, settled)
            if answer is not None:
                return answer
            flow = table.flows[key]
        elif flow.who is not agent:
            flow.who = agent
            records = self._rejudge(flow, ts)
        flow.count(packet, ts, direction)
        if agent.budgets and direction is OUT and not flow.refused and self._judge.sent(flow, packet.length, ts):
            records += self._rejudge(flow, ts)
        table.touch(flow, ts)
        if packet.proto == TCP and flow.advance(packet.flags, direction):
            self._tracker.timers.watch(flow)
        burst = flow.client_first(packet, ts, direction, self.limits.idle_gap)
        if flow.outcome.verdict.action is not Action.ACCEPT:
            return Outcome(flow.outcome.verdict, records) if records else flow.outcome
        if flow.verdict.settled and not flow.listening:
            return self._short(flow, packet, ts, direction, burst, records)
        return self._long(flow, packet, ts, direction, burst, records)

    def _short(
        self, flow: Flow, packet: Packet, ts: float, direction: Direction, burst: bool, records: tuple[Record, ...]
    ) -> Outcome:
        """A settled flow: counters, timing, byte patterns."""
        flow.unseen += packet.missing
        if burst:
            records += self._signal(flow, Burst(ts), ts)
        if direction is OUT and packet.proto == UDP and begins_quic(packet.payload):
            self._reopen(flow)
            return self._long(flow, packet, ts, direction, False, records)
        scan = flow.scan if direction is OUT and flow.outcome.verdict.settled else None
        if scan is not None and packet.payload and scan.hit(packet):
            self._reopen(flow)
            return self._long(flow, with_beginning(scan.tail, packet), ts, direction, False, records)
        return Outcome(flow.outcome.verdict, records) if records else flow.outcome

    def _long(
        self, flow: Flow, packet: Packet, ts: float, direction: Direction, burst: bool, records: tuple[Record, ...]
    ) -> Outcome:
        """An undecided flow: every byte is looked at."""
        if packet.missing and flow.who.mode is Mode.ENFORCE and not (flow.partial or flow.listening):
            detail = f"{packet.missing} bytes of the packet did not reach the inspection"
            return self._refusals.packet(flow.who, packet, ts, Reason.TRUNCATED, detail, records)
        try:
            for event in events(flow, packet, ts, direction, self.limits.stream_buffer, burst=burst):
                records += self._signal(flow, event, ts)
        except Overflow as full:
            return self._refusals.packet(flow.who, packet, ts, Reason.SEQUENCE, str(full), records)
        records += self._identified(flow, ts)
        if flow.outcome.verdict.action is Action.ACCEPT:
            records += self._settle_if_due(flow, ts)
        return Outcome(flow.outcome.verdict, records) if records else flow.outcome

    # --- findings ---------------------------------------------------------------------------------------

    def _signal(self, flow: Flow, event: Event, ts: float) -> tuple[Record, ...]:
        """Let the judge take note of an event and the signatures see it; carry out what they find."""
        records = self._rejudge(flow, ts) if self._judge.told(flow, event, ts) else ()
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
        self._decide(flow, Verdict(Action.REJECT, Reason.FINDING, flow.verdict.rule_id, self._judge.rules.version))
        return finding_record(flow, finding, ts, Action.REJECT), flow_record(flow, ts, flow.state)

    # --- verdicts ---------------------------------------------------------------------------------------

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
        if direction is IN and packet.proto in (ICMP, ICMPV6) and answers_known(packet, table.flows):
            return Outcome(PASS.verdict, records), ()
        if self.refuse_new:
            return self._refusals.packet(agent, packet, ts, Reason.RECORDER, "records cannot be written", records), ()
        if agent.mode is Mode.ENFORCE and not settled and packet.proto == TCP:
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
        self._decide(flow, self._judge.admit(flow, ts))
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

    def _decide(self, flow: Flow, verdict: Verdict) -> None:
        """Set a flow's verdict and what it means for its packets: in monitor mode everything passes."""
        refused = verdict.action is not Action.ACCEPT
        if refused and not flow.refused_before:
            flow.refused_before = True
            self._counts["refused"] += 1
        flow.verdict = verdict
        if refused and flow.who.mode is Mode.MONITOR:
            verdict = replace(verdict, action=Action.ACCEPT)
        flow.outcome = Outcome(verdict)
        if verdict.action is not Action.ACCEPT:
            self._tracker.release(flow)
            self._tracker.timers.watch(flow)

    def _rejudge(self, flow: Flow, ts: float) -> tuple[Record, ...]:
        """Rules, agent or application protocol have changed."""
        if flow.condemned:
            self._decide(flow, flow.verdict)
            return ()
        old = flow.verdict
        verdict = self._judge.again(flow, ts)
        if old.settled and verdict.action is Action.ACCEPT:
            verdict = replace(verdict, settled=True)
        self._decide(flow, verdict)
        changed = (old.action, old.reason, old.rule_id) != (verdict.action, verdict.reason, verdict.rule_id)
        return (flow_record(flow, ts, flow.state),) if changed else ()

    def _identified(self, flow: Flow, ts: float) -> tuple[Record, ...]:
        """Take over what dissection learnt; a new application protocol asks the rules again."""
        if not flow.identify():
            return ()
        return self._rejudge(flow, ts) or (flow_record(flow, ts, flow.state),)

    def _settle_if_due(self, flow: Flow, ts: float) -> tuple[Record, ...]:
        """A flow that can prove nothing more is settled: opaque, or past the bytes any proof needs.

        Where only the other side has said that much, the kernel may settle the flow, but its agent is listened to
        until it has: a server cannot talk the inspection away.
        """
        if flow.listening and flow.proto == UDP:
            return ()
        if flow.dissector is not None and flow.dissector.asks_again(by_name=self._judge.by_name(flow)):
            flow.trim()
            if self._tracker.charge(flow):
                return ()
        full = not self._tracker.charge(flow)
        told = flow.told(self.limits.settle_bytes)
        done = full or told[OUT] or (flow.dissector is not None and flow.dissector.opaque(flow.proto))
        if not done and (flow.listening or not told[IN]):
            return ()
        records: tuple[Record, ...] = ()
        if not flow.app:
            flow.app = UNKNOWN
            records = self._rejudge(flow, ts)
        if full and flow.who.mode is Mode.ENFORCE and flow.outcome.verdict.action is Action.ACCEPT:
            self._decide(flow, Verdict(Action.REJECT, Reason.MEMCAP, flow.verdict.rule_id, self._judge.rules.version))
            return (*records, flow_record(flow, ts, flow.state))
        if flow.outcome.verdict.action is Action.ACCEPT:
            flow.verdict = replace(flow.verdict, settled=True)
            flow.outcome = Outcome(replace(flow.outcome.verdict, settled=True))
            # QUIC opens other connections, with other names, on a pair of ports in use: it is listened to for ever.
            flow.listening = not done or flow.app == "quic"
            if not flow.listening:
                flow.scan = self._patterns.scan()
                if flow.scan is not None and flow.streams is not None:
                    flow.scan.follow(flow.streams[OUT].history)
                self._tracker.release(flow)
            else:
                flow.stop_hearing()
                self._tracker.charge(flow)
        return records

    def _reopen(self, flow: Flow) -> None:
        """A settled flow showed a pattern: look closely again, as at one picked up in mid-stream.

        The packet that showed it came through the settled queue and may be cut: what is there is judged, and the next
        one comes at full depth.
        """
        self._counts["reopened"] += 1
        flow.partial = True
        flow.listening = False
        flow.scan = None
        flow.verdict = replace(flow.verdict, settled=False)
        flow.outcome = Outcome(replace(flow.outcome.verdict, settled=False))

    # --- time and change --------------------------------------------------------------------------------

    def tick(self, ts: float) -> tuple[Record, ...]:
        """Do what is due at `ts`: forget silent flows, report repeated anomalies."""
        return (*self._refusals.anomalies.flush(ts), *self._tracker.expire(ts), *self._expire_rules(ts))

    def _expire_rules(self, ts: float) -> tuple[Record, ...]:
        """A rule has fallen silent: what it admitted is judged again."""
        if ts < self._expiry:
            return ()
        self._expiry = self._judge.rules.next_expiry(ts)
        flows = [flow for flow in self._tracker.flows() if flow.rule is not None and flow.state != "closed"]
        return tuple(record for flow in flows for record in self._rejudge(flow, ts))

    def next_tick(self) -> float:
        """When `tick` has something to do; infinity if never."""
        return min(self._tracker.timers.next(), self._refusals.anomalies.due, self._expiry)

    def withdraw(self, raw: bytes, ts: float, agent: Agent, direction: Direction) -> tuple[Record, ...]:
        """The packet just judged did not pass after all, for its records could not be written: undo a flow it began.

        Otherwise the first packet, sent again, would find its flow admitted, and nothing on file about it.
        """
        table = self._tracker.table(agent.name)
        flow = table.flows.get(flow_key(decode(raw, max(len(raw), 0xFFFF)), direction))
        if flow is None or flow.packets_out + flow.packets_in > 1 or flow.refused:
            return ()
        self._decide(flow, Verdict(Action.REJECT, Reason.RECORDER, flow.verdict.rule_id, self._judge.rules.version))
        ended = self._tracker.forget(flow, ts, "closed")
        table.ended.discard(flow.key)
        return (ended,)

    def set_policy(self, policy: Policy, ts: float) -> tuple[Record, ...]:
        """Judge by other rules from now on, live flows included; what rules alone refused may try again."""
        self._judge.change(policy)
        self._expiry = self._judge.rules.next_expiry(ts)
        records: list[Record] = []
        for flow in self._tracker.flows():
            if flow.state == "closed":
                continue  # it is over: what it was allowed stays allowed
            if flow.refused and not flow.condemned:
                records.append(self._tracker.forget(flow, ts, "closed"))
            else:
                if not flow.condemned:
                    flow.found.clear()  # what a rule exempted so far may be a finding now
                    flow.objection = None
                records += self._rejudge(flow, ts)
        return tuple(records)

    def release(self, agent: str, ts: float) -> tuple[Record, ...]:
        """An agent is gone: end its flows, forget what was refused to it."""
        self._judge.forget(agent)
        return self._tracker.drop(agent, ts)

    def shutdown(self, ts: float) -> tuple[Record, ...]:
        """The last records of everything that still lives."""
        ends = [record for agent in self._tracker.agents() for record in self.release(agent, ts)]
        return (*self._refusals.anomalies.flush(float("inf")), *ends)

    def stats(self) -> dict[str, int]:
        """Counters since the start, and how full the tables are."""
        counts = dict(self._counts + self._refusals.counts)
        return counts | {"live_flows": self._tracker.live, "buffered_bytes": self._tracker.buffered}

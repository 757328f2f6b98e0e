"""The agent's DNS queries: each is judged by its name, and one that is refused is answered by DNS.

    allowed                       it passes with its flow
    refused, over UDP             answered with NXDOMAIN. Only this query is refused: the first of its flow ends the
                                  flow, a later one is recorded as a flow of its own, and the other queries go on
    refused, over TCP             answered in the same way, and the connection ends: bytes in the middle of a stream
                                  cannot be left out
    to a refused resolver (UDP)   answered with REFUSED, so that the client asks its next resolver
    no rule in mode ask           it passes, and the connection that follows is held for a person, who sees its name,
                                  protocol and port (`egress.engine.holds`). The query itself is held if it asks for
                                  no address, if its name is longer than `LONGEST`, or if it is for one name more than
                                  the agent's `Limits.ask_names` in this hour

A query in a packet that a flow carries (a tunnel) does not wait: where it is refused, its flow is. It gets no answer by
DNS, nor does a message that cannot be read, nor one in monitor mode, where it passes. The flow's verdict is what
happens where the answer cannot be sent.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from egress.dissection.events import DnsAsked
from egress.engine.flow import Flow
from egress.engine.holds import asks
from egress.engine.judge import Judge
from egress.engine.outbox import Outbox
from egress.engine.outcome import Reply
from egress.engine.tracker import Tracker
from egress.engine.verdicts import Verdicts
from egress.limits import Limits
from egress.model import FIN, RST, SYN, TCP, UDP, Action, Direction, Packet, Reason, Verdict
from egress.policy.domain import canonical, is_host
from egress.wire.dns import AAAA, HTTPS, SVCB, A
from egress.wire.dnsrefusal import BLOCKED, NXDOMAIN, OTHER, PROHIBITED, REFUSED, SERVFAIL, refusal

DNS_PORT = 53
OUT, IN = Direction.OUT, Direction.IN
BY_NAME, BY_RULE = "egress: no rule allows this name", "egress: a rule denies this name"
BY_RESOLVER = "egress: no rule allows this resolver"
BY_PERSON, WAITS = "egress: a person denied this name", "egress: waits for approval, try again"
LONGEST = 100  # octets of a name that is resolved before a person decides: longer ones can carry data out
_ADDRESSES = frozenset((A, AAAA, SVCB, HTTPS))
_HOUR = 3600.0
_OF_A_QUERY = frozenset((Reason.QUERY, Reason.APPROVAL))


class _Refused(NamedTuple):
    """A query that was refused, and its answer."""

    flow: Flow
    verdict: Verdict
    answer: bytes | None
    name: str
    apart: bool  # its flow goes on


class Lookups:
    """The names that agents in mode ask have resolved in this hour without a rule: a query carries its name out.

    `most`: names of each agent in an hour.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._names: dict[str, set[str]] = {}
        self._until = float("-inf")

    def take(self, agent: str, name: str, event: DnsAsked, ts: float) -> bool:
        """Return True if the agent may resolve a name before a person decides, and count the name.

        It may if the query asks for an address, the name has at most LONGEST octets, and it was counted in this hour or
        the agent has names left.
        """
        if event.query is None or event.query.rtype not in _ADDRESSES or len(name) > LONGEST:
            return False
        if not ts < self._until <= ts + _HOUR:  # also if the clock was set back
            self._names, self._until = {}, ts + _HOUR
        names = self._names.setdefault(agent, set())
        if name not in names and len(names) >= self._most:
            return False
        names.add(name)
        return True


class Queries:
    """Judges the queries of one engine's flows; `reply` is the answer that the packet just judged gets, if any."""

    def __init__(self, limits: Limits, judge: Judge, verdicts: Verdicts, tracker: Tracker, outbox: Outbox) -> None:
        self._lookups = Lookups(limits.ask_names)
        self.reply: Reply | None = None
        self._judge, self._verdicts, self._tracker, self._outbox = judge, verdicts, tracker, outbox
        self._refused: list[_Refused] = []  # of the packet that is judged now
        self._numbers = (-1, -1)  # TCP: sequence and acknowledgement number of its answer

    def asked(self, flow: Flow, event: DnsAsked, ts: float) -> None:
        """Judge a query before it leaves: refuse it, put it on hold (mode ask), or let it pass.

        `finish` answers it once all events of its packet were passed on.
        """
        verdict = self._judge.query_refusal(flow, event, ts)
        if verdict is None:
            return
        name = canonical(event.query.name) if event.query else ""
        direct = flow.rport == DNS_PORT  # not in a packet that the flow carries
        if direct and asks(flow.who) and not verdict.rule_id and is_host(name):
            if self._lookups.take(flow.agent, name, event, ts):
                return
            flow.wants = name
            self._verdicts.rejudge(flow, ts)
            if flow.refused and not flow.hold:  # too many holds, or denied a moment ago
                answer = refusal(event.message, NXDOMAIN, BLOCKED, BY_PERSON)
                self._refused.append(_Refused(flow, flow.verdict, answer, name, False))
            return
        answer = (
            None
            if flow.monitored or not direct
            else refusal(event.message, NXDOMAIN, BLOCKED, BY_RULE if verdict.rule_id else BY_NAME)
        )
        apart = answer is not None and flow.proto == UDP and (flow.packets_in > 0 or flow.packets_out > 1)
        self._refused.append(_Refused(flow, verdict, answer, name, apart))
        if flow.streams is not None:  # before the refusal releases them
            own, other = flow.streams
            self._numbers = other.next if other.base >= 0 else -1, own.next
        if not apart:
            flow.identify()
            flow.set_objection(verdict)
            self._verdicts.rejudge(flow, ts)

    def finish(self, flow: Flow, packet: Packet, ts: float) -> Verdict | None:
        """Set `reply` to the answer for the refused queries of a packet.

        Returns the verdict on the packet alone if its flow goes on without it or is forgotten; None: the flow's
        verdict.
        """
        if not self._refused:
            return None
        refused, self._refused = [each for each in self._refused if each.flow is flow], []
        answers = [each.answer for each in refused if each.answer is not None]
        if flow.hold or not answers:
            return None
        if flow.proto == TCP:
            seq, ack = self._numbers
            data = b"".join(len(each).to_bytes(2) + each for each in answers)
            self.reply = Reply(data, packet.ack if seq < 0 else seq, ack)
            return None
        self.reply = Reply(answers[0])
        if flow.condemned:
            return None
        if refused[0].apart:
            self._record_apart(flow, packet, refused[0], ts)
            return refused[0].verdict
        verdict = flow.verdict
        self._tracker.forget(flow, ts, "closed")
        return verdict

    def repeat(self, flow: Flow, packet: Packet, ts: float) -> Verdict | None:
        """Handle a packet that the agent sends on a refused flow to the DNS port. Call `take` for the answer.

        A query over UDP is answered with NXDOMAIN if the flow was refused for a name, with SERVFAIL while a person has
        not decided about that name, and with REFUSED if the flow was refused for another reason, such as its resolver.
        It gets no answer if it cannot be read, or if the flow's packets are dropped in silence. Over TCP only queries
        that were on hold are answered; bare acknowledgements after an answer are dropped, so that a reset does not
        overtake it.

        Returns a verdict on the packet alone, or None: the flow's verdict.
        """
        if self._refused:  # in bytes that were on hold until now
            return self.finish(flow, packet, ts)
        verdict = flow.verdict
        by_name = flow.admitted and verdict.reason in _OF_A_QUERY
        if flow.proto == TCP:
            bare = not packet.payload and not packet.flags & (FIN | RST | SYN)
            drops = bare and by_name and verdict.action is Action.REJECT
            return replace(verdict, packet_only=True) if drops else None
        if flow.proto != UDP or verdict.action is not Action.REJECT:
            return None
        code, info, text = (NXDOMAIN, BLOCKED, BY_NAME) if by_name else (REFUSED, PROHIBITED, BY_RESOLVER)
        if by_name and verdict.reason is Reason.APPROVAL:
            waits = self._verdicts.is_asked(flow, flow.server_name)
            code, info, text = (SERVFAIL, OTHER, WAITS) if waits else (code, info, BY_PERSON)
        answer = refusal(packet.payload, code, info, text)
        if answer is None:
            return None
        self.reply = Reply(answer)
        if by_name and not flow.condemned:
            self._tracker.forget(flow, ts, "closed")
        return verdict

    def take(self) -> Reply | None:
        """Return the answer to the packet just judged, and clear it; None if there is none."""
        reply, self.reply = self.reply, None
        return reply

    def _record_apart(self, flow: Flow, packet: Packet, refused: _Refused, ts: float) -> None:
        """Record a refused query as a flow of one packet; the flow that it came on goes on as if it had not come."""
        single = Flow(flow.who, flow.key, packet, ts, OUT)
        single.part_from(flow, refused.name)
        single.decide(refused.verdict)
        self._outbox.counts["flows"] += 1
        self._outbox.counts["refused"] += 1
        self._outbox.flow(single, ts)
        flow.uncount(packet, OUT)
        single.count(packet, ts, OUT)
        single.forget()
        self._outbox.flow(single, ts, "closed")

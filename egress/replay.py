"""Replays captures through the engine at their own timestamps, for the findings that the gateway would have made.

A capture does not name its agents. If networks are given, their addresses are the agents; otherwise the side that
opened a flow is its agent, named by its address. Agents of a replay are allowed by default and in mode monitor, so that
later packets of a refused flow are still inspected.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path

import signatures
from egress import capture
from egress.addresses import Networks
from egress.capture.clock import Moment, moments
from egress.capture.fragments import Reassembler
from egress.capture.link import ip_packet, link_name, supported
from egress.engine.engine import Engine
from egress.errors import EgressError, MalformedError
from egress.limits import Limits
from egress.model import ACK, FIN, ICMP, ICMPV6, RST, SYN, TCP, Action, Agent, Direction, Mode, Packet, Policy
from egress.records.shape import AnomalyRecord, FindingRecord, FlowRecord, Record
from egress.wire.packet import decode

Network = IPv4Network | IPv6Network
End = tuple[bytes, int]  # packed address, port

STDIN = Path("-")
MAX_FINDINGS = 100_000  # listed for one file; further ones are only counted
MAX_FLOWS = 131_072  # flows whose opener is remembered; the least recently seen is forgotten first
MAX_AGENTS = 1024  # distinct agents, as many as `beacon.timing` has; forged sources cannot add more
EVERYWHERE = ("0.0.0.0/0", "::/0")
WELL_KNOWN = 1024
ICMP_ASKS = frozenset((8, 13, 17))  # echo, timestamp, address mask (RFC 792, RFC 950)
ICMPV6_ASKS = frozenset((128, 133, 135))  # echo, router and neighbour solicitation (RFC 4443, RFC 4861)


@dataclass(frozen=True, slots=True)
class Found:
    """A finding and the frame of the file that proved it."""

    frame: int  # 1-based
    time: float  # the frame's own timestamp, seconds since the epoch
    record: FindingRecord


@dataclass(slots=True)
class Report:
    """The result of replaying one file: counts, and the findings."""

    file: str
    packets: int = 0  # frames of any kind
    flows: int = 0
    judged: int = 0  # packets that were read, those of no agent included
    without_ip: int = 0  # frames that carry another protocol (ARP, LLDP, …)
    decode_errors: int = 0  # frames with malformed or encrypted contents, or an unsupported link type
    unsupported: Counter[int] = field(default_factory=Counter)  # those of them of an unsupported link type, by type
    first_error: str = ""  # of the decode errors
    unattributed: int = 0  # packets between addresses that belong to no agent
    anomalies: Counter[str] = field(default_factory=Counter)  # packets judged without a flow, by reason (memcap, …)
    findings: list[Found] = field(default_factory=list)  # those that a rule exempts are left out
    findings_omitted: int = 0  # those beyond MAX_FINDINGS
    truncated: str = ""  # where and how the file breaks off; empty: it is whole

    @property
    def unread(self) -> str:
        """The reason why no packet of the file could be read; "" if one could, or if the file has no frames."""
        if self.judged or not (self.packets or self.truncated):
            return ""
        if not self.packets:
            return self.truncated
        if self.unsupported:
            return f"{', '.join(self.strangers)}, which cannot be read"
        if self.decode_errors:
            return f"{self.decode_errors} of {_frames(self.packets)} not decoded ({self.first_error})"
        return f"none of {_frames(self.packets)} holds a whole IP packet"

    @property
    def strangers(self) -> list[str]:
        """One phrase for each unsupported link type: the number of its frames and its name."""
        return [f"{_frames(count)} of {link_name(link)}" for link, count in sorted(self.unsupported.items())]


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


class Agents:
    """Finds the agent and the direction of each packet.

    If an agent's networks are given, an address in them is an agent; without networks every address may be one. Where
    both ends may be, the opener of the flow is the agent. The openers of at most MAX_FLOWS flows are remembered.
    """

    def __init__(self, networks: Sequence[Network] = ()) -> None:
        self._networks = Networks(tuple(str(network) for network in networks) or EVERYWHERE)
        self._openers: OrderedDict[tuple[object, ...], tuple[End, bool]] = OrderedDict()
        self._agents: dict[bytes, Agent] = {}
        self._others = Agent("others", EVERYWHERE, Mode.MONITOR, Action.ACCEPT)

    def attribute(self, packet: Packet) -> tuple[Agent, Direction] | None:
        """Return the agent and the direction of a packet; None if neither end is in the networks."""
        near, far = _ends(packet)
        ours = [end for end in (near, far) if end[0] in self._networks]
        if not ours:
            return None
        local = ours[0] if len(ours) == 1 else self._opener(packet, near, far)
        return self._agent(local[0]), Direction.OUT if local == near else Direction.IN

    def _agent(self, packed: bytes) -> Agent:
        """Return the agent with this address; after MAX_AGENTS agents all further addresses share one."""
        agent = self._agents.get(packed)
        if agent is None:
            if len(self._agents) >= MAX_AGENTS:
                return self._others
            text = str(ip_address(packed))
            agent = self._agents[packed] = Agent(text, (text,), Mode.MONITOR, Action.ACCEPT)
        return agent

    def _opener(self, packet: Packet, near: End, far: End) -> End:
        """Return the end that opened the packet's flow, remembered from the flow's first packet on."""
        key = (packet.proto, *min((near, far), (far, near)))
        known = self._openers.get(key)
        opens = packet.proto == TCP and packet.flags & SYN and not packet.flags & ACK
        if known is None or (opens and not known[1]):
            known = (near, True) if opens else (far if _answers(packet) else near, packet.proto != TCP)
            if len(self._openers) >= MAX_FLOWS:
                self._openers.popitem(last=False)
            self._openers[key] = known
        else:
            self._openers.move_to_end(key)
        if packet.proto == TCP and packet.flags & (FIN | RST):  # the next SYN may come from the other side
            self._openers[key] = (known[0], False)
        return known[0]


def _ends(packet: Packet) -> tuple[End, End]:
    """Return the sending and the receiving end of a packet. An ICMP identifier counts as the port of both."""
    icmp = packet.proto in (ICMP, ICMPV6)
    return (packet.src, packet.sport), (packet.dst, packet.sport if icmp else packet.dport)


def _answers(packet: Packet) -> bool:
    """Return True if the packet probably comes from the answering side of a flow whose opening was not captured."""
    if packet.proto == TCP:
        return bool(packet.flags & SYN) or packet.sport < packet.dport  # a SYN here has an ACK: the answer to one
    if packet.proto in (ICMP, ICMPV6):
        return packet.flags >> 8 not in (ICMP_ASKS if packet.proto == ICMP else ICMPV6_ASKS)
    return packet.sport < WELL_KNOWN <= packet.dport


class Replay:
    """The replay of one file through a fresh engine: call `frame` with each frame, then `finish`.

    `keep` is called with all records as they are made.
    """

    def __init__(
        self,
        file: str,
        policy: Policy,
        networks: Sequence[Network] = (),
        keep: Callable[[Sequence[Record]], object] = len,
    ) -> None:
        self.report = Report(file)
        self._store = keep
        self._policy = policy
        self._engine = Engine(Limits(records_agent=0), policy, signatures.load())
        self._agents = Agents(networks)
        self._fragments = Reassembler()
        self._clock = 0.0

    def frame(self, moment: Moment) -> None:
        """Judge one frame, and count the result in the report; a malformed one is only counted."""
        frame = moment.frame
        self.report.packets += 1
        if moment.anew:
            self._begin_anew(moment)
        self._clock = moment.ts
        try:
            raw = ip_packet(frame.link, frame.data)
            whole = self._fragments.add(raw, self._clock) if raw is not None else None
            if raw is None or whole is None:
                self.report.without_ip += raw is None
                return
            link_header = len(frame.data) - len(raw)
            wire_length = frame.wire_length - link_header if whole is raw else None
            attributed = self._agents.attribute(decode(whole, wire_length))
        except MalformedError as error:
            self._malformed(frame, str(error))
            return
        self.report.judged += 1
        if attributed is None:
            self.report.unattributed += 1
            return
        while self._engine.next_tick() <= self._clock:
            self._keep(self._engine.tick(self._clock), frame)
        outcome = self._engine.packet(whole, self._clock, *attributed, wire_length)
        self._keep(outcome.records, frame)

    def _begin_anew(self, moment: Moment) -> None:
        """End all flows before a frame of an earlier time. Signatures keep their state about agents."""
        self._keep(self._engine.shutdown(self._clock), moment.frame)
        self._keep(self._engine.set_policy(self._policy, moment.ts), moment.frame)
        self._fragments = Reassembler()

    def _malformed(self, frame: capture.Frame, why: str) -> None:
        report = self.report
        report.decode_errors += 1
        report.first_error = report.first_error or why
        if not supported(frame.link):
            report.unsupported[frame.link] += 1

    def finish(self, last: capture.Frame | None) -> Report:
        """End the flows that are still open, and return the report; `last` is the last frame, None without any."""
        self._keep(self._engine.shutdown(self._clock), last)
        return self.report

    def _keep(self, records: Sequence[Record], frame: capture.Frame | None) -> None:
        """Pass on records, and count them in the report; `frame` is the frame at which they were made."""
        if records:
            self._store(records)
        for record in records:
            if isinstance(record, FlowRecord):
                self.report.flows += record.end is not None  # every flow ends once
            elif isinstance(record, AnomalyRecord):
                self.report.anomalies[record.reason] += record.count
            elif isinstance(record, FindingRecord) and record.action is not Action.ACCEPT and frame is not None:
                if len(self.report.findings) < MAX_FINDINGS:
                    self.report.findings.append(Found(frame.number, frame.ts, record))
                else:
                    self.report.findings_omitted += 1


def replay(
    path: Path,
    policy: Policy,
    networks: Sequence[Network] = (),
    progress: Callable[[int], object] = lambda _: None,
    keep: Callable[[Sequence[Record]], object] = len,
) -> Report:
    """Replay one capture file through a fresh engine.

    `path` may be a pipe, and STDIN is the standard input. `progress` is called from time to time with the number of
    bytes read, unless it is a pipe, and `keep` with all records as they are made. Raises EgressError if the file cannot
    be read at all. The report of a file that breaks off covers the part before; `Report.truncated` has the place.
    """
    run = Replay(str(path), policy, networks, keep)
    frame = None
    try:
        with open(0 if path == STDIN else path, "rb", closefd=path != STDIN) as stream:
            seekable = stream.seekable()
            for moment in moments(capture.frames(stream)):
                frame = moment.frame
                run.frame(moment)
                if seekable and not frame.number & 1023:
                    progress(stream.tell())
    except capture.TruncatedError as cut:
        run.report.truncated = str(cut)
    except capture.NotACaptureError as error:
        raise EgressError(f"{path}: {error}") from None
    except OSError as error:
        raise EgressError(f"cannot read {path}: {error.strerror}") from None
    return run.finish(frame)

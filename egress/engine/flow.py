"""A flow, one for each agent and 5-tuple: its facts, its counters, and the state of its inspection."""

from __future__ import annotations

import hashlib

from egress.dissection.dissector import Dissector
from egress.dissection.events import Event
from egress.dissection.stream import Stream, distance
from egress.engine.evidence import Evidence
from egress.engine.framings import NONE, Framings
from egress.engine.patterns import Scan
from egress.engine.recordtrack import RecordTrack
from egress.engine.stage import Life
from egress.engine.turns import Turns
from egress.limits import Limits
from egress.model import (
    ACK,
    FIN,
    ICMP,
    ICMPV6,
    RST,
    SYN,
    TCP,
    UDP,
    Agent,
    App,
    Direction,
    Packet,
    Rule,
)
from egress.policy.affected import ChangeScope

Key = tuple[int, bytes, int, bytes, int]  # proto, agent's address and port, remote address and port

OUT, IN = Direction.OUT, Direction.IN  # a look-up of an enum's member takes longer than that of a global
BOTH = 1 << OUT | 1 << IN
EVICT_IDLE = 30.0  # seconds of silence after which an undecided flow may make room


class Flow(Life):
    """The state of one flow. Counters are IP packets and bytes.

    `Life` has its stage and verdict. The methods here write the other attributes, with three exceptions: `Judge` writes
    those that rules are compared with (`policy.Subject`: names, said, hidden, rule) and `wants`, `Verdicts` writes
    `due`, and reassembly writes dissector and streams.
    """

    __slots__ = (
        "agent",
        "app",
        "bytes_in",
        "bytes_out",
        "charged",
        "deferred",
        "demanded",
        "dissector",
        "due",
        "evidence",
        "excluded",
        "finished",
        "found",
        "framings",
        "hidden",
        "icmp",
        "id",
        "last",
        "last_ack",
        "last_data",
        "local",
        "lport",
        "moved",
        "names",
        "next_out",
        "outbound",
        "packets_in",
        "packets_out",
        "picked_up",
        "proto",
        "recorded",
        "records",
        "remote",
        "rport",
        "rule",
        "said",
        "scan",
        "scratches",
        "server_name",
        "start",
        "state",
        "streams",
        "turns",
        "unseen",
        "vouched",
        "wants",
    )

    def __init__(
        self, who: Agent, key: Key, packet: Packet, ts: float, direction: Direction, *, vouched: bool = False
    ) -> None:
        self.picked_up = packet.proto == TCP and not packet.flags & SYN
        super().__init__(who, partial=self.picked_up)
        self.agent = who.name
        self.proto, self.local, self.lport, self.remote, self.rport = key
        answer = packet.proto == TCP and packet.flags & (SYN | ACK) == SYN | ACK
        self.outbound = (direction is OUT) != answer or self.picked_up
        self.icmp = packet.flags if packet.proto != TCP else 0
        self.start = self.last = self.moved = ts
        self.last_data = float("-inf")  # when payload last went either way
        self.last_ack = self.next_out = -1  # TCP: the agent's last acknowledgement, and its next sequence number
        self.state = "new"  # of the connection, as far as timeouts need it: new, established, closed
        self.finished = 0  # TCP: bits of the directions that have sent a FIN
        self.recorded: bool | None = None  # it has records of its own; None: not decided yet (`egress.engine.folding`)
        self.app = self.server_name = ""
        self.demanded = self.excluded = NONE  # application protocols: of the rule, and those that the bytes contradict
        self.vouched = vouched  # its bytes are not compared with what is demanded (`egress.engine.conformance`)
        self.names = NONE
        self.said: str | None = None
        self.hidden = False
        self.rule: Rule | None = None
        # Why the flow must be judged again: all rules may have changed (True), a rule has expired (False), or a change
        # of rules whose scope may include it. None: it need not be.
        self.due: ChangeScope | bool | None = None
        self.wants = ""  # the name of a query that has to wait
        self.deferred: tuple[Event, ...] = ()  # facts of a held TCP segment: signatures see them once it passes
        self.found = NONE  # signatures that have flagged this flow
        self.packets_out = self.packets_in = self.bytes_out = self.bytes_in = self.unseen = 0
        self.charged = 0
        self.streams: tuple[Stream, Stream] | None = None
        self.dissector: Dissector | None = None
        self.framings: Framings | None = None
        self.records: RecordTrack | None = None
        self.scan: Scan | None = None
        self.turns: Turns | None = None
        self.evidence: Evidence | None = None
        self.scratches: dict[str, dict[str, object]] | None = None
        self.id = self._identity()

    def _identity(self) -> str:
        """Return the flow's id: 16 hex digits of its agent, 5-tuple and start."""
        ends = f"{self.proto}|{self.local.hex()}|{self.lport}|{self.remote.hex()}|{self.rport}"
        text = f"{self.agent}|{ends}|{self.start:.6f}"
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def key(self) -> Key:
        """The 5-tuple, as `flow_key` returns it."""
        return (self.proto, self.local, self.lport, self.remote, self.rport)

    @property
    def server_port(self) -> int:
        """The port of the side that did not open the flow."""
        return self.rport if self.outbound else self.lport

    def scratch(self, signature: str) -> dict[str, object]:
        """Return the state that one signature keeps on this flow; it is dropped with the flow."""
        if self.scratches is None:
            self.scratches = {}
        return self.scratches.setdefault(signature, {})

    def note_found(self, signature: str) -> bool:
        """Note that a signature flags the flow; return True the first time, False after that."""
        if signature in self.found:
            return False
        self.found |= {signature}
        return True

    def forget_found(self) -> None:
        """Let each signature flag the flow again."""
        self.found = NONE

    def record(self, recorded: bool) -> bool:
        """Set whether the flow has records of its own, or is only counted; return the argument."""
        self.recorded = recorded
        return recorded

    def count(self, packet: Packet, ts: float, direction: Direction) -> None:
        """Count one packet and its bytes; `ts` becomes the time of the flow's last packet."""
        self.last = ts
        if direction is OUT:
            self.packets_out += 1
            self.bytes_out += packet.length
        else:
            self.packets_in += 1
            self.bytes_in += packet.length

    def uncount(self, packet: Packet, direction: Direction) -> None:
        """Take back the count of a packet that has to wait: it is counted when it comes again."""
        if direction is OUT:
            self.packets_out -= 1
            self.bytes_out -= packet.length
        else:
            self.packets_in -= 1
            self.bytes_in -= packet.length

    def client_first(self, packet: Packet, ts: float, direction: Direction, idle_gap: float) -> bool:
        """Return True if with this packet the agent is the first to send data after `idle_gap` seconds of silence.

        The replies of a settled flow are not queued: there the agent's own acknowledgements show that the other side
        sent data, and how much. These bytes are counted as received.
        """
        size = len(packet.payload) + packet.missing
        if direction is IN:
            if size:
                self.last_data = ts
            return False
        fresh = bool(size)
        if packet.proto == TCP:
            end = (packet.seq + size) & 0xFFFFFFFF
            fresh = fresh and (self.next_out < 0 or distance(end, self.next_out) > 0)
            if self.next_out < 0 or fresh:
                self.next_out = end
            if packet.flags & ACK and packet.ack != self.last_ack:
                heard = distance(packet.ack, self.last_ack) if self.last_ack >= 0 else 0
                self.last_ack = packet.ack
                if heard > 0 and self.verdict.settled:
                    self.bytes_in += heard
                    self.last_data = ts
        if not fresh:
            return False
        first = ts - self.last_data >= idle_gap
        self.last_data = ts
        return first

    def advance(self, flags: int, direction: Direction) -> bool:
        """Follow the state of a TCP connection as far as timeouts need it; True if the connection was just closed."""
        if flags & FIN:
            self.finished |= 1 << direction
        # A half-closed connection may wait long for its answer. The FIN of a settled flow's other side is not queued.
        if flags & RST or (flags & FIN and (self.finished == BOTH or self.verdict.settled)):
            closing = self.state != "closed"
            self.state = "closed"
            return closing
        if self.state == "new" and direction is not (OUT if self.outbound else IN):
            self.state = "established"
        return False

    def renew(self, ts: float) -> None:
        """Begin the flow's timeout anew at `ts`."""
        self.last = ts

    def miss(self, size: int) -> None:
        """Count bytes of the flow that were not inspected."""
        self.unseen += size

    def identify(self) -> bool:
        """Copy the protocol and name that dissection found.

        Returns True if the protocol is new, or another one is excluded by the bytes.
        """
        if self.dissector is None:
            return False
        before = self.app, self.excluded
        self.app = self.dissector.app or self.app
        self.server_name = self.dissector.server_name or self.server_name
        if self.framings is not None:
            self.excluded = self.framings.excluded
            if not self.app and self.framings.exhausted:
                self.app = App.UNKNOWN
        return (self.app, self.excluded) != before

    def part_from(self, other: Flow, server_name: str) -> None:
        """Make this the flow of one message of `other`: copy protocol and bound names; its name is `server_name`.

        The dissector of `other` gets back the name that it had before the message.
        """
        self.app, self.server_name, self.names = other.app, server_name, other.names
        if other.dissector is not None:
            other.dissector.server_name = other.server_name

    def give_up_identifying(self) -> None:
        """Set the application protocol at the end of inspection: the one proven, else unknown ("" if vouched for)."""
        proven = self.framings.proven() if self.framings is not None else ""
        self.app = proven or ("" if self.vouched else App.UNKNOWN)

    def heard(self, enough: int) -> tuple[bool, bool]:
        """Return for each direction (out, in) True if at least this many inspected bytes of it are kept."""
        if self.streams is None:
            return False, False
        out, back = self.streams
        return len(out.history) >= enough, len(back.history) >= enough

    def keep_evidence(self, raw: bytes, length: int, ts: float, direction: Direction, limits: Limits) -> None:
        """Keep a packet as evidence, in case of a finding on the flow; does nothing if the limits allow no packets."""
        if self.evidence is None:
            if not limits.evidence_packets:
                return
            self.evidence = Evidence(limits)
        self.evidence.keep(raw, length, ts, direction)

    def trim(self) -> None:
        """Drop the bytes of the streams that their receiver has acknowledged: no other bytes can replace them."""
        for stream in self.streams or ():
            stream.trim()

    def stop_hearing(self) -> None:
        """Begin the other side's stream anew, without its bytes so far: enough of them were inspected."""
        if self.streams is not None:
            out, back = self.streams
            self.unseen += back.unseen
            if self.framings is not None:
                self.framings.lose(IN)
            self.streams = out, Stream(strict=back.strict, capacity=back.capacity, early=True)

    def charge(self) -> int:
        """Estimate the bytes held for inspection; return the change since the last call.

        The estimate is the size of evidence and streams, plus twice that of the streams for dissection, plus once for
        framings: neither holds more.
        """
        held = self.evidence.size if self.evidence is not None else 0
        if self.streams is not None:
            out, back = self.streams
            held += (3 if self.framings is None else 4) * (out.held() + back.held())
        change = held - self.charged
        self.charged = held
        return change

    def scan_on(self, scan: Scan | None) -> None:
        """Scan for byte patterns from now on (None: do not); one may begin in bytes that the agent has sent already."""
        self.scan = scan
        if scan is not None and self.streams is not None:
            scan.follow(self.streams[OUT].history)

    def reopen(self) -> None:
        """Inspect the settled flow again, without a scan. It is vouched for: its protocol is not compared."""
        super().reopen()
        self.scan = self.records = None
        self.vouched = True

    def forget(self) -> None:
        """End the flow, and drop its scan and TLS records."""
        super().forget()
        self.scan = self.records = None

    def defer(self, event: Event) -> int:
        """Keep an event of a held TCP segment; return how many are kept. A held datagram is dissected again later."""
        if self.proto == TCP:
            self.deferred += (event,)
        return len(self.deferred)

    def take_wanted(self) -> str:
        """Return the name of a query that has to wait, and clear it; "" if there is none."""
        wanted, self.wants = self.wants, ""
        return wanted

    def take_deferred(self) -> tuple[Event, ...]:
        """Return the events that were kept during a hold, in their order, and clear them."""
        deferred, self.deferred = self.deferred, ()
        return deferred

    def release(self) -> None:
        """Drop streams, dissector, framings, evidence and deferred events; uninspected bytes stay counted."""
        if self.streams is not None:
            self.unseen += sum(stream.unseen for stream in self.streams)
        self.streams = self.dissector = self.framings = self.evidence = None
        self.deferred = ()

    def timeout(self, limits: Limits) -> float:
        """Return the seconds of silence after which this flow is forgotten."""
        if self.condemned:
            return limits.refused_timeout
        if self.hold:
            return limits.ask_timeout + limits.tcp_handshake  # its hold ends earlier, and then its packets come again
        if self.proto == UDP:
            return limits.udp_timeout
        if self.proto != TCP:
            return limits.other_timeout
        if self.refused or self.state == "closed":
            return limits.tcp_closed
        return limits.tcp_handshake if self.state == "new" else limits.tcp_established

    def forgettable(self, ts: float) -> bool:
        """Return True if the flow may make room for another: it is decided, or was silent for EVICT_IDLE seconds.

        A flow that is refused for a finding never may.
        """
        if self.condemned:
            return False
        decided = self.verdict.settled or self.state == "closed" or self.refused
        return decided or ts - self.last >= EVICT_IDLE


def flow_key(packet: Packet, direction: Direction) -> Key:
    """Return the 5-tuple from the agent's side (see Key), equal for the packets of both directions.

    An ICMP echo has its identifier as the agent's port, and 0 as the other.
    """
    if direction is OUT:
        return (packet.proto, packet.src, packet.sport, packet.dst, packet.dport)
    if packet.proto in (ICMP, ICMPV6):
        return (packet.proto, packet.dst, packet.sport, packet.src, 0)
    return (packet.proto, packet.dst, packet.dport, packet.src, packet.sport)

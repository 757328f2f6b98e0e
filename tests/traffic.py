"""A small language for traffic: conversations between an agent and a server, as raw IP packets with times.

    talk = Talk(dport=443)
    talk.open().client(b"hello").server(b"hi").close()
    outcomes = talk.play(engine, agent)

Packets are built with struct (thousands are needed for the property tests); `tests/wire/test_packet.py` checks
the decoder against packets of scapy and dpkt.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address

from egress.engine.engine import Engine
from egress.engine.outcome import Outcome
from egress.limits import Limits
from egress.model import ACK, FIN, ICMP, PSH, RST, SYN, TCP, UDP, Action, Agent, Direction, Policy, Rule
from egress.records.shape import FindingRecord, Record

AGENT4, SERVER4 = "10.77.0.2", "203.0.113.9"
AGENT6, SERVER6 = "fd65:6772:6573::2", "2001:db8::9"
NETWORKS = (f"{AGENT4}/32", f"{AGENT6}/128")
START = 1_700_000_000.0


def agent(**changes: object) -> Agent:
    """The usual agent of the tests: default accept, so that signatures do the work."""
    values: dict[str, object] = {"name": "a1", "networks": NETWORKS, "default": Action.ACCEPT} | changes
    return Agent(**values)  # type: ignore[arg-type]


def ip_packet(src: str, dst: str, proto: int, payload: bytes) -> bytes:
    """A raw IPv4 or IPv6 packet around a transport header and its payload."""
    source, target = ip_address(src).packed, ip_address(dst).packed
    if len(source) == 4:
        return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0x4000, 64, proto, 0) + source + target + payload
    return struct.pack("!LHBB", 6 << 28, len(payload), proto, 64) + source + target + payload


def tcp(src: str, dst: str, sport: int, dport: int, flags: int, seq: int, ack: int, data: bytes = b"") -> bytes:
    header = struct.pack("!HHLLBBHHH", sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, 0x50, flags, 65535, 0, 0)
    return ip_packet(src, dst, TCP, header + data)


def udp(src: str, dst: str, sport: int, dport: int, data: bytes) -> bytes:
    return ip_packet(src, dst, UDP, struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data)


def echo(src: str, dst: str, identifier: int, data: bytes, kind: int = 8) -> bytes:
    return ip_packet(src, dst, ICMP, struct.pack("!BBHHH", kind, 0, 0, identifier, 1) + data)


@dataclass
class Step:
    raw: bytes
    direction: Direction
    gap: float  # seconds after the step before


@dataclass
class Talk:
    """One TCP conversation, opened by the agent unless `inbound`."""

    sport: int = 40000
    dport: int = 443
    local: str = AGENT4
    remote: str = SERVER4
    isn: int = 1000
    peer_isn: int = 900000
    gap: float = 0.001
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.seq, self.ack = self.isn, self.peer_isn

    def _out(self, flags: int, data: bytes = b"", seq: int | None = None, gap: float | None = None) -> None:
        raw = tcp(
            self.local, self.remote, self.sport, self.dport, flags, self.seq if seq is None else seq, self.ack, data
        )
        self.steps.append(Step(raw, Direction.OUT, self.gap if gap is None else gap))

    def _in(self, flags: int, data: bytes = b"", seq: int | None = None) -> None:
        raw = tcp(
            self.remote, self.local, self.dport, self.sport, flags, self.ack if seq is None else seq, self.seq, data
        )
        self.steps.append(Step(raw, Direction.IN, self.gap))

    def open(self, gap: float | None = None) -> Talk:
        """SYN, SYN-ACK, ACK."""
        self._out(SYN, gap=gap)
        self.seq += 1
        self._in(SYN | ACK)
        self.ack += 1
        self._out(ACK)
        return self

    def client(self, data: bytes, *, segment: int = 1400, gap: float | None = None) -> Talk:
        for at in range(0, len(data), segment):
            part = data[at : at + segment]
            self._out(PSH | ACK, part, gap=gap)
            self.seq += len(part)
        return self

    def server(self, data: bytes, *, segment: int = 1400) -> Talk:
        for at in range(0, len(data), segment):
            part = data[at : at + segment]
            self._in(PSH | ACK, part)
            self.ack += len(part)
        return self

    def raw_client(self, offset: int, data: bytes) -> Talk:
        """Send a client segment `offset` bytes from the stream's position, which stays."""
        self._out(PSH | ACK, data, seq=self.seq + offset)
        return self

    def close(self) -> Talk:
        self._out(FIN | ACK)
        self.seq += 1
        self._in(FIN | ACK)
        self.ack += 1
        self._out(ACK)
        return self

    def reset(self) -> Talk:
        self._out(RST | ACK)
        return self

    def play(self, engine: Engine, who: Agent, ts: float = START) -> Played:
        return play(engine, who, self.steps, ts)


@dataclass
class Played:
    """The engine's outcomes, step by step."""

    outcomes: list[Outcome]
    end: float

    @property
    def actions(self) -> list[Action]:
        return [outcome.verdict.action for outcome in self.outcomes]

    @property
    def records(self) -> list[Record]:
        return [record for outcome in self.outcomes for record in outcome.records]

    @property
    def findings(self) -> list[FindingRecord]:
        return [record for record in self.records if isinstance(record, FindingRecord)]

    @property
    def signatures(self) -> list[str]:
        return [finding.signature for finding in self.findings]

    def passed(self, steps: Iterable[Step], direction: Direction = Direction.OUT) -> bytes:
        """The TCP payload bytes that were let through in one direction, in the order sent."""
        out = b""
        for step, outcome in zip(steps, self.outcomes, strict=True):
            if step.direction is direction and outcome.verdict.action is Action.ACCEPT:
                out += step.raw[40 if step.raw[0] >> 4 == 4 else 60 :]
        return out


def play(engine: Engine, who: Agent, steps: Iterable[Step], ts: float = START) -> Played:
    """Feed steps to an engine, with the ticks that it asks for."""
    outcomes = []
    for step in steps:
        ts += step.gap
        while engine.next_tick() <= ts:
            engine.tick(ts)
        outcomes.append(engine.packet(step.raw, ts, who, step.direction))
    return Played(outcomes, ts)


def engine(*rules: Rule, limits: Limits | None = None, only: Callable[[str], bool] = lambda _: True) -> Engine:
    """An engine with all shipped signatures (or those whose id `only` accepts)."""
    from signatures import load

    chosen = [signature for signature in load() if only(signature.id)]
    return Engine(limits or Limits(), Policy(1, rules), chosen)


def client_hello(name: str, more: bytes = b"") -> bytes:
    """A TLS 1.2-style ClientHello record (RFC 8446 section 4.1.2) with this server name, if any (RFC 6066 section 3).

    `more`: further extensions.
    """
    host = name.encode()
    entry = b"\x00" + struct.pack("!H", len(host)) + host
    sni = struct.pack("!HHH", 0, len(entry) + 2, len(entry)) + entry if name else b""
    extensions = struct.pack("!H", len(sni + more)) + sni + more
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00" + extensions
    handshake = b"\x01" + len(body).to_bytes(3) + body
    return b"\x16\x03\x01" + struct.pack("!H", len(handshake)) + handshake

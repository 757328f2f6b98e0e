"""DNS messages for the engine's tests, and functions that send them as an agent and its resolver do."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from egress.engine.engine import Engine
from egress.model import Agent, Direction, Verdict
from tests.traffic import AGENT4, AGENT6, START, udp

RESOLVER4, RESOLVER6 = "10.9.9.9", "2001:db8::53"
A, CNAME, AAAA = 1, 5, 28
Answer = tuple[str, str]  # owner, and an address or the name it stands for


def wire(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0"


def question(name: str, rtype: int = A, ident: int = 7) -> bytes:
    return struct.pack("!HHHHHH", ident, 0x0100, 1, 0, 0, 0) + wire(name) + struct.pack("!HH", rtype, 1)


def reply(name: str, *answers: Answer, rtype: int = A, ident: int = 7, ttl: int = 5) -> bytes:
    head = struct.pack("!HHHHHH", ident, 0x8180, 1, len(answers), 0, 0) + wire(name) + struct.pack("!HH", rtype, 1)
    return head + b"".join(_record(owner, value, ttl) for owner, value in answers)


def _record(owner: str, value: str, ttl: int) -> bytes:
    try:
        data = ip_address(value).packed
    except ValueError:
        data = b""
    rtype = {0: CNAME, 4: A, 16: AAAA}[len(data)]
    data = data or wire(value)
    return wire(owner) + struct.pack("!HHIH", rtype, 1, ttl, len(data)) + data


def framed(*messages: bytes) -> bytes:
    """Frame messages as they go over TCP."""
    return b"".join(len(each).to_bytes(2) + each for each in messages)


def ask(engine: Engine, who: Agent, message: bytes, ts: float = START, sport: int = 5353, v6: bool = False) -> Verdict:
    """Send one datagram to the resolver."""
    local, resolver = (AGENT6, RESOLVER6) if v6 else (AGENT4, RESOLVER4)
    return engine.packet(udp(local, resolver, sport, 53, message), ts, who, Direction.OUT).verdict


def answered(
    engine: Engine, who: Agent, message: bytes, ts: float = START, sport: int = 5353, v6: bool = False
) -> Verdict:
    """Deliver one datagram from the resolver."""
    local, resolver = (AGENT6, RESOLVER6) if v6 else (AGENT4, RESOLVER4)
    return engine.packet(udp(resolver, local, 53, sport, message), ts, who, Direction.IN).verdict


def resolve(
    engine: Engine, who: Agent, name: str, *answers: Answer, ts: float = START, sport: int = 5353, v6: bool = False,
    ttl: int = 5,
) -> Verdict:  # fmt: skip
    """Ask and receive the answer; returns the verdict on the question."""
    rtype = AAAA if v6 else A
    verdict = ask(engine, who, question(name, rtype), ts, sport, v6)
    answered(engine, who, reply(name, *answers, rtype=rtype, ttl=ttl), ts, sport, v6)
    return verdict

"""Measure the cost of a packet in Python, by kind of packet: decode alone, and the whole engine."""

from __future__ import annotations

import time
from collections.abc import Callable

from egress.engine.engine import Engine
from egress.limits import Limits
from egress.model import ACK, PSH, Agent, Direction, Policy
from egress.wire.packet import decode
from tests.traffic import START, Talk, agent, engine, tcp

COUNT = 20_000


def _per_packet(work: Callable[[int], object]) -> float:
    """Measure microseconds per call."""
    began = time.perf_counter()
    for number in range(COUNT):
        work(number)
    return (time.perf_counter() - began) / COUNT * 1e6


def settled(judge: Engine, who: Agent) -> Talk:
    """Play a connection until it is settled in the engine; return it for further packets."""
    talk = Talk().open().client(bytes(range(128, 256)) * 600)
    outcome = talk.play(judge, who).outcomes[-1]
    if not outcome.verdict.settled:
        raise RuntimeError("the benchmark's flow did not settle")
    return talk


def measure() -> dict[str, float]:
    """Measure microseconds per packet: decode, data and ACKs of a settled flow, of an undecided flow, of a new flow."""
    who = agent()
    judge = engine()
    talk = settled(judge, who)
    data = bytes(range(256)) * 5 + bytes(180)
    segments = [
        tcp(talk.local, talk.remote, talk.sport, talk.dport, PSH | ACK, talk.seq + at * 1460, talk.ack, data)
        for at in range(COUNT)
    ]
    ack = tcp(talk.local, talk.remote, talk.sport, talk.dport, ACK, talk.seq, talk.ack)
    syns = [tcp(talk.local, talk.remote, 1024 + at, 443, 2, 1, 0) for at in range(COUNT)]
    wide = Engine(Limits(max_flows=10**6, max_flows_agent=10**6, records_agent=0), Policy(), [])
    fresh = engine(limits=Limits(settle_bytes=10**9, max_buffered=10**9))
    opened = Talk().open()
    opened.play(fresh, who)
    undecided = [
        tcp(
            opened.local,
            opened.remote,
            opened.sport,
            opened.dport,
            PSH | ACK,
            opened.seq + at * 100,
            opened.ack,
            b"\x81" * 100,
        )
        for at in range(COUNT)
    ]
    out = Direction.OUT
    return {
        "decode": _per_packet(lambda number: decode(segments[number])),
        "settled, 1460 bytes": _per_packet(lambda number: judge.packet(segments[number], START + 9, who, out)),
        "settled, bare ACK": _per_packet(lambda _: judge.packet(ack, START + 9, who, out)),
        "undecided, 100 bytes": _per_packet(lambda number: fresh.packet(undecided[number], START + 9, who, out)),
        "new flow": _per_packet(lambda number: wide.packet(syns[number], START + 9, who, out)),
    }

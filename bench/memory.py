"""Measure the memory that the engine keeps for a flow: `python -m bench.memory`."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Callable
from ipaddress import ip_address

from egress.engine.engine import Engine
from egress.limits import Limits
from egress.model import Action, Direction, Policy
from egress.policy.metadata import cloud_at
from signatures import load
from tests.traffic import AGENT4, START, Step, Talk, agent, tcp, udp

Maker = Callable[[int], list[Step]]
FIRST = bytes(range(128, 256)) * 10  # of no protocol


def address(number: int) -> str:
    """Return an IPv4 address, another one for each number below 65,536."""
    return f"203.0.{number >> 8 & 255}.{number & 255}"


def syn(number: int) -> list[Step]:
    """Make a flow that is one SYN of the agent."""
    return [Step(tcp(AGENT4, address(number), 40000, 443, 2, 1, 0), Direction.OUT, 0.001)]


def datagram(number: int) -> list[Step]:
    """Make a flow that is one UDP datagram of the agent."""
    return [Step(udp(AGENT4, address(number), 40000, 5300, b"hello"), Direction.OUT, 0.001)]


def bulk(number: int) -> list[Step]:
    """Make a TCP flow in which the agent sends what looks encrypted, as nearly all flows do that settle."""
    return Talk(remote=address(number)).open().client(FIRST + random.Random(number).randbytes(65_280)).steps


def bytes_a_flow(make: Maker, default: Action, flows: int) -> float:
    """Measure the bytes of memory that the engine keeps for each of many flows, each to another address."""
    judge = Engine(Limits(max_flows=10**6, max_flows_agent=10**6, records_agent=0), Policy(), load())
    who, ts, before = agent(default=default), START, 0

    def play(numbers: range) -> None:
        nonlocal ts
        for number in numbers:
            for step in make(number):
                ts += step.gap
                judge.packet(step.raw, ts, who, step.direction)

    for number in range(100 + flows):  # the cache of addresses is bounded: it is no flow's
        cloud_at(ip_address(address(number)).packed)
    play(range(100))
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        play(range(100, 100 + flows))
        gc.collect()
        return (tracemalloc.get_traced_memory()[0] - before) / flows
    finally:
        tracemalloc.stop()


def measure() -> dict[str, float]:
    """Measure bytes per flow, by kind of flow, without the memory of the pattern library."""
    return {
        "refused, TCP": bytes_a_flow(syn, Action.REJECT, 5000),
        "refused, UDP": bytes_a_flow(datagram, Action.REJECT, 5000),
        "undecided, a SYN": bytes_a_flow(syn, Action.ACCEPT, 5000),
        "settled, TCP": bytes_a_flow(bulk, Action.ACCEPT, 300),
    }


if __name__ == "__main__":
    for kind, size in measure().items():
        print(f"{kind:24}{size:8.0f} bytes a flow")

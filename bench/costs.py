"""Measure the engine's CPU time per byte for the worst known input of each parser: `python -m bench costs`."""

from __future__ import annotations

import time

from bench.worst import INPUTS
from tests.traffic import START, Step, agent, engine

UNIT = "microseconds of CPU per byte, whole engine"
SIZE = 60_000  # bytes of input; a flow settles soon after


def seconds(steps: list[Step]) -> float:
    """Measure the CPU seconds that a fresh engine with all signatures takes for a conversation."""
    judge, who, ts = engine(), agent(), START
    began = time.process_time()
    for step in steps:
        ts += step.gap
        judge.packet(step.raw, ts, who, step.direction)
    return time.process_time() - began


def measure() -> dict[str, float]:
    """Measure microseconds per byte for each input."""
    costs = {}
    for name, make in INPUTS.items():
        steps = make(SIZE)
        costs[name] = seconds(steps) * 1e6 / SIZE
    return costs

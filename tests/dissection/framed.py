"""Feeds the framing of a protocol with conversations, whole and in segments."""

from __future__ import annotations

from egress.dissection.framing import Framing
from egress.dissection.registry import REGISTRY
from egress.errors import MalformedError
from egress.model import TCP, Direction
from tests.dissection.conversations import Turn

OUT, IN = Direction.OUT, Direction.IN


def framing(app: str, proto: int = TCP) -> Framing:
    return REGISTRY.framings[proto][app]()


def holds(app: str, turns: list[Turn], proto: int = TCP) -> bool:
    try:
        held = framing(app, proto)
        for direction, data in turns:
            held.feed(direction, data)
    except MalformedError:
        return False
    return True


def cut(turns: list[Turn], sizes: list[int]) -> list[Turn]:
    """Cut the bytes of each turn into segments of these sizes, over and over."""
    segments: list[Turn] = []
    number = 0
    for direction, data in turns:
        at = 0
        while at < len(data):
            size = sizes[number % len(sizes)]
            segments.append((direction, data[at : at + size]))
            at, number = at + size, number + 1
    return segments


def before_the_fault(app: str, data: bytes, size: int) -> int:
    """Return the bytes of the client that pass before the first segment that is refused."""
    held = framing(app)
    for at in range(0, len(data), size):
        try:
            held.feed(OUT, data[at : at + size])
        except MalformedError:
            return at
    return len(data)


def contradicts(app: str, turns: list[Turn]) -> bool:
    """Return True if the last turn, and no earlier one, contradicts the protocol, also byte by byte."""
    return holds(app, turns[:-1]) and not holds(app, turns) and not holds(app, cut(turns, [1]))

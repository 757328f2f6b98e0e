"""Test protocols that can carry anything, for tests of nesting, its depth and its cost."""

from __future__ import annotations

from egress.dissection.protocol import (
    Carrier,
    DatagramProtocol,
    Fact,
    Follower,
    Form,
    Inner,
    LineProtocol,
    Lost,
    Match,
    Place,
    Reader,
    Rest,
    Step,
    StreamProtocol,
)
from egress.dissection.registry import Registry, load
from egress.model import App, Direction

MAGIC = b"BOX1"
FORMS = {b"s": Form.STREAM, b"r": Form.REQUEST, b"a": Form.ANSWER, b"d": Form.DATAGRAM, b"p": Form.PACKET}


def box(data: bytes, kind: bytes = b"S", channel: int = 0, *, first: bool = True) -> bytes:
    """A message with bytes inside. `kind` is one of FORMS, in upper case at a stream's start; "." ends the protocol."""
    return (MAGIC if first else b"") + kind + bytes([channel]) + len(data).to_bytes(2, "big") + data


class Box(StreamProtocol):
    app = App.UNKNOWN
    forms = (Form.STREAM, Form.REQUEST)

    @staticmethod
    def identify(head: bytes, place: Place) -> Match:
        return head.startswith(MAGIC) if len(head) >= len(MAGIC) else None if MAGIC.startswith(head) else False

    def follow(self, head: bytes, place: Place) -> Follower:
        return _Frames()


class _Frames(Follower):
    beside = frozenset()

    def __init__(self) -> None:
        self._kept = b""
        self._at = len(MAGIC)

    def feed(self, data: bytes) -> list[Step]:
        self._kept += data
        steps: list[Step] = []
        while len(self._kept) >= self._at + 4:
            kind, channel = self._kept[self._at : self._at + 1], self._kept[self._at + 1]
            if kind in (b".", b"!"):
                return [*steps, (Rest if kind == b"." else Lost)(self._kept[self._at + 4 :])]
            end = self._at + 4 + int.from_bytes(self._kept[self._at + 2 : self._at + 4])
            if len(self._kept) < end:
                break
            steps.append(Inner(FORMS[kind.lower()], self._kept[self._at + 4 : end], channel, begins=kind.isupper()))
            self._kept, self._at = self._kept[end:], 0
        return steps


class Parcel(DatagramProtocol):
    """A datagram that begins with 0xBB carries another one; 0xBC marks a piece of a stream."""

    app = App.UNKNOWN

    def __init__(self) -> None:
        self._begun = False

    @staticmethod
    def identify(data: bytes, place: Place) -> Match:
        return data[0] in (0xBB, 0xBC) or None

    def datagram(self, direction: Direction, data: bytes) -> list[Step]:
        if data[0] == 0xBB:
            return [Inner(Form.DATAGRAM, data[1:])]
        begins, self._begun = not self._begun, True
        return [Inner(Form.STREAM, data[1:], begins=begins)]


class Bomb(StreamProtocol):
    """Unpacks each byte after the first to a thousand bytes."""

    app = App.UNKNOWN
    forms = (Form.STREAM,)

    @staticmethod
    def identify(head: bytes, place: Place) -> Match:
        return head.startswith(b"\xb0")

    def follow(self, head: bytes, place: Place) -> Follower:
        return _Blast()


class _Blast(Follower):
    def __init__(self) -> None:
        self._begins = True

    def feed(self, data: bytes) -> list[Step]:
        begins, self._begins = self._begins, False
        return [Inner(Form.ANSWER, b"x" * 1000, begins=begins and not at) for at in range(len(data))]


class Counter(LineProtocol):
    """Counts the bytes that are read at any depth, in `Counter.total`."""

    app = App.UNKNOWN
    forms = (Form.STREAM, Form.REQUEST, Form.ANSWER)
    total = 0

    @staticmethod
    def reader(place: Place) -> Reader:
        return _Counting()


class _Counting(Reader):
    app = App.UNKNOWN

    def feed(self, data: bytes, carrier: Carrier) -> list[Fact]:
        Counter.total += len(data)
        return []


BOXES = Registry([*load(), Box, Parcel, Bomb, Counter])

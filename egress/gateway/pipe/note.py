"""Notes: messages from a worker to the attribution process, one for each flow that begins.

A note is sent before the packet is answered, while the process that connects is still in connect(2). Sending never
blocks: a note that does not fit is dropped. It is text, its fields separated by tabs: flow id, start (µs), interface
index, protocol, opener's address and port, the other's, direction, `1` for a refused flow or `0`, agent. Once a refused
flow has been looked up, its id is sent back, since its refusal may wait for that. The reader checks every field but the
agent's name, since hostile packets may have taken over the worker.
"""

from __future__ import annotations

import re
import socket
from collections import Counter
from typing import NamedTuple

from egress.model import PROTOCOL_NUMBERS, Action
from egress.records.shape import FlowRecord
from egress.records.times import MAX_MICROS, micros

MAX_NOTE = 1024  # bytes
MAX_PER_SECOND = 500  # notes of one agent; a flood of one must not hide the others
BUFFER = 4 << 20  # bytes of messages that may wait: some thousands

_FLOW_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,16}", re.ASCII)


class Note(NamedTuple):
    """A new flow, seen from the agent's host: `local` is the agent's end. Addresses are packed."""

    flow_id: str
    agent: str
    time: float  # the flow's start, seconds
    interface: int  # index of the gateway's interface that the agent is behind
    proto: int
    inbound: bool  # opened towards the agent
    local: bytes
    local_port: int
    remote: bytes
    remote_port: int
    waits: bool  # the flow is refused, and its refusal may wait until the flow's id is sent back


class NoteSender:
    """Sends a worker's notes; without a socket it sends none.

    A note that cannot be sent at once, or exceeds MAX_PER_SECOND of its agent, is dropped and counted in `dropped`.
    """

    def __init__(self, sock: socket.socket | None) -> None:
        self.sent = self.dropped = 0
        self._socket = sock
        self._second = 0
        self._counts: Counter[str] = Counter()

    def send(self, record: FlowRecord, interface: int) -> bool:
        """Send a note if this is a flow's first record. Returns False if none was sent.

        `interface`: the index of the interface that the agent is behind.
        """
        if self._socket is None or not begins(record):
            return False
        second = int(record.start)
        if second != self._second:
            self._second = second
            self._counts.clear()
        self._counts[record.agent] += 1
        if self._counts[record.agent] > MAX_PER_SECOND:
            self.dropped += 1
            return False
        try:
            self._socket.send(encode(record, interface), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:  # full, or the reader is gone
            self.dropped += 1
            return False
        self.sent += 1
        return True


def begins(record: FlowRecord) -> bool:
    """Return True for the first record of a flow, which is made before its first packet is counted."""
    return record.updated == record.start and not (record.packets_out or record.packets_in)


def encode(record: FlowRecord, interface: int) -> bytes:
    """Encode the note of a flow's first record."""
    ends = f"{record.proto}\t{record.src}\t{record.sport}\t{record.dst}\t{record.dport}\t{record.direction}"
    waits = int(record.action in (Action.REJECT, Action.DROP))
    return f"{record.flow_id}\t{micros(record.start)}\t{interface}\t{ends}\t{waits}\t{record.agent}".encode()


def parse(message: bytes) -> Note | None:
    """Parse a message. Returns None if it is not a valid note."""
    try:
        fields = message.decode().split("\t")
        flow_id, start, interface, proto, src, sport, dst, dport, direction, waits, agent = fields
        opener, other = _address(src), _address(dst)
        numbers = [_number(each) for each in (start, interface, sport, dport)]
        protocol = PROTOCOL_NUMBERS.get(proto, -1)
        protocol = _number(proto) if protocol < 0 else protocol
    except (ValueError, OSError):  # UnicodeDecodeError is a ValueError
        return None
    microseconds, index, port, other_port = numbers
    if not _FLOW_ID.fullmatch(flow_id) or direction not in ("out", "in") or waits not in ("0", "1"):
        return None
    if len(opener) != len(other):
        return None
    if microseconds > MAX_MICROS or index >= 1 << 31 or max(port, other_port) > 0xFFFF or protocol > 0xFF:
        return None
    ends = (opener, port, other, other_port) if direction == "out" else (other, other_port, opener, port)
    return Note(flow_id, agent, microseconds / 1_000_000, index, protocol, direction == "in", *ends, waits == "1")


def _address(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError(text)
    return int(text)

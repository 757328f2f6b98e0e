"""Holds a flow to the application protocols that its rule demands, from its first byte on.

Only these are compared with the bytes. When they contradict all of them, the others are compared, too, with the bytes
so far: another rule may admit the flow.

A connection picked up in mid-stream must show where a message of its protocol begins (TLS: the header of a record). One
that the kernel has marked as settled was held to its protocol before, and one whose rule began to demand a protocol
after its first bytes were dropped goes by what was identified: these are *vouched* for.
"""

from __future__ import annotations

from egress.engine.flow import Flow
from egress.engine.framings import Framings
from egress.engine.recordtrack import RecordTrack
from egress.model import TCP, App, Direction


def follow(flow: Flow, direction: Direction, data: bytes) -> None:
    """Compare the next bytes of a flow, which are in its stream already, or its next datagram, with the protocols.

    The result is in `flow.framings`. A vouched flow is not compared.
    """
    framings = flow.framings
    if framings is None:
        if not flow.vouched:
            _begin(flow, direction, data)
        return
    _note_unseen(flow, framings)
    framings.feed(direction, data)
    if framings.asked is not flow.demanded:
        framings.asked = flow.demanded
        framings.begin(flow.demanded, _heads(flow))
    _widen(flow, framings)


def follow_settled(flow: Flow) -> None:
    """Begin to follow the TLS records that the agent sends after the flow has settled (`flow.records`).

    Does nothing if the flow was not held to TLS, or if bytes of the agent wait out of order.
    """
    if flow.framings is None or flow.streams is None:
        return
    records, sent = flow.framings.records(), flow.streams[Direction.OUT]
    if records is not None and not sent.pending:
        flow.records = RecordTrack(sent.next, records)


def break_off(flow: Flow) -> None:
    """Exclude TLS for a settled flow whose agent sent bytes that are no TLS record, and follow no further records."""
    flow.records = None
    flow.excluded |= {App.TLS}


def _begin(flow: Flow, direction: Direction, data: bytes) -> None:
    """Begin the comparison of a flow with its first bytes or datagram; a vouched flow is marked as such instead."""
    if flow.proto != TCP:
        flow.framings = framings = Framings(flow.proto, flow.demanded)
        framings.begin(flow.demanded | framings.others(), (b"", b""))
        framings.feed(direction, data)
        return
    heads = _heads(flow)
    if heads is None and not flow.picked_up and flow.app:
        flow.vouched = True
        return
    flow.framings = framings = Framings(TCP, flow.demanded)
    if flow.picked_up:
        framings.pick_up(flow.demanded | framings.others())
        framings.feed(direction, data)
    else:
        framings.begin(flow.demanded, heads)
        _widen(flow, framings)
    _note_unseen(flow, framings)


def _widen(flow: Flow, framings: Framings) -> None:
    """Compare all other protocols, too, once none of those demanded is left."""
    if flow.demanded <= framings.excluded and (others := framings.others()):
        framings.begin(others, _heads(flow) if flow.proto == TCP else None)


def _heads(flow: Flow) -> tuple[bytes, bytes] | None:
    """Return all bytes of a TCP flow so far (out, in); None if some were skipped or dropped."""
    if flow.streams is None or any(len(stream.history) != stream.reached for stream in flow.streams):
        return None
    out, back = flow.streams
    return bytes(out.history), bytes(back.history)


def _note_unseen(flow: Flow, framings: Framings) -> None:
    """Check no more bytes of a direction in which bytes were skipped."""
    for direction in Direction:
        if flow.streams is not None and flow.streams[direction].unseen != framings.unseen[direction]:
            framings.unseen[direction] = flow.streams[direction].unseen
            framings.lose(direction)

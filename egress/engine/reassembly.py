"""Turns packets of a flow under inspection into events: TCP segments in order, others as they come."""

from __future__ import annotations

from collections.abc import Iterator

from egress.dissection.dissector import Dissector
from egress.dissection.events import Burst, Event, Inconsistent, Opened
from egress.dissection.stream import SegmentOverflowError, Stream
from egress.engine.conformance import follow
from egress.engine.flow import Flow
from egress.engine.turns import Turns
from egress.model import ACK, RST, SYN, TCP, URG, Direction, Mode, Packet


def events(
    flow: Flow, packet: Packet, ts: float, direction: Direction, capacity: int, *, burst: bool
) -> Iterator[Event]:
    """Yield the events of a packet; `capacity` bounds the out-of-order bytes held for each direction.

    `burst`: with this packet the agent is the first to send after a silence; the last event is then a `Burst`, unless
    the flow is not `rhythmic`.

    Raises SegmentOverflowError for a segment that cannot be put in order, and so must not pass.
    """
    if packet.proto != TCP:
        dissector = _dissector(flow)
        if not flow.opened and direction is not (Direction.OUT if flow.outbound else Direction.IN):
            flow.open()
            yield Opened(flow.start, ts)
        if flow.demanded and packet.payload and not packet.missing:
            follow(flow, direction, packet.payload)
        yield from dissector.datagram(packet, direction)
    else:
        if flow.streams is None:
            strict = flow.who.mode is not Mode.MONITOR
            flow.streams = (
                Stream(strict=strict, capacity=capacity, early=flow.partial),
                Stream(strict=strict, capacity=capacity, early=flow.partial),
            )
        yield from _segment(flow, flow.streams, packet, ts, direction)
    if burst and rhythmic(flow):
        yield begin_turn(flow, packet, ts)


def rhythmic(flow: Flow) -> bool:
    """Return True if bursts of this flow may be a beacon's: datagrams that nothing answers carry no commands."""
    return flow.proto == TCP or flow.opened


def begin_turn(flow: Flow, packet: Packet, ts: float) -> Burst:
    """Return the burst that a packet of the agent begins, with the kind of its request (`events.Turn`)."""
    if flow.turns is None:
        flow.turns = Turns()
    received = b"" if flow.streams is None else flow.streams[Direction.IN].history
    return Burst(ts, flow.turns.begin(packet, received, flow.bytes_in))


def _dissector(flow: Flow) -> Dissector:
    """Return the flow's dissector, made when its first payload comes: many flows never carry any."""
    dissector = flow.dissector
    if dissector is None:
        dissector = flow.dissector = Dissector(flow.server_port)
    return dissector


def _segment(
    flow: Flow, streams: tuple[Stream, Stream], packet: Packet, ts: float, direction: Direction
) -> Iterator[Event]:
    """Yield the events of a TCP segment, and of the bytes that it makes readable.

    Raises SegmentOverflowError for bytes that a strict stream cannot read as the receiver does.
    """
    stream, other = streams[direction], streams[1 - direction]
    # Taken before any event: a finding on one releases the flow, which must not get another dissector for the rest.
    dissector = _dissector(flow) if packet.payload or packet.missing else flow.dissector
    if packet.flags & URG and stream.strict:  # Linux takes the urgent byte out of the stream that it delivers
        raise SegmentOverflowError("urgent data: the receiver would read other bytes than the inspection")
    seq = packet.seq
    if packet.flags & SYN:
        seq = (seq + 1) & 0xFFFFFFFF
        if stream.base < 0:
            stream.start(seq)
    if not flow.opened and answers(flow, packet, direction, other):
        flow.open()
        yield Opened(flow.start, ts)
    if packet.payload or packet.missing:
        if not flow.opened and stream.strict and not packet.flags & SYN:
            raise SegmentOverflowError("data before the handshake was answered")
        data = stream.feed(seq, packet.payload, packet.missing)
        if stream.conflict is not None:
            yield Inconsistent(direction, *stream.conflict)
            stream.conflict = None
        if data:
            if flow.demanded and flow.streams is not None:
                follow(flow, direction, data)
            yield from (dissector or _dissector(flow)).feed(direction, data)
    if packet.flags & ACK:
        data = other.acknowledge(packet.ack)
        if data:
            direction = Direction(1 - direction)
            if flow.demanded and flow.streams is not None:
                follow(flow, direction, data)
            yield from (dissector or _dissector(flow)).feed(direction, data)


def answers(flow: Flow, packet: Packet, direction: Direction, caller: Stream) -> bool:
    """Return True if this segment shows that the connection was accepted. `caller`: the other direction's stream.

    Without the handshake (a gap in a capture, a flow picked up in mid-stream) data of either side shows it.
    """
    if packet.flags & RST:
        return False
    if packet.payload and (flow.partial or not caller.strict):
        return True
    called = direction is not (Direction.OUT if flow.outbound else Direction.IN)
    return called and packet.flags & SYN > 0 and (caller.base < 0 or packet.ack == caller.next)


def repeated_handshake(flow: Flow, packet: Packet, direction: Direction) -> bool:
    """Return True if this SYN is the one that began the flow, sent again."""
    if flow.streams is None or flow.picked_up or flow.outbound is not (direction is Direction.OUT):
        return False
    return flow.streams[direction].base == (packet.seq + 1) & 0xFFFFFFFF

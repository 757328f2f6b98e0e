"""ICMP errors: compares the packet that an error quotes with the known flows (RFC 792, RFC 4443 section 3)."""

from __future__ import annotations

from collections.abc import Container

from egress.model import ICMP, TCP, UDP, Packet
from egress.wire.ip import quoted

# Destination unreachable, time exceeded, parameter problem; ICMPv6: those and packet too big. Not redirects.
ERRORS = frozenset((3, 11, 12))
ERRORS_V6 = frozenset((1, 2, 3, 4))


def answers_known(packet: Packet, flows: Container[tuple[int, bytes, int, bytes, int]]) -> bool:
    """Return True if `packet`, of ICMP or ICMPv6, is an error that quotes a packet of one of `flows`.

    The keys of `flows` are (protocol, source, source port, destination, destination port) of a flow, as in
    `egress.engine.flow`.
    """
    if packet.flags >> 8 not in (ERRORS if packet.proto == ICMP else ERRORS_V6):
        return False
    inner = quoted(packet.payload, packet.version)
    if inner is None:
        return False
    proto, src, dst, start = inner
    head = packet.payload[start : start + 8]
    if len(head) < 8:
        return False
    if proto in (TCP, UDP):
        return (proto, src, int.from_bytes(head[:2]), dst, int.from_bytes(head[2:4])) in flows
    return (proto, src, int.from_bytes(head[4:6]), dst, 0) in flows

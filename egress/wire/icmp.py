"""ICMP errors quote the packet they are about (RFC 792, RFC 4443 section 3): is it one of ours?"""

from __future__ import annotations

from collections.abc import Container

from egress.model import ICMP, TCP, UDP, Packet

# Destination unreachable, time exceeded, parameter problem; ICMPv6: those and packet too big. Not redirects.
ERRORS = frozenset((3, 11, 12))
ERRORS_V6 = frozenset((1, 2, 3, 4))


def answers_known(packet: Packet, flows: Container[tuple[int, bytes, int, bytes, int]]) -> bool:
    """Whether this is an ICMP error about a flow in the table (keys as in `egress.engine.flow`)."""
    if packet.flags >> 8 not in (ERRORS if packet.proto == ICMP else ERRORS_V6):
        return False
    quoted = packet.payload
    if packet.version == 4:
        if len(quoted) < 20 or quoted[0] >> 4 != 4:
            return False
        proto, src, dst, start = quoted[9], quoted[12:16], quoted[16:20], (quoted[0] & 15) * 4
    else:
        if len(quoted) < 40 or quoted[0] >> 4 != 6:
            return False
        proto, src, dst, start = quoted[6], quoted[8:24], quoted[24:40], 40
    head = quoted[start : start + 8]
    if len(head) < 8:
        return False
    if proto in (TCP, UDP):
        return (proto, src, int.from_bytes(head[:2]), dst, int.from_bytes(head[2:4])) in flows
    return (proto, src, int.from_bytes(head[4:6]), dst, 0) in flows

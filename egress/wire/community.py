"""Community ID version 1: a short name for a flow, the same in every tool that computes it.

Source: the specification and its reference implementation (github.com/corelight/community-id-spec, pycommunityid).
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha1
from struct import pack

from egress.model import ICMP, ICMPV6, SCTP, TCP, UDP

_SEED = 0
_PORTED = frozenset({TCP, UDP, SCTP, ICMP, ICMPV6})


def _both_ways(*pairs: tuple[int, int]) -> dict[int, int]:
    return {kind: answer for ask, reply in pairs for kind, answer in ((ask, reply), (reply, ask))}


# Message types of requests and replies. Any other type is one-way: it has no counterpart in the other direction.
_ANSWERS = {
    ICMP: _both_ways((8, 0), (10, 9), (13, 14), (15, 16), (17, 18)),
    ICMPV6: _both_ways((128, 129), (130, 131), (133, 134), (135, 136), (139, 140), (144, 145)),
}


def community_id(proto: int, src: bytes, dst: bytes, sport: int, dport: int) -> str:
    """Return `1:` and the base64 of a SHA-1 over the flow's tuple, the same for both directions.

    Addresses are packed (both 4 or both 16 bytes). For ICMP and ICMPv6 `sport` is the message type and `dport` the
    code; for protocols without ports both are ignored.
    """
    one_way = False
    if proto in _ANSWERS:
        answer = _ANSWERS[proto].get(sport)
        one_way = answer is None
        dport = dport if answer is None else answer
    if not one_way and (src, sport) > (dst, dport):
        src, dst, sport, dport = dst, src, dport, sport
    ports = pack("!HH", sport, dport) if proto in _PORTED else b""
    digest = sha1(pack("!H", _SEED) + src + dst + pack("!BB", proto, 0) + ports, usedforsecurity=False).digest()
    return f"1:{b64encode(digest).decode()}"

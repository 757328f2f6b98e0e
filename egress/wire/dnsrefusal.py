"""Builds the answers that refuse DNS queries: an error code, no records, and the reason in EDNS (RFC 8914)."""

from __future__ import annotations

from struct import Struct, pack, unpack_from

from egress.errors import MalformedError
from egress.wire.dns import query
from egress.wire.dnsnames import HEADER, skip_name

SERVFAIL, NXDOMAIN, REFUSED = 2, 3, 5  # RFC 1035 section 4.1.1
OTHER, BLOCKED, PROHIBITED = 0, 15, 18  # info codes of RFC 8914
MAX_TEXT = 40  # octets of the reason
MAX_GROWTH = 64  # octets by which an answer may be longer than its query
UDP_SIZE = 1232  # octets of a datagram that the answer announces; nothing is sent to us

_HEAD = Struct("!HHHHHH")
_OPT, _EDE = 41, 15
_RESPONSE, _RECURSION_AVAILABLE, _ECHOED = 0x8000, 0x0080, 0x0110  # QR; RA; RD and CD of the query are repeated
_DNSSEC_OK = 0x8000


def refusal(message: bytes, rcode: int, info: int, text: str) -> bytes | None:
    """Return the DNS answer that refuses `message`; None if that is not a standard query with one question.

    `rcode` is the answer's error code. The question is repeated byte for byte. If the query has EDNS, the answer has an
    Extended DNS Error with the code `info` and `text`, of which MAX_TEXT octets are kept.
    """
    try:
        query(message)
        asked = skip_name(message, HEADER) + 4
        options = _edns(message, asked)
    except MalformedError:
        return None
    ident, flags = unpack_from("!HH", message)
    head = _HEAD.pack(ident, _RESPONSE | flags & _ECHOED | _RECURSION_AVAILABLE | rcode, 1, 0, 0, options is not None)
    if options is None:
        return head + message[HEADER:asked]
    reason = text.encode("ascii", "replace")[:MAX_TEXT]
    error = pack("!HHH", _EDE, 2 + len(reason), info) + reason
    return head + message[HEADER:asked] + pack("!BHHIH", 0, _OPT, UDP_SIZE, options & _DNSSEC_OK, len(error)) + error


def _edns(message: bytes, at: int) -> int | None:
    """Return the low 16 bits (EDNS flags) of the TTL of the OPT record after the question; None without EDNS.

    `at`: the offset after the question. Reference: RFC 6891 section 6.1.3.
    """
    _, _, _, answers, authority, additional = _HEAD.unpack_from(message)
    for _ in range(answers + authority + additional):  # `query` has read them all
        at = skip_name(message, at)
        rtype, _, ttl, size = unpack_from("!HHIH", message, at)
        if rtype == _OPT:
            return int(ttl & 0xFFFF)
        at += 10 + size
    return None

"""DNS queries (RFC 1035), over UDP and behind TCP's length prefix.

A compression pointer must point below the name it stands in and not into the header. The question's name is the
first thing after the header, so a pointer there has nothing to point at: it is always spelled out, and reading it
needs no loop check. Names of later records are only stepped over.
"""

from __future__ import annotations

from struct import Struct, unpack_from
from typing import NamedTuple

from egress.errors import Malformed

HEADER = 12
MIN_MESSAGE = HEADER + 5  # the root's name (1), type, class
MAX_NAME = 255  # octets with length bytes and the root; RFC 1035 section 2.3.4
MAX_LABEL = 63
_HEADER = Struct("!HHHHHH").unpack_from
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_")
_CLASSES = frozenset({1, 3, 4, 254, 255})  # IN, CH, HS, NONE, ANY
_UNICAST = 0x8000  # mDNS: the top bit of a question's class asks for a unicast answer (RFC 6762 section 5.4)


class DnsQuery(NamedTuple):
    name: str  # lower case, no trailing dot, "" for the root; bytes besides [a-z0-9-_] as \DDD (RFC 1035 section 5.1)
    rtype: int  # 1 A, 28 AAAA, 16 TXT, …
    id: int


class _Message(NamedTuple):
    question: DnsQuery
    qclass: int


def query(payload: bytes) -> DnsQuery:
    """Read a message that is a standard query with one question, and nothing after its last record; else Malformed."""
    _check_query(payload)
    return _read(payload).question


def tcp_query(data: bytes) -> DnsQuery | None:
    """The first query of a TCP direction (RFC 7766 section 8); None needs more bytes, else Malformed.

    Bytes after it are ignored; the next message begins at 2 + the big-endian number in data[:2].
    """
    if len(data) < 2:
        return None
    size = int.from_bytes(data[:2])
    if size < MIN_MESSAGE:
        raise Malformed("DNS message is too short")
    message = data[2 : 2 + size]
    if len(message) == size:
        return query(message)
    if len(message) >= MIN_MESSAGE:
        _check_query(message)
    return None


def looks_like_dns(payload: bytes) -> bool:
    """Whether a datagram, of any port, is a well-formed standard query or answer with one question of a known class."""
    try:
        _check_header(payload)
        return _read(payload).qclass & ~_UNICAST in _CLASSES
    except Malformed:
        return False


def _check_header(payload: bytes) -> int:
    """The flags of a message with opcode 0 and one question."""
    if len(payload) < MIN_MESSAGE:
        raise Malformed("DNS message is too short")
    _, flags, questions, _, _, _ = _HEADER(payload)
    if flags & 0x7800 or questions != 1:
        raise Malformed("not a standard DNS message with one question")
    return int(flags)


def _check_query(payload: bytes) -> None:
    if _check_header(payload) & 0x8000:
        raise Malformed("a DNS answer, not a query")


def _read(payload: bytes) -> _Message:
    ident, _, _, answers, authority, additional = _HEADER(payload)
    name, at = _question_name(payload)
    if at + 4 > len(payload):
        raise Malformed("DNS question is cut off")
    rtype, qclass = unpack_from("!HH", payload, at)
    at += 4
    for _ in range(answers + authority + additional):  # each takes 11 bytes or more, so the payload bounds it
        at = _skip_name(payload, at)
        if at + 10 > len(payload):
            raise Malformed("DNS record is cut off")
        at += 10 + int(unpack_from("!H", payload, at + 8)[0])
    if at != len(payload):
        raise Malformed("DNS records do not end where the message does")
    return _Message(DnsQuery(name, rtype, ident), qclass)


def _question_name(payload: bytes) -> tuple[str, int]:
    """(name, offset after it) of the question."""
    labels, at = [], HEADER
    while size := _label(payload, at):
        if size > MAX_LABEL:
            raise Malformed("DNS question with a compression pointer")
        labels.append(_text(payload[at + 1 : at + 1 + size]))
        at += 1 + size
        if at + 1 - HEADER > MAX_NAME:
            raise Malformed("DNS name is longer than 255 octets")
    return ".".join(labels), at + 1


def _skip_name(payload: bytes, at: int) -> int:
    """The offset after a name that may end in a pointer."""
    start = at
    while size := _label(payload, at):
        if size > MAX_LABEL:
            if at + 2 > len(payload) or not HEADER <= (size & 0x3F) << 8 | payload[at + 1] < start:
                raise Malformed("DNS compression pointer does not point to an earlier name")
            return at + 2
        at += 1 + size
        if at + 1 - start > MAX_NAME:
            raise Malformed("DNS name is longer than 255 octets")
    return at + 1


def _label(payload: bytes, at: int) -> int:
    """The length byte of the label at an offset, or the first byte of a pointer (0xC0 and above)."""
    if at >= len(payload):
        raise Malformed("DNS name is cut off")
    size = payload[at]
    if MAX_LABEL < size < 0xC0:
        raise Malformed("DNS label of a reserved type")
    if size <= MAX_LABEL and at + 1 + size > len(payload):
        raise Malformed("DNS name is cut off")
    return size


def _text(label: bytes) -> str:
    lower = label.lower()
    if _PLAIN.issuperset(lower):
        return lower.decode("ascii")
    return "".join(chr(byte) if byte in _PLAIN else f"\\{byte:03d}" for byte in lower)

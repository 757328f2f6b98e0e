"""IP fragments (RFC 791, RFC 8200 section 4.5): their place in the datagram; splitting one, and joining their data."""

from __future__ import annotations

from typing import NamedTuple

from egress.errors import MalformedError
from egress.model import AH
from egress.wire.ip import EXTENSIONS, FRAGMENT, header

_UNCUT = 1 << 32  # bytes on the wire of a packet whose copy may be cut anywhere


class Fragment(NamedTuple):
    """The place of a fragment in its datagram."""

    offset: int  # bytes into the fragmentable part
    more: bool  # not the last one


class Part(NamedTuple):
    """A fragment, split into the key of its datagram, the datagram's headers and the fragment's data."""

    key: tuple[bytes, ...]  # equal in all fragments of a datagram
    head: bytes  # the header(s) of the whole datagram
    data: bytes


def fragment(raw: bytes) -> Fragment | None:
    """Return the place of a fragment in its datagram; None if the packet is not a fragment.

    Raises MalformedError for IP headers that are not valid or not captured whole. An IPv6 atomic fragment (RFC 6946:
    offset 0, no more) counts as a whole packet.
    """
    ip = header(raw, _UNCUT)
    return Fragment(ip.offset, ip.more) if ip.offset or ip.more else None


def fragmented(raw: bytes) -> bool:
    """Return whether a packet that `decode` accepted is a fragment. Cheap: called for every packet."""
    if raw[0] >> 4 == 4:
        return bool(raw[6] & 0x3F or raw[7])
    return raw[6] in EXTENSIONS and fragment(raw) is not None


def may_be_fragment(raw: bytes) -> bool:
    """Return False if a packet is certainly not a fragment, True if `fragment` must decide. Never raises.

    The packet need not be valid. This is a cheap test before `fragment`, which is slow.
    """
    if len(raw) < 8:
        return True
    if raw[0] >> 4 == 4:
        return bool(raw[6] & 0x3F or raw[7])
    return raw[6] in EXTENSIONS


def take_apart(raw: bytes) -> Part:
    """Split a fragment (`fragment` did not return None for it). Raises MalformedError if its capture was cut."""
    if raw[0] >> 4 == 4:
        start, end = (raw[0] & 15) << 2, raw[2] << 8 | raw[3]
        key: tuple[bytes, ...] = (raw[12:20], raw[9:10], raw[4:6])
        head = raw[:6] + b"\0\0" + raw[8:start]
    else:
        link, at = 6, 40  # the offset of the next-header field, and of the next header
        while raw[link] != FRAGMENT:
            link, at = at, at + (raw[at + 1] + 2 << 2 if raw[link] == AH else raw[at + 1] + 1 << 3)
        start, end = at + 8, 40 + (raw[4] << 8 | raw[5])
        key = (raw[8:40], raw[at + 4 : at + 8])
        head = raw[:link] + raw[at : at + 1] + raw[link + 1 : at]
    if len(raw) < end:
        raise MalformedError("an IP fragment was not captured whole")
    return Part(key, head, raw[start:end])


def whole(head: bytes, body: bytes) -> bytes:
    """Return the datagram made of its headers and its joined data, with its length set, but not its checksum.

    Raises MalformedError for more than 65535 bytes.
    """
    made = bytearray(head)
    four = made[0] >> 4 == 4
    length = len(body) + len(made) - (0 if four else 40)
    if length > 0xFFFF:
        raise MalformedError("IP fragments make more than the largest datagram")
    at = 2 if four else 4
    made[at : at + 2] = length.to_bytes(2)
    return bytes(made) + body

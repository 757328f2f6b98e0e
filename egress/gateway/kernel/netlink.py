"""Netlink framing: headers, attributes, requests and acknowledgements, whatever their content.

Layout from linux/netlink.h and linux/netfilter/nfnetlink.h. Headers are in host byte order, and so are the attributes
of rtnetlink and sock_diag; nfnetlink's own header and attributes are in network byte order.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

NETLINK_NETFILTER = 12
ACK, DUMP = 0x04, 0x300  # NLM_F_*
ERROR, DONE = 2, 3  # NLMSG_*; ERROR with errno 0 is an acknowledgement
HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port

_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_GENERIC = struct.Struct(">BBH")  # nfgenmsg: family, version, resource
_ERRNO = struct.Struct("=i")  # negative
_REQUEST = 0x01  # NLM_F_REQUEST
_TYPE = 0x3FFF  # the other bits of an attribute's type are flags: nested, in network byte order

GENERIC_BYTES = _GENERIC.size

Attributes = dict[int, bytes]


def request(kind: int, body: bytes, *, flags: int = 0, sequence: int = 0) -> bytes:
    """Encode one request. NLM_F_REQUEST is always set."""
    return HEADER.pack(HEADER.size + len(body), kind, _REQUEST | flags, sequence, 0) + body


def generic(family: int, resource: int = 0) -> bytes:
    """Encode the header that each nfnetlink body begins with. The resource is, for example, a queue's number."""
    return _GENERIC.pack(family, 0, resource)


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Split received bytes into messages: type and body of each. A message that is cut off ends the split."""
    at = 0
    while len(data) - at >= HEADER.size:
        length, kind, *_ = HEADER.unpack_from(data, at)
        if not HEADER.size <= length <= len(data) - at:
            return
        yield kind, data[at + HEADER.size : at + length]
        at += length + -length % 4


def acknowledged(message: bytes, sequence: int) -> int | None:
    """Read the acknowledgement of request `sequence`: its errno (0: done), or None when `message` is something else."""
    if len(message) < HEADER.size + _ERRNO.size:
        return None
    _, kind, _, number, _ = HEADER.unpack_from(message)
    return errno(message[HEADER.size :]) if kind == ERROR and number == sequence else None


def errno(body: bytes) -> int:
    """Return the errno, positive, in the body of an ERROR or DONE message; 0 for success or a body without one."""
    return -int(_ERRNO.unpack_from(body)[0]) if len(body) >= _ERRNO.size else 0


def check(number: int) -> None:
    """Raise OSError for an errno other than 0."""
    if number:
        raise OSError(number, os.strerror(number))


def attribute(kind: int, value: bytes) -> bytes:
    """Encode one attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> Attributes:
    """Decode attributes: type, without its flags, → value. An attribute that is cut off is left out."""
    found: Attributes = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            break
        found[kind & _TYPE] = data[_ATTRIBUTE.size : length]
        data = data[length + -length % 4 :]
    return found

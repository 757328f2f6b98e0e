"""Netlink framing: headers, attributes, requests and acknowledgements, whatever their content.

Layout from linux/netlink.h and linux/netfilter/nfnetlink.h. Headers are in host byte order, and so are the attributes
of rtnetlink and sock_diag; nfnetlink's own header and attributes are in network byte order.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

NETLINK_NETFILTER = 12
ACK, DUMP = 0x04, 0x300  # NLM_F_*
ERROR, DONE = 2, 3  # NLMSG_*; ERROR with errno 0 is an acknowledgement
HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port

_BUFFER = 1 << 16  # the kernel fills at most 32 KiB at once
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


class Frame(NamedTuple):
    """One message, with the fields of its header that tell whom it answers."""

    kind: int
    sequence: int
    port: int
    body: bytes


def frames(data: bytes) -> Iterator[Frame]:
    """Split received bytes into messages. A message that is cut off ends the split."""
    at = 0
    while len(data) - at >= HEADER.size:
        length, kind, _, sequence, port = HEADER.unpack_from(data, at)
        if not HEADER.size <= length <= len(data) - at:
            return
        yield Frame(kind, sequence, port, data[at + HEADER.size : at + length])
        at += length + -length % 4


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Split received bytes into messages, as `frames` does: type and body of each."""
    return ((frame.kind, frame.body) for frame in frames(data))


def dump(opened: socket.socket, asked: bytes) -> Iterator[tuple[int, bytes]]:
    """Send a request with the flag DUMP; yield type and body of each message of the listing.

    Raises OSError if the kernel refuses, or if the socket's timeout passes.
    """
    opened.sendto(asked, (0, 0))
    while True:
        for kind, body in messages(opened.recv(_BUFFER)):
            if kind in (DONE, ERROR):
                check(errno(body))
                return
            yield kind, body


def change(opened: socket.socket, asked: bytes) -> int:
    """Send a request with the flag ACK and sequence number 0; return the errno of its acknowledgement (0: done)."""
    opened.sendto(asked, (0, 0))
    while (code := acknowledged(opened.recv(_BUFFER), 0)) is None:
        continue
    return code


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


def text(kind: int, value: str) -> bytes:
    """Encode one attribute that is a string with a zero byte at its end."""
    return attribute(kind, value.encode() + b"\0")


def each_attribute(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type, without its flags, and value of each attribute, in order. One that is cut off ends the list."""
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            return
        yield kind & _TYPE, data[_ATTRIBUTE.size : length]
        data = data[length + -length % 4 :]


def attributes(data: bytes) -> Attributes:
    """Decode attributes: type, without its flags, → value; of several with one type the last."""
    return dict(each_attribute(data))

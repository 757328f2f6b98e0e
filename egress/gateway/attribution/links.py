"""Look up interfaces, their addresses and the namespaces of their other ends, by rtnetlink(7).

Layout from linux/rtnetlink.h, if_link.h, if_addr.h, net_namespace.h; framing in `egress.gateway.kernel.netlink`.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from egress.gateway.kernel import netlink
from egress.gateway.kernel.netlink import attribute, attributes, messages

TIMEOUT = 1.0  # seconds without an answer of the kernel
BUFFER = 1 << 16
MAX_MESSAGES = 1 << 16  # of one answer
MAX_ADDRESSES = 1024  # read in an agent's namespace: a million would delay all flows of a bridge

_NEW_LINK, _GET_LINK, _NEW_ADDRESS, _GET_ADDRESS, _NEW_NSID, _GET_NSID = 16, 18, 20, 22, 88, 90  # RTM_*
_NAME, _PEER, _MASTER, _LINKINFO, _PEER_NSID = 3, 5, 10, 18, 37  # IFLA_IFNAME, LINK, MASTER, LINKINFO, LINK_NETNSID
_KIND = 1  # IFLA_INFO_KIND
_ADDRESS, _LOCAL = 1, 2  # IFA_*
_NSID, _BY_DESCRIPTOR = 1, 3  # NETNSA_NSID, NETNSA_FD
_IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change
_IFADDR = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, index


class Link(NamedTuple):
    """An interface. Of a veth: the index of its other end (`peer`), and the number of that end's namespace (`nsid`)."""

    number: int
    name: str
    kind: str  # veth, bridge, …; empty for a device
    peer: int
    nsid: int | None  # None: no other end, or in this namespace


def open_route() -> socket.socket:
    """Open an rtnetlink socket in this thread's network namespace, to which it belongs for good. Raises OSError."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    opened.settimeout(TIMEOUT)
    return opened


def link(route: socket.socket, index: int) -> Link | None:
    """Return the interface with this index; None if there is none. Raises OSError."""
    route.send(_request(_GET_LINK, _IFINFO.pack(0, 0, index, 0, 0)))
    return next((each for each in _links(route.recv(BUFFER)) if each.number == index), None)


def ports(route: socket.socket, bridge: int) -> list[Link]:
    """List the interfaces that are ports of a bridge. Raises OSError."""
    body = _IFINFO.pack(0, 0, 0, 0, 0) + attribute(_MASTER, struct.pack("=I", bridge))
    return [each for part in _dump(route, _GET_LINK, body) for each in _links(part, bridge)]


def nsid(route: socket.socket, descriptor: int) -> int | None:
    """Return the number (nsid) by which our namespace knows the open namespace `descriptor`.

    None: it has no number, since no link of our namespace leads there. Raises OSError.
    """
    body = bytes(4) + attribute(_BY_DESCRIPTOR, struct.pack("=I", descriptor))
    route.send(_request(_GET_NSID, body))
    for kind, answer in messages(route.recv(BUFFER)):
        number = _int(attributes(answer[4:]).get(_NSID, b"")) if kind == _NEW_NSID else None
        if number is not None and number >= 0:
            return number
    return None


def addresses(route: socket.socket) -> set[bytes]:
    """Return the packed addresses in the socket's namespace, at most MAX_ADDRESSES. Raises OSError."""
    parts = _dump(route, _GET_ADDRESS, bytes(_IFADDR.size))
    return set(islice((each for part in parts for each in _locals(part)), MAX_ADDRESSES))


def _links(data: bytes, master: int = 0) -> Iterator[Link]:
    for kind, body in messages(data):
        if kind != _NEW_LINK or len(body) < _IFINFO.size:
            continue
        found = attributes(body[_IFINFO.size :])
        if master and _int(found.get(_MASTER, b"")) != master:
            continue  # a kernel that does not filter
        info = attributes(found.get(_LINKINFO, b"")).get(_KIND, b"")
        index = _IFINFO.unpack_from(body)[2]
        name = found.get(_NAME, b"").rstrip(b"\0").decode(errors="replace")
        yield Link(index, name, info.rstrip(b"\0").decode(errors="replace"), _int(found.get(_PEER, b"")) or 0,
                   _int(found.get(_PEER_NSID, b"")))  # fmt: skip


def _locals(data: bytes) -> Iterator[bytes]:
    for kind, body in messages(data):
        if kind == _NEW_ADDRESS and len(body) >= _IFADDR.size:
            found = attributes(body[_IFADDR.size :])
            if address := found.get(_LOCAL) or found.get(_ADDRESS):
                yield address


def _dump(route: socket.socket, kind: int, body: bytes) -> Iterator[bytes]:
    """Request all entries of a kind; yields the messages of the answer, undecoded. Raises OSError."""
    route.send(_request(kind, body, netlink.DUMP))
    for _ in range(MAX_MESSAGES):
        data = route.recv(BUFFER)
        yield data
        for answer, content in messages(data):
            if answer == netlink.DONE:
                return
            if answer == netlink.ERROR:
                netlink.check(netlink.errno(content))
    raise OSError("the kernel's answer does not end")


def _int(value: bytes) -> int | None:
    return struct.unpack("=i", value)[0] if len(value) == 4 else None


def _request(kind: int, body: bytes, flags: int = 0) -> bytes:
    return netlink.request(kind, body, flags=flags, sequence=1)

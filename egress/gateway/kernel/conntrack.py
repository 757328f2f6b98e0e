"""The kernel's table of connections (conntrack), by netlink: find the agents' entries, change or delete them.

Layout from linux/netfilter/nfnetlink_conntrack.h; headers and byte orders as in `egress.gateway.kernel.nfnetlink`. An
entry is an agent's if the agent began it (source of the original direction) or answers in it (source of the reply):
both are its own addresses, whatever NAT does on the way. What names an entry is sent back to the kernel just as it
came.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Collection, Iterator
from ipaddress import ip_network
from typing import NamedTuple

from egress.addresses import Networks
from egress.errors import EgressError
from egress.gateway.kernel.nfnetlink import HEADER, acknowledged, attribute

BUFFER = 1 << 16  # the kernel fills at most 32 KiB at once
TIMEOUT = 5.0  # seconds without an answer of the kernel

_NETLINK_NETFILTER = 12
_SUBSYSTEM_CONNTRACK = 1 << 8
_NEW, _GET, _DELETE = 0, 1, 2  # IPCTNL_MSG_CT_*; NEW without NLM_F_CREATE changes what is there
_REQUEST, _ACK, _DUMP = 0x01, 0x04, 0x300  # NLM_F_*
_ERROR, _DONE = 2, 3  # NLMSG_*
_ORIGINAL, _REPLY, _MARK, _ID, _ZONE, _MARK_MASK = 1, 2, 8, 12, 18, 21  # CTA_*
_TUPLE_IP = 1
_SOURCES = (1, 3)  # CTA_IP_V4_SRC, CTA_IP_V6_SRC
_TYPE = 0x3FFF  # the rest are flags: nested, in network byte order
_GENERIC = 4  # bytes of struct nfgenmsg

Attributes = dict[int, bytes]


class Entry(NamedTuple):
    """A connection: packed addresses of its two ends, and the attributes that name it."""

    family: int
    sources: tuple[bytes, bytes]
    name: bytes


def unmark(networks: Collection[str], *, value: int, match: int, clear: int) -> int:
    """Zero the `clear` bits of the marks that under `match` are `value`; returns how many. Raises EgressError."""
    zero = attribute(_MARK, bytes(4)) + attribute(_MARK_MASK, struct.pack(">I", clear))
    return _each(networks, _NEW, zero, value, match)


def delete(networks: Collection[str]) -> int:
    """Delete all entries of these networks (CIDRs, both families); returns how many. Raises EgressError."""
    return _each(networks, _DELETE, b"", 0, 0)


def _each(networks: Collection[str], kind: int, change: bytes, value: int, match: int) -> int:
    if not networks:
        return 0
    ours, beginnings, done = Networks(tuple(networks)), _beginnings(networks), 0
    try:
        with _socket() as listing, _socket() as changing:
            for body in _bodies(listing, value, match):
                # The table may hold a quarter of a million entries: most are passed over without being read.
                entry = parse(body) if any(beginning in body for beginning in beginnings) else None
                if entry is not None and any(source in ours for source in entry.sources):
                    done += _order(changing, message(kind, _ACK, entry.family, entry.name + change))
    except OSError as error:
        raise EgressError(
            f"cannot change the kernel's connections ({error.strerror or error}): run `modprobe nf_conntrack_netlink`"
        ) from None
    return done


def _socket() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    opened.settimeout(TIMEOUT)
    return opened


def _beginnings(networks: Collection[str]) -> set[bytes]:
    """The whole bytes of each prefix: an address within begins with them."""
    parsed = [ip_network(network, strict=False) for network in networks]
    return {network.network_address.packed[: network.prefixlen // 8] for network in parsed}


def _bodies(listing: socket.socket, value: int, match: int) -> Iterator[bytes]:
    """All entries, both families; the kernel leaves out those with other marks."""
    wanted = attribute(_MARK, struct.pack(">I", value)) + attribute(_MARK_MASK, struct.pack(">I", match))
    listing.sendto(message(_GET, _DUMP, socket.AF_UNSPEC, wanted), (0, 0))
    while True:
        for kind, body in messages(listing.recv(BUFFER)):
            if kind in (_DONE, _ERROR):
                if code := -struct.unpack_from("=i", body)[0]:
                    raise OSError(code, os.strerror(code))
                return
            yield body


def _order(changing: socket.socket, request: bytes) -> int:
    """1: done; 0: it is gone by itself."""
    changing.sendto(request, (0, 0))
    while (code := acknowledged(changing.recv(BUFFER), 0)) is None:
        continue
    if code not in (0, errno.ENOENT):
        raise OSError(code, os.strerror(code))
    return int(code == 0)


def message(kind: int, flags: int, family: int, body: bytes) -> bytes:
    """One ctnetlink request, sequence number 0."""
    generic = struct.pack(">BBH", family, 0, 0)
    length = HEADER.size + len(generic) + len(body)
    return HEADER.pack(length, _SUBSYSTEM_CONNTRACK | kind, _REQUEST | flags, 0, 0) + generic + body


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and body of each whole message in what was received."""
    at = 0
    while len(data) - at >= HEADER.size:
        length, kind, *_ = HEADER.unpack_from(data, at)
        if not HEADER.size <= length <= len(data) - at:
            return
        yield kind, data[at + HEADER.size : at + length]
        at += length + -length % 4


def parse(body: bytes) -> Entry | None:
    """The entry of a message; None for one that lacks an end."""
    found = attributes(body[_GENERIC:])
    ends = [_source(found.get(kind, b"")) for kind in (_ORIGINAL, _REPLY)]
    if not all(ends):
        return None
    name = b"".join(
        attribute(kind | (kind == _ORIGINAL) << 15, found[kind]) for kind in (_ORIGINAL, _ZONE, _ID) if kind in found
    )
    return Entry(body[0], (ends[0], ends[1]), name)


def attributes(data: bytes) -> Attributes:
    """Type → value; what is cut off is left out."""
    found: Attributes = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if not 4 <= length <= len(data):
            break
        found[kind & _TYPE] = data[4:length]
        data = data[length + -length % 4 :]
    return found


def _source(end: bytes) -> bytes:
    addresses = attributes(attributes(end).get(_TUPLE_IP, b""))
    return next((addresses[kind] for kind in _SOURCES if kind in addresses), b"")

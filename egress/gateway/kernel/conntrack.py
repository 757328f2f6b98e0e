"""The kernel's connection table (conntrack), by netlink: find the agents' entries, change or delete them.

Layout from linux/netfilter/nfnetlink_conntrack.h; framing in `egress.gateway.kernel.netlink`. An entry belongs to an
agent if the agent opened the connection (source of the original direction) or answers in it (source of the reply): both
are the agent's own addresses, with or without NAT. To change an entry, the attributes that identify it are sent back to
the kernel unchanged.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection, Iterator
from ipaddress import ip_network
from typing import NamedTuple

from egress.addresses import Networks
from egress.errors import EgressError
from egress.gateway.kernel import netlink
from egress.gateway.kernel.netlink import attribute, attributes

TIMEOUT = 5.0  # seconds without an answer of the kernel

_SUBSYSTEM_CONNTRACK = 1 << 8
_NEW, _GET, _DELETE = 0, 1, 2  # IPCTNL_MSG_CT_*; NEW without NLM_F_CREATE changes an existing entry
_ORIGINAL, _REPLY, _MARK, _ID, _ZONE, _MARK_MASK = 1, 2, 8, 12, 18, 21  # CTA_*
_TUPLE_IP = 1
_SOURCES = (1, 3)  # CTA_IP_V4_SRC, CTA_IP_V6_SRC


class ConntrackEntry(NamedTuple):
    """A connection: the packed addresses of its two ends (`sources`), and the encoded attributes that identify it."""

    family: int
    sources: tuple[bytes, bytes]
    name: bytes


def unmark(networks: Collection[str], *, value: int, match: int, clear: int) -> int:
    """Zero the bits `clear` in the marks of these networks' entries whose mark & `match` equals `value`.

    `networks`: CIDRs, both families. Returns the number of changed entries. Raises EgressError if the kernel refuses.
    """
    zero = attribute(_MARK, bytes(4)) + attribute(_MARK_MASK, struct.pack(">I", clear))
    return _each(networks, _NEW, zero, value, match)


def delete(networks: Collection[str]) -> int:
    """Delete all entries of these networks (CIDRs, both families). Returns their number; raises EgressError."""
    return _each(networks, _DELETE, b"", 0, 0)


def _each(networks: Collection[str], kind: int, change: bytes, value: int, match: int) -> int:
    if not networks:
        return 0
    ours, beginnings, done = Networks(tuple(networks)), _beginnings(networks), 0
    try:
        with _socket() as listing, _socket() as changing:
            for body in _bodies(listing, value, match):
                # The table may hold a quarter of a million entries: most are skipped without being parsed.
                entry = parse(body) if any(beginning in body for beginning in beginnings) else None
                if entry is not None and any(source in ours for source in entry.sources):
                    done += _send(changing, message(kind, netlink.ACK, entry.family, entry.name + change))
    except OSError as error:
        raise EgressError(
            f"cannot change the kernel's connections ({error.strerror or error}): run `modprobe nf_conntrack_netlink`"
        ) from None
    return done


def _socket() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink.NETLINK_NETFILTER)
    opened.settimeout(TIMEOUT)
    return opened


def _beginnings(networks: Collection[str]) -> set[bytes]:
    """Return the whole bytes of each network's prefix: all addresses in the network begin with them."""
    parsed = [ip_network(network, strict=False) for network in networks]
    return {network.network_address.packed[: network.prefixlen // 8] for network in parsed}


def _bodies(listing: socket.socket, value: int, match: int) -> Iterator[bytes]:
    """Yield the entries of both families whose mark under the mask `match` is `value`."""
    wanted = attribute(_MARK, struct.pack(">I", value)) + attribute(_MARK_MASK, struct.pack(">I", match))
    for _, body in netlink.dump(listing, message(_GET, netlink.DUMP, socket.AF_UNSPEC, wanted)):
        yield body


def _send(changing: socket.socket, change: bytes) -> bool:
    """Send a change and wait until the kernel acknowledges it. False: the entry has expired by itself."""
    code = netlink.change(changing, change)
    if code != errno.ENOENT:
        netlink.check(code)
    return code == 0


def message(kind: int, flags: int, family: int, body: bytes) -> bytes:
    """Encode one ctnetlink request, sequence number 0."""
    return netlink.request(_SUBSYSTEM_CONNTRACK | kind, netlink.generic(family) + body, flags=flags)


def parse(body: bytes) -> ConntrackEntry | None:
    """Parse the entry in a message. None: an end of the connection is missing."""
    found = attributes(body[netlink.GENERIC_BYTES :])
    ends = [_source(found.get(kind, b"")) for kind in (_ORIGINAL, _REPLY)]
    if not all(ends):
        return None
    name = b"".join(
        attribute(kind | (kind == _ORIGINAL) << 15, found[kind]) for kind in (_ORIGINAL, _ZONE, _ID) if kind in found
    )
    return ConntrackEntry(body[0], (ends[0], ends[1]), name)


def _source(end: bytes) -> bytes:
    addresses = attributes(attributes(end).get(_TUPLE_IP, b""))
    return next((addresses[kind] for kind in _SOURCES if kind in addresses), b"")

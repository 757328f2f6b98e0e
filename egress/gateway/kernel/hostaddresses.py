"""Read the addresses of this host, of all its interfaces and both families, by rtnetlink(7).

Layout from linux/rtnetlink.h and if_addr.h; framing in `egress.gateway.kernel.netlink`.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

from egress.gateway.kernel import netlink
from egress.gateway.kernel.netlink import attributes

TIMEOUT = 1.0  # seconds without an answer of the kernel

_NEW_ADDRESS, _GET_ADDRESS = 20, 22  # RTM_*
_ADDRESS, _LOCAL = 1, 2  # IFA_*; of a point-to-point link ADDRESS is the other end's
_IFADDR = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, index


def host_addresses() -> frozenset[str]:
    """Return the addresses of all interfaces of this host, loopback too, as text. Raises OSError."""
    found: set[str] = set()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as route:
        route.settimeout(TIMEOUT)
        asked = netlink.request(_GET_ADDRESS, _IFADDR.pack(0, 0, 0, 0, 0), flags=netlink.DUMP)
        for kind, body in netlink.dump(route, asked):
            if kind == _NEW_ADDRESS:
                found |= _own(body)
    return frozenset(found)


def _own(body: bytes) -> set[str]:
    """Return the host's own address in one message, as a set; an empty one if the message has no valid address."""
    present = attributes(body[_IFADDR.size :])
    address = present.get(_LOCAL) or present.get(_ADDRESS, b"")
    return {str(ip_address(address))} if len(address) in (4, 16) else set()

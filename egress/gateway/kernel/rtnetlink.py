"""Links, addresses and routes of one network namespace, changed by rtnetlink(7): no process is started for them.

Layout from linux/if_link.h, if_addr.h, rtnetlink.h and veth.h; framing in `egress.gateway.kernel.netlink`.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from types import TracebackType

from egress.errors import EgressError
from egress.gateway.kernel import netlink
from egress.gateway.kernel.netlink import attribute, text

LOOPBACK = 1  # its index, in every namespace

_NEW_LINK, _DELETE_LINK, _GET_LINK, _NEW_ADDRESS, _NEW_ROUTE = 16, 17, 18, 20, 24  # RTM_*
_ADD = 0x600  # NLM_F_CREATE | NLM_F_EXCL
_IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change
_IFADDR = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
_NAME, _LINKINFO, _NAMESPACE = 3, 18, 28  # IFLA_IFNAME, IFLA_LINKINFO, IFLA_NET_NS_FD
_KIND, _DATA, _VETH_PEER = 1, 2, 1  # IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER
_ADDRESS, _LOCAL, _NO_DAD = 1, 2, 2  # IFA_ADDRESS, IFA_LOCAL; IFA_F_NODAD
_INTERFACE, _GATEWAY = 4, 5  # RTA_OIF, RTA_GATEWAY
_MAIN, _BOOT, _UNIVERSE, _UNICAST = 254, 3, 0, 1  # RT_TABLE_*, RTPROT_*, RT_SCOPE_*, RTN_*
_UP = 1  # IFF_UP
_BUFFER = 1 << 16
_TIMEOUT = 10  # seconds without an answer: the kernel works on one change of the network at a time


def open_socket() -> socket.socket:
    """Open an rtnetlink socket in this thread's network namespace, to which it belongs for good. Raises OSError."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)


class Rtnetlink:
    """Changes links, addresses and routes of a socket's network namespace; a context manager, which closes the socket.

    Every method waits up to 10 s for the kernel's answer; it raises EgressError if the kernel refuses or none comes.
    """

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@qq", _TIMEOUT, 0))
        self._sequence = 0

    def __enter__(self) -> Rtnetlink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def add_veth(self, name: str, peer: str, namespace: int) -> None:
        """Make a veth pair, both ends down: `name` here, `peer` in another namespace, by the descriptor of its file."""
        there = _IFINFO.pack(0, 0, 0, 0, 0) + text(_NAME, peer) + attribute(_NAMESPACE, struct.pack("=I", namespace))
        data = attribute(_DATA, attribute(_VETH_PEER, there))
        body = _link(name=name) + attribute(_LINKINFO, attribute(_KIND, b"veth") + data)
        self._change(_NEW_LINK, body, f"add the veth {name}", flags=_ADD)

    def index(self, name: str) -> int:
        """Return the index of an interface."""
        return int(_IFINFO.unpack_from(self._ask(_GET_LINK, _link(name=name), f"find the interface {name}"))[2])

    def add_address(self, index: int, address: str, prefix: int) -> None:
        """Add an address with its prefix length to an interface. For IPv6, without duplicate address detection."""
        family, packed = _packed(address)
        flags = _NO_DAD if family == socket.AF_INET6 else 0
        body = _IFADDR.pack(family, prefix, flags, 0, index) + attribute(_LOCAL, packed) + attribute(_ADDRESS, packed)
        self._change(_NEW_ADDRESS, body, f"add the address {address}", flags=_ADD)

    def set_up(self, index: int) -> None:
        """Set an interface up."""
        self._change(_NEW_LINK, _IFINFO.pack(0, 0, index, _UP, _UP), f"set interface {index} up")

    def add_default_route(self, gateway: str, index: int) -> None:
        """Add the default route of the gateway's family, through an interface that is up."""
        family, packed = _packed(gateway)
        header = _ROUTE.pack(family, 0, 0, 0, _MAIN, _BOOT, _UNIVERSE, _UNICAST, 0)
        body = header + attribute(_GATEWAY, packed) + attribute(_INTERFACE, struct.pack("=i", index))
        self._change(_NEW_ROUTE, body, f"add the route through {gateway}", flags=_ADD)

    def delete_link(self, name: str) -> None:
        """Delete an interface; of a veth both ends go. No effect if there is none of that name."""
        self._change(_DELETE_LINK, _link(name=name), f"delete the interface {name}", missing=errno.ENODEV)

    def _change(self, kind: int, body: bytes, what: str, *, flags: int = 0, missing: int = 0) -> None:
        """Send a change and wait for its acknowledgement. The errno `missing` counts as done."""
        self._ask(kind, body, what, flags=flags | netlink.ACK, fine=missing)

    def _ask(self, kind: int, body: bytes, what: str, *, flags: int = 0, fine: int = 0) -> bytes:
        """Send a request. Returns the body of its answer, which is empty for an acknowledgement."""
        self._sequence += 1
        try:
            self._socket.sendto(netlink.request(kind, body, flags=flags, sequence=self._sequence), (0, 0))
            while True:
                answer = self._socket.recv(_BUFFER)
                if netlink.HEADER.unpack_from(answer)[3] != self._sequence:
                    continue  # the late answer to a request that was given up
                code = netlink.acknowledged(answer, self._sequence)
                if code is None:
                    return answer[netlink.HEADER.size :]
                if code != fine:
                    netlink.check(code)
                return b""
        except OSError as error:
            raise EgressError(f"cannot {what}: {_explained(error)}") from None


def _explained(error: OSError) -> str:
    if error.errno in (errno.EPERM, errno.EACCES):
        return "not permitted: start egress as root (CAP_NET_ADMIN)"
    if error.errno == errno.EOPNOTSUPP:
        return "the kernel lacks it: run `modprobe veth`"
    if error.errno == errno.EAGAIN:
        return f"the kernel did not answer within {_TIMEOUT} s"
    return os.strerror(error.errno or 0)


def _link(name: str) -> bytes:
    return _IFINFO.pack(0, 0, 0, 0, 0) + text(_NAME, name)


def _packed(address: str) -> tuple[int, bytes]:
    parsed = ipaddress.ip_address(address)
    return (socket.AF_INET if parsed.version == 4 else socket.AF_INET6), parsed.packed

"""The barrier: routing rules that refuse an agent's packets while agents are blocked, also when our table is gone.

    0:  from all fwmark 0/0x8000000 iif egr0001 prohibit proto 101     one for each interface and family
    0:  from all lookup local                                          the host's own

The table, while it blocks, marks each packet of an agent before it is routed, and refuses it later with a reset. Where
the table is gone (`nft flush ruleset`, with no gateway to own it) the packet has no mark, and our rules refuse it: it
reaches neither other hosts nor the host itself, since our rules come before the lookup of local addresses. A rule may
name an interface that does not exist yet, and matches once it does. Our rules are recognised by their protocol number.

While the gateway guards there is no barrier. Linux looks up the way back of each reply with the reply's mark left out,
and rp_filter would drop replies to agents.

The host's rule for local addresses also has preference 0, and a new rule comes behind those of the same preference. So
the host's is added a second time, behind ours, and then its first copy is deleted: there always is one, and `ip rule`
prints it as before.

Outside its reach: packets to an agent, multicast to the host (IPv4), and TCP connections with the host itself that have
begun: their packets are not routed (early demultiplexing).

Layout from linux/fib_rules.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection
from typing import NamedTuple

from egress.errors import EgressError
from egress.gateway.kernel import netlink
from egress.gateway.kernel.netlink import attribute, attributes

PROTOCOL = 101  # of our rules; `ip rule` shows it, rtnetlink(7) leaves numbers above 4 to administrators

_NEW, _DELETE, _GET = 32, 33, 34  # RTM_*RULE
_CREATE = 0x400  # NLM_F_CREATE; without NLM_F_EXCL a second equal rule is made
_HEADER = struct.Struct("=BBBBBBBBI")  # fib_rule_hdr: family, dst_len, src_len, tos, table, -, -, action, flags
_LOOKUP, _PROHIBIT = 1, 8  # FR_ACT_*
_LOCAL = 255  # RT_TABLE_LOCAL
_IIFNAME, _PRIORITY, _MARK, _MASK, _PROTOCOL, _PAD = 3, 6, 10, 16, 21, 18  # FRA_*
_TIMEOUT = 5  # seconds


class RoutingRule(NamedTuple):
    """A routing rule as the kernel lists it: AF_INET or AF_INET6, its fib_rule_hdr, its attributes by FRA_* number."""

    family: int
    header: bytes
    attributes: dict[int, bytes]

    @property
    def ours(self) -> bool:
        """True for a rule of the barrier."""
        return self.attributes.get(_PROTOCOL) == bytes((PROTOCOL,))

    @property
    def interface(self) -> str:
        """The interface that matching packets come in by; empty for any."""
        return self.attributes.get(_IIFNAME, b"").rstrip(b"\0").decode(errors="replace")

    @property
    def preference(self) -> int:
        """The rule's rank: rules with lower numbers are applied first."""
        return int(struct.unpack("=I", self.attributes.get(_PRIORITY, bytes(4)))[0])

    @property
    def mark(self) -> tuple[int, int]:
        """Value and mask of the packet marks that the rule matches; (0, 0) if it matches all."""
        values = (struct.unpack("=I", self.attributes.get(kind, bytes(4)))[0] for kind in (_MARK, _MASK))
        mark, mask = values
        return int(mark), int(mask)

    @property
    def local(self) -> bool:
        """True for a rule that looks up every packet in table local, as each kernel makes one for its own addresses."""
        plain = not any(kind in self.attributes for kind in (_IIFNAME, _MARK, _MASK))
        return plain and self.header[1:4] == bytes(3) and self.header[4] == _LOCAL and self.header[7] == _LOOKUP


def raise_barrier(interfaces: Collection[str], bit: int) -> None:
    """Make the barrier hold back exactly these interfaces, with rules before all others of the host.

    `bit`: the mark bit of packets that it lets through. Missing rules are added before others are removed. Raises
    EgressError.
    """
    with _Rules() as kernel:
        for family in kernel.families():
            kernel.place(family, interfaces, bit)


def lower() -> None:
    """Remove the barrier; no effect without one. Raises EgressError."""
    raise_barrier((), 0)


def standing(interfaces: Collection[str], bit: int) -> bool:
    """Return True if the barrier is as `raise_barrier` with these arguments leaves it. Raises EgressError."""
    with _Rules() as kernel:
        for family in kernel.families():
            found = kernel.listed(family)
            ours = [each for each in found if each.ours]
            if found[: len(ours)] != ours or sorted(each.interface for each in ours) != sorted(set(interfaces)):
                return False
            if any(each.mark != (0, bit) or each.header[7] != _PROHIBIT for each in ours):
                return False
    return True


def held_back() -> set[str]:
    """Return the interfaces that the barrier holds back in every family that the kernel has. Raises EgressError."""
    with _Rules() as kernel:
        found = [{each.interface for each in kernel.listed(family) if each.ours} for family in kernel.families()]
    return set.intersection(*found) if found else set()


def rules() -> list[RoutingRule]:
    """List all routing rules of both families, each family in its order of lookup. Raises EgressError."""
    with _Rules() as kernel:
        return [each for family in kernel.families() for each in kernel.listed(family)]


class _Rules:
    """The kernel's routing rules, by rtnetlink: a context manager, at whose end an OSError becomes an EgressError."""

    def __enter__(self) -> _Rules:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        except OSError as error:
            raise EgressError(f"no netlink socket: {error.strerror}") from None
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@qq", _TIMEOUT, 0))
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._socket.close()
        if isinstance(error, OSError) and not isinstance(error, EgressError):
            raise EgressError(
                f"cannot change the routing rules ({error.strerror or error}): start egress as root, on a kernel with "
                "CONFIG_IP_MULTIPLE_TABLES and CONFIG_IPV6_MULTIPLE_TABLES"
            ) from None

    def families(self) -> list[int]:
        """List the families with routing rules: IPv6 may be absent."""
        return [family for family in (socket.AF_INET, socket.AF_INET6) if self.listed(family)]

    def listed(self, family: int) -> list[RoutingRule]:
        """List the rules of a family in their order of lookup; empty if the kernel lacks it. Raises OSError."""
        body = _HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
        found: list[RoutingRule] = []
        try:
            for _, answer in netlink.dump(self._socket, netlink.request(_GET, body, flags=netlink.DUMP)):
                if answer[0] == family:  # a kernel without IPv6 rules lists those of IPv4
                    found.append(RoutingRule(family, answer[: _HEADER.size], attributes(answer[_HEADER.size :])))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
                raise
        return found

    def place(self, family: int, interfaces: Collection[str], bit: int) -> None:
        """Do the work of `raise_barrier` for one family. Raises OSError."""
        there = [each for each in self.listed(family) if each.ours]
        right = {each.interface: each for each in there if each.mark == (0, bit) and each.header[7] == _PROHIBIT}
        for interface in dict.fromkeys(interfaces):
            if interface not in right:
                self._send(_NEW, *_prohibit(family, interface, bit))
        kept = set()
        for each in there:  # those of other interfaces, other bits, and doubles
            if each.interface in kept or each.interface not in interfaces or right.get(each.interface) != each:
                self._send(_DELETE, each.header, each.attributes)
            kept.add(each.interface)
        self._local_last(family)

    def _local_last(self, family: int) -> None:
        """Put the host's rule for local addresses behind ours."""
        found = self.listed(family)
        last = max((place for place, each in enumerate(found) if each.ours), default=-1)
        for each in found[: max(last, 0)]:
            if each.local and each.preference == 0:
                self._send(_NEW, each.header, each.attributes)
                self._send(_DELETE, each.header, each.attributes)

    def _send(self, kind: int, header: bytes, found: dict[int, bytes]) -> None:
        """Add or delete a rule (`kind`). Of equal rules the first is deleted; no effect if there is none."""
        values = {_PRIORITY: bytes(4)} | {key: value for key, value in found.items() if key != _PAD}
        body = header[:8] + bytes(4) + b"".join(attribute(key, value) for key, value in values.items())
        flags = netlink.ACK | (_CREATE if kind == _NEW else 0)
        code = netlink.change(self._socket, netlink.request(kind, body, flags=flags))
        if not (kind == _DELETE and code == errno.ENOENT):
            netlink.check(code)


def _prohibit(family: int, interface: str, bit: int) -> tuple[bytes, dict[int, bytes]]:
    """Make header and attributes of the barrier's rule for an interface."""
    header = _HEADER.pack(family, 0, 0, 0, 0, 0, 0, _PROHIBIT, 0)
    return header, {
        _PRIORITY: bytes(4),
        _IIFNAME: interface.encode() + b"\0",
        _MARK: bytes(4),
        _MASK: struct.pack("=I", bit),
        _PROTOCOL: bytes((PROTOCOL,)),
    }

"""Notifications of the kernel: our table, routing rules or network interfaces have changed.

A notification says only that there was a change: the caller reads the new state itself. Lost notifications count as a
change of everything. Layout from linux/netfilter/nfnetlink.h and linux/rtnetlink.h.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import NamedTuple

from egress.errors import EgressError
from egress.gateway.kernel import netlink, table
from egress.gateway.kernel.netlink import Frame, attributes

_NFTABLES = 1 << 6  # NFNLGRP_NFTABLES is 7
_LINKS, _RULES4, _RULES6 = 1 << 0, 1 << 7, 1 << 18  # RTNLGRP_LINK, _IPV4_RULE, _IPV6_RULE: 1, 8, 19
_LINK_KINDS = (16, 17)  # RTM_NEWLINK, RTM_DELLINK
_TABLE_KINDS = 10  # NFNL_SUBSYS_NFTABLES
_BUFFER = 1 << 16
_BATCH = 256  # messages read at a time


class Changes(NamedTuple):
    """The result of `Watch.read`: a flag for each kind of thing, True if it may have changed."""

    rules: bool  # our table, or routing rules
    links: bool


class Watch:
    """Two subscribed sockets (`sockets`), readable when a notification waits. Raises EgressError if refused."""

    def __init__(self) -> None:
        try:
            self.sockets = (
                _subscribed(netlink.NETLINK_NETFILTER, _NFTABLES),
                _subscribed(socket.NETLINK_ROUTE, _LINKS | _RULES4 | _RULES6),
            )
        except OSError as error:
            raise EgressError(f"no notifications from the kernel ({error.strerror}): start egress as root") from None

    def read(self, own: int) -> Changes:
        """Read the waiting notifications, never blocking. Changes of our table by netlink port `own` are ignored."""
        rules = links = False
        for kind, _, port, body in self._frames():
            if kind == 0:
                rules = links = True
            elif kind >> 8 == _TABLE_KINDS:
                named = attributes(body[netlink.GENERIC_BYTES :]).get(1, b"")
                rules |= port != own and named == table.NAME.encode() + b"\0"
            elif kind in _LINK_KINDS:
                links = True
            else:
                rules = True
        return Changes(rules, links)

    def close(self) -> None:
        for each in self.sockets:
            each.close()

    def _frames(self) -> Iterator[Frame]:
        """Yield each message; one of type 0 where some were lost."""
        for each in self.sockets:
            for _ in range(_BATCH):
                try:
                    data = each.recv(_BUFFER, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        break
                    yield Frame(0, 0, 0, b"")
                    continue
                yield from netlink.frames(data)


def _subscribed(protocol: int, groups: int) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
    opened.bind((0, groups))
    return opened

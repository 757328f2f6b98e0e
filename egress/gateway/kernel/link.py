"""Send IP packets to a neighbour on an interface, below routing, netfilter and connection tracking (packet(7)).

A packet that the kernel routed would pass other programs' rules, and connection tracking would take it for the first of
a connection that the other side opens.
"""

from __future__ import annotations

import fcntl
import socket
import struct

_IPV4, _IPV6 = 0x0800, 0x86DD  # linux/if_ether.h
_SIOCGIFNAME = 0x8910
_IFREQ = struct.Struct("@16si20x")
HARDWARE = 6  # bytes of an Ethernet address


class Neighbour:
    """The neighbour that sent a packet: index of the interface, and hardware address, empty where it has none."""

    __slots__ = ("address", "interface")

    def __init__(self, interface: int, address: bytes) -> None:
        self.interface, self.address = interface, address


class Link:
    """A socket for sending only. The constructor needs CAP_NET_RAW, else it raises OSError; `send` needs none."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)

    def send(self, packet: bytes, to: Neighbour) -> None:
        """Send a packet that begins with its IP header. Raises OSError, also if the interface is gone."""
        request = _IFREQ.pack(b"", to.interface)
        name = fcntl.ioctl(self._socket, _SIOCGIFNAME, request)[:16].rstrip(b"\0").decode()
        protocol = _IPV4 if packet[0] >> 4 == 4 else _IPV6
        self._socket.sendto(packet, (name, protocol, 0, 0, to.address))

    def close(self) -> None:
        self._socket.close()

"""Find the socket of a flow: ask the kernel by addresses and ports (sock_diag(7)), in the flow's namespace.

Layout from linux/inet_diag.h; framing in `egress.gateway.kernel.netlink`. The kernel searches as it does for a packet
that arrives: connected or not, IPv4 in an IPv6 socket, bound to a device. Ports are in network byte order.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import NamedTuple

from egress.gateway.kernel import netlink
from egress.gateway.pipe.note import Note
from egress.model import TCP, UDP

LISTEN = 10  # TCP_LISTEN: a server's socket, for any client

_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_ASK = struct.Struct("=BBBxI")  # inet_diag_req_v2: family, protocol, extensions, states; then the id
_PORTS = struct.Struct(">HH")
_END = struct.Struct("=5I")  # of inet_diag_msg: expires, rqueue, wqueue, uid, inode
_ANY = b"\xff" * 8  # INET_DIAG_NOCOOKIE
_ID = 48  # bytes of inet_diag_sockid
_BUFFER = 8192


class Socket(NamedTuple):
    """A socket of the kernel: inode, owner, TCP state. `inode` 0: no process holds it any more (TCP's last states)."""

    inode: int
    uid: int
    state: int


def ask(diag: socket.socket, note: Note, device: int) -> Socket | None:
    """Return the socket at the agent's end of a TCP or UDP flow; None if there is none. Raises OSError.

    `diag` is a socket of NETLINK_SOCK_DIAG in the agent's namespace, `device` the index of the interface there that
    leads to the gateway.
    """
    diag.send(request(note, device))
    return answer(diag.recv(_BUFFER))


def request(note: Note, device: int) -> bytes:
    """Encode the request for the socket at the agent's end of a flow. `device`: as in `ask`."""
    family = socket.AF_INET if len(note.local) == 4 else socket.AF_INET6
    local, remote = (note.local, note.local_port), (note.remote, note.remote_port)
    # The kernel on UDP: "src and dst are swapped for historical reasons".
    (src, sport), (dst, dport) = (remote, local) if note.proto == UDP else (local, remote)
    body = _ASK.pack(family, note.proto, 0, 0xFFFFFFFF) + _PORTS.pack(sport, dport)
    body += src.ljust(16, b"\0") + dst.ljust(16, b"\0") + struct.pack("=I", device) + _ANY
    return netlink.request(_BY_FAMILY, body, sequence=1)


def answer(data: bytes) -> Socket | None:
    """Parse the kernel's answer: the socket, or None if there is none.

    Raises OSError if the kernel refuses, or if the answer is not valid.
    """
    for kind, body in netlink.messages(data):
        if kind == _BY_FAMILY and len(body) >= 4 + _ID + _END.size:
            *_, uid, inode = _END.unpack_from(body, 4 + _ID)
            return Socket(inode, uid, body[1])
        if kind == netlink.ERROR and len(body) >= 4:
            code = netlink.errno(body)
            if code == errno.ENOENT:
                return None
            raise OSError(code, os.strerror(code) if code > 0 else "an empty answer")
    raise OSError(errno.EBADMSG, "the kernel's answer is not understood")


def askable(proto: int) -> bool:
    """Return True for the protocols whose sockets sock_diag can look up: TCP and UDP."""
    return proto in (TCP, UDP)

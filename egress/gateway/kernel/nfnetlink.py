"""The one nfnetlink message NetfilterQueue cannot send: copy range, length and flags of a queue, acknowledged.

Layout from linux/netlink.h, linux/netfilter/nfnetlink.h and linux/netfilter/nfnetlink_queue.h. Netlink headers are in
host byte order, nfnetlink and its attributes in network byte order.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time

from egress.errors import EgressError

FAIL_OPEN, GSO = 1, 4  # NFQA_CFG_F_*
COPY_META, COPY_PACKET = 1, 2  # NFQNL_COPY_*
MAX_COPY = 0xFFFF - 4  # the longest copy an attribute can hold

_SUBSYSTEM_QUEUE, _MSG_CONFIG = 3, 2
_REQUEST, _ACK = 0x01, 0x04
_ERROR = 2  # NLMSG_ERROR: also the acknowledgement, with error 0
_CFG_PARAMS, _CFG_MAXLEN, _CFG_MASK, _CFG_FLAGS = 2, 3, 4, 5
HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port


def config_message(queue: int, sequence: int, *, copy_range: int, length: int, flags: int) -> bytes:
    """One NFQNL_MSG_CONFIG that sets all of it. Flags and mask stand once: the kernel keeps only the last pair."""
    body = struct.pack(">BBH", socket.AF_UNSPEC, 0, queue)
    body += attribute(_CFG_MAXLEN, struct.pack(">I", length))
    body += attribute(_CFG_MASK, struct.pack(">I", FAIL_OPEN | GSO))
    body += attribute(_CFG_FLAGS, struct.pack(">I", flags))
    body += attribute(_CFG_PARAMS, struct.pack(">IB", copy_range, COPY_PACKET))
    kind = _SUBSYSTEM_QUEUE << 8 | _MSG_CONFIG
    return HEADER.pack(HEADER.size + len(body), kind, _REQUEST | _ACK, sequence, 0) + body


def acknowledged(message: bytes, sequence: int) -> int | None:
    """The errno (0: done) of the acknowledgement of `sequence`; None when `message` is something else."""
    if len(message) < HEADER.size + 4:
        return None
    _, kind, _, number, _ = HEADER.unpack_from(message)
    if kind != _ERROR or number != sequence:
        return None
    return -int(struct.unpack_from("=i", message, HEADER.size)[0])


def configure(sock: socket.socket, message: bytes, sequence: int, size: int, timeout: float = 2.0) -> list[bytes]:
    """Send a config message and await its answer; returns what else came meanwhile (packets, to be judged later).

    Raises EgressError when the kernel refuses or does not answer.
    """
    sock.sendto(message, (0, 0))
    others: list[bytes] = []
    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([sock], [], [], left)[0]:
            break
        answer = sock.recv(size, socket.MSG_DONTWAIT)
        error = acknowledged(answer, sequence)
        if error is None:
            others.append(answer)
        elif error:
            raise EgressError(
                f"the kernel refused the queue's settings: {os.strerror(error)}; is this Linux 3.10 or later?"
            )
        else:
            return others
    raise EgressError("the kernel did not answer the queue's settings; is the nfnetlink_queue module loaded?")


def attribute(kind: int, value: bytes) -> bytes:
    """One netlink attribute, padded to four bytes."""
    padding = -len(value) % 4
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(padding)

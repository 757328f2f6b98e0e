"""Settings of a netfilter queue that NetfilterQueue cannot make: copy range, length and flags, acknowledged.

Layout from linux/netfilter/nfnetlink_queue.h; framing in `egress.gateway.kernel.netlink`.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time

from egress.errors import EgressError
from egress.gateway.kernel import netlink
from egress.gateway.kernel.netlink import attribute

FAIL_OPEN, GSO = 1, 4  # NFQA_CFG_F_*
COPY_META, COPY_PACKET = 1, 2  # NFQNL_COPY_*
MAX_COPY = 0xFFFF - 4  # the longest copy an attribute can hold

_SUBSYSTEM_QUEUE, _MSG_CONFIG = 3, 2
_CFG_PARAMS, _CFG_MAXLEN, _CFG_MASK, _CFG_FLAGS = 2, 3, 4, 5


def config_message(queue: int, sequence: int, *, copy_range: int, length: int, flags: int) -> bytes:
    """Encode one NFQNL_MSG_CONFIG with all settings of a queue.

    `copy_range`: bytes of each packet to copy; `length`: packets; `flags`: FAIL_OPEN and GSO, in one attribute, since
    the kernel heeds only the last.
    """
    body = netlink.generic(socket.AF_UNSPEC, queue)
    body += attribute(_CFG_MAXLEN, struct.pack(">I", length))
    body += attribute(_CFG_MASK, struct.pack(">I", FAIL_OPEN | GSO))
    body += attribute(_CFG_FLAGS, struct.pack(">I", flags))
    body += attribute(_CFG_PARAMS, struct.pack(">IB", copy_range, COPY_PACKET))
    return netlink.request(_SUBSYSTEM_QUEUE << 8 | _MSG_CONFIG, body, flags=netlink.ACK, sequence=sequence)


def configure(sock: socket.socket, message: bytes, sequence: int, size: int, timeout: float = 2.0) -> list[bytes]:
    """Send a config message and wait for its answer. Returns the other messages that came meanwhile, with packets.

    `sequence`: the number in `message`; `size`: the most bytes that a message can have. Raises EgressError when the
    kernel refuses or does not answer within `timeout` seconds.
    """
    sock.sendto(message, (0, 0))
    others: list[bytes] = []
    waiting = select.poll()  # select(2) takes no descriptor beyond 1023
    waiting.register(sock, select.POLLIN)
    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        if not waiting.poll(left * 1000):
            break
        answer = sock.recv(size, socket.MSG_DONTWAIT)
        error = netlink.acknowledged(answer, sequence)
        if error is None:
            others.append(answer)
        elif error:
            raise EgressError(
                f"the kernel refused the queue's settings: {os.strerror(error)}; is this Linux 3.10 or later?"
            )
        else:
            return others
    raise EgressError("the kernel did not answer the queue's settings; is the nfnetlink_queue module loaded?")

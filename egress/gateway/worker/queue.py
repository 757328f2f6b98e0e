"""One netfilter queue: reads packets, asks `judge`, answers the kernel. Every packet gets exactly one answer.

A judge may keep a packet and have it answered later. Until then it stays in the kernel, takes room in the queue, and is
dropped there where the queue is given back or the packet's interface goes away.

NetfilterQueue reads into 4096 bytes and sets no flags. We bind it with nothing to copy, set copy range, length and
flags with a message of our own on its socket, and hand `run_socket` a reader with a buffer for whole packets.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import cast

from netfilterqueue import COPY_NONE, NetfilterQueue
from netfilterqueue import Packet as QueuedPacket

from egress.errors import EgressError
from egress.gateway.kernel import nfnetlink

BUFFER = 0xFFFF + 4096  # the longest payload and room for the other attributes
BATCH = 64  # packets of one queue before the other queue, timers and control get their turn
DISCARD = -1  # a judge's answer: drop this packet, mark nothing
PARKED = -2  # a judge's answer: it keeps the packet, and will have it judged again or answered

_SOL_NETLINK, _NO_ENOBUFS = 270, 5
_SOCKET_BYTES = 4096  # of socket buffer for each packet the queue may hold; the kernel doubles it

# IP packet, interface in, interface out, settled queue, handle to be kept -> mark, DISCARD or PARKED
Judge = Callable[[bytes, int, int, bool, QueuedPacket], int]


class PacketQueue:
    """A bound queue. `judge` may raise: the packet is then dropped with `failed`'s mark and the error handed to it."""

    def __init__(self, number: int, judge: Judge, failed: Callable[[Exception], int], *, mark_mask: int) -> None:
        self.number = number
        self.settled = False
        self.packets = 0
        self.errors = 0
        self._judge, self._failed = judge, failed
        self._others, self._mask = ~mark_mask & 0xFFFFFFFF, mark_mask
        self._early: deque[bytes] = deque()
        self._left = 0

    def bind(self, *, length: int, copy_range: int, settled: bool, fail_open: bool) -> None:
        """Own the queue from here on. Raises EgressError when it cannot be had."""
        self.settled = settled
        try:
            self._library = NetfilterQueue()
            self._library.bind(self.number, self._packet, length, COPY_NONE, 0, length * _SOCKET_BYTES)
        except OSError as error:
            raise EgressError(
                f"cannot bind netfilter queue {self.number} ({error}): run as root, and stop its other owner"
            ) from None
        self._socket = socket.socket(fileno=os.dup(self._library.get_fd()))
        self._socket.setsockopt(
            _SOL_NETLINK, _NO_ENOBUFS, 1
        )  # else one overrun loses everything until the buffer is empty
        flags = (nfnetlink.GSO if settled else 0) | (nfnetlink.FAIL_OPEN if fail_open else 0)
        message = nfnetlink.config_message(self.number, 1, copy_range=copy_range, length=length, flags=flags)
        self._early.extend(nfnetlink.configure(self._socket, message, 1, BUFFER))

    def fileno(self) -> int:
        return self._socket.fileno()

    def run(self, batch: int = BATCH) -> int:
        """Judge at most `batch` packets that wait; returns how many there were. Never blocks."""
        before, self._left = self.packets, batch
        self._library.run_socket(cast(socket.socket, self))
        return self.packets - before

    def recv(self, _size: int) -> bytes:
        """What `run_socket` reads from: ends the batch with EAGAIN."""
        if self._early:
            return self._early.popleft()
        if self._left <= 0:
            raise BlockingIOError(errno.EAGAIN, "batch done")
        self._left -= 1
        return self._socket.recv(BUFFER, socket.MSG_DONTWAIT)

    def close(self) -> None:
        """Give the queue back; what still waits in it is dropped by the kernel."""
        self._library.unbind()
        self._socket.close()

    def judge(self, packet: QueuedPacket, raw: bytes) -> None:
        """Ask about a packet and answer it: one that has just come, or one that was kept until now."""
        mark = DISCARD
        try:
            mark = self._judge(raw, packet.indev, packet.outdev, self.settled, packet)
        except Exception as error:  # noqa: BLE001 - no fault of ours may leave a packet unanswered or end the worker
            self.errors += 1
            mark = self._failed(error)
        finally:
            if mark != PARKED:
                self.answer(packet, mark)

    def answer(self, packet: QueuedPacket, mark: int) -> None:
        """Let a packet go with this mark, or drop it. Nothing where the kernel has dropped it already."""
        if mark == DISCARD:
            packet.drop()
        else:
            packet.set_mark(packet.mark & self._others | mark & self._mask)
            packet.accept()

    def _packet(self, packet: QueuedPacket) -> None:
        self.packets += 1
        self.judge(packet, packet.get_payload())

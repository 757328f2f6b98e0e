"""One netfilter queue: read packets, ask `judge`, answer the kernel. Every packet gets exactly one answer.

Each agent has queues of its own, and the queues of a worker take turns: deficit round robin (Shreedhar and Varghese
1995) in seconds. If a turn takes longer than QUANTUM, as its last packet is slow to judge, the next turns of the queue
are shorter by that excess. So an agent that sends more than the worker can judge fills its own queue, where the kernel
drops the rest, and delays the packets of another agent by a turn at most.

A judge may park a packet and have it answered later. Until then it stays in the kernel and takes room in the queue; the
kernel drops it when the queue is closed or the packet's interface goes away.

NetfilterQueue reads into 4096 bytes and sets no flags. So the queue is bound with nothing to copy; a message of our own
on the library's socket sets copy range, length and flags; and `run_socket` gets this object as its socket, whose `recv`
has a buffer for whole packets (docs/adr/0020).
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import cast

from netfilterqueue import COPY_NONE, NetfilterQueue
from netfilterqueue import Packet as QueuedPacket

from egress.errors import EgressError
from egress.gateway.kernel import nfnetlink

BUFFER = 0xFFFF + 4096  # the longest payload and room for the other attributes
QUANTUM = 0.0005  # seconds of a queue's turn
DISCARD = -1  # a judge's answer: drop this packet, mark nothing
PARKED = -2  # a judge's answer: the packet is parked, and will be judged again or answered later

_SOL_NETLINK, _NO_ENOBUFS = 270, 5
_SOCKET_BYTES = 4096  # of socket buffer for each packet in the queue; the kernel doubles it

# IP packet, interface in, interface out, its queue, handle to be parked -> mark, DISCARD or PARKED
Judge = Callable[[bytes, int, int, "PacketQueue", QueuedPacket], int]


class PacketQueue:
    """A queue; call `bind` first.

    `judge` returns the mark to accept a packet with, DISCARD to drop it, or PARKED to have it answered later. If it
    raises, `failed` gets the error and returns the mark. `mark_mask`: the only bits of a packet's mark to be changed.
    """

    def __init__(self, number: int, judge: Judge, failed: Callable[[Exception], int], *, mark_mask: int) -> None:
        self.number = number
        self.settled = False
        self.packets = 0
        self.errors = 0
        self._judge, self._failed = judge, failed
        self._others, self._mask = ~mark_mask & 0xFFFFFFFF, mark_mask
        self._early: deque[bytes] = deque()
        self._until = self._debt = 0.0
        self._closed = False

    def bind(self, *, length: int, copy_range: int, settled: bool, fail_open: bool) -> None:
        """Bind the queue: it holds `length` packets, and copies `copy_range` bytes of each.

        `settled`: it is the queue for settled connections. `fail_open`: the kernel accepts packets that find it full.
        Raises EgressError when another process reads the queue, or binding is not permitted.
        """
        self.settled = settled
        try:
            self._library = NetfilterQueue()
            self._library.bind(self.number, self._packet, length, COPY_NONE, 0, length * _SOCKET_BYTES)
        except OSError as error:
            raise EgressError(
                f"cannot bind netfilter queue {self.number} ({error}): run as root, and stop its other owner"
            ) from None
        self._socket = socket.socket(fileno=os.dup(self._library.get_fd()))
        # Without this one overrun would lose all packets until the buffer is empty.
        self._socket.setsockopt(_SOL_NETLINK, _NO_ENOBUFS, 1)
        flags = (nfnetlink.GSO if settled else 0) | (nfnetlink.FAIL_OPEN if fail_open else 0)
        message = nfnetlink.config_message(self.number, 1, copy_range=copy_range, length=length, flags=flags)
        self._early.extend(nfnetlink.configure(self._socket, message, 1, BUFFER))

    def fileno(self) -> int:
        return self._socket.fileno()

    def run(self, seconds: float = QUANTUM) -> int:
        """Judge waiting packets for a turn of `seconds`, less the excess of earlier ones. Returns their number.

        It does not wait for packets.
        """
        before, self._until = self.packets, time.perf_counter() + seconds - self._debt
        if not self._closed:
            self._library.run_socket(cast(socket.socket, self))
        self._debt = max(0.0, time.perf_counter() - self._until)
        return self.packets - before

    def recv(self, _size: int) -> bytes:
        """Return the kernel's next message, for `run_socket`. Raises BlockingIOError at the end of the turn."""
        if self._early:
            return self._early.popleft()
        if time.perf_counter() >= self._until:
            raise BlockingIOError(errno.EAGAIN, "the turn is over")
        return self._socket.recv(BUFFER, socket.MSG_DONTWAIT)

    def close(self) -> None:
        """Close the queue. The kernel drops the packets in it; those that are parked must not be answered any more."""
        self._closed = True
        self._library.unbind()
        self._socket.close()

    def judge(self, packet: QueuedPacket, raw: bytes) -> None:
        """Judge a packet, just received or parked until now, and answer it unless it is parked. Never raises."""
        mark = DISCARD
        try:
            mark = self._judge(raw, packet.indev, packet.outdev, self, packet)
        except Exception as error:  # noqa: BLE001 - no bug may leave a packet unanswered or end the worker
            self.errors += 1
            mark = self._failed(error)
        finally:
            if mark != PARKED:
                self.answer(packet, mark)

    def answer(self, packet: QueuedPacket, mark: int) -> None:
        """Accept a packet with this mark, or drop it (DISCARD). No effect if the queue is closed or the packet gone."""
        if self._closed:
            return
        if mark == DISCARD:
            packet.drop()
        else:
            packet.set_mark(packet.mark & self._others | mark & self._mask)
            packet.accept()

    def _packet(self, packet: QueuedPacket) -> None:
        self.packets += 1
        self.judge(packet, packet.get_payload())

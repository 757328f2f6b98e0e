"""Turns of a flow: a request of the agent that ends a silence, and all that follows until the next such request.

A keep-alive shows itself in the bytes: a protocol's ping that got its pong, or a request that is the one before and got
the same answer as the one before. Such a turn carries no command, so the rhythm of such turns proves nothing.
Everything is taken from the packet that begins a turn: its payload is the request, its sequence and acknowledgement
numbers say how much went each way meanwhile. So packets within a turn cost nothing.
"""

from __future__ import annotations

from hashlib import blake2b

from egress.dissection.events import Turn
from egress.dissection.stream import distance
from egress.model import TCP, Packet
from egress.wire.keepalive import LONGEST, is_test, pong

MOST = 65536  # bytes of an answer that are compared; of a longer one, or one that is not kept, the size is


class Turns:
    """Compares the turns of one flow, each with the one before."""

    __slots__ = ("_before", "_heard", "_request", "_seq")

    def __init__(self) -> None:
        self._request = b""  # of the turn that lasts; b"": none yet, or too long to be compared
        self._seq = self._heard = 0  # the positions in both streams at its beginning
        self._before: tuple[bytes, bytes] | None = None  # request and answer's digest of the turn before it

    def begin(self, packet: Packet, received: bytes | bytearray, bytes_in: int) -> Turn:
        """End the present turn, and begin another with a packet of the agent; return the kind of its request.

        `received` ends with the bytes that the agent got last, as far as they are kept. `bytes_in` is the number of
        bytes that it got in all, for flows without acknowledgement numbers.
        """
        stream = packet.proto == TCP
        heard = packet.ack if stream else bytes_in
        size = distance(heard, self._heard) if stream else heard - self._heard
        whole = bool(self._request) and (not stream or distance(packet.seq, self._seq) == len(self._request))
        answer = bytes(received[len(received) - size :]) if 0 < size <= min(len(received), MOST) else b""
        turn = (self._request, blake2b(answer or b"%d" % size, digest_size=8).digest()) if whole else None
        before = self._before
        honest = turn is None or self._is_honest(turn, answer)
        request = packet.payload if len(packet.payload) <= LONGEST and not packet.missing else b""
        last, self._before = self._request, turn
        self._request, self._seq, self._heard = request, packet.seq, heard
        if honest and (pong(request) is not None or is_test(request)):
            return Turn.PING
        if turn is None or before is None or not request == last == before[0]:
            return Turn.OTHER
        return Turn.REPEAT if turn == before else Turn.TOLD

    def _is_honest(self, turn: tuple[bytes, bytes], answer: bytes) -> bool:
        """Return False for a turn whose request is a keep-alive, and whose answer is more than that.

        A ping may get nothing or its pong; a test of a connection the answer that the same test got before.
        """
        request = turn[0]
        expected = pong(request)
        if expected is not None:
            return not answer or expected in answer
        return not is_test(request) or self._before is None or self._before[0] != request or self._before == turn

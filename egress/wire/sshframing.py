"""Checks SSH as its peers send it (RFC 4253): the identification, then binary packets until encryption starts.

`egress.wire.ssh` finds SSH anywhere in a stream, as tolerant receivers do. This reader is strict instead: it raises
MalformedError at the first bytes that no SSH peer sends. It stops checking after NEWKEYS, or after the first packet of
SSH-1, since everything later is encrypted.
"""

from __future__ import annotations

import re

from egress.errors import MalformedError
from egress.wire.ssh import KEXINIT, MAX_HEAD, MAX_IDENT, MAX_LINES, MAX_MESSAGES, MAX_PACKET, NEWKEYS, PREFIX, kexinit

_IDENT = re.compile(rb"SSH-[ -,.-~]{1,64}-[\t -~\x80-\xff]*\r?\n")
_NO_TEXT = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]")  # a byte that no line before the packets has
_BEFORE_KEYS = frozenset((1, 2, 3, 4, KEXINIT, NEWKEYS, *range(30, 50)))  # RFC 4250 section 4.1.2
_SSH1 = frozenset((1, 2, 3, 32, 36))  # DISCONNECT, the server's key, the session key, IGNORE, DEBUG
_LENGTH, _NUMBER = 4, 6  # bytes of a packet up to the end of its length, and of its message number


class SshFraming:
    """Checks one direction. Mutable; feed it the bytes in order. `over`: True once no later bytes can be checked.

    `server`: True for the server's direction, where other lines may precede the identification (RFC 4253 section 4.2).
    """

    __slots__ = ("_buffer", "_head", "_lines", "_messages", "_scanned", "_server", "_version", "over")

    def __init__(self, *, server: bool) -> None:
        self.over = False
        self._server = server
        self._buffer = bytearray()
        self._scanned = 0  # bytes of the open line that were searched for its end
        self._version = b""  # of the protocol; empty before the identification
        self._lines = self._head = self._messages = 0

    def feed(self, chunk: bytes) -> None:
        """Check the next bytes. Raises MalformedError for bytes that no SSH peer sends at this place."""
        if self.over:
            return
        self._buffer += chunk
        while self._packet() if self._version else self._line():
            pass

    def _line(self) -> bool:
        """Take the next line of the buffer; return False if it is not whole yet. Raises MalformedError."""
        buffer = self._buffer
        end = buffer.find(b"\n", self._scanned) + 1
        stop = end or len(buffer)
        ident = buffer[: min(stop, len(PREFIX))] == PREFIX[:stop]
        if not (ident or self._server) or _NO_TEXT.search(buffer, self._scanned, stop):
            raise MalformedError("not an SSH identification")
        limit = MAX_IDENT if ident and stop > len(PREFIX) else MAX_HEAD - self._head
        if stop > limit or self._lines > MAX_LINES:
            raise MalformedError("the SSH identification is too long, or comes too late")
        self._scanned = 0 if end else stop
        if not end:
            return False
        line = bytes(buffer[:end])
        del buffer[:end]
        self._head += end
        self._lines += 1
        if line.startswith(PREFIX):
            if not _IDENT.fullmatch(line):
                raise MalformedError("not an SSH identification")
            self._version = line.split(b"-")[1]
        return True

    def _packet(self) -> bool:
        """Take the next binary packet; return False if it is not whole yet or was the last. Raises MalformedError."""
        buffer = self._buffer
        if len(buffer) < _NUMBER:
            if len(buffer) >= _LENGTH and not 5 <= int.from_bytes(buffer[:_LENGTH]) <= MAX_PACKET:
                raise MalformedError("SSH packet length out of range")
            return False
        length, padding, number = int.from_bytes(buffer[:_LENGTH]), buffer[4], buffer[5]
        if self._is_version_1(padding, number):
            return self._packet_of_version_1(length)
        fits = length <= MAX_PACKET and (length + 4) % 8 == 0 and 4 <= padding <= length - 2
        if not fits or number not in _BEFORE_KEYS:
            raise MalformedError("not an SSH packet of the key exchange")
        if len(buffer) < _LENGTH + length:
            return False
        if number == KEXINIT and kexinit(bytes(buffer[5 : _LENGTH + length - padding])) is None:
            raise MalformedError("SSH KEXINIT does not parse")
        self._messages += 1
        if self._messages > MAX_MESSAGES:
            raise MalformedError("SSH key exchange without an end")
        del buffer[: _LENGTH + length]
        if number == NEWKEYS:
            self._end()
        return not self.over

    def _is_version_1(self, padding: int, number: int) -> bool:
        """Return whether the next packet is of SSH-1; for version 1.99 the first packet's own bytes decide.

        `padding`, `number`: bytes 4 and 5 of the packet, which are padding length and message number in SSH-2.
        """
        if not self._version.startswith(b"1."):
            return False
        return self._version != b"1.99" or (self._messages == 0 and (padding < 4 or number != KEXINIT))

    def _packet_of_version_1(self, length: int) -> bool:
        """Check the first packet of SSH-1 up to its type, which follows 1 to 8 bytes of padding.

        Returns False always. Once the type is there, checking is over. Raises MalformedError.
        """
        at = _LENGTH + 8 - length % 8
        if not 5 <= length <= MAX_PACKET or (len(self._buffer) > at and self._buffer[at] not in _SSH1):
            raise MalformedError("not a packet of SSH-1")
        if len(self._buffer) > at:
            self._end()
        return False

    def _end(self) -> None:
        self.over = True
        self._buffer.clear()

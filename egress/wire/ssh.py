"""SSH before it is encrypted: identification (RFC 4253 section 4.2), KEXINIT (section 7.1), SSH-1.5's first packet.

Both directions are read alike, because either side may be the server, whichever opened the connection. Lines before
the identification are allowed on both sides: a server may send them (RFC 4253), and an agent can act as the server. The
identification is reported as soon as `SSH-x.y-` has come; its line may be cut short by the segment.

The reader accepts more than the RFC, since implementations do: LF alone ends a line, and OpenSSH reads the version with
sscanf("SSH-%d.%d-"), so blanks, signs and leading zeros pass. Go's reader accepts any line that begins with `SSH-`
(chisel sends `SSH-chisel-v3-client`); that is accepted at the first line only, where other text hardly begins so.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

MAX_LINES = 64  # OpenSSH reads 1024 lines; real notices have a few
MAX_HEAD = 16384  # bytes up to the end of the identification; OpenSSH: 8192 a line
MAX_IDENT = 255  # RFC 4253 section 4.2
MAX_PACKET = 35000  # RFC 4253 section 6.1
MAX_MESSAGES = 64  # before NEWKEYS; a key exchange takes 3 to 5, padded with IGNORE or DEBUG

PREFIX = b"SSH-"
KEXINIT, NEWKEYS = 20, 21  # RFC 4250 section 4.1.2

_IDENT = re.compile(rb"SSH-([ \t\v\f\r]*[+-]?\d{1,64}\.[ \t\v\f\r]*[+-]?\d{1,64})-([^\r\n]*)")
_FIRST_IDENT = re.compile(rb"SSH-([^\r\n-]{1,64})-([^\r\n]*)")
_FIRST_LINE = re.compile(rb"SSH-([^\r\n-]{1,250})()\r?\n")
_NAME_LISTS = 10


class SshIdent(NamedTuple):
    """An identification line, or the part of it that had come when it was recognised."""

    proto: str  # "2.0", "1.99", "1.5", … without the characters that sscanf would skip
    software: str  # with the comment; may be cut short
    line: bytes  # without its line end
    line_number: int  # 1-based


class KexInit(NamedTuple):
    """The preferences of one side, best first (RFC 4253 section 7.1)."""

    kex: tuple[str, ...]
    host_keys: tuple[str, ...]
    ciphers_c2s: tuple[str, ...]
    ciphers_s2c: tuple[str, ...]
    macs_c2s: tuple[str, ...]
    macs_s2c: tuple[str, ...]
    compression_c2s: tuple[str, ...]
    compression_s2c: tuple[str, ...]
    guess: bool  # first_kex_packet_follows


class SshMessage(NamedTuple):
    """An unencrypted binary packet."""

    number: int
    kex: KexInit | None = None  # the lists of a KEXINIT that parses
    version: int = 2  # 1: the number is from SSH-1, e.g. 2 SSH_SMSG_PUBLIC_KEY, 3 SSH_CMSG_SESSION_KEY


SshFact = SshIdent | SshMessage


class _State(Enum):
    """The part of the stream that comes next."""

    LINES = 0
    REST = 1  # of the identification line
    PACKETS = 2


class SshStream:
    """Finds SSH in one direction: feed it the bytes in order. Never raises.

    `identified`: an identification was seen. `done`: no more facts will follow (NEWKEYS, a limit, or it is not SSH).
    `exact`: for bytes inside other protocols, such as the body of an HTTP request, which may be a text about SSH. Then
    only a whole identification in the RFC's form counts, at the very start. Without a binary packet after it, it is
    reported, but `identified` stays False.
    """

    __slots__ = (
        "_buffer",
        "_exact",
        "_head",
        "_line",
        "_messages",
        "_proto",
        "_scanned",
        "_state",
        "done",
        "identified",
    )

    def __init__(self, *, exact: bool = False) -> None:
        self.identified = False
        self.done = False
        self._exact = exact
        self._buffer = bytearray()  # the open line, or the open packet
        self._state = _State.LINES
        self._head = 0  # bytes taken by lines so far
        self._line = 1
        self._scanned = 0  # bytes of the open line that were searched for a line feed
        self._proto = ""
        self._messages = 0

    def feed(self, chunk: bytes) -> list[SshFact]:
        """Return the facts that `chunk` completes, oldest first."""
        facts: list[SshFact] = []
        if not self.done:
            self._buffer += chunk
            self._advance(facts)
        if self.done:
            self._buffer.clear()
        return facts

    def _advance(self, facts: list[SshFact]) -> None:
        if self._state is _State.LINES:
            self._read_lines(facts)
        if self._state is _State.REST:
            self._skip_rest()
        if self._state is _State.PACKETS:
            self._read_packets(facts)

    def _read_lines(self, facts: list[SshFact]) -> None:
        """Take lines up to the identification; set `done` if it cannot come any more."""
        start = 0
        while True:
            end = self._buffer.find(b"\n", max(start, self._scanned))
            stop = len(self._buffer) if end < 0 else end + 1
            stop = min(stop, start + MAX_HEAD - self._head)
            if self._buffer.startswith(PREFIX, start):
                spoken = self._is_spoken(stop) if self._exact else True
                if not spoken:
                    self.done = spoken is False
                    return
                ident = self._identify(bytes(self._buffer[start : min(stop, start + 512)]))
                if ident is not None:
                    facts.append(ident)
                    self.identified = not self._exact or len(self._buffer) > stop
                    del self._buffer[:start]
                    self._scanned = 0
                    self._state = _State.REST
                    return
            other = self._exact and bytes(self._buffer[start : start + 4]) != PREFIX[: stop - start]
            if (
                other
                or self._head + stop - start >= MAX_HEAD
                or (end >= 0 and (self._exact or self._line >= MAX_LINES))
            ):
                self.done = True
                return
            if end < 0:
                break
            self._head += stop - start
            self._line += 1
            start = stop
        del self._buffer[:start]
        self._scanned = len(self._buffer)

    def _is_spoken(self, stop: int) -> bool | None:
        """Return whether the first line of other content is an identification and not a text about SSH.

        It is one if it stands alone and ends with CR LF, or if a binary packet follows. None: more bytes are needed.
        `stop`: the offset after the line, or the bytes so far.
        """
        if stop > MAX_IDENT:
            return False
        if self._buffer[stop - 1] != 0x0A:
            return None
        rest = len(self._buffer) - stop
        if rest < 4:
            return True if not rest and self._buffer[stop - 2] == 0x0D else None
        return int.from_bytes(self._buffer[stop : stop + 4]) <= MAX_PACKET  # of text it is far more

    def _identify(self, line: bytes) -> SshIdent | None:
        """Return the identification in a line, and note its version; None if the line is not one."""
        found = _IDENT.match(line)
        if found is None and self._line == 1 and not self._exact:
            found = _FIRST_IDENT.match(line) or _FIRST_LINE.match(line)
        if found is None:
            return None
        self._proto = _version(found.group(1))
        software = found.group(2).decode("ascii", "replace").strip()
        return SshIdent(self._proto, software, line.rstrip(b"\r\n"), self._line)

    def _skip_rest(self) -> None:
        """Drop the rest of the identification line; set `done` if it is too long."""
        end = self._buffer.find(b"\n", self._scanned)
        self._scanned = len(self._buffer)
        if self._head + (self._scanned if end < 0 else end) >= MAX_HEAD:
            self.done = True
        elif end >= 0:
            del self._buffer[: end + 1]
            self._state = _State.PACKETS

    def _read_packets(self, facts: list[SshFact]) -> None:
        """Take the whole packets in the buffer, up to NEWKEYS or a limit."""
        start = 0
        while not self.done and len(self._buffer) - start >= 6:
            length = int.from_bytes(self._buffer[start : start + 4])
            old = self._is_version_1(start)
            # SSH-1 (protocol 1.5): `length` counts type, data and CRC; 1 to 8 bytes of padding precede them.
            padding = 8 - length % 8 if old else self._buffer[start + 4]
            size = 4 + length + (padding if old else 0)
            if size > 4 + MAX_PACKET or length < (5 if old else padding + 2):
                self.done = True
                break
            if len(self._buffer) - start < size:
                break
            packet = bytes(self._buffer[start : start + size])
            self.identified = True
            facts.append(_message(packet, padding, old=old))
            start += size
            self._messages += 1
            self.done = old or packet[5] == NEWKEYS or self._messages >= MAX_MESSAGES
        del self._buffer[:start]

    def _is_version_1(self, start: int) -> bool:
        """Return whether the packet at `start` is of SSH-1; with 1.99 the other side chooses."""
        if not self._proto.startswith("1."):
            return False
        looks_new = self._buffer[start + 4] >= 4 and self._buffer[start + 5] == KEXINIT
        return self._proto != "1.99" or (self._messages == 0 and not looks_new)


def _version(raw: bytes) -> str:
    text = raw.decode("ascii", "replace")
    numbers = re.fullmatch(r"\s*([+-]?\d+)\.\s*([+-]?\d+)", text)
    return f"{int(numbers[1])}.{int(numbers[2])}" if numbers else text


def _message(packet: bytes, padding: int, *, old: bool) -> SshMessage:
    if old:
        return SshMessage(packet[4 + padding], None, 1)
    payload = packet[5 : len(packet) - padding]
    number = payload[0]
    return SshMessage(number, kexinit(payload) if number == KEXINIT else None)


def kexinit(payload: bytes) -> KexInit | None:
    """Parse a KEXINIT payload; None if its lists exceed it."""
    at = 17  # message number and cookie
    lists: list[tuple[str, ...]] = []
    for _ in range(_NAME_LISTS):
        end = at + 4 + int.from_bytes(payload[at : at + 4])
        if len(payload) < max(end, at + 4):
            return None
        names = payload[at + 4 : end].decode("ascii", "replace")
        lists.append(tuple(names.split(",")) if names else ())
        at = end
    if at >= len(payload):
        return None
    kex, keys, ciphers_out, ciphers_in, macs_out, macs_in, compression_out, compression_in, *_languages = lists
    return KexInit(
        kex, keys, ciphers_out, ciphers_in, macs_out, macs_in, compression_out, compression_in, payload[at] != 0
    )

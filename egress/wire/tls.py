"""TLS: the ClientHello that opens a connection, from the first bytes of its direction (RFC 8446, RFC 5246, RFC 6066).

A hello is a handshake message; records carry it in pieces of any size, and TCP carries records in pieces of any size.
So the records are joined first, and the message is read as a whole. Each length is checked against the span that
encloses it, and nothing is guessed. Every result is final: more bytes turn None into a value or MalformedError, never
one of those into another.
"""

from __future__ import annotations

from typing import NamedTuple

from egress.errors import MalformedError

MAX_HELLO = 65536  # bytes of the message; hellos with post-quantum key shares measure some 2 KB
MAX_RECORD = 16384  # RFC 8446 section 5.1
MAX_RECORDS = 1024  # records of one hello; bounds the time of a call
_ALERT, _HANDSHAKE = 21, 22
_CLIENT_HELLO, _SERVER_HELLO = 1, 2
_SERVER_NAME, _ALPN, _SUPPORTED_VERSIONS = 0, 16, 43
_ENCRYPTED_HELLOS = frozenset({0xFE0D, 0xFFCE})  # ECH (RFC 9849) and its predecessor ESNI


class ClientHello(NamedTuple):
    """The fields of a ClientHello that are used."""

    server_name: str  # lower case, without trailing dot; "" if none is sent
    alpn: tuple[str, ...]  # Latin-1, since GREASE values are not text
    version: int  # the highest offered, e.g. 0x0304 for TLS 1.3
    ciphers: tuple[int, ...]  # in the client's order; SSLv2 format: 24-bit numbers
    ech: bool  # sent an encrypted hello, real or GREASE (they are made to look the same)


def client_hello(data: bytes) -> ClientHello | None:
    """Read the ClientHello at the start of a direction; None: more bytes are needed. Raises MalformedError.

    Bytes after the hello are ignored. An SSLv2-format hello (RFC 5246 appendix E.2) has no extensions: no SNI.
    """
    if data and data[0] & 0x80:
        return _ssl2_hello(data)
    message = _handshake_message(data)
    return None if message is None else _read_hello(message)


def handshake_hello(message: bytes) -> ClientHello:
    """Read one whole ClientHello message without records, as in QUIC (RFC 9001 section 4). Raises MalformedError."""
    if message[:1] != bytes([_CLIENT_HELLO]) or int.from_bytes(message[1:4]) != len(message) - 4:
        raise MalformedError("not a TLS ClientHello")
    return _read_hello(message[4:])


def looks_like_tls(data: bytes) -> bool | None:
    """Return whether a direction starts like that of a TLS client; None: too short to tell. Needs at most 11 bytes."""
    if data and data[0] & 0x80:
        return _ssl2_start(data)
    return _record_start(data, _CLIENT_HELLO)


def server_hello(data: bytes) -> bool | None:
    """Return whether a direction starts with a ServerHello or an alert; None: too short to tell."""
    if data[:1] == b"\x15":
        shape = data[1:2] in (b"", b"\x03") and data[2:3] <= b"\x04" and data[3:5] == b"\x00\x02"[: len(data[3:5])]
        if not shape or data[5:6] not in (b"", b"\x01", b"\x02"):
            return False
        return True if len(data) >= 6 else None
    return _record_start(data, _SERVER_HELLO)


def _record_start(data: bytes, kind: int) -> bool | None:
    """Return whether a handshake record with a first message of this kind begins; None: too few bytes to tell."""
    if data[:1] not in (b"", b"\x16") or data[1:2] not in (b"", b"\x03") or data[2:3] > b"\x04":
        return False
    if len(data) < 5:
        return None
    if not 1 <= int.from_bytes(data[3:5]) <= MAX_RECORD:
        return False
    return data[5] == kind if len(data) > 5 else None


def _handshake_message(data: bytes) -> bytes | None:
    """Return the body of the first handshake message, which must be a ClientHello, joined from its records.

    None: it is not whole yet. Raises MalformedError.
    """
    if _record_start(data, _CLIENT_HELLO) is False:
        raise MalformedError("not a TLS ClientHello")
    message, at, wanted = bytearray(), 0, 4
    for _ in range(MAX_RECORDS):
        if data[at : at + 2] != b"\x16\x03"[: len(data) - at]:
            raise MalformedError("another record interrupts the TLS ClientHello")
        if at + 5 > len(data):
            return None
        size = data[at + 3] << 8 | data[at + 4]
        if not 1 <= size <= MAX_RECORD:
            raise MalformedError("TLS record length out of range")
        message += data[at + 5 : at + 5 + size]
        at += 5 + size
        if len(message) >= 4 == wanted:
            wanted += int.from_bytes(message[1:4])
            if not 4 < wanted <= 4 + MAX_HELLO:
                raise MalformedError("TLS ClientHello length out of range")
        if len(message) >= wanted > 4:
            return bytes(message[4:wanted])
        if at >= len(data):
            return None
    raise MalformedError("TLS ClientHello is spread over too many records")


class _Reader:
    """A cursor over one length-checked span of bytes."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise MalformedError("a length in the TLS ClientHello exceeds its enclosing span")
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> bytes:
        """Take the bytes after a length of `size` bytes (RFC 8446 section 3.4)."""
        return self.take(self.number(size))


def _read_hello(message: bytes) -> ClientHello:
    """Read the body of a ClientHello message. Raises MalformedError."""
    reader = _Reader(message)
    version = reader.number(2)
    reader.take(32)
    if version >> 8 != 3 or len(reader.vector(1)) > 32:
        raise MalformedError("not a TLS ClientHello")
    ciphers = _numbers(reader.vector(2))
    if not ciphers or not reader.vector(1):
        raise MalformedError("TLS ClientHello without cipher suites or compression methods")
    extensions = _extensions(reader.vector(2)) if reader else {}
    if reader:
        raise MalformedError("bytes after the TLS ClientHello's extensions")
    name, alpn, versions = (extensions.get(kind) for kind in (_SERVER_NAME, _ALPN, _SUPPORTED_VERSIONS))
    offered = () if versions is None else _numbers(_whole(versions, 1))
    return ClientHello(
        server_name="" if name is None else _server_name(name),
        alpn=() if alpn is None else _protocols(alpn),
        version=max((number for number in offered if number >> 8 == 3), default=version),  # not GREASE, not drafts
        ciphers=ciphers,
        ech=not _ENCRYPTED_HELLOS.isdisjoint(extensions),
    )


def _extensions(data: bytes) -> dict[int, bytes]:
    """Return the content of each extension, by its type. Raises MalformedError, also for a repeated one."""
    reader = _Reader(data)
    found: dict[int, bytes] = {}
    while reader:
        kind = reader.number(2)
        if kind in found:
            raise MalformedError("a TLS extension is repeated")  # the server might read the other one (RFC 8446, 4.2)
        found[kind] = reader.vector(2)
    return found


def _whole(data: bytes, size: int) -> bytes:
    """Return the vector that an extension consists of. Raises MalformedError if bytes follow it.

    `size`: the bytes of the vector's length.
    """
    reader = _Reader(data)
    inner = reader.vector(size)
    if reader:
        raise MalformedError("bytes after the end of a TLS extension")
    return inner


def _numbers(data: bytes) -> tuple[int, ...]:
    if len(data) & 1:
        raise MalformedError("a TLS list of numbers has an odd length")
    return tuple(int.from_bytes(data[at : at + 2]) for at in range(0, len(data), 2))


def _server_name(extension: bytes) -> str:
    """Return the host name of RFC 6066 section 3: at most one, printable ASCII, at most 255 bytes.

    "" without one. Raises MalformedError.
    """
    reader = _Reader(_whole(extension, 2))
    names = []
    while reader:
        kind, name = reader.number(1), reader.vector(2)
        if kind == 0:
            names.append(name)
    if len(names) > 1:
        raise MalformedError("two TLS server names")
    if not names:
        return ""
    if not 1 <= len(names[0]) <= 255 or not all(0x21 <= byte <= 0x7E for byte in names[0]):
        raise MalformedError("the TLS server name is not a host name")
    return names[0].decode("ascii").lower().removesuffix(".")


def _protocols(extension: bytes) -> tuple[str, ...]:
    """Return the names in an ALPN extension (RFC 7301), as Latin-1. Raises MalformedError."""
    reader = _Reader(_whole(extension, 2))
    names = []
    while reader:
        names.append(reader.vector(1).decode("latin-1"))
    if not names or "" in names:
        raise MalformedError("empty TLS application protocol name")
    return tuple(names)


def _ssl2_start(data: bytes) -> bool | None:
    """Return whether an SSLv2-format hello begins: its five lengths must agree (RFC 5246 appendix E.2).

    None: too few bytes to tell.
    """
    if data[2:3] not in (b"", b"\x01") or data[3:4] not in (b"", b"\x00", b"\x03"):
        return False
    if len(data) < 11:
        return None
    size = int.from_bytes(data[:2]) & 0x7FFF
    version, ciphers, session, challenge = (int.from_bytes(data[at : at + 2]) for at in (3, 5, 7, 9))
    lengths = bool(ciphers) and ciphers % 3 == 0 and session in (0, 16) and 16 <= challenge <= 32
    return (version == 2 or version >> 8 == 3) and lengths and size == 9 + ciphers + session + challenge


def _ssl2_hello(data: bytes) -> ClientHello | None:
    """Read a hello in SSLv2 format; None: more bytes are needed. Raises MalformedError."""
    start = _ssl2_start(data)
    if start is False:
        raise MalformedError("not an SSLv2 ClientHello")
    if start is None or len(data) < 2 + (int.from_bytes(data[:2]) & 0x7FFF):
        return None
    version, size = int.from_bytes(data[3:5]), int.from_bytes(data[5:7])
    ciphers = tuple(int.from_bytes(data[at : at + 3]) for at in range(11, 11 + size, 3))
    return ClientHello("", (), version, ciphers, ech=False)

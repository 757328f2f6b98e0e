"""QUIC: the ClientHello in a client's Initial packets (RFC 9000, RFC 9001; version 2: RFC 9369).

Initial packets are encrypted with keys that follow from the first connection ID of the client, so every observer can
read them. A hello comes in CRYPTO frames, in any order, in any number of packets.

The result must be the hello that the server reads, and one pair of ports can carry several connections. Hence:

- A packet of the client belongs to the connection whose keys open it, whatever connection ID it has. After a Retry the
  client starts again with other keys: another connection. A change of version on the way (RFC 9368 section 2.3) keeps
  the connection: its keys of both versions are tried, whatever version the packet states.
- Of the server's packets only Version Negotiation is read (RFC 9000 section 6): the server has read nothing of the
  connection that it answers, and the client may start again under the same connection ID.
- Packets that a server could read and this reader cannot raise MalformedError: an Initial that no key opens, a version
  other than 1 and 2 (except reserved ones, which no server supports), a connection that continues without a hello.
- Packets that two servers could read differently raise MalformedError: other bytes at an offset that was sent before,
  an Initial that two keys open.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from egress.errors import MalformedError
from egress.wire.quickeys import SAMPLE, VERSIONS, InitialKeys
from egress.wire.tls import ClientHello, handshake_hello

MAX_CRYPTO = 16384  # bytes kept of all handshakes of a flow; a hello with post-quantum key shares has some 2 KB
MAX_CONNECTIONS = 4  # of one flow, the latest; a Retry makes two
MAX_DATAGRAMS = 32  # without a hello; a client that gets no answer repeats its hello some ten times
MAX_FRAMES = 256  # of one packet, runs of PADDING counted once; Chrome cuts a hello into some 20
MAX_PACKETS = 8  # coalesced in one datagram; there are four kinds
MAX_CONNECTION_ID = 20  # RFC 9000 section 17.2
MIN_INITIAL = 1200  # bytes at least of a datagram with an Initial, RFC 9000 section 14.1
MIN_SHORT = 21  # bytes of a packet with a short header: first byte, number and sample, tag (RFC 9001 section 5.4.2)
_LONG, _FIXED = 0x80, 0x40  # bits of a packet's first byte
_INITIAL, _ZERO_RTT, _HANDSHAKE, _RETRY = range(4)  # long packet types as version 1 numbers them
_PADDING, _PING, _ACK, _ACK_ECN, _CRYPTO, _CLOSE = 0x00, 0x01, 0x02, 0x03, 0x06, 0x1C


_OPENING = tuple(version.to_bytes(4) for version in VERSIONS)


def has_long_header(datagram: bytes) -> bool:
    """Return whether a datagram, which is not empty, begins with a long header (RFC 9000 section 17.2)."""
    return datagram[0] & _LONG > 0


def may_be_initial(datagram: bytes) -> bool:
    """Return whether a datagram is long enough for an Initial and begins like one, of any version."""
    return len(datagram) >= MIN_INITIAL and datagram[0] & (_LONG | _FIXED) == _LONG | _FIXED


def opens_connection(datagram: bytes) -> bool:
    """Return whether a datagram may open a QUIC connection of version 1 or 2."""
    return may_be_initial(datagram) and datagram[1:5] in _OPENING


def check_datagram(datagram: bytes) -> None:
    """Check the header at the start of a non-empty datagram of either side. Raises MalformedError.

    A short header has nothing to check but the packet's length: even its fixed bit may be cleared (RFC 9287).
    """
    if not has_long_header(datagram):
        if len(datagram) < MIN_SHORT:
            raise MalformedError("QUIC packet is too short")
        return
    reader = _Reader(datagram, 1)
    version = int.from_bytes(reader.take(4))
    reader.take(_cid_length(reader))
    reader.take(_cid_length(reader))
    if version and version not in VERSIONS:
        raise MalformedError(f"QUIC version {version:#010x} cannot be read")
    if not version and (len(datagram) - reader.at) % 4:
        raise MalformedError("QUIC Version Negotiation is cut off")


class _Packet(NamedTuple):
    """A packet with a long header; `kind` is numbered as in version 1."""

    version: int
    kind: int
    dcid: bytes
    data: bytes  # an Initial from its first byte to its last
    number_at: int  # offset of the packet number, which is still protected


class _Reader:
    """A cursor over bytes that may end anywhere."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at

    def __bool__(self) -> bool:
        return self.at < len(self.data)

    def take(self, size: int) -> bytes:
        """Take the next `size` bytes. Raises MalformedError if there are fewer."""
        end = self.at + size
        if end > len(self.data):
            raise MalformedError("QUIC packet is cut off")
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def varint(self) -> int:
        """Take a variable-length integer (RFC 9000 section 16)."""
        first = self.take(1)[0]
        return (first & 0x3F) << 8 * ((1 << (first >> 6)) - 1) | int.from_bytes(self.take((1 << (first >> 6)) - 1))


class _Connection:
    """One connection: its keys, and its handshake bytes, joined from pieces that come in any order."""

    __slots__ = ("_data", "_keys", "_known", "_read_to", "dcid", "largest", "version")

    def __init__(self, dcid: bytes, version: int) -> None:
        self.dcid = dcid  # its keys come from this connection ID
        self.version = version  # of its first packet
        self.largest = -1  # packet number
        self._keys: dict[int, InitialKeys] = {}
        self._data = bytearray()
        self._known = bytearray()  # 1 for a byte of _data that was sent, 0 for a gap
        self._read_to = 0

    def __len__(self) -> int:
        return len(self._data)

    def open(self, packet: _Packet) -> tuple[int, bytes] | None:
        """Return (packet number, frames); None if no keys of this connection decrypt the packet.

        The keys of the version in the packet are tried first. Clients seal with those of the other one, too, while the
        version changes (aioquic: version 2 in the header, keys of version 1).
        """
        for version in (packet.version, *(other for other in VERSIONS if other != packet.version)):
            keys = self._keys.get(version)
            if keys is None:
                keys = self._keys[version] = InitialKeys(self.dcid, version)
            inside = keys.open(packet.data, packet.number_at, self.largest)
            if inside is not None:
                return inside
        return None

    def add(self, offset: int, piece: bytes) -> None:
        """Add CRYPTO bytes at an offset.

        Raises MalformedError beyond MAX_CRYPTO bytes, or if they contradict earlier bytes at the same offset.
        """
        end = offset + len(piece)
        if end > MAX_CRYPTO:
            raise MalformedError("QUIC handshake is too long")
        missing = end - len(self._data)
        if missing > 0:
            self._data += bytes(missing)
            self._known += bytes(missing)
        known = self._known[offset:end]
        if 1 in known and any(
            sent and old != new for sent, old, new in zip(known, self._data[offset:end], piece, strict=True)
        ):
            raise MalformedError("QUIC handshake bytes are sent twice and differ")
        self._data[offset:end] = piece
        self._known[offset:end] = b"\1" * len(piece)

    def hellos(self) -> Iterator[ClientHello]:
        """Yield the ClientHellos that have become whole, each once; a second one answers a HelloRetryRequest.

        Raises MalformedError for a handshake message of another type.
        """
        gap = self._known.find(0, self._read_to)
        ready = len(self._data) if gap < 0 else gap
        while ready - self._read_to >= 4:
            end = self._read_to + 4 + int.from_bytes(self._data[self._read_to + 1 : self._read_to + 4])
            if end > MAX_CRYPTO or self._data[self._read_to] != 1:
                raise MalformedError("not a TLS ClientHello")
            if end > ready:
                return
            yield handshake_hello(bytes(self._data[self._read_to : end]))
            self._read_to = end


class QuicHello:
    """Reads the ClientHellos of one UDP flow: feed it every datagram of the client, also after the first hello.

    `done`: a hello has been read. `failed`: `feed` raised MalformedError, and does so for every further datagram.
    """

    __slots__ = ("_connections", "_datagrams", "done", "failed")

    def __init__(self) -> None:
        self.done = False
        self.failed = False
        self._connections: list[_Connection] = []  # the oldest first
        self._datagrams = 0  # since the last hello

    def feed(self, datagram: bytes) -> ClientHello | None:
        """Return the ClientHello that a client's datagram completes, else None. Raises MalformedError.

        A further connection, or a repeated handshake, gives a further hello, which may have another server name.
        """
        try:
            if self.failed:
                raise MalformedError("QUIC flow was malformed before")
            return self._feed(datagram)
        except MalformedError:
            self.failed = True
            self._connections.clear()
            raise

    def reply(self, datagram: bytes) -> None:
        """Read a server's datagram; a Version Negotiation ends the connections that it answers. Never raises.

        It counts only if it repeats the client's connection ID and does not list the version that the client uses.
        """
        answered = _negotiation(datagram)
        if answered is not None:
            dcid, versions = answered
            self._connections = [each for each in self._connections if each.dcid != dcid or each.version in versions]

    def _feed(self, datagram: bytes) -> ClientHello | None:
        """Do the work of `feed` for a flow that has not failed. Raises MalformedError."""
        if self.done and not (datagram and datagram[0] & _LONG):
            return None  # data of the connection, encrypted with keys that only its ends have
        self._datagrams += 1
        hellos: list[ClientHello] = []
        packets = list(_packets(datagram))
        if len({packet.dcid for packet in packets}) > 1:
            raise MalformedError("QUIC packets of two connections in one datagram")  # RFC 9000 section 12.2
        for packet in packets:
            if packet.kind == _INITIAL:
                hellos += self._initial(packet)
            elif packet.kind == _RETRY or (packet.kind == _HANDSHAKE and not (self.done or hellos)):
                raise MalformedError("QUIC continues without a ClientHello")
        if hellos:
            self.done, self._datagrams = True, 0
            if len({(hello.server_name, hello.ech) for hello in hellos}) > 1:
                raise MalformedError("two TLS server names in one QUIC datagram")
            return hellos[0]
        if not self.done and self._datagrams >= MAX_DATAGRAMS:
            raise MalformedError("QUIC without a ClientHello")
        return None

    def _initial(self, packet: _Packet) -> Iterator[ClientHello]:
        """Find the one connection whose keys open an Initial; yield the hellos that it makes whole.

        Raises MalformedError.
        """
        candidates = list(self._connections)
        if all(each.dcid != packet.dcid for each in candidates):
            candidates.append(_Connection(packet.dcid, packet.version))
        opened = [(each, *inside) for each in candidates if (inside := each.open(packet))]
        if len(opened) != 1:
            raise MalformedError("QUIC Initial that no key opens" if not opened else "QUIC Initial that two keys open")
        connection, number, frames = opened[0]
        connection.largest = max(connection.largest, number)
        for offset, piece in _crypto(frames):
            connection.add(offset, piece)
        self._keep(connection)
        yield from connection.hellos()

    def _keep(self, connection: _Connection) -> None:
        """Drop the oldest connections beyond the bounds, but never this one."""
        if connection not in self._connections:
            self._connections.append(connection)
        while len(self._connections) > MAX_CONNECTIONS or sum(map(len, self._connections)) > MAX_CRYPTO:
            self._connections.remove(next(each for each in self._connections if each is not connection))


def _negotiation(datagram: bytes) -> tuple[bytes, frozenset[int]] | None:
    """Return the client's connection ID and the server's versions of a Version Negotiation packet.

    None if the datagram is not one.
    """
    if len(datagram) < 7 or not datagram[0] & _LONG or any(datagram[1:5]):
        return None
    reader = _Reader(datagram, 5)
    try:
        reader.take(reader.take(1)[0])
        dcid = reader.take(reader.take(1)[0])
    except MalformedError:
        return None
    listed = datagram[reader.at :]
    if not listed or len(listed) % 4:
        return None
    return dcid, frozenset(int.from_bytes(listed[at : at + 4]) for at in range(0, len(listed), 4))


def _packets(datagram: bytes) -> Iterator[_Packet]:
    """Yield the packets with a long header; a short packet or padding may follow the last one.

    Raises MalformedError.
    """
    at = 0
    for _ in range(MAX_PACKETS):
        if at >= len(datagram) or not datagram[at] & _LONG:
            if not at:
                raise MalformedError("not a QUIC Initial")
            return
        reader = _Reader(datagram, at + 1)
        version = int.from_bytes(reader.take(4))
        if (
            version & 0x0F0F0F0F == 0x0A0A0A0A
        ):  # reserved, to be answered with Version Negotiation (RFC 9000 section 15)
            return
        if version not in VERSIONS:
            raise MalformedError(f"QUIC version {version:#010x} cannot be read")
        if not datagram[at] & _FIXED:
            raise MalformedError("QUIC packet without the fixed bit")
        packet, at = _long_packet(datagram, at, reader, version)
        yield packet
    raise MalformedError("too many QUIC packets in one datagram")


def _long_packet(datagram: bytes, start: int, reader: _Reader, version: int) -> tuple[_Packet, int]:
    """Return a packet whose version has been read, and the offset after it (RFC 9000 section 17.2).

    Raises MalformedError.
    """
    kind = ((datagram[start] >> 4 & 3) - VERSIONS[version].shift) % 4
    dcid = reader.take(_cid_length(reader))
    reader.take(_cid_length(reader))
    if kind == _RETRY:
        return _Packet(version, kind, dcid, b"", 0), len(datagram)
    if kind == _INITIAL:
        reader.take(reader.varint())
    size = reader.varint()
    number_at, end = reader.at, reader.at + size
    reader.take(size)
    if size < 4 + SAMPLE:
        raise MalformedError("QUIC packet is too short to be unprotected")
    data = datagram[start:end] if kind == _INITIAL else b""
    return _Packet(version, kind, dcid, data, number_at - start), end


def _cid_length(reader: _Reader) -> int:
    length = reader.take(1)[0]
    if length > MAX_CONNECTION_ID:
        raise MalformedError("QUIC connection ID is too long")
    return length


def _crypto(frames: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes) of each CRYPTO frame; only frames that are allowed in an Initial pass (section 17.2.2).

    Raises MalformedError.
    """
    reader = _Reader(frames)
    if not frames:
        raise MalformedError("QUIC packet without frames")
    for _ in range(MAX_FRAMES):
        if not reader:
            return
        kind = reader.take(1)[0]
        if kind == _PADDING:
            reader.at = len(frames) - len(frames[reader.at :].lstrip(b"\0"))
        elif kind == _CRYPTO:
            offset = reader.varint()
            yield offset, reader.take(reader.varint())
        elif kind in (_ACK, _ACK_ECN):
            _skip_ack(reader, 3 if kind == _ACK_ECN else 0)
        elif kind == _CLOSE:
            reader.varint()
            reader.varint()
            reader.take(reader.varint())
        elif kind != _PING:
            raise MalformedError("a frame that is not allowed in a QUIC Initial")
    if reader:
        raise MalformedError("too many frames in a QUIC packet")


def _skip_ack(reader: _Reader, counters: int) -> None:
    """Skip an ACK frame: largest, delay, count, first range, ranges of two numbers, ECN counters (section 19.3)."""
    reader.varint()
    reader.varint()
    ranges = reader.varint()
    for _ in range(1 + 2 * min(ranges, len(reader.data)) + counters):
        reader.varint()

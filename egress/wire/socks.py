"""SOCKS 4, 4a and 5: the length of the handshake, after which proxied bytes begin (RFC 1928, RFC 1929, Y.-D. Lee).

The caller must cut the handshake off: it ends without a newline, so protocols that begin at a line would not be found
right after it. Each direction is read by itself; the bytes show which side is the client.
"""

from __future__ import annotations

from collections.abc import Callable

MAX_TEXT = 512  # bytes of a SOCKS 4 user or host name; RFC 1928 has a length byte
_CONNECT, _BIND, _ASSOCIATE = 1, 2, 3
_ADDRESS_SIZES = {1: 4, 4: 16}  # type 3, a name, has a length byte


def handshake(data: bytes, *, client: bool | None = None) -> int | None:
    """Return the length in bytes of the SOCKS handshake at the start of a direction.

    0: it is not SOCKS. None: it is too short to tell. `client`: True for the client's direction, False for the
    server's, None if the side is not known. Never raises.
    """
    sides = (_client5, _client4), (_server5, _server4)
    readers = sides[0] + sides[1] if client is None else sides[not client]
    ends = [_end(read, data) for read in readers]
    found = next((end for end in ends if end), 0)
    return found or (None if None in ends else 0)


def _end(read: Callable[[bytes], int], data: bytes) -> int | None:
    """Return the end of a handshake by one reader; 0: it is not SOCKS; None: it is not whole yet."""
    try:
        end = read(data)
    except IndexError:  # a length or a code that has not come yet
        return None
    return end if end <= len(data) else None


def _client5(data: bytes) -> int:
    """Read the methods, user and password if present, and the request. A client may send them all at once."""
    if data[0] != 5 or not data[1]:
        return 0
    at = 2 + data[1]
    if data[at] == 1:
        at += 2 + data[at + 1]
        at += 1 + data[at]
    return _address5(data, at, range(_CONNECT, _ASSOCIATE + 1))


def _server5(data: bytes) -> int:
    if data[0] != 5 or data[1] not in (0, 2):
        return 0
    at = 2
    if data[at] == 1:
        if data[at + 1]:
            return 0
        at += 2
    return _address5(data, at, range(9))


def _address5(data: bytes, at: int, codes: range) -> int:
    """Return the end of a request or reply, whose second byte must be one of `codes`."""
    if data[at] != 5 or data[at + 1] not in codes or data[at + 2]:
        return 0
    kind = data[at + 3]
    size = 1 + data[at + 4] if kind == 3 else _ADDRESS_SIZES.get(kind, 0)
    return at + 4 + size + 2 if size else 0


def _client4(data: bytes) -> int:
    if data[0] != 4 or data[1] not in (_CONNECT, _BIND):
        return 0
    named = data[4:7] == b"\0\0\0" and data[7] != 0  # 4a: a host name follows the user's
    at = 8
    for _ in range(1 + named):
        end = data.find(b"\0", at, at + MAX_TEXT + 1)
        if end < 0:
            return 0 if len(data) - at > MAX_TEXT else len(data) + 1
        at = end + 1
    return at


def _server4(data: bytes) -> int:
    return 8 if data[0] == 0 and 0x5A <= data[1] <= 0x5D else 0

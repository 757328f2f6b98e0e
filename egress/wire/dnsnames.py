"""The names in one DNS message (RFC 1035 sections 3.1, 4.1.4), with their compression pointers.

A pointer must lead to a lower offset than the run of labels that it ends, and not into the header. So reading a name
always ends, and the question's name, the first field after the header, is never compressed. Each label is read once,
however many records point at it: the cost grows with the bytes of the message, not with the length of its names.
"""

from __future__ import annotations

from egress.errors import MalformedError

HEADER = 12
MAX_NAME = 255  # octets with length bytes and the root; RFC 1035 section 2.3.4
MAX_LABEL = 63
MAX_HOPS = 127  # compression pointers in one name: it has no more labels than that
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_")
_TEXT = tuple(chr(byte) if byte in _PLAIN else f"\\{byte:03d}" for byte in bytes(range(256)).lower())
_ROOT = 1  # octets of the root's name

# From one offset on: the name, its octets, its pointers, the offset after its bytes here, the target of the pointer
# that these bytes end in (-1: they end in the root).
_Name = tuple[str, int, int, int, int]


class Names:
    """Reads the names of one message, and caches the name at each offset that it has read."""

    __slots__ = ("_known", "_payload")

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._known: dict[int, _Name] = {}

    def read(self, at: int, *, plain: bool = False) -> tuple[str, int]:
        """Return the name at an offset, and the offset after it.

        `plain`: the name must not be compressed. The name is in lower case, without a trailing dot; bytes besides
        [a-z0-9-_] are \\DDD (RFC 1035 section 5.1). Raises MalformedError.
        """
        text, _, _, after, target = self._known.get(at) or self._read(at)
        if plain and target >= 0:
            raise MalformedError("DNS compression pointer does not point to an earlier name")
        return text, after

    def _read(self, at: int) -> _Name:
        """Read the name at an offset, and remember the name at each label and pointer on the way."""
        payload, known = self._payload, self._known
        before: list[tuple[int, str, int, int]] = []  # offset, then a label and its octets, or a pointer's target
        start, size, hops = at, 0, 0  # start of this run of labels; octets and pointers so far
        while (name := known.get(at)) is None:
            length = label_at(payload, at)
            if length > MAX_LABEL:
                target = (length & 0x3F) << 8 | payload[at + 1] if at + 1 < len(payload) else start
                _check_pointer(target, start, hops := hops + 1)
                before.append((at, "", 0, target))
                start = at = target
            elif length:
                before.append((at, _text(payload[at + 1 : at + 1 + length]), 1 + length, -1))
                at += 1 + length
                size += 1 + length
                _check_size(size + _ROOT)
            else:
                name = known[at] = ("", _ROOT, 0, at + 1, -1)
                break
        text, octets, pointers, after, target = name
        _check_pointer(target, start, hops + pointers)
        _check_size(size + octets)
        for at, label, length, to in reversed(before):
            if length:
                text = f"{label}.{text}" if text else label
                octets += length
            else:
                pointers, after, target = pointers + 1, at + 2, to
            name = known[at] = (text, octets, pointers, after, target)
        return name


def skip_name(payload: bytes, at: int) -> int:
    """Return the offset after a name that may end in a pointer; the pointer is checked, but not followed.

    Raises MalformedError.
    """
    start = at
    while size := label_at(payload, at):
        if size > MAX_LABEL:
            if at + 2 > len(payload) or not HEADER <= (size & 0x3F) << 8 | payload[at + 1] < start:
                raise MalformedError("DNS compression pointer does not point to an earlier name")
            return at + 2
        at += 1 + size
        _check_size(at + 1 - start)
    return at + 1


def label_at(payload: bytes, at: int) -> int:
    """Return the length byte of the label at an offset, or the first byte of a pointer (0xC0 and above).

    Raises MalformedError for a label that is cut off or of a reserved type.
    """
    if at >= len(payload):
        raise MalformedError("DNS name is cut off")
    size = payload[at]
    if MAX_LABEL < size < 0xC0:
        raise MalformedError("DNS label of a reserved type")
    if size <= MAX_LABEL and at + 1 + size > len(payload):
        raise MalformedError("DNS name is cut off")
    return size


def _check_pointer(target: int, start: int, hops: int) -> None:
    """Raise MalformedError unless the offset `target` lies between the header and `start`; -1: no pointer.

    `start`: the offset of the labels that the pointer ends. `hops`: the pointers of the name so far, at most MAX_HOPS.
    """
    if not (target < 0 or HEADER <= target < start) or hops > MAX_HOPS:
        raise MalformedError("DNS compression pointer does not point to an earlier name")


def _check_size(octets: int) -> None:
    if octets > MAX_NAME:
        raise MalformedError("DNS name is longer than 255 octets")


def _text(label: bytes) -> str:
    return "".join([_TEXT[byte] for byte in label])

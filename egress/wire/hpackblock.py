"""Reads the header blocks of HTTP/2 (HPACK, RFC 7541), with the table and the Huffman code of the `hpack` package.

The package's own decoder is not used: it takes several microseconds per field, and a sender pays one byte for a field
that is in the table. Both decode the same blocks to the same fields.
"""

from __future__ import annotations

from hpack import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from egress.errors import MalformedError

FIELD_COST = 32  # bytes that a field counts besides its own (RFC 7541 section 4.1)
MAX_INTEGER = 5  # bytes after the prefix: no size that is allowed needs more
_INDEXED, _KEPT, _RESIZE = 0x80, 0x40, 0x20  # first bits of a field in the table, one for the table, a size
_STATIC = HeaderTable.STATIC_TABLE
_HUFFMAN = 0x80

Field = tuple[bytes, bytes]


class FieldReader:
    """Reads the header blocks of one direction, in order. After a MalformedError it must not be used again.

    `max_list`: the most bytes of a block's fields, each field counted with FIELD_COST more. `max_table`: the most bytes
    of the dynamic table.
    """

    __slots__ = ("_max_list", "_max_table", "_table")

    def __init__(self, max_list: int, max_table: int) -> None:
        self._table = HeaderTable()
        self._max_list = max_list
        self._max_table = max_table

    def read(self, block: bytes) -> list[Field]:
        """Return the fields (name, value) of a block. Raises MalformedError, also for more than `max_list` bytes."""
        try:
            return self._fields(block)
        except (HPACKError, IndexError) as error:
            raise MalformedError("HTTP/2 header block does not decode") from error

    def _fields(self, block: bytes) -> list[Field]:
        """Read the fields of a block. Raises IndexError or HPACKError, too, for a block that does not decode."""
        fields: list[Field] = []
        at = size = 0
        while at < len(block):
            first = block[at]
            if _INDEXED < first <= _INDEXED + len(_STATIC):
                field, at = _STATIC[first - _INDEXED - 1], at + 1
            elif first & _INDEXED:
                index, at = _integer(block, at, 7)
                field = self._table.get_by_index(index)
            elif first & _KEPT or not first & _RESIZE:
                field, at = self._literal(block, at, 6 if first & _KEPT else 4)
                if first & _KEPT:
                    self._table.add(*field)
            else:
                at = self._resize(block, at, begun=bool(fields))
                continue
            fields.append(field)
            size += FIELD_COST + len(field[0]) + len(field[1])
            if size > self._max_list:
                raise MalformedError("HTTP/2 header block does not decode: too many fields")
        return fields

    def _literal(self, block: bytes, at: int, bits: int) -> tuple[Field, int]:
        """Read a field whose value, and whose name if it is not in the table, is spelt out."""
        index, at = _integer(block, at, bits)
        if index:
            name = self._table.get_by_index(index)[0]
        else:
            name, at = _string(block, at)
        value, at = _string(block, at)
        return (name, value), at

    def _resize(self, block: bytes, at: int, *, begun: bool) -> int:
        """Set the size of the dynamic table; return the next offset. Raises MalformedError if it is not allowed."""
        size, at = _integer(block, at, 5)
        if begun or size > self._max_table:
            raise MalformedError("HTTP/2 header block does not decode: its table may not be resized so")
        self._table.maxsize = size
        return at


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """Read a number that begins in the last `bits` bits of a byte (RFC 7541 section 5.1).

    Returns the number and the offset after it. Raises MalformedError for one that is too long, IndexError past the end.
    """
    full = (1 << bits) - 1
    number = block[at] & full
    at += 1
    if number < full:
        return number, at
    for shift in range(0, 7 * MAX_INTEGER, 7):
        byte = block[at]
        at += 1
        number += (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise MalformedError("HTTP/2 header block does not decode: a number is too long")


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    """Return the string at an offset, decoded if it is Huffman-coded, and the offset after it.

    Raises MalformedError, IndexError or HPACKError for a string that does not decode.
    """
    packed = block[at] & _HUFFMAN
    size, at = _integer(block, at, 7)
    text = block[at : at + size]
    if len(text) != size:
        raise MalformedError("HTTP/2 header block does not decode: it is cut off")
    return decode_huffman(text) if packed else text, at + size

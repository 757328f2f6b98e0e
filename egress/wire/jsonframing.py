"""Checks that a byte stream can be a sequence of JSON texts (RFC 8259), each an object or an array.

Strings and the nesting of brackets are checked; outside them, every character that JSON could have is accepted.
"""

from __future__ import annotations

import re

from egress.errors import MalformedError

MAX_DEPTH = 64  # brackets inside one another; mining messages have 4

_BETWEEN = re.compile(rb"[ \t\r\n\0\xef\xbb\xbf]*")  # with the bytes of a UTF-8 byte order mark
_OUTSIDE = re.compile(rb"[ \t\r\n0-9a-zA-Z+\-.,:]*")  # of a text, outside its strings and brackets
_INSIDE = re.compile(rb'(?:[^\x00-\x1f"\\]|\\[\x20-\x7e])*')  # of a string


class JsonFraming:
    """Checks one direction. Mutable; feed it the bytes in order. Of the bytes it keeps one at most."""

    __slots__ = ("_closing", "_escape", "_in_string")

    def __init__(self) -> None:
        self._closing = bytearray()  # the brackets that will close those that are open
        self._in_string = False
        self._escape = b""

    def feed(self, data: bytes) -> None:
        """Check the next bytes. Raises MalformedError at the first byte that no JSON text has there."""
        data, self._escape = self._escape + data, b""
        at = 0
        while at < len(data):
            at = self._string(data, at) if self._in_string else self._structure(data, at)

    def _string(self, data: bytes, at: int) -> int:
        """Read inside a string from an offset; return the offset after it, or the end of `data` if it goes on."""
        found = _INSIDE.match(data, at)
        at = found.end() if found else at
        if at == len(data):
            return at
        if data[at : at + 1] == b'"':
            self._in_string = False
            return at + 1
        if data[at:] == b"\\":
            self._escape = b"\\"
            return at + 1
        raise MalformedError("not a JSON string")

    def _structure(self, data: bytes, at: int) -> int:
        """Read outside strings up to the next bracket or quote; return the offset after it, or the end."""
        found = (_OUTSIDE if self._closing else _BETWEEN).match(data, at)
        at = found.end() if found else at
        if at == len(data):
            return at
        mark = data[at : at + 1]
        if mark in b"{[" and len(self._closing) < MAX_DEPTH:
            self._closing += b"}" if mark == b"{" else b"]"
        elif self._closing and mark == b'"':
            self._in_string = True
        elif self._closing and mark == self._closing[-1:]:
            self._closing.pop()
        else:
            raise MalformedError("not a JSON object or array")
        return at + 1

"""JSON lines in the form that lenient readers accept: strings in single quotes, and comments.

json-c, with which pools in C read each line, accepts both by default; jsoncpp accepts comments. `egress.wire.jsonrpc`
counts brackets and quotes by RFC 8259, so such a line is read here a second time, as a whole: lenient readers wait for
its end, too.
"""

from __future__ import annotations

import re

from egress.wire.jsonrpc import JsonText, parse

MAX_LINE = 16384  # bytes; pools take 1 to 10 KiB

_LOOSE = re.compile(rb"'|/[*/]")
_LINE_END = re.compile(rb"[\n\0]")
# A line that can be an object or begins with a comment, up to there: the others are passed over in one search.
_BEGIN = re.compile(rb"[\n\0][ \t\r\v\f\xef\xbb\xbf]*+(?:(?=[{[/])|\Z)")
# A string or comment that is not closed extends to the end, so that no byte is tried twice.
_PIECE = re.compile(
    rb""""(?:[^"\\]|\\.)*+(?:"|\\?\Z)|'((?:[^'\\]|\\.)*+)(?:'|\\?\Z)|/\*.*?(?:\*/|\Z)|//.*""", re.DOTALL
)


class LooseLines:
    """The lenient lines of one direction. Mutable; feed it the bytes in order. Raises nothing."""

    __slots__ = ("_line", "_skipping")

    def __init__(self) -> None:
        self._line = bytearray()
        self._skipping = False  # inside a line that is not an object, is too long, or has been read

    def feed(self, chunk: bytes) -> list[JsonText]:
        """Return the lines that `chunk` completes and that only a lenient reader understands."""
        texts: list[JsonText] = []
        at = 0
        while True:
            if self._skipping:
                begin = _BEGIN.search(chunk, at)
                if begin is None:
                    return texts
                self._skipping = False
                at = begin.end()
            end = _LINE_END.search(chunk, at)
            self._keep(chunk[at : end.start() if end else len(chunk)])
            if end is None:
                return texts
            text = _read(bytes(self._line)) if self._line else None
            if text is not None:
                texts.append(text)
            self._line.clear()
            self._skipping = True
            at = end.start()

    def _keep(self, piece: bytes) -> None:
        if self._skipping:
            return
        self._line += piece if self._line else piece.lstrip(b" \t\r\v\f\xef\xbb\xbf")
        if (self._line and self._line[0] not in b"{[/") or len(self._line) > MAX_LINE:
            self._skipping = True
            self._line.clear()


def _read(line: bytes) -> JsonText | None:
    if not _LOOSE.search(line):
        return None
    plain = _PIECE.sub(_piece, line)
    return JsonText(parse(plain).value, line) if plain != line else None


def _piece(found: re.Match[bytes]) -> bytes:
    """Return a string in double quotes, or a blank for a comment."""
    whole = found.group()
    if whole[:1] == b'"':
        return whole
    if whole[:1] == b"/":
        return b" "
    inner = found.group(1).replace(b"\\'", b"'").decode("utf-8", "replace")
    return b'"' + re.sub(r'(?<!\\)"', r"\"", inner).encode() + b'"'

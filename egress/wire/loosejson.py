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
_BARE_QUOTE = re.compile(rb'(?<!\\)"')


class LooseLines:
    """Finds the lines of one direction that only lenient readers accept: feed it the bytes in order. Never raises.

    Lines of fewer than `shortest` bytes are left out, as `JsonStream` leaves out such texts.
    """

    __slots__ = ("_line", "_shortest", "_skipping")

    def __init__(self, shortest: int = 0) -> None:
        self._shortest = shortest
        self._line = bytearray()
        self._skipping = False  # inside a line that is not an object, is too long, or has been read

    def feed(self, chunk: bytes) -> list[JsonText]:
        """Return the lines that `chunk` completes and that only lenient readers accept, with their values."""
        texts: list[JsonText] = []
        at = 0
        mark = -1  # where the next quote or comment is
        while True:
            if self._skipping:
                if mark < at:
                    found = _LOOSE.search(chunk, at)
                    mark = found.start() if found else len(chunk)
                at = max(at, chunk.rfind(b"\n", at, mark), chunk.rfind(b"\0", at, mark))  # no line before it is loose
                begin = _BEGIN.search(chunk, at)
                if begin is None:
                    return texts
                self._skipping = False
                at = begin.end()
            end = _LINE_END.search(chunk, at)
            self._keep(chunk[at : end.start() if end else len(chunk)])
            if end is None:
                return texts
            text = _read(bytes(self._line)) if len(self._line) >= self._shortest else None
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
    """Return the RFC 8259 form of a string or comment: the string in double quotes, or a blank."""
    whole = found.group()
    if whole[:1] == b'"':
        return whole
    if whole[:1] == b"/":
        return b" "
    inner = found.group(1)
    if not inner.isascii():
        inner = inner.decode("utf-8", "replace").encode()
    if b'"' in inner or b"\\" in inner:
        inner = _BARE_QUOTE.sub(rb"\"", inner.replace(b"\\'", b"'"))
    return b'"' + inner + b'"'

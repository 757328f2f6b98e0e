r"""Framing of JSON objects and arrays in one direction of a byte stream (RFC 8259; one or several per line).

A text may start at the start of the stream, at the start of a line, or right after the previous text. It is complete at
its closing bracket. Its newline is not awaited, because the segment with the bracket is the last one that a gateway can
still refuse. NUL separates like a newline.

Receivers read in two ways, and the texts of both are reported:

- cut lines first: `{` alone on a line is skipped, and the next line is a message. So an object that starts a line is
  reported even while an earlier one is still open. A raw newline inside a string breaks the text.
- read a stream of values (Go's json.Decoder): a text may span lines.

The bytes that are kept are bounded: blanks after the first RAW_BYTES, and the part of a string beyond MAX_STRING, are
left out. A text that still grows beyond MAX_TEXT is searched for the members in MEMBERS through a window.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

MAX_TEXT = 65536  # bytes kept of one text; real mining messages are below 8 KiB
MAX_STRING = 8192  # bytes kept of one string; a Zcash solution, the longest seen in mining, has 2.7 kB
RAW_BYTES = 1024  # the first bytes of a text are kept as sent, blanks included, so that evidence reads like the wire
MAX_MEMBERS = 64  # members of an overlong text carried from one window to the next
MAX_DIGITS = 40  # longer integers become floats: Python refuses 4301 digits and converts in quadratic time

QUOTE = ord('"')

# Keys that a text which cannot be parsed is searched for, at any depth.
MEMBERS = frozenset(
    {"method", "type", "login", "pass", "agent", "user", "worker", "wallet", "rigid", "site_key"}
    | {"blob", "job_id", "target", "nonce", "result", "pre_pow"}
)

_BLANK = re.compile(rb"[ \t\r\n\v\f\0\xef\xbb\xbf]*")  # with the bytes of a UTF-8 byte order mark
# The beginning of a line that can be a text, up to its bracket: the other lines are passed over in one search.
_BEGIN = re.compile(rb"[\n\0][ \t\r\v\f\xef\xbb\xbf]*+(?:(?=[{[])|\Z)")
_MARK = re.compile(rb'[\[{]+|[\]}]|"(?:[^"\\\n\0]*")?|[\n\0]+')  # a string without escapes is taken whole
_STRING_MARK = re.compile(rb'["\\\n\0]')
# A string that is not closed extends to the end, so that no byte is tried twice.
_STRING = re.compile(rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)(?:"|\\?\Z)(\s*:\s*)?', re.DOTALL)


class JsonText(NamedTuple):
    """One JSON object or array.

    `value` is the result of `json.loads`, with objects that repeat a key as `Members`. For a text that does not parse,
    or is longer than MAX_TEXT, it is the `Members` that were found: every `method` and `type`, and under `params` all
    of MEMBERS. `text` is the text as sent (of an overlong one: the members as sent).
    """

    value: object
    text: bytes


class Members(dict[str, object]):
    """A JSON object that repeats a key; `pairs` has all members in order (the dict: the last of each)."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def every(value: object, key: str) -> list[object]:
    """Return all values of `key` (lower case) in a JSON object, in order; [] if `value` is not an object.

    Keys compare without case, as Go's encoding/json and .NET decoders do.
    """
    if not isinstance(value, dict):
        return []
    pairs = value.pairs if isinstance(value, Members) else value.items()
    return [item for name, item in pairs if name == key or name.casefold() == key]


class JsonStream:
    """Finds the JSON texts in one direction: feed it the bytes in order. Never raises.

    Texts of fewer than `shortest` bytes are left out: parsing thousands of `{}` a packet costs much and states nothing.
    """

    __slots__ = (
        "_depth", "_escaped", "_found", "_fresh", "_in_string", "_line_at", "_line_depth", "_open", "_overlong",
        "_room", "_shortest", "_skipping", "_string_at", "_text",
    )  # fmt: skip

    def __init__(self, shortest: int = 0) -> None:
        self._shortest = shortest
        self._skipping = False  # inside a line that is not JSON
        self._reset()

    def _reset(self) -> None:
        self._open = False  # inside a text
        self._text = bytearray()  # the bytes of it that are kept
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._string_at = 0  # the offset in _text at which the last string began
        self._room = 0  # bytes of the open string that may still be kept
        self._fresh = False  # only blanks since the last newline
        self._line_at = -1  # the offset in _text of the bracket that started a line; -1: none did
        self._line_depth = 0
        self._overlong = False
        self._found: list[tuple[str, str]] = []

    def feed(self, chunk: bytes) -> list[JsonText]:
        """Return the texts that `chunk` completes, oldest first."""
        texts: list[JsonText] = []
        at = 0
        while at < len(chunk):
            if self._in_string:
                at = self._string(chunk, at, texts)
            elif self._open:
                at = self._structure(chunk, at, texts)
            else:
                at = self._between(chunk, at)
        return texts

    def _between(self, chunk: bytes, at: int) -> int:
        """Skip blanks and lines that are not JSON; return the offset of the next text, or the end."""
        if self._skipping:
            begin = _BEGIN.search(chunk, at)
            if begin is None:
                return len(chunk)
            self._skipping = False
            at = begin.end()
        blank = _BLANK.match(chunk, at)
        at = blank.end() if blank else at
        if at < len(chunk):
            self._open = chunk[at] in b"{["
            self._skipping = not self._open
        return at

    def _structure(self, chunk: bytes, at: int, texts: list[JsonText]) -> int:
        """Read outside strings: up to the end of the text, or into a string whose end is not in the chunk."""
        for found in _MARK.finditer(chunk, at):
            start, end = found.span()
            if start > at:
                self._keep_between(chunk[at:start], texts)
            at, mark = end, chunk[start]
            if mark == QUOTE:
                self._fresh, self._string_at = False, len(self._text)
                if end - start == 1 or end - start > MAX_STRING or len(self._text) + end - start >= MAX_TEXT:
                    self._in_string, self._room = True, MAX_STRING
                    self._keep(b'"', texts)
                    return start + 1
                self._text += found.group()
            elif mark in b"\n\0":
                self._fresh = True
                if len(self._text) < RAW_BYTES and not self._overlong:
                    self._keep(found.group(), texts)
            elif mark in b"{[":
                if self._fresh:
                    self._line_starts(texts)
                self._fresh = False
                self._keep_brackets(found.group(), texts)
                self._depth += end - start
            else:
                self._fresh = False
                self._keep_brackets(found.group(), texts)
                self._close(texts)
                if not self._open:
                    return at
        if at < len(chunk):
            self._keep_between(chunk[at:], texts)
        return len(chunk)

    def _keep_brackets(self, piece: bytes, texts: list[JsonText]) -> None:
        """Keep brackets: `_keep` without its handling of blanks, which they do not contain."""
        if len(self._text) + len(piece) < MAX_TEXT:
            self._text += piece
        else:
            self._keep(piece, texts)

    def _keep_between(self, piece: bytes, texts: list[JsonText]) -> None:
        self._fresh = self._fresh and not piece.strip()
        self._keep(piece, texts)

    def _string(self, chunk: bytes, at: int, texts: list[JsonText]) -> int:
        """Read inside a string: through the next quote, escape or newline."""
        if self._escaped and chunk[at] not in b"\n\0":
            self._escaped = False
            self._keep_string(chunk[at : at + 1], texts)
            return at + 1
        found = _STRING_MARK.search(chunk, at)
        end = found.start() if found else len(chunk)
        self._keep_string(chunk[at:end], texts)
        if found is None:
            return end
        mark = found.group()
        if mark == b'"':
            self._in_string = False
            self._keep(mark, texts)
        elif mark == b"\\":
            self._escaped = True
            self._room = self._room if self._room >= len(rb"\uXXXX") else 0  # never half an escape
            self._keep_string(mark, texts)
        else:
            self._reset()
        return found.end()

    def _keep_string(self, piece: bytes, texts: list[JsonText]) -> None:
        piece = piece[: self._room]
        self._room -= len(piece)
        self._keep(piece, texts)

    def _keep(self, piece: bytes, texts: list[JsonText]) -> None:
        """Keep bytes of the open text, without those that the bounds leave out."""
        size = len(self._text)
        if not self._in_string and (self._overlong or size + len(piece) > RAW_BYTES):
            raw = 0 if self._overlong else max(0, RAW_BYTES - size)
            piece = piece[:raw] + piece[raw:].translate(None, b" \t\r\n\v\f\0")
        if size + len(piece) < MAX_TEXT:
            self._text += piece
            return
        while piece:  # cut at the limit, wherever segments end
            room = MAX_TEXT - len(self._text)
            self._text += piece[:room]
            piece = piece[room:]
            if len(self._text) >= MAX_TEXT:
                self._overflow(texts)

    def _line_starts(self, texts: list[JsonText]) -> None:
        """Note that an object begins a line here, which some receivers read as a text of its own."""
        if self._overlong:
            self._window(len(self._text), texts)
            self._text.clear()
        self._line_at, self._line_depth = len(self._text), self._depth

    def _close(self, texts: list[JsonText]) -> None:
        """Note a closing bracket, and report the texts that end with it."""
        self._depth -= 1
        if self._line_at >= 0 and self._depth <= self._line_depth:
            if (
                self._depth == self._line_depth
                and self._depth > 0
                and len(self._text) - self._line_at >= self._shortest
            ):
                texts.append(parse(bytes(self._text[self._line_at :])))
            self._line_at = -1
        if self._depth == 0:
            if self._overlong:
                self._window(len(self._text), texts)
            elif len(self._text) >= self._shortest:
                texts.append(parse(bytes(self._text)))
            self._reset()

    def _overflow(self, texts: list[JsonText]) -> None:
        """Make room: search the kept bytes for members, and keep only the part that the next bytes may complete."""
        self._overlong = True
        cut = self._line_at
        if cut > 0:  # a line that may still parse as a whole stays
            self._window(cut, texts)
            self._line_at = 0
        else:
            self._line_at = -1
            cut = self._window(len(self._text), texts)
        del self._text[:cut]
        self._string_at -= cut

    def _window(self, end: int, texts: list[JsonText]) -> int:
        """Report the MEMBERS in the first `end` kept bytes; return the offset of the rest that may still grow."""
        text = bytes(self._text[:end])
        rest = min(end, self._string_at) if self._in_string else end
        pairs, last = _members(text[:rest])  # an open string is not a pair yet
        if last is not None and not text[last.end() : rest].strip():
            rest = last.start()  # a key whose colon or value is still to come
        pairs = [pair for pair in pairs if pair not in self._found]
        if pairs:
            pairs = self._found + pairs
            self._found = pairs[-MAX_MEMBERS:]
            wire = ",".join(f"{json.dumps(key)}:{json.dumps(item)}" for key, item in pairs[-MAX_MEMBERS:])
            texts.append(JsonText(_best_effort(pairs), wire.encode()))
        return rest


def parse(text: bytes) -> JsonText:
    """Parse one text; if it is not valid JSON, search it for MEMBERS."""
    decoded = text.replace(b"\0", b" ").decode("utf-8", "replace")
    try:
        value: object = _DECODER.decode(decoded)
    except (ValueError, RecursionError):
        value = _best_effort(_members(text)[0])
    return JsonText(value, text)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    plain = dict(pairs)
    return plain if len(plain) == len(pairs) else Members(pairs)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= MAX_DIGITS else float(digits)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, strict=False)
_STRINGS = json.JSONDecoder(strict=False)  # made once: `json.loads` makes one a call


def _members(text: bytes) -> tuple[list[tuple[str, str]], re.Match[bytes] | None]:
    """Return the `"key": "value"` pairs of a text whose key is in MEMBERS, and the last of its strings."""
    pairs = []
    last = None
    for token in _STRING.finditer(text):
        if last is not None and last.group(2) is not None and last.end() == token.start():
            name = _unescape(last.group(1)).casefold()
            if name in MEMBERS:
                pairs.append((name, _unescape(token.group(1))))
        last = token
    return pairs, last


def _best_effort(pairs: list[tuple[str, str]]) -> Members:
    members: list[tuple[str, object]] = [pair for pair in pairs if pair[0] in ("method", "type")]
    return Members([*members, ("params", Members(list(pairs)))])


def _unescape(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace")
    if "\\" not in text:
        return text
    try:
        return str(_STRINGS.decode(f'"{text}"'))
    except ValueError:
        return text

"""HTTP/1.x (RFC 9112): the heads and the content of a connection, and the place where HTTP ends.

A message is a head (start line, fields, an empty line) and a body. The head states the length of the body. A reader
that takes another length than the server does reads other messages than the server: request smuggling. So the reading
here is strict. Two lengths that disagree, a length beside a transfer coding, a folded field or a space before a colon
raise MalformedError; nothing is guessed.

`RequestStream` and `ResponseStream` each read one direction: bytes in, facts out. Bodies are passed on as they come and
never kept. Where a direction ceases to be HTTP (CONNECT, Upgrade, or bytes at a message boundary that begin no HTTP
message) the rest of it is `Opaque`. Segmentation never changes the facts.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from egress.errors import MalformedError
from egress.wire.http_start import (
    MAX_BLANK,
    MAX_METHOD,
    MAX_START_LINE,
    TOKEN,
    blank_end,
    starts_answer,
    starts_request,
)

MAX_HEAD = 65536  # bytes of start line and fields, or of a trailer section; servers allow 8 to 64 KiB
MAX_FIELDS = 256  # fields of one head; Apache allows 100
MAX_CHUNK_LINE = 4096  # a chunk's size with its extensions
MAX_PENDING = 1024  # requests remembered until they are answered

_REQUEST_LINE = re.compile(rb"([^ ]{1,%d}) ([!-~\x80-\xff]+) HTTP/(1\.\d)" % MAX_METHOD)
_STATUS_LINE = re.compile(rb"HTTP/(1\.\d) ([1-9]\d\d)(?: [^\r\0]*)?")
_HEAD_END = re.compile(rb"\n\r?\n")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\0]*)?")
_LENGTH = re.compile(rb"\d{1,18}")
_AUTHORITY = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._~!$&'()*+,;=%-]*))(?::\d*)?")
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")
_USED_FIELDS = frozenset({b"host", b"connection", b"upgrade", b"content-length", b"transfer-encoding"})
_CHUNKED, _UNTIL_CLOSE = -1, -2  # body lengths that are not a number


class HttpRequest(NamedTuple):
    """The head of a request."""

    method: str
    target: str  # as sent, Latin-1
    host: str  # lower case, without port, brackets or trailing dot; of an absolute or CONNECT target, else of Host
    upgrade: str  # lower-case Upgrade field when Connection names it, else ""
    version: str  # "1.0", "1.1"


class HttpResponse(NamedTuple):
    """The head of an answer."""

    status: int
    version: str


class Body(NamedTuple):
    """A piece of the body of the message whose head came last."""

    data: bytes
    last: bool  # the message ends here; never true for a body that lasts until the connection closes


class Opaque(NamedTuple):
    """Bytes after the end of HTTP: another protocol, or bytes that are not an HTTP message."""

    data: bytes
    desync: bool  # a message should start here and does not; False: the protocol was changed


_Fields = dict[bytes, list[bytes]]


def _read_fields(lines: list[bytes]) -> _Fields:
    """Check every field (RFC 9112 section 5); return the values of those in _USED_FIELDS, by lower-case name.

    Raises MalformedError.
    """
    if len(lines) > MAX_FIELDS:
        raise MalformedError("too many HTTP fields")
    fields: _Fields = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not TOKEN.fullmatch(name) or b"\r" in value or b"\0" in value:
            raise MalformedError("HTTP field does not parse")
        if (name := name.lower()) in _USED_FIELDS:
            fields.setdefault(name, []).append(value.strip(b" \t"))
    return fields


def _list(fields: _Fields, name: bytes) -> list[bytes]:
    """Return the lower-case members of a comma-separated field, over all its lines."""
    return [part.strip(b" \t").lower() for value in fields.get(name, ()) for part in value.split(b",")]


def _body_length(fields: _Fields, version: bytes, absent: int) -> int:
    """Return the length of the body, _CHUNKED or _UNTIL_CLOSE; `absent` if the head has none (RFC 9112 section 6).

    Raises MalformedError.
    """
    codings, lengths = _list(fields, b"transfer-encoding"), _list(fields, b"content-length")
    if codings:
        if lengths:
            raise MalformedError("HTTP message with both Content-Length and Transfer-Encoding")
        if version == b"1.0" or codings.count(b"chunked") > 1:
            raise MalformedError("HTTP Transfer-Encoding is not allowed here")
        if codings[-1] == b"chunked":
            return _CHUNKED
        if absent == 0 or b"chunked" in codings:
            raise MalformedError("HTTP Transfer-Encoding does not end in chunked")
        return _UNTIL_CLOSE
    if not lengths:
        return absent
    if not all(_LENGTH.fullmatch(length) for length in lengths) or len({int(length) for length in lengths}) > 1:
        raise MalformedError("HTTP Content-Length is not a single number")
    return int(lengths[0])


def host_of(authority: bytes) -> str:
    """Return the host of `host[:port]`, lower case, without the brackets of an IPv6 address and the trailing dot.

    Raises MalformedError.
    """
    match = _AUTHORITY.fullmatch(authority)
    if not match:
        raise MalformedError("HTTP host does not parse")
    return (match[1] or match[2] or b"").decode("ascii").lower().removesuffix(".")


def _request_host(method: bytes, target: bytes, fields: _Fields) -> str:
    """Return the host of a request: at most one Host, with which an absolute target agrees (RFC 9112 section 3.2).

    Raises MalformedError.
    """
    hosts = fields.get(b"host", [])
    if len(hosts) > 1:
        raise MalformedError("two HTTP Host fields")
    named = host_of(hosts[0]) if hosts else ""
    if method == b"CONNECT":
        return host_of(target)
    absolute = _ABSOLUTE.match(target)
    if not absolute:
        return named
    wanted = host_of(absolute[1].rpartition(b"@")[2])
    if hosts and named != wanted:
        raise MalformedError("HTTP Host and target disagree")
    return wanted


Head = TypeVar("Head", HttpRequest, HttpResponse)


class _Stream(Generic[Head]):
    """Reads one direction: `feed` returns heads, body pieces and bytes after the end of HTTP.

    `_step` is the method that reads the next part of the buffer; it returns False if it needs more bytes.
    """

    def __init__(self) -> None:
        self.salvage: list[Head | Body | Opaque] = []
        self._buffer = bytearray()
        self._events: list[Head | Body | Opaque] = []
        self._step: Callable[[_Stream[Head]], bool] = _Stream._boundary  # bound, it would be a reference cycle
        self._fault = ""
        self._searched = 0  # bytes of the buffer that were searched for the end of the head
        self._left = 0  # bytes of the sized body or chunk still to come
        self._chunked = False
        self._trailer = 0  # bytes of the trailer section so far
        self._tunnel = False  # the protocol changes after this message

    def feed(self, chunk: bytes) -> list[Head | Body | Opaque]:
        """Return the facts in the next bytes, which must come in order and without gaps.

        Raises MalformedError, and does so again at each later call; `salvage` then has the facts of this chunk before
        the fault.
        """
        if self._fault:
            raise MalformedError(self._fault)
        self._buffer += chunk
        self._events = events = list[Head | Body | Opaque]()
        try:
            while self._step(self):
                pass
        except MalformedError as error:
            self._fault, self.salvage = str(error), events
            self._buffer.clear()
            raise
        return events

    def _starts(self, data: bytes) -> bool | None:
        """Return whether `data` begins a message of this direction; None: too short to tell."""
        raise NotImplementedError

    def _read_head(self, line: bytes, lines: list[bytes]) -> int:
        """Append the head to the facts and set `_tunnel`; return the length of the body. Raises MalformedError."""
        raise NotImplementedError

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _line(self, limit: int) -> bytes | None:
        """Take the next line, without its end; None: it is not whole yet. Raises MalformedError."""
        end = self._buffer.find(b"\n", 0, limit)
        if end < 0:
            if len(self._buffer) >= limit:
                raise MalformedError("HTTP line is too long")
            return None
        return self._take(end + 1)[:-1].removesuffix(b"\r")

    def _boundary(self) -> bool:
        """Look for the start of the next message; bytes that begin none are opaque."""
        if not self._buffer:
            return False
        start = bytes(self._buffer[: MAX_START_LINE + 2 * MAX_BLANK])
        starts = self._starts(start)
        if starts is False:
            self._step = _Stream._desynchronised
        elif starts:
            del self._buffer[: blank_end(start)]
            self._searched = 0
            self._step = _Stream._head
        return starts is not None

    def _head(self) -> bool:
        """Take a head once it is whole, and choose the step for its body. Raises MalformedError."""
        end = _HEAD_END.search(self._buffer, max(0, self._searched - 2))
        if (end.end() if end else len(self._buffer)) > MAX_HEAD:
            raise MalformedError("HTTP head is too long")
        if not end:
            self._searched = len(self._buffer)
            return False
        head = self._take(end.end())[: end.start()]
        line, *lines = (line.removesuffix(b"\r") for line in head.split(b"\n"))
        self._left = self._read_head(line, lines)
        self._chunked = self._left == _CHUNKED
        if not self._left:
            self._finish()
        elif self._left == _UNTIL_CLOSE:
            self._step = _Stream._until_close
        else:
            self._step = _Stream._chunk_size if self._chunked else _Stream._content
        return True

    def _finish(self) -> None:
        self._step = _Stream._tunnelled if self._tunnel else _Stream._boundary

    def _content(self) -> bool:
        """Take the bytes of a body, or of a chunk, of known length."""
        data = self._take(self._left)
        self._left -= len(data)
        if data:
            self._events.append(Body(data, last=not self._left and not self._chunked))
        if self._left:
            return False
        if self._chunked:
            self._step = _Stream._chunk_end
        else:
            self._finish()
        return True

    def _chunk_size(self) -> bool:
        """Take the line before a chunk, which has its size. Raises MalformedError."""
        line = self._line(MAX_CHUNK_LINE)
        if line is None:
            return False
        match = _CHUNK_LINE.fullmatch(line)
        if not match:
            raise MalformedError("HTTP chunk size does not parse")
        self._left = int(match[1], 16)
        self._trailer = 0
        self._step = _Stream._content if self._left else _Stream._trailers
        return True

    def _chunk_end(self) -> bool:
        if self._buffer[:2] in (b"", b"\r"):
            return False
        if self._line(2) != b"":
            raise MalformedError("HTTP chunk is longer than its size")
        self._step = _Stream._chunk_size
        return True

    def _trailers(self) -> bool:
        """Take a line of the trailer section; the empty one ends the message. Raises MalformedError."""
        line = self._line(MAX_HEAD)
        if line is None:
            return False
        if line:
            _read_fields([line])
            self._trailer += len(line)
            if self._trailer > MAX_HEAD:
                raise MalformedError("HTTP trailer section is too long")
            return True
        self._events.append(Body(b"", last=True))
        self._finish()
        return True

    def _until_close(self) -> bool:
        return self._rest(Body, False)

    def _tunnelled(self) -> bool:
        return self._rest(Opaque, False)

    def _desynchronised(self) -> bool:
        return self._rest(Opaque, True)

    def _rest(self, kind: type[Body] | type[Opaque], flag: bool) -> bool:
        """Take all bytes that are here as one Body or Opaque with this `flag`. Returns False: no other step follows."""
        if self._buffer:
            self._events.append(kind(self._take(len(self._buffer)), flag))
        return False


class RequestStream(_Stream[HttpRequest]):
    """Reads the client's direction; opaque after a CONNECT head, and after an Upgrade request with its body."""

    def _starts(self, data: bytes) -> bool | None:
        return starts_request(data)

    def _read_head(self, line: bytes, lines: list[bytes]) -> int:
        match = _REQUEST_LINE.fullmatch(line)
        if not match:
            raise MalformedError("HTTP request line does not parse")
        method, target, version = match.groups()
        fields = _read_fields(lines)
        upgrade = b",".join(_list(fields, b"upgrade")) if b"upgrade" in _list(fields, b"connection") else b""
        length = 0 if method == b"CONNECT" else _body_length(fields, version, absent=0)
        host = _request_host(method, target, fields)
        names = (method.decode("ascii"), target.decode("latin-1"), host, upgrade.decode("latin-1"))
        self._events.append(HttpRequest(*names, version=version.decode("ascii")))
        self._tunnel = bool(upgrade) or method == b"CONNECT"
        return length


class ResponseStream(_Stream[HttpResponse]):
    """Reads the server's direction; opaque after a 101, and after a 2xx that answers CONNECT.

    The length of an answer depends on its request (an answer to HEAD has no body), so pass each request to `asked`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pending: deque[str] = deque()

    @property
    def changed(self) -> bool:
        """True if the last answer changed the protocol: 101, or 2xx to CONNECT."""
        return self._tunnel

    def asked(self, request: HttpRequest) -> None:
        """Note a request whose answer is still to come.

        A request beyond MAX_PENDING is not noted: its answer is read as the answer to a GET.
        """
        if len(self._pending) < MAX_PENDING:
            self._pending.append(request.method)

    def _starts(self, data: bytes) -> bool | None:
        return starts_answer(data)

    def _read_head(self, line: bytes, lines: list[bytes]) -> int:
        match = _STATUS_LINE.fullmatch(line)
        if not match:
            raise MalformedError("HTTP status line does not parse")
        version, status = match[1], int(match[2])
        fields = _read_fields(lines)
        tunnel, length = status == 101, 0
        if status >= 200:
            method = self._pending.popleft() if self._pending else ""
            tunnel = method == "CONNECT" and status < 300
            if not (tunnel or method == "HEAD" or status in (204, 304)):
                length = _body_length(fields, version, absent=_UNTIL_CLOSE)
        self._events.append(HttpResponse(status, version.decode("ascii")))
        self._tunnel = tunnel
        return length

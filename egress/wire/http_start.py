"""Recognises the start of an HTTP/1 message (RFC 9112): used to identify a direction, and to notice where HTTP ends."""

from __future__ import annotations

import re

MAX_METHOD = 24
MAX_START_LINE = 8192  # with a method that is not in METHODS; RFC 9112 section 3 asks for 8000
MAX_BLANK = 4  # empty lines tolerated before a start line (RFC 9112 section 2.2)
METHODS = frozenset(
    b"GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH QUERY PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK REPORT "
    b"SEARCH MERGE CHECKOUT MKACTIVITY MKCALENDAR ACL BIND REBIND UNBIND LINK UNLINK PURGE NOTIFY SUBSCRIBE".split()
)

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2
_BLANK = re.compile(rb"(?:\r?\n){0,%d}" % MAX_BLANK)
_TARGET = re.compile(rb"[!-~\x80-\xff]*")
_STATUS_START = re.compile(rb"HTTP/1\.\d [1-9]\d\d")
_STATUS_SHAPE = b"HTTP/1.1 200"


def blank_end(data: bytes) -> int:
    """Return the offset after the empty lines at the start of `data`, of which at most MAX_BLANK are skipped."""
    blank = _BLANK.match(data)
    return blank.end() if blank else 0


def starts_http(data: bytes) -> bool | None:
    """Return whether a direction starts with an HTTP/1 request or answer; None: too short to tell."""
    request, answer = starts_request(data), starts_answer(data)
    return True if request or answer else None if request is None or answer is None else False


def _after_blank(data: bytes) -> bytes | None:
    """Return the bytes after the empty lines at the start; None: another empty line may follow."""
    end = blank_end(data)
    rest = data[end : end + MAX_START_LINE]
    return None if rest in (b"", b"\r") and data[:end].count(b"\n") < MAX_BLANK else rest


def starts_request(data: bytes) -> bool | None:
    """Return whether bytes begin with an HTTP/1 request; None: too short to tell.

    A request begins with a known method and a path or an http(s) URL, or with any method in a whole `TOKEN target
    HTTP/1.`.
    """
    line = _after_blank(data)
    if not line:
        return None
    token = TOKEN.match(line)
    method = token[0] if token else b""
    if not 1 <= len(method) <= MAX_METHOD or method.startswith(b"SSH-"):  # RFC 4253 idents may hold any comment
        return False
    if len(line) == len(method):
        return None
    found = _TARGET.match(line, len(method) + 1)
    target = found[0] if found else b""
    if line[len(method)] != 0x20:
        return False
    if method in METHODS and (target[:1] == b"/" or target[:8].lower().startswith((b"http://", b"https://"))):
        return True
    version = line[len(method) + 1 + len(target) :][:8]
    if not target:
        return False if version else None
    if len(version) < 8:
        return None if b" HTTP/1.".startswith(version) and len(line) < MAX_START_LINE else False
    return version == b" HTTP/1."


def starts_answer(data: bytes) -> bool | None:
    """Return whether bytes begin with a status line of HTTP/1; None: too short to tell."""
    line = _after_blank(data)
    if not line:
        return None
    start = line[: len(_STATUS_SHAPE)]
    if not _STATUS_START.match(start + _STATUS_SHAPE[len(start) :]):
        return False
    return True if len(start) == len(_STATUS_SHAPE) else None

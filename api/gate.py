"""The gate that every request passes before its route: request id, authentication, size and syntax of the body.

Every answer passes it too: the gate adds the request id, and headers against caching and content sniffing, and writes a
line in the access log. An unexpected exception becomes a 500 answer.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import problems, strictjson
from api.auth import PREFIX, PUBLIC, Authenticator
from api.otlp import answers
from api.otlp.bodies import MAX_TRACES
from api.problems import ProblemError

MAX_BODY = 8 << 20  # bytes
MAX_DOCUMENT = 32 << 20  # bytes of a body that is a whole policy
DOCUMENTS = frozenset({f"{PREFIX}/allowlist/import", f"{PREFIX}/simulate"})  # their routes parse the body, JSON or YAML
YAML = frozenset({"application/yaml", "application/x-yaml", "text/yaml"})
SMALL = 64 << 10  # bytes; a body of this size is checked in the event loop, a larger one in a thread

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,64}")
_JSON = re.compile(r"application/([a-z0-9.-]+\+)?json")
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}

log = logging.getLogger("egress.api")
access = logging.getLogger("egress.api.access")


class Gate:
    """The outermost ASGI middleware: authenticates requests, reads and checks their bodies, writes the access log."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app, self._authenticator = app, authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        given = Headers(scope=scope).get("x-request-id", "")
        state["request_id"] = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        began, status = time.monotonic(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = state["request_id"]
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._pass(scope, receive, sending)
        except Exception:  # the caller gets a 500, the log the reason
            log.exception("request %s failed", state["request_id"])
            if not status:
                status = 500
                await problems.response(problems.from_exception(RuntimeError()), scope)(scope, receive, sending)
        who = state["caller"].actor.name if "caller" in state else (scope.get("client") or ("-",))[0]
        took = (time.monotonic() - began) * 1000
        path = quote(scope["path"], safe="/:@!$&'()*+,;=")
        access.info("%s %s %s %d %.1f ms %s", who, scope["method"], path, status, took, state["request_id"])

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if b"\0" in scope["path"].encode("utf-8", "replace") or b"%00" in scope.get("query_string", b""):
                raise ProblemError(400, "the URL contains a NUL character")
            if scope["path"] not in PUBLIC:
                scope["state"]["caller"] = await run_in_threadpool(self._authenticator.caller, scope)
            body = await _body(scope, receive)
        except _ClientGoneError:
            return
        except Exception as error:  # expected errors become a response, others are raised again
            problem = problems.from_exception(error)
            if problem.status == 500:
                raise
            problem.headers.setdefault("Connection", "close")  # the rest of the body is not read
            await problems.response(problem, scope)(scope, receive, send)
            return
        scope["state"]["body"] = body
        await self._app(scope, _replay(body, receive), send)


class _ClientGoneError(Exception):
    """The client closed the connection."""


async def _body(scope: Scope, receive: Receive) -> bytes:
    """Read the whole body and check its size and syntax. Raises ProblemError (400, 413, 415) or _ClientGoneError."""
    path = scope["path"]
    limit = MAX_DOCUMENT if path in DOCUMENTS else MAX_TRACES if path in answers.PATHS else MAX_BODY
    headers = Headers(scope=scope)
    length = headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 18:
        raise ProblemError(400, "Content-Length is not a number")
    body, more = bytearray(), True
    while more:
        if max(int(length), len(body)) > limit:
            raise ProblemError(413, f"the body has more than {limit >> 20} MiB")
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientGoneError
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if body and path not in answers.PATHS:  # api.otlp checks bodies there: they may be compressed or binary
        await _check_form(path, headers.get("content-type", ""), bytes(body))
    return bytes(body)


async def _check_form(path: str, content_type: str, body: bytes) -> None:
    """Check that a body is JSON, or on DOCUMENTS of a media type of JSON or YAML. Raises ProblemError: 400, 415."""
    kind = _media_type(content_type)
    if path in DOCUMENTS and kind in YAML:
        return
    if not _JSON.fullmatch(kind):
        also = " or application/yaml" if path in DOCUMENTS else ""
        raise ProblemError(415, f"Content-Type must be application/json{also}, not {ascii(kind)[1:61] or 'empty'}")
    if path in DOCUMENTS:
        return
    try:
        if len(body) <= SMALL:
            strictjson.loads(body)
        else:
            await run_in_threadpool(strictjson.loads, body)
    except ValueError as error:
        raise problems.wrong_field("", f"not JSON: {error}", 400) from None


def is_yaml(content_type: str) -> bool:
    """Return True if a Content-Type header names YAML."""
    return _media_type(content_type) in YAML


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` whose first message is the whole body; later ones come from the client: a disconnect."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay

"""The one way of a change: in one transaction, once for an Idempotency-Key, only to what If-Match says, or for show.

    @router.delete("/things/{name}", status_code=204)
    def delete_thing(name: str, caller: Editor, edits: Edits) -> Response:
        def change(connection: Connection) -> Answer:
            thing = store.thing(connection, name)     # NotFoundError: 404
            edits.match(thing.etag)                   # 412 where If-Match names another version
            store.remove(connection, caller.actor, name, ts=edits.ts)
            return Answer(204)

        return edits.run(change)

Whatever `change` raises rolls everything back. Only answers of success are kept for an Idempotency-Key: what failed
changed nothing and may be tried again with the same key.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Query, Request
from starlette.responses import JSONResponse, Response

from api import etags
from api.auth import Caller
from api.database import Store
from api.problems import ProblemError, unavailable, wrong_parameter
from egress.errors import EgressError
from egress.records.times import micros
from egress.store.database.database import require_schema, writing
from egress.store.database.handles import Connection, Engine, IntegrityError
from egress.store.policy import idempotency

_KEPT = ("content-type", "etag", "location")
_KEY = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a change answers. `body` is of plain JSON types; None: no content."""

    status: int = 200
    body: object = None
    etag: str = ""
    location: str = ""
    kept: object = None  # instead of body, for replays: where the body holds a secret


class _RollbackError(Exception):
    """Ends a transaction that was for show."""


class EditRequest:
    """The conditions of one request, and the time it is carried out at."""

    def __init__(
        self, request: Request, engine: Engine, *, key: str | None, if_match: str | None, dry_run: bool
    ) -> None:
        if key is not None and not _KEY.fullmatch(key):
            raise wrong_parameter("Idempotency-Key", "must be 1 to 128 printable ASCII characters", 400)
        self.ts = micros(time.time()) / 1_000_000  # as it is stored
        self.dry_run = dry_run
        self._engine = engine
        self._tags = None if if_match is None else etags.parse("If-Match", if_match)
        self._key = None if dry_run else key
        caller: Caller = request.state.caller
        self._caller = caller.actor.name
        self._request = _digest(request)

    def match(self, current: str) -> None:
        """Raises ProblemError (412) where the caller says which version it edits, and it is not the current one."""
        if self._tags is not None and self._tags != ("*",) and current not in self._tags:
            raise ProblemError(
                412, f"it was changed meanwhile: its ETag is {current}; read it again", headers={"ETag": current}
            )

    def run(self, change: Callable[[Connection], Reply]) -> Response:
        """Carry it out, or answer what an equal request with the same key was answered."""
        try:
            return self._run(change)
        except IntegrityError:
            if self._key is None:
                raise
            return self._run(change)  # an equal request was faster by a moment: its answer is there now

    def _run(self, change: Callable[[Connection], Reply]) -> Response:
        try:
            with writing(self._engine) as connection:
                _require_schema(connection)
                if self._key is not None and (replayed := self._replay(connection, self._key)) is not None:
                    return replayed
                answer = change(connection)
                answered = _response(answer, answer.body)
                if self.dry_run:
                    raise _RollbackError
                if self._key is not None:
                    self._keep(connection, self._key, answer)
        except _RollbackError:
            answered.headers["Dry-Run"] = "true"
        return answered

    def _replay(self, connection: Connection, key: str) -> Response | None:
        kept = idempotency.recall(connection, key, self._caller, self.ts)
        if kept is None:
            return None
        if kept.request != self._request:
            raise wrong_parameter("Idempotency-Key", "was used for another request; use a new one")
        return Response(kept.body.encode() or None, kept.status, {**kept.headers, "Idempotent-Replayed": "true"})

    def _keep(self, connection: Connection, key: str, answer: Reply) -> None:
        sent = _response(answer, answer.body if answer.kept is None else answer.kept)
        headers = {name: sent.headers[name] for name in _KEPT if name in sent.headers}
        body = bytes(sent.body).decode()
        idempotency.forget_old(connection, self.ts - idempotency.LIFE)
        idempotency.keep(
            connection, key, self._caller, request=self._request, status=sent.status_code, headers=headers, body=body,
            ts=self.ts,
        )  # fmt: skip


def _require_schema(connection: Connection) -> None:
    try:
        require_schema(connection)
    except EgressError as error:
        raise unavailable(str(error)) from None


def _response(answer: Reply, body: object) -> Response:
    headers = {"ETag": answer.etag, "Location": answer.location}
    given = {name: value for name, value in headers.items() if value}
    if body is None:
        return Response(status_code=answer.status, headers=given)
    return JSONResponse(body, answer.status, given)


def _digest(request: Request) -> str:
    """Of all that decides what a request does; not of how it is made."""
    parts = (request.method, request.url.path, request.url.query, request.headers.get("content-type", ""))
    made = hashlib.sha256(json.dumps(parts).encode())
    made.update(request.state.body)
    return made.hexdigest()


def _edit_request(
    request: Request,
    engine: Store,
    idempotency_key: Annotated[
        str | None,
        Header(description="Repeat a request with the same key for a day and it is carried out once.", max_length=128),
    ] = None,
    if_match: Annotated[
        str | None, Header(description="Edit only what still has this ETag; 412 otherwise.", examples=['"17"'])
    ] = None,
    dry_run: Annotated[bool, Query(description="Answer as if it were done, and change nothing.")] = False,
) -> EditRequest:
    return EditRequest(request, engine, key=idempotency_key, if_match=if_match, dry_run=dry_run)


Edits = Annotated[EditRequest, Depends(_edit_request)]

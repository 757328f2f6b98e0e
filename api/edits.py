"""Every edit runs through here: one transaction, replayed by Idempotency-Key, guarded by If-Match, or a dry run.

    @router.delete("/things/{name}", status_code=204)
    def delete_thing(name: str, caller: Editor, edits: Edits) -> Response:
        def change(connection: Connection) -> Answer:
            thing = store.thing(connection, name)     # NotFoundError: 404
            edits.match(thing.etag)                   # 412 if If-Match names another version
            store.remove(connection, caller.actor, name, ts=edits.ts)
            return Answer(204)

        return edits.commit(change)

An exception from `change` rolls back the transaction. Only successful answers are stored for an Idempotency-Key: a
failed edit changed nothing and may be retried with the same key.
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
    """The answer to an edit. `body` consists of JSON types; None: no content."""

    status: int = 200
    body: object = None
    etag: str = ""
    location: str = ""
    kept: object = None  # stored instead of a body that holds a secret


class _RollbackError(Exception):
    """Rolls back a dry run."""


class EditRequest:
    """One edit request: its conditions and its time."""

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
        """Check If-Match against the current ETag. Raises ProblemError (412) if it names another version."""
        if self._tags is not None and self._tags != ("*",) and current not in self._tags:
            raise ProblemError(
                412, f"changed meanwhile: its ETag is now {current}; read it again", headers={"ETag": current}
            )

    def commit(self, change: Callable[[Connection], Reply]) -> Response:
        """Carry out the change, or replay the answer to an equal request with the same key."""
        try:
            return self._transact(change)
        except IntegrityError:
            if self._key is None:
                raise
            return self._transact(change)  # an equal request committed first: replay its answer

    def _transact(self, change: Callable[[Connection], Reply]) -> Response:
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
    """Hash the parts of a request that determine its effect."""
    parts = (request.method, request.url.path, request.url.query, request.headers.get("content-type", ""))
    made = hashlib.sha256(json.dumps(parts).encode())
    made.update(request.state.body)
    return made.hexdigest()


def _edit_request(
    request: Request,
    engine: Store,
    idempotency_key: Annotated[
        str | None,
        Header(description="Requests repeated with the same key within a day are carried out once.", max_length=128),
    ] = None,
    if_match: Annotated[
        str | None,
        Header(description="Edit only if the resource still has this ETag; otherwise 412.", examples=['"17"']),
    ] = None,
    dry_run: Annotated[bool, Query(description="Answer as if the edit were made, and change nothing.")] = False,
) -> EditRequest:
    return EditRequest(request, engine, key=idempotency_key, if_match=if_match, dry_run=dry_run)


Edits = Annotated[EditRequest, Depends(_edit_request)]

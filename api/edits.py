"""Runs every edit: in one transaction, replayed by Idempotency-Key, guarded by If-Match, or as a dry run.

    @router.delete("/things/{name}", status_code=204)
    def delete_thing(name: str, caller: Editor, edits: Edits) -> Response:
        def change(connection: Connection) -> Reply:
            thing = store.thing(connection, name)     # NotFoundError: 404
            edits.match(thing.etag)                   # 412 if If-Match names another version
            store.remove(connection, caller.actor, name, ts=edits.ts)
            return Reply(204)

        return edits.commit(change)

An exception from `change` rolls back the transaction. Only replies of committed edits are stored for an
Idempotency-Key: a failed edit changed nothing and may be retried with the same key. A dry run ignores the key.
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

MAX_KEY = 128  # characters of an Idempotency-Key

_KEPT = ("content-type", "etag", "location")  # headers stored for a replay
_KEY = re.compile(rf"[\x21-\x7e]{{1,{MAX_KEY}}}")


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply of a `change`, sent as the response.

    `body` consists of JSON types; None: no content. `etag` and `location` are header values; empty: no header.
    """

    status: int = 200
    body: object = None
    etag: str = ""
    location: str = ""
    kept: object = None  # stored for a replay instead of `body`, if that contains a secret


class _RollbackError(Exception):
    """Exception that rolls back a dry run."""


class EditRequest:
    """One edit request: its time, its If-Match and Idempotency-Key headers, and whether it is a dry run."""

    def __init__(
        self, request: Request, engine: Engine, *, key: str | None, if_match: str | None, dry_run: bool
    ) -> None:
        if key is not None and not _KEY.fullmatch(key):
            raise wrong_parameter(
                "Idempotency-Key", f"must be 1 to {MAX_KEY} printable ASCII characters without spaces", 400
            )
        self.ts = micros(time.time()) / 1_000_000  # rounded as the database stores it
        self.dry_run = dry_run
        self._engine = engine
        self._tags = None if if_match is None else etags.parse("If-Match", if_match)
        self._key = None if dry_run else key
        caller: Caller = request.state.caller
        self._caller = caller.actor.name
        self._request = _digest(request)

    def match(self, current: str) -> None:
        """Check that If-Match, if given, lists the current ETag or is `*`. Raises ProblemError (412)."""
        if self._tags is not None and self._tags != ("*",) and current not in self._tags:
            raise ProblemError(
                412, f"changed meanwhile: its ETag is now {current}; read it again", headers={"ETag": current}
            )

    def commit(self, change: Callable[[Connection], Reply]) -> Response:
        """Make the change in one transaction; if the same request was made before with this key, replay its response.

        `change` may be called twice, if another request stores the same key at the same time. A dry run is rolled back.
        Raises ProblemError (422) if the key was used for another request, and the exceptions of `change`.
        """
        try:
            return self._transact(change)
        except IntegrityError:
            if self._key is None:
                raise
            # Another request probably stored this key first: the second try replays its response or rejects the key.
            return self._transact(change)

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
        """Return the stored response to the request with this key; None if the key is new.

        Raises ProblemError (422) if the key was used for another request.
        """
        kept = idempotency.recall(connection, key, self._caller, self.ts)
        if kept is None:
            return None
        if kept.request != self._request:
            raise wrong_parameter("Idempotency-Key", "was used for another request; use a new one")
        return Response(kept.body.encode() or None, kept.status, {**kept.headers, "Idempotent-Replayed": "true"})

    def _keep(self, connection: Connection, key: str, answer: Reply) -> None:
        """Store the response for a replay; delete responses that are too old for one."""
        sent = _response(answer, answer.body if answer.kept is None else answer.kept)
        headers = {name: sent.headers[name] for name in _KEPT if name in sent.headers}
        body = bytes(sent.body).decode()
        idempotency.forget_old(connection, self.ts - idempotency.LIFE)
        idempotency.keep(
            connection, key, self._caller, request=self._request, status=sent.status_code, headers=headers, body=body,
            ts=self.ts,
        )  # fmt: skip


def _require_schema(connection: Connection) -> None:
    """Check that the database has this program's schema. Raises ProblemError (503)."""
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
    """Hash method, path, query, content type and body, to recognise a repeated request."""
    parts = (request.method, request.url.path, request.url.query, request.headers.get("content-type", ""))
    made = hashlib.sha256(json.dumps(parts).encode())
    made.update(request.state.body)
    return made.hexdigest()


def _edit_request(
    request: Request,
    engine: Store,
    idempotency_key: Annotated[
        str | None,
        Header(
            description="A request repeated with the same key within a day is carried out once.", max_length=MAX_KEY
        ),
    ] = None,
    if_match: Annotated[
        str | None,
        Header(description="Make the edit only if the resource still has this ETag; otherwise 412.", examples=['"17"']),
    ] = None,
    dry_run: Annotated[bool, Query(description="Respond as if the edit were made, but change nothing.")] = False,
) -> EditRequest:
    return EditRequest(request, engine, key=idempotency_key, if_match=if_match, dry_run=dry_run)


Edits = Annotated[EditRequest, Depends(_edit_request)]

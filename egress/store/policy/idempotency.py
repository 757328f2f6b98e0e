"""Stored responses to requests with an Idempotency-Key, so that a request sent twice is executed once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from egress.store.database.tables import idempotency

LIFE = 86400.0  # seconds that a response is kept


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response to an API request; `request` is the SHA-256 of the request's method, path, query and body."""

    request: str
    status: int
    headers: dict[str, str]
    body: str
    created: float


def recall(connection: Connection, key: str, caller: str, ts: float) -> StoredResponse | None:
    """The response that the caller got for this key in the day before `ts` (seconds); None if there is none.

    It may be the response to another request: compare `request`.
    """
    row = connection.execute(
        sa.select(idempotency).where(
            idempotency.c.key == key, idempotency.c.caller == caller, idempotency.c.created > ts - LIFE
        )
    ).first()
    return (
        None if row is None else StoredResponse(row.request, row.status, json.loads(row.headers), row.body, row.created)
    )


def keep(
    connection: Connection,
    key: str,
    caller: str,
    *,
    request: str,
    status: int,
    headers: Mapping[str, str],
    body: str,
    ts: float,
) -> None:
    """Store a response, in the transaction of its request. It replaces one for this key that is older than a day.

    Raises IntegrityError if the caller has a newer one for this key.
    """
    mine = (idempotency.c.key == key, idempotency.c.caller == caller)
    connection.execute(idempotency.delete().where(*mine, idempotency.c.created <= ts - LIFE))
    row = {"key": key, "caller": caller, "request": request, "status": status}
    row |= {"headers": json.dumps(dict(headers)), "body": body, "created": ts}
    connection.execute(idempotency.insert(), row)


def forget_old(connection: Connection, before: float) -> int:
    """Delete the responses from before a time (seconds); returns their number."""
    return connection.execute(idempotency.delete().where(idempotency.c.created < before)).rowcount

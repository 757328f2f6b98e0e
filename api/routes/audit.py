"""/audit: lists the changes in the audit trail and verifies its chain of hashes; for admins."""

from __future__ import annotations

import dataclasses
import time
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse, Response

from api.auth import Admin
from api.database import Store
from api.paging import Cursor, Limit, Page, decode, page
from api.shapes.audit import AuditOut, VerifiedOut
from api.times import Since, Until, instant, moment
from egress.store.policy import audit

router = APIRouter(prefix="/audit", tags=["audit"])


@router.get("", response_model=Page[AuditOut], summary="Changes, newest first")
def list_audit(
    caller: Admin,
    engine: Store,
    since: Since = None,
    until: Until = None,
    actor: Annotated[str, Query(max_length=128, description="Glob over the actor", examples=["token:*"])] = "",
    action: Annotated[str, Query(max_length=128, description="Glob over the action", examples=["rule.*"])] = "",
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    caller.check_unlimited("the audit trail")
    after, now = decode(cursor, int), time.time()
    earliest, latest = moment("since", since, now), moment("until", until, now)
    with engine.connect() as connection:
        found = audit.entries(
            connection, before_seq=after[0] if after else None, limit=limit + 1, since=earliest, until=latest,
            actor=actor, action=action,
        )  # fmt: skip
    shown, following = page(found, limit, lambda each: [each.seq])
    items = [dataclasses.asdict(each) | {"time": instant(each.time)} for each in shown]
    return JSONResponse({"items": items, "next": following})


@router.get("/verify", response_model=VerifiedOut, summary="Recompute the chain of hashes")
def verify_audit(
    caller: Admin,
    engine: Store,
    head: Annotated[
        str,
        Query(
            pattern="^(([1-9][0-9]{0,9}:)?[0-9a-f]{64})?$",
            description="The hash of an entry that was seen before, or its number, a colon and its hash",
            examples=["6:" + "0" * 64],
        ),
    ] = "",
) -> Response:
    """With `head` the trail is broken, too, if that entry is missing: its end was cut off, or it was rewritten."""
    caller.check_unlimited("the audit trail")
    number, _, seen = head.rpartition(":")
    anchor = audit.Anchor(seen, int(number or 0)) if seen else None
    with engine.connect() as connection:
        return JSONResponse(dataclasses.asdict(audit.verify(connection, anchor)))

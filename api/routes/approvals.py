"""/approvals: the holds of agents in mode `ask`, and the decisions on them, which are final."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.responses import JSONResponse, Response

from api.auth import Approver, Caller, Viewer
from api.database import Store
from api.edits import Edits, Reply
from api.paging import Cursor, Limit, Page, decode, page
from api.problems import ProblemError, wrong_field
from api.shapes.approvals import ApprovalOut, ApproveIn, approval_out
from egress.model import HoldState
from egress.policy.ruletext import parse_expiry
from egress.store.database.handles import Connection
from egress.store.policy import approvals
from egress.store.policy.approvals import Approval
from egress.store.query.heldby import circumstances

router = APIRouter(prefix="/approvals", tags=["approvals"])

Id = Annotated[str, Path(pattern="^[0-9a-f]{1,32}$", description="The hold's id, in hex digits.")]


@router.get("", response_model=Page[ApprovalOut], summary="Holds, newest first")
def list_approvals(
    caller: Viewer,
    engine: Store,
    state: Annotated[HoldState | None, Query(description="Only holds in this state.")] = None,
    agent: Annotated[str, Query(max_length=128, description="Glob over the agent's name.")] = "",
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    before = decode(cursor, float, str)
    with engine.connect() as connection:
        found = approvals.listed(
            connection,
            state=state.value if state else "",
            agent=agent,
            scope=caller.agents,
            before=before,
            limit=limit + 1,
        )
        shown, following = page(found, limit, lambda each: [each.time, each.id])
        items = [approval_out(*pair) for pair in zip(shown, circumstances(connection, shown), strict=True)]
    return JSONResponse({"items": items, "next": following})


@router.get("/{approval_id}", response_model=ApprovalOut, summary="One hold, the newest of its id")
def get_approval(approval_id: Id, caller: Viewer, engine: Store) -> Response:
    with engine.connect() as connection:
        return JSONResponse(_out(connection, _get_or_404(connection, caller, approval_id)))


@router.post("/{approval_id}/approve", response_model=ApprovalOut, summary="Approve a hold")
def approve(approval_id: Id, caller: Approver, edits: Edits, body: ApproveIn | None = None) -> Response:
    """Makes a rule for this agent and destination; for a flow with its protocol and port, for a DNS query with any.

    Held packets are judged by it within a second.
    """
    try:
        expires = parse_expiry("once" if body is None else body.for_, edits.ts)
    except ValueError as error:
        raise wrong_field("for", str(error)) from None
    if expires[0] is not None and expires[0] <= time.time():
        raise wrong_field("for", "is in the past")

    def change(connection: Connection) -> Reply:
        _get_or_404(connection, caller, approval_id)
        approved = approvals.approve(connection, caller.actor, approval_id, expires=expires, ts=edits.ts)
        return Reply(200, _out(connection, approved))

    return edits.commit(change)


@router.post("/{approval_id}/deny", response_model=ApprovalOut, summary="Deny a hold")
def deny(approval_id: Id, caller: Approver, edits: Edits) -> Response:
    def change(connection: Connection) -> Reply:
        _get_or_404(connection, caller, approval_id)
        return Reply(200, _out(connection, approvals.deny(connection, caller.actor, approval_id, edits.ts)))

    return edits.commit(change)


def _out(connection: Connection, found: Approval) -> dict[str, Any]:
    return approval_out(found, circumstances(connection, [found])[0])


def _get_or_404(connection: Connection, caller: Caller, approval_id: str) -> Approval:
    found = approvals.get(connection, approval_id)
    if found is None or not caller.sees(found.agent):
        raise ProblemError(404, f"there is no approval {approval_id}, or it is outside your scope")
    return found

"""/flows: the recorded flows with their verdicts, findings and processes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import JSONResponse, Response

from api.auth import Viewer
from api.database import Store
from api.paging import Cursor, Limit, Page, decode, page
from api.records import Filters, flow_documents, not_found
from api.shapes.records import FlowOut
from egress.store.query.listing import list_flows as listing
from egress.store.query.reader import flow as find_flow

router = APIRouter(prefix="/flows", tags=["records"])

Id = Annotated[str, Path(pattern="^[0-9a-f]{16}$", description="16 hex digits.")]


@router.get("", response_model=Page[FlowOut], summary="Flows, newest first")
def list_flows(caller: Viewer, engine: Store, wanted: Filters, limit: Limit = 100, cursor: Cursor = None) -> Response:
    """Each flow includes its findings and the process that opened it."""
    before = decode(cursor, float, str)
    with engine.connect() as connection:
        found = listing(connection, wanted.flows(), caller.agents, before, limit + 1)
        shown, following = page(found, limit, lambda each: [each.start, each.flow_id])
        return JSONResponse({"items": flow_documents(connection, shown), "next": following})


@router.get("/{flow_id}", response_model=FlowOut, summary="One flow")
def get_flow(flow_id: Id, caller: Viewer, engine: Store) -> Response:
    found = find_flow(engine, flow_id)
    if found is None or not caller.sees(found.agent):
        raise not_found("flow", flow_id)
    with engine.connect() as connection:
        return JSONResponse(flow_documents(connection, [found])[0])

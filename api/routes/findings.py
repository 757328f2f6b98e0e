"""/findings: the findings of signatures and hunters, and the packets behind them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import JSONResponse, Response

from api.auth import Caller, Viewer
from api.database import Store
from api.paging import Cursor, Limit, Page, decode, page
from api.problems import ProblemError
from api.records import Filters, finding_document, not_found
from api.shapes.records import Eve
from egress.capture.evidence import to_pcapng
from egress.records.shape import FindingRecord
from egress.store.query.listing import finding
from egress.store.query.listing import list_findings as listing
from egress.store.recording import evidence

router = APIRouter(prefix="/findings", tags=["records"])

Id = Annotated[str, Path(pattern="^[0-9a-f]{16}$", description="16 hex digits.")]


@router.get("", response_model=Page[Eve], summary="Findings, newest first")
def list_findings(
    caller: Viewer, engine: Store, wanted: Filters, limit: Limit = 100, cursor: Cursor = None
) -> Response:
    before = decode(cursor, float, str)
    with engine.connect() as connection:
        found = listing(connection, wanted.findings(), caller.agents, before, limit + 1)
    shown, following = page(found, limit, lambda each: [each.time, each.finding_id])
    return JSONResponse({"items": [finding_document(each) for each in shown], "next": following})


@router.get("/{finding_id}", response_model=Eve, summary="One finding")
def get_finding(finding_id: Id, caller: Viewer, engine: Store) -> Response:
    return JSONResponse(finding_document(_get_or_404(finding_id, caller, engine)))


@router.get(
    "/{finding_id}/evidence.pcapng",
    response_class=Response,
    responses={
        200: {"content": {"application/x-pcapng": {}}, "description": "A capture with comments that name the finding"}
    },
    summary="The packets behind a finding",
)
def get_evidence(finding_id: Id, caller: Viewer, engine: Store) -> Response:
    found = _get_or_404(finding_id, caller, engine)
    with engine.connect() as connection:
        kept = evidence.read(connection, finding_id)
        pruned = kept is None and evidence.was_pruned(connection, found)
    if kept is None:
        why = ": packets of that age were pruned" if pruned else ""
        raise ProblemError(404, f"no packets are kept for finding {finding_id}{why}")
    name = f"finding-{finding_id}.pcapng"
    return Response(
        to_pcapng(found, kept),
        media_type="application/x-pcapng",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _get_or_404(finding_id: str, caller: Caller, engine: Store) -> FindingRecord:
    with engine.connect() as connection:
        found = finding(connection, finding_id)
    if found is None or not caller.sees(found.agent):
        raise not_found("finding", finding_id)
    return found

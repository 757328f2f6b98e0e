"""/verdicts: the decisions on flows, and on packets that belong to no flow."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from api.auth import Viewer
from api.database import Store
from api.paging import Cursor, Limit, Page, decode, page
from api.problems import wrong_parameter
from api.records import Filters
from api.shapes.records import VerdictOut, anomaly_verdict, flow_verdict
from egress.store.query.listing import anomaly_key, list_anomalies, list_flows
from egress.store.query.processes import by_flow

router = APIRouter(prefix="/verdicts", tags=["records"])

_KEY = 6  # strings in an anomaly's key
_Found = tuple[float, str, dict[str, Any]]  # time and key, which make the cursor, and the decision


@router.get("", response_model=Page[VerdictOut], summary="Decisions, newest first")
def list_verdicts(
    caller: Viewer, engine: Store, wanted: Filters, limit: Limit = 100, cursor: Cursor = None
) -> Response:
    """Includes packets without a flow (spoofed, malformed, no room) if the only filters are agent and time."""
    of_flow, of_anomaly = _after(cursor)
    found: list[_Found] = []
    with engine.connect() as connection:
        judged = list_flows(connection, wanted.flows(), caller.agents, of_flow, limit + 1)
        opened = by_flow(connection, [each.flow_id for each in judged])
        found += [(each.start, each.flow_id, flow_verdict(each, opened.get(each.flow_id))) for each in judged]
        if not wanted.selection.narrow:
            odd = list_anomalies(connection, wanted.selection.anomalies(), caller.agents, of_anomaly, limit + 1)
            found += [(each.time, json.dumps(anomaly_key(each)), anomaly_verdict(each)) for each in odd]
    found.sort(key=lambda each: each[0], reverse=True)  # stable: at equal times flows come first
    shown, following = page(found, limit, lambda each: each[:2])
    return JSONResponse({"items": [decision for _, _, decision in shown], "next": following})


def _after(cursor: str | None) -> tuple[tuple[float, str] | None, tuple[float, tuple[str, ...]] | None]:
    """Decode the cursor to the positions after which flows and anomalies continue; None: from the newest.

    Raises ProblemError (400).
    """
    after = decode(cursor, float, str)
    if after is None:
        return None, None
    moment, last = after
    if not last.startswith("["):
        return (moment, last), (moment, ())  # anomalies of that time come next
    try:
        key = json.loads(last)
    except (ValueError, RecursionError):
        key = None
    if (
        not isinstance(key, list)
        or len(key) != _KEY
        or not all(isinstance(each, str) and "\0" not in each for each in key)
    ):
        raise wrong_parameter("cursor", "is not a cursor of this listing; omit it for the first page", 400)
    return (moment, ""), (moment, tuple(key))

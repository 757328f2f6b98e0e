"""/simulate: what would a candidate policy have changed over the stored flows?"""

from __future__ import annotations

import dataclasses
import time
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from api.auth import Editor
from api.database import Settings, Store
from api.documents import DOCUMENT, read_rules
from api.paging import Since, Until, moment
from api.shapes import SimulationOut
from egress.store import agents
from egress.whatif.simulate import simulate

router = APIRouter(tags=["questions"])


@router.post(
    "/simulate",
    response_model=SimulationOut,
    openapi_extra=DOCUMENT,
    summary="What would these rules have changed?",
)
def simulate_policy(
    caller: Editor,
    engine: Store,
    config: Settings,
    request: Request,
    since: Since = "24h",
    until: Until = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Groups, most flows first.")] = 100,
) -> Response:
    """The body holds the rules of the whole policy, as JSON or YAML. Agents are as they are now; nothing is changed."""
    caller.check_unlimited("a simulation")
    now = time.time()
    candidate = read_rules(request, now)
    with engine.connect() as connection:
        found = simulate(
            connection,
            candidate,
            agents={each.agent.name: each.agent for each in agents.list_agents(connection)},
            since=moment("since", since, now),
            until=moment("until", until, now),
            limit=limit,
            gate_queries=config.gate_queries,
        )
    return JSONResponse(dataclasses.asdict(found))

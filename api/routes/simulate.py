"""/simulate: what would a candidate policy have changed over the stored flows?"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.auth import Editor
from api.database import Settings, Store
from api.documents import DOCUMENT, read_rules
from api.shapes import SimulationOut
from api.simulation import Simulation

router = APIRouter(tags=["questions"])


@router.post(
    "/simulate",
    response_model=SimulationOut,
    openapi_extra=DOCUMENT,
    summary="What would these rules have changed?",
)
def simulate_policy(caller: Editor, engine: Store, config: Settings, request: Request, wanted: Simulation) -> Response:
    """The body holds the rules of the whole policy, as JSON or YAML. Agents are as they are now; nothing is changed."""
    caller.check_unlimited("a simulation")
    return wanted.answer(engine, config, caller, read_rules(request, wanted.now))

"""/simulate: re-judges the stored flows by other rules. `/policy/versions/{version}/replay` shares its parameters."""

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
    summary="Which verdicts would these rules have changed?",
)
def simulate_policy(caller: Editor, engine: Store, config: Settings, request: Request, wanted: Simulation) -> Response:
    """The body has the rules of a whole policy, as JSON or YAML. Agents are taken as they are. Nothing is changed."""
    caller.check_unlimited("a simulation")
    return wanted.answer(engine, config, caller, read_rules(request, wanted.now))

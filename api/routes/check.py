"""/check: judges a destination by the rules in force for an agent. Nothing is sent."""

from __future__ import annotations

import dataclasses
import time

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from api.auth import Viewer
from api.database import Settings, Store
from api.policybook import PolicyBook
from api.problems import wrong_field
from api.shapes.questions import CheckIn, CheckOut
from egress.model import Agent
from egress.store.policy import agents
from egress.whatif.check import InvalidQuestionError, Question, check

router = APIRouter(tags=["questions"])


@router.post("/check", response_model=CheckOut, summary="Judge a destination by the rules")
def check_destination(body: CheckIn, caller: Viewer, engine: Store, config: Settings, request: Request) -> Response:
    """The answer names the rule and the conditions. An agent that is not attached is judged with default deny."""
    caller.check(body.agent)
    question = Question(body.destination, body.protocol, body.port, body.app, body.address)
    book: PolicyBook = request.app.state.policybook
    with engine.connect() as connection:
        stored = agents.agent(connection, body.agent)
    agent = stored.agent if stored is not None else Agent(body.agent)
    try:
        with book.current(engine, stored.host if stored is not None else config.host_name) as rulebook:
            answer = check(rulebook, agent, question, time.time(), config.gate_queries)
    except InvalidQuestionError as wrong:
        raise wrong_field(wrong.field, str(wrong).removeprefix(f"{wrong.field}: ")) from None
    conditions = list(answer.conditions)
    if stored is None:
        conditions.insert(0, f"Agent {body.agent} is not attached: it was judged with default deny.")
    return JSONResponse(dataclasses.asdict(answer) | {"conditions": conditions})

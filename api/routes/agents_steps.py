"""/agents/{agent}/steps: the tool calls that an agent's framework reports."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import JSONResponse, Response

from api.auth import Caller, Reporter, Viewer
from api.database import Settings, Store
from api.paging import Cursor, Limit, Page, decode, page
from api.problems import ProblemError, wrong_field
from api.shapes.agents import AGENT
from api.shapes.steps import StepIn, StepOut
from api.times import moment_in
from egress.model import Step, StepSource
from egress.store.database.database import storing
from egress.store.database.handles import Connection
from egress.store.query.storyjson import step_mapping
from egress.store.recording import steps
from egress.store.recording.steps import InvalidStepError, StepResult, make

router = APIRouter(prefix="/agents/{agent}/steps", tags=["steps"])

Agent = Annotated[str, Path(pattern=AGENT, description="Name of an agent.")]


@router.post("", response_model=StepOut, status_code=201, summary="Report a step: its start, its end, or both")
def report_step(
    agent: Agent, body: StepIn, request: Request, caller: Reporter, engine: Store, config: Settings
) -> Response:
    """Report a step when it starts, and again, with an `end`, when it is over.

    A repeated report completes the step; it never changes a known value (409). Without `start` a step begins at its
    first report, by this server's clock. A step without an end counts as running for an hour after its last report. A
    report is not an edit of the policy: it makes no version and no entry in the audit trail.
    """
    now = time.time()
    with storing(engine) as connection:
        step = _read(connection, caller, agent, body, now)
        (report,) = steps.report(connection, [step], config.api.steps)
    request.app.state.steps[report.result] += 1
    match report.result:
        case StepResult.CONFLICT:
            raise ProblemError(409, report.why)
        case StepResult.TOO_MANY:
            raise ProblemError(429, f"{report.why}; see api.steps", headers={"Retry-After": "3600"})
    return JSONResponse(step_mapping(report.step), 201 if report.result is StepResult.NEW else 200)


@router.get("", response_model=Page[StepOut], summary="Steps, newest first")
def list_steps(
    agent: Agent,
    caller: Viewer,
    engine: Store,
    episode: Annotated[str, Query(max_length=steps.MAX_ID, description="Only steps of this episode.")] = "",
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    before = decode(cursor, float, str, str)
    if not caller.sees(agent):
        raise _no_agent(agent)
    with engine.connect() as connection:
        found = steps.listed(connection, agent, episode, before, limit + 1)
    shown, following = page(found, limit, lambda each: [each.start, each.episode, each.id])
    return JSONResponse({"items": [step_mapping(each) for each in shown], "next": following})


def _read(connection: Connection, caller: Caller, agent: str, body: StepIn, now: float) -> Step:
    """Make a step from the body. Without a start it gets its stored one, else `now`. Raises ProblemError: 404, 422."""
    if not caller.sees(agent) or not steps.is_known(connection, agent):
        raise _no_agent(agent)
    old = steps.get(connection, agent, body.episode, body.id)
    start = moment_in("start", body.start, now)
    if start is None:
        start = now if old is None else old.start
    try:
        return make(
            agent, episode=body.episode, id=body.id, tool=body.tool, summary=body.summary, start=start,
            end=moment_in("end", body.end, now), source=StepSource.API, call_id=body.call_id or body.id,
            trace_id=body.trace_id, span_id=body.span_id, reporter=caller.actor.name, now=now,
        )  # fmt: skip
    except InvalidStepError as wrong:
        raise wrong_field(wrong.field, wrong.reason) from None


def _no_agent(agent: str) -> ProblemError:
    return ProblemError(404, f"agent {agent!r} is neither attached nor recorded, or is outside your scope")

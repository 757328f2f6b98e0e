"""/simulate: re-judges the stored flows by other rules. `/policy/versions/{version}/replay` shares its parameters."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import JSONResponse, Response

from api.auth import Caller, Editor
from api.database import Settings, Store
from api.documents import DOCUMENT, read_rules
from api.shapes.agents import DefaultName
from api.shapes.questions import SimulationOut
from api.times import Since, Until, moment
from egress.config import Config
from egress.model import Action, Rule
from egress.store.database.handles import Engine
from egress.store.policy import agents
from egress.whatif.simulate import Apart, simulate

router = APIRouter(tags=["questions"])


class SimulationParameters:
    """The parameters of a simulation: the flows to re-judge, and the size of the answer."""

    def __init__(
        self,
        since: Since = "24h",
        until: Until = None,
        agent: Annotated[str, Query(max_length=128, description="Name or glob")] = "",
        default: Annotated[
            DefaultName, Query(description="The default assumed for agents that are no longer attached.")
        ] = "deny",
        limit: Annotated[int, Query(ge=1, le=1000, description="At most this many groups, most flows first.")] = 100,
    ) -> None:
        self.now = time.time()
        self._since, self._until = moment("since", since, self.now), moment("until", until, self.now)
        self._agent, self._limit = agent, limit
        self._default = Action.ACCEPT if default == "allow" else Action.REJECT

    def answer(
        self,
        engine: Engine,
        config: Config,
        caller: Caller,
        candidate: tuple[Rule, ...],
        bound: Mapping[str, str] = MappingProxyType({}),
    ) -> JSONResponse:
        """Re-judge the flows by the rules `candidate`, and make the response.

        A rule in `bound` (id → host) applies only to agents of that host. Raises ProblemError (403) for a caller whose
        scope is limited.
        """
        caller.check_unlimited("a simulation")
        with engine.connect() as connection:
            listed = agents.list_agents(connection)
            found = simulate(
                connection,
                candidate,
                agents={each.agent.name: each.agent for each in listed},
                since=self._since,
                until=self._until,
                agent=self._agent,
                default=self._default,
                limit=self._limit,
                gate_queries=config.gate_queries,
                apart=Apart(bound, {each.agent.name: each.host for each in listed}, config.host_name),
            )
        return JSONResponse(dataclasses.asdict(found))


Simulation = Annotated[SimulationParameters, Depends()]


@router.post(
    "/simulate",
    response_model=SimulationOut,
    openapi_extra=DOCUMENT,
    summary="Verdicts that other rules would have changed",
)
def simulate_policy(caller: Editor, engine: Store, config: Settings, request: Request, wanted: Simulation) -> Response:
    """The body has all rules of a policy, as JSON or YAML. Agents are taken as they are now. Nothing is changed."""
    caller.check_unlimited("a simulation")
    return wanted.answer(engine, config, caller, read_rules(request, wanted.now))

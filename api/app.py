"""The application: every `router` found in `api/routes`, under /api/v1, and the OTLP receiver, behind the gate."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from starlette.routing import BaseRoute

from api import problems, routes
from api.auth import PREFIX, Authenticator
from api.database import Database
from api.gate import Gate
from api.otlp import answers
from api.parameters import refuse_unknown
from api.policybook import PolicyBook
from api.routes import traces
from api.shapes.problems import ProblemDocument
from egress import __version__
from egress.config import Config
from egress.store.database.handles import Engine
from egress.store.recording.steps import StepResult

DESCRIPTION = """Read and edit the policy of an egress gateway while agents run, and read the records of their flows.

Every request except /healthz and /readyz carries a bearer token (`egress token create` makes one); on the unix socket
of this host root needs none. Each of these roles includes the ones before it: **viewer** reads, **approver** decides
approvals, **editor** edits the allowlist, **admin** manages tokens and agents and reads the audit trail. Two roles
stand apart: **gateway** reads only the policy and the agents, **reporter** only reports tool calls. A token may be
limited to some agents.

Tool calls are reported at /agents/{agent}/steps, or as OpenTelemetry spans at /v1/traces (OTLP/HTTP).

Errors are problem documents (RFC 9457) that name the offending field. Edits accept `If-Match` with an ETag,
`Idempotency-Key`, and `dry_run=true`. Listings accept `limit` and `cursor`.
"""
TAGS = [
    {"name": "allowlist", "description": "The editable rules, and all other rules in force."},
    {"name": "policy", "description": "Numbered versions of all rules in force: read, compare, roll back."},
    {"name": "agents", "description": "The guarded agents, their modes and budgets; quarantine and release."},
    {
        "name": "gateways",
        "description": "The gateways that share this database, and the policy version that each enforces.",
    },
    {
        "name": "approvals",
        "description": "Holds: flows and DNS queries of agents in mode `ask` that wait for approval.",
    },
    {
        "name": "questions",
        "description": "What-if questions: the verdicts of rules on a destination or on the stored flows.",
    },
    {"name": "records", "description": "Flows, verdicts, findings and their packets; also as a stream of events."},
    {
        "name": "steps",
        "description": "Tool calls that agent frameworks report, and the flows during and between them.",
    },
    {"name": "health", "description": "Liveness, readiness and metrics."},
    {"name": "tokens", "description": "The tokens of callers of this API."},
    {"name": "audit", "description": "The audit trail: every edit, each entry linked to the one before by a hash."},
]
_EXPECTED = {
    400: "Malformed request: the body is not JSON, or a header or cursor is not valid",
    401: "No bearer token, or it is unknown, expired or revoked",
    403: "The token's role or scope does not allow this",
    404: "Not found",
    409: "Conflict with the current state",
    412: "Changed meanwhile: the current ETag does not match If-Match",
    413: "The body is too large",
    415: "The body's type is not supported",
    422: "A field or parameter is not valid; `errors` names each",
    429: "Too many failed authentications from this address",
    503: "The database is unavailable; try again",
}
_READING = (400, 401, 403, 404, 422, 429, 503)


def create_app(config: Config, engine: Engine | None = None) -> FastAPI:
    """Create the API over `engine`, or over the config's database, which is opened on first use."""
    database = Database(config, engine)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        database.close()

    app = FastAPI(
        title="egress",
        version=__version__,
        description=DESCRIPTION,
        openapi_url=f"{PREFIX}/openapi.json",
        openapi_tags=TAGS,
        docs_url=None,  # its page would load scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        routes=_served(),
    )
    app.state.database = database
    app.state.policybook = PolicyBook()
    app.state.authenticator = authenticator = Authenticator(database)
    app.state.streams = set()
    app.state.steps = Counter(dict.fromkeys((*StepResult, "ignored", "rejected"), 0))  # reported steps by result
    app.state.stopping = threading.Event()  # set at shutdown, to end open streams
    problems.install(app)
    app.add_middleware(Gate, authenticator=authenticator)
    plain = app.openapi
    app.openapi = lambda: _with_problems(plain())  # type: ignore[method-assign]
    return app


@functools.cache
def _served() -> list[BaseRoute]:
    """Return all routes, the same for every application of this process.

    FastAPI derives the parameters of each route when it is first matched, which takes a tenth of a second for all.
    """
    every = APIRouter(dependencies=[Depends(refuse_unknown)], generate_unique_id_function=lambda route: route.name)
    for router in discovered():
        every.include_router(router, prefix=PREFIX)
    for prefix in ("", answers.UNDER):
        every.include_router(traces.otlp, prefix=prefix)
    return every.routes


def discovered() -> list[APIRouter]:
    """Return the routers of `api/routes`, longer names first: /allowlist/export must precede /allowlist/{rule_id}.

    A module without a `router` is left out: the routes of `traces` are not under /api/v1.
    """
    names = sorted((info.name for info in pkgutil.iter_modules(routes.__path__, "api.routes.")), reverse=True)
    modules = [importlib.import_module(name) for name in names]
    return [module.router for module in modules if hasattr(module, "router")]


def _with_problems(document: dict[str, Any]) -> dict[str, Any]:
    """Add the possible error responses to each operation of the OpenAPI document, in place of FastAPI's own."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    if "Problem" in schemas:
        return document
    schemas["Problem"] = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
    for name, schema in schemas["Problem"].pop("$defs", {}).items():
        schemas[name] = schema
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    content = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            closed = bool(operation.get("security"))
            for status, text in _EXPECTED.items():
                if (method == "get" and status not in _READING) or (not closed and status in (401, 403, 429)):
                    continue
                if status == 404 and "{" not in path and method == "get" and "diff" not in path:
                    continue
                operation["responses"][str(status)] = {"description": text, "content": content}
    return document

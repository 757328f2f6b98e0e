"""The application: every module in `api/routes` that has a `router` is served under /api/v1, behind the gate."""

from __future__ import annotations

import importlib
import pkgutil
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI

from api import problems, routes
from api.auth import PREFIX, Authenticator
from api.database import Database
from api.gate import Gate
from api.models import ProblemDocument
from api.otlp import answers
from api.parameters import refuse_unknown
from api.policybook import PolicyBook
from api.routes import traces
from egress import __version__
from egress.config import Config
from egress.store.database.handles import Engine
from egress.store.recording.steps import StepResult

DESCRIPTION = """Who may reach what, edited while agents run, and what happened.

Every request but /healthz and /readyz carries a bearer token (`egress token create` makes one); on the unix socket of
this host root needs none. Roles, each with all that the one before may do: **viewer** reads, **approver** decides
approvals, **editor** edits the allowlist, **admin** makes tokens and reads the audit trail; **gateway** reads the
policy and the agents and nothing else; **reporter** tells of tool calls and nothing else. A token may be limited to
some agents.

Tool calls are told at /agents/{agent}/steps, or as OpenTelemetry's spans to /v1/traces (OTLP/HTTP).

Errors are problem documents (RFC 9457) that name the offending field. Edits take `If-Match` with an ETag,
`Idempotency-Key`, and `dry_run=true`. Listings take `limit` and `cursor`.
"""
TAGS = [
    {"name": "allowlist", "description": "The rules that people and programs edit, and the others in force."},
    {"name": "policy", "description": "All rules in force as numbered versions: read, compare, go back."},
    {"name": "agents", "description": "Who is watched, in which mode, with which budgets; quarantine and release."},
    {
        "name": "gateways",
        "description": "The hosts at this database: who runs where, how far each has come.",
    },
    {"name": "approvals", "description": "What agents in mode ask wait for, and the answer."},
    {"name": "questions", "description": "What the rules say of what nobody has tried yet, or of what was done."},
    {"name": "records", "description": "Flows, verdicts, findings and their packets; also as a stream."},
    {
        "name": "steps",
        "description": "Tool calls, as agent frameworks tell of them, and what left meanwhile.",
    },
    {"name": "health", "description": "For supervisors and dashboards."},
    {"name": "tokens", "description": "Who may call this API."},
    {"name": "audit", "description": "Every change ever made, in a chain of hashes."},
]
_EXPECTED = {
    400: "Malformed: the body is not JSON, or a header or cursor is not of its form",
    401: "No bearer token, or one that is unknown, expired or revoked",
    403: "The role or the scope of the token does not allow this",
    404: "There is no such thing",
    409: "What is there already forbids it",
    412: "It was changed meanwhile: the ETag is another than If-Match says",
    413: "The body is too large",
    415: "The body is not of a type that is understood here",
    422: "A field or parameter is wrong; `errors` names each",
    429: "Too many failed authentications from this address",
    503: "The database is away; try again",
}
_READING = (400, 401, 403, 404, 422, 429, 503)


def create_app(config: Config, engine: Engine | None = None) -> FastAPI:
    """The API over `engine`, or over the config's database, which is opened when it is first needed."""
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
        docs_url=None,  # it would load its scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(refuse_unknown)],
        generate_unique_id_function=lambda route: route.name,
        lifespan=lifespan,
    )
    app.state.database = database
    app.state.policybook = PolicyBook()
    app.state.authenticator = authenticator = Authenticator(database)
    app.state.streams = set()
    app.state.steps = Counter(dict.fromkeys((*StepResult, "ignored", "rejected"), 0))  # what came of those told
    app.state.stopping = threading.Event()  # set at shutdown: streams without an end then end
    problems.install(app)
    for router in discovered():
        app.include_router(router, prefix=PREFIX)
    for prefix in ("", answers.UNDER):
        app.include_router(traces.otlp, prefix=prefix)
    app.add_middleware(Gate, authenticator=authenticator)
    plain = app.openapi
    app.openapi = lambda: _with_problems(plain())  # type: ignore[method-assign]
    return app


def discovered() -> list[APIRouter]:
    """The routers in `api/routes`: longer names first, so that /allowlist/export comes before /allowlist/{rule_id}.

    Those that stand elsewhere than under /api/v1 are called otherwise.
    """
    names = sorted((info.name for info in pkgutil.iter_modules(routes.__path__, "api.routes.")), reverse=True)
    modules = [importlib.import_module(name) for name in names]
    return [module.router for module in modules if hasattr(module, "router")]


def _with_problems(document: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI document with the errors that each operation can answer."""
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

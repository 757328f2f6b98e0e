"""/healthz, /readyz, /metrics: liveness, readiness, and metrics of the gateway."""

from __future__ import annotations

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from api.auth import Viewer
from api.database import Database, Settings
from api.metrics import Metrics
from api.problems import ProblemError
from api.shapes.health import Health, Readiness

router = APIRouter(tags=["health"])

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/healthz", response_model=Health, summary="Liveness: the process answers")
async def healthz() -> Response:
    return JSONResponse({"status": "ok"})


@router.get("/readyz", response_model=Readiness, summary="Readiness: the database can be used")
async def readyz(request: Request) -> Response:
    """Responds with 503 while the database cannot be used; the gateway then keeps enforcing its last policy."""
    database: Database = request.app.state.database
    try:
        await run_in_threadpool(database.check)
    except ProblemError as problem:
        return JSONResponse({"status": "not ready", "database": "away"}, 503, problem.headers)
    return JSONResponse({"status": "ready", "database": "ok"})


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus text format"}},
    summary="Metrics of the gateway on this host, the policy and the records",
)
def metrics(request: Request, caller: Viewer, config: Settings) -> Response:
    """Without the database no token can be looked up, but root on the unix socket still gets the gateway's metrics."""
    caller.check_unlimited("a metric")
    held: Database = request.app.state.database
    try:
        engine = held.engine()
    except ProblemError:
        engine = None
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Metrics(config.control_socket, engine, request.app.state.steps))
    return Response(generate_latest(registry), media_type=METRICS_TYPE)

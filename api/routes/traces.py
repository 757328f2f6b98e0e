"""POST /v1/traces: accepts spans from OpenTelemetry exporters (OTLP/HTTP). It is not in the OpenAPI document.

Responses and errors are OTLP's too (`api.otlp.answers`), in the encoding of the request: protobuf or JSON.
"""

from __future__ import annotations

import threading
import time

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.auth import Reporter
from api.database import Settings, Store
from api.otlp import answers, apart
from api.otlp.bodies import unpacked
from api.otlp.receive import receive
from api.otlp.spans import MalformedSpanError
from api.problems import ProblemError, unavailable
from egress.store.database.database import storing

otlp = APIRouter()

MAX_PARALLEL = 2  # requests read at a time: each may need several hundred megabytes
WAIT_SECONDS = 1.0  # that a further request waits before it gets 503

_slots = threading.BoundedSemaphore(MAX_PARALLEL)


@otlp.post(answers.PATH, include_in_schema=False)
def export_traces(request: Request, caller: Reporter, engine: Store, config: Settings) -> Response:
    """Store the tool calls among the spans as steps; accept and ignore all other spans."""
    if not _slots.acquire(timeout=WAIT_SECONDS):
        raise unavailable("too many traces arrive at once")
    try:
        kind, body = unpacked(request)
        spans, ignored = apart.read(kind, body)
        with storing(engine) as connection:
            received = receive(connection, caller, spans, a_day=config.api.steps, now=time.time())
    except MalformedSpanError as error:
        raise ProblemError(400, f"the body is not a valid ExportTraceServiceRequest: {error}") from None
    except apart.UnreadError as error:
        raise unavailable(str(error)) from None
    finally:
        _slots.release()
    received.counts["ignored"] += ignored
    request.app.state.steps.update(received.counts)
    request.app.state.steps["rejected"] += received.rejected
    return answers.accepted(kind, received.rejected, received.message)

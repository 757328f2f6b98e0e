"""The errors of the API, all problem documents (RFC 9457). They name the mistake, its place and the remedy.

    {"type": "about:blank", "title": "Unprocessable Content", "status": 422, "detail": "…", "instance": "/api/v1/…",
     "request_id": "…", "errors": [{"pointer": "#/ports/0", "detail": "…"}, {"parameter": "limit", "detail": "…"}]}

`pointer` is a JSON pointer into the body, `parameter` a query, path or header parameter. `errors` may be absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import Scope

from api.otlp import answers
from egress.errors import EgressError, InputError
from egress.policy.ruletext import InvalidRuleError
from egress.store.database.database import explain
from egress.store.database.errors import ConflictError, DamagedDataError, NotFoundError
from egress.store.database.handles import DataError, DBAPIError, IntegrityError, PoolTimeoutError

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 1000  # places listed in one problem; the detail has the total
RETRY_SECONDS = 1  # Retry-After while the database is unavailable

Place = dict[str, str]  # {"pointer" or "parameter": where, "detail": what}


class ProblemError(Exception):
    """An error response. Any code that serves a request may raise it; an open transaction is rolled back."""

    def __init__(
        self, status: int, detail: str, *, errors: Sequence[Place] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, dict(headers or {})
        self.errors = list(errors[:MAX_ERRORS])
        if len(errors) > MAX_ERRORS:
            self.detail += f" (the first {MAX_ERRORS} of {len(errors)} are listed)"


def wrong_field(pointer: str, detail: str, status: int = 422) -> ProblemError:
    """Make a problem about a field of the body. `pointer` is like `ports/0`, or empty for the whole body."""
    return ProblemError(status, "the body is not valid", errors=[at(pointer, detail)])


def wrong_parameter(name: str, detail: str, status: int = 422) -> ProblemError:
    """Make a problem about a query, path or header parameter."""
    return ProblemError(status, f"{name} is not valid", errors=[{"parameter": name, "detail": detail}])


def at(pointer: str, detail: str) -> Place:
    """Make the place of a mistake in the body: `pointer` is like `ports/0`, or empty for the whole body."""
    return {"pointer": f"#/{pointer}" if pointer else "#", "detail": detail}


def unavailable(detail: str) -> ProblemError:
    """Make a problem (503) with a Retry-After header of RETRY_SECONDS."""
    return ProblemError(503, detail, headers={"Retry-After": str(RETRY_SECONDS)})


def response(problem: ProblemError, scope: Scope) -> Response:
    """Make the response to the request in the ASGI `scope`. OTLP requests get errors in OTLP's form."""
    if scope.get("path") in answers.PATHS:
        return answers.failed(scope, problem.status, problem.detail, problem.headers)
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": _title(problem.status),
        "status": problem.status,
        "detail": problem.detail,
        "instance": scope.get("path", ""),
        "request_id": scope.get("state", {}).get("request_id", ""),
    }
    if problem.errors:
        body["errors"] = problem.errors
    return JSONResponse(body, problem.status, problem.headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Convert every expected exception to a problem response; the gate (api/gate.py) answers 500 to any other."""
    for kind in (
        ProblemError,
        RequestValidationError,
        InvalidRuleError,
        HTTPException,
        EgressError,
        DBAPIError,
        PoolTimeoutError,
    ):
        app.add_exception_handler(kind, _handle)


async def _handle(request: Request, error: Exception) -> Response:
    return response(from_exception(error), request.scope)


def from_exception(error: Exception) -> ProblemError:
    """Convert an exception to the problem that the caller gets; an unexpected one to a 500."""
    match error:
        case ProblemError():
            return error
        case RequestValidationError():
            return ProblemError(422, "the request is not valid", errors=[_place(each) for each in error.errors()])
        case InvalidRuleError():
            return wrong_field(error.field, error.reason)
        case NotFoundError():
            return ProblemError(404, str(error))
        case ConflictError():
            return ProblemError(409, str(error))
        case InputError():
            return ProblemError(422, str(error))
        case DamagedDataError():
            return unavailable(str(error))
        case EgressError():
            return ProblemError(409, str(error))
        case HTTPException():
            detail = error.detail if isinstance(error.detail, str) else _title(error.status_code)
            return ProblemError(error.status_code, detail, headers=error.headers)
        case DataError():
            return ProblemError(422, "a value in the request cannot be stored or compared")
        case IntegrityError():
            return ProblemError(409, "another request changed the same resource at the same moment; try again")
        case DBAPIError():
            return unavailable(f"cannot use the database: {explain(error)}")
        case PoolTimeoutError():
            return unavailable("too many requests wait for the database")
    return ProblemError(500, "a bug in egress; the log of egress serve has it under this request id, please report it")


def _place(error: Mapping[str, Any]) -> Place:
    """Convert a validation error of pydantic, whose `loc` is like ("body", "ports", 0) or ("query", "limit")."""
    where, *rest = error["loc"]
    detail = str(error["msg"])
    if error.get("type") == "json_invalid":
        return at("", f"not JSON: {error.get('ctx', {}).get('error', detail)}")
    if where == "body":
        return at(pointer(rest), detail)
    return {"parameter": ".".join(map(str, rest)) or str(where), "detail": detail}


def pointer(parts: Iterable[object]) -> str:
    """Join parts to a pointer for `at`, like `ports/0`: a JSON pointer (RFC 6901, escaped) without its leading `/`."""
    return "/".join(str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"

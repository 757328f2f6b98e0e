"""Rejects unknown query parameters: `?dryrun=true`, if it were ignored, would make an edit."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from api.problems import ProblemError


async def refuse_unknown(request: Request) -> None:
    """Reject unknown query parameters (a dependency of every route). Raises ProblemError (422) that names each."""
    given = dict.fromkeys(request.query_params)
    if not given:
        return
    route: APIRoute = request.scope["route"]
    known = dict.fromkeys(_names(route.dependant))
    allowed = f"it must be one of {', '.join(known)}" if known else "there are none"
    places = [
        {"parameter": ascii(name)[1:-1][:60], "detail": f"is not known; {allowed}"}
        for name in given
        if name not in known
    ]
    if places:
        raise ProblemError(422, "an unknown parameter; nothing was done", errors=places)


def _names(dependant: Dependant) -> Iterator[str]:
    """Yield the names of the query parameters that a route or one of its dependencies declares."""
    yield from (field.alias for field in dependant.query_params)
    for each in dependant.dependencies:
        yield from _names(each)

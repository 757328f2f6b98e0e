"""Strong entity tags (RFC 9110, section 8.8.3), made from versions."""

from __future__ import annotations

import re

from starlette.responses import Response

from api.problems import wrong_parameter

MAX_HEADER = 4096  # characters
_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]*"')


def etag(version: object) -> str:
    """Format a version as an entity tag: `"17"` for 17."""
    return f'"{version}"'


def parse(name: str, value: str) -> tuple[str, ...]:
    """Split an If-Match or If-None-Match header into entity tags, each with its quotes and any `W/`; `("*",)` for `*`.

    Raises ProblemError (400), which mentions the header's `name`.
    """
    if value.strip() == "*":
        return ("*",)
    listed = tuple(part.strip() for part in value.split(","))
    if len(value) > MAX_HEADER or not all(map(_TAG.fullmatch, listed)):
        raise wrong_parameter(name, 'must be * or entity tags in quotes, such as "17"', 400)
    return listed


def not_modified(if_none_match: str | None, current: str) -> Response | None:
    """Return a 304 response if the If-None-Match header matches the ETag `current`, else None.

    Raises ProblemError (400) for a header that is not valid.
    """
    if if_none_match is None:
        return None
    tags = parse("If-None-Match", if_none_match)
    if tags == ("*",) or current in {tag.removeprefix("W/") for tag in tags}:
        return Response(status_code=304, headers={"ETag": current})
    return None

"""Reads policy documents from request bodies, JSON or YAML. An error response lists every mistake in the rules."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from api import strictjson
from api.gate import is_yaml
from api.problems import ProblemError, at, pointer, wrong_field
from api.shapes.rules import EXAMPLE
from egress.errors import InputError
from egress.model import Rule
from egress.policy.file import MAX_IMPORT, Mistake, check_document, parse_yaml

_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["rules"],
    "additionalProperties": False,
    "properties": {
        "rules": {"type": "array", "maxItems": MAX_IMPORT, "items": {"$ref": "#/components/schemas/RuleBody"}}
    },
    "examples": [{"rules": [EXAMPLE]}],
}
DOCUMENT: dict[str, Any] = {  # the OpenAPI request body of routes that call `read_rules`
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": _SCHEMA}, "application/yaml": {"schema": _SCHEMA}},
    }
}


def read_rules(request: Request, now: float) -> tuple[Rule, ...]:
    """Read the rules in the request's body. Lifetimes (`1h`) count from `now`. Raises ProblemError: 400, 422."""
    body: bytes = request.state.body
    try:
        document = (
            parse_yaml(body, "the body") if is_yaml(request.headers.get("content-type", "")) else strictjson.loads(body)
        )
    except (ValueError, InputError) as error:
        raise wrong_field("", str(error), 400) from None
    rules, mistakes = check_document(document, now, MAX_IMPORT)
    if mistakes:
        raise ProblemError(
            422, f"nothing was changed; mistakes: {len(mistakes)}", errors=[_place(each) for each in mistakes]
        )
    return rules


def _place(mistake: Mistake) -> dict[str, str]:
    if mistake.index is None:
        return at(mistake.field, mistake.reason)
    parts = ["rules", mistake.index, *([mistake.field] if mistake.field else [])]
    return at(pointer(parts), mistake.reason)

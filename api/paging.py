"""Pages of a listing: `limit` and an opaque `cursor`."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

from api.problems import wrong_parameter

T = TypeVar("T")
MAX_CURSOR = 1024  # characters
_INTEGER = 2**63  # range of a database's integers
_FAR = 1e12  # seconds; later than any valid time

Limit = Annotated[int, Query(ge=1, le=1000, description="At most this many items.")]
Cursor = Annotated[
    str | None, Query(max_length=MAX_CURSOR, description="`next` of the previous page; default: the first page.")
]


class Page(BaseModel, Generic[T]):
    """One page of a listing."""

    items: list[T]
    next: str | None = Field(description="Cursor of the next page; null: this is the last page.")


def page(found: Sequence[T], limit: int, key: Callable[[T], Sequence[object]]) -> tuple[Sequence[T], str | None]:
    """Split up to `limit` + 1 found items: return the page, and the next page's cursor, made by `key`."""
    if len(found) <= limit:
        return found, None
    return found[:limit], encode(key(found[limit - 1]))


def encode(values: Sequence[object]) -> str:
    text = json.dumps(list(values), separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(cursor: str | None, *kinds: type) -> tuple[Any, ...] | None:
    """Decode a cursor to the values given to `encode`, checked to be of these types; None without a cursor.

    Raises ProblemError (400) for a cursor that this listing did not make.
    """
    if cursor is None:
        return None
    wrong = wrong_parameter("cursor", "is not a cursor of this listing; omit it for the first page", 400)
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        values = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True).decode())
    except (ValueError, binascii.Error, RecursionError):
        raise wrong from None
    if not isinstance(values, list) or len(values) != len(kinds):
        raise wrong
    if not all(type(value) is kind and _storable(value) for value, kind in zip(values, kinds, strict=True)):
        raise wrong
    return tuple(values)


def _storable(value: object) -> bool:
    """Return True if a database can store the value."""
    match value:
        case int():
            return -_INTEGER <= value < _INTEGER
        case float():
            return abs(value) < _FAR
        case str():
            return "\0" not in value and not any("\ud800" <= char <= "\udfff" for char in value)
    return False

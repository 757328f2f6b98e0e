"""Pagination of listings, by `limit` and an opaque `cursor`."""

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
_INTEGER = 2**63  # the range of integers that a database can store
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
    """Return the first `limit` items, and the cursor of the next page: the `key` of the last of them, encoded.

    Callers fetch `limit` + 1 items; if `found` has no more than `limit`, this is the last page and the cursor is None.
    """
    if len(found) <= limit:
        return found, None
    return found[:limit], encode(key(found[limit - 1]))


def encode(values: Sequence[object]) -> str:
    """Encode the values that identify an item's position in a listing as a cursor."""
    text = json.dumps(list(values), separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(cursor: str | None, *kinds: type) -> tuple[Any, ...] | None:
    """Decode a cursor to the values given to `encode`, checked to be of these types; None without a cursor.

    Raises ProblemError (400) if it is malformed, has other types, or values that no database can store. A cursor is not
    signed: one of another listing passes if its types are the same.
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
    """Return True for an integer, a time or a text that every supported database can store."""
    match value:
        case int():
            return -_INTEGER <= value < _INTEGER
        case float():
            return abs(value) < _FAR
        case str():
            return "\0" not in value and not any("\ud800" <= char <= "\udfff" for char in value)
    return False

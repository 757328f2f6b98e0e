"""Reads OTLP in JSON: ids are hex, 64-bit numbers are text or numbers, unknown fields are ignored."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from api.otlp.protobuf import MAX_DEPTH, MAX_ELEMENTS, MAX_FIELDS
from api.otlp.spans import MAX_VALUE, WANTED, MalformedSpanError, Span

_HEX = re.compile(r"[0-9a-fA-F]*", re.ASCII)
_UINT64 = re.compile(r"[0-9]{1,20}", re.ASCII)


def read(body: bytes) -> Iterator[Span]:
    """Yield the spans of an ExportTraceServiceRequest.

    Raises MalformedSpanError, possibly after some spans were yielded.
    """
    try:
        document = json.loads(body.decode("utf-8")) if body else {}
    except (ValueError, RecursionError) as error:
        raise MalformedSpanError(f"not JSON: {str(error)[:200]}") from None
    left = MAX_FIELDS
    for resource_spans in _list(_object(document), "resourceSpans"):
        resource = _attributes(_object(resource_spans.get("resource") or {}))
        for scope_spans in _list(resource_spans, "scopeSpans"):
            for span in _list(scope_spans, "spans"):
                left -= 1
                if left < 0:
                    raise MalformedSpanError(f"a request may have at most {MAX_FIELDS} spans")
                yield _span(span, resource)


def _span(span: dict[str, Any], resource: dict[str, str]) -> Span:
    name = span.get("name") or ""
    if not isinstance(name, str):
        raise MalformedSpanError("a span's name is not a string")
    return Span(
        name[:MAX_VALUE], _hex(span, "traceId"), _hex(span, "spanId"), _nanoseconds(span, "startTimeUnixNano"),
        _nanoseconds(span, "endTimeUnixNano"), resource | _attributes(span),
    )  # fmt: skip


def _object(value: object) -> dict[str, Any]:
    """Return the value if it is a JSON object. Raises MalformedSpanError."""
    if not isinstance(value, dict):
        raise MalformedSpanError("a value is not an object, but must be one")
    return value


def _list(parent: dict[str, Any], key: str) -> Iterator[dict[str, Any]]:
    """Iterate over the objects of a list; empty if it is missing. Raises MalformedSpanError."""
    listed = parent.get(key) or []
    if not isinstance(listed, list):
        raise MalformedSpanError(f"{key} is not a list")
    return map(_object, listed)


def _hex(span: dict[str, Any], key: str) -> str:
    """Return an id as at most 64 lower-case hex digits; empty if it is missing. Raises MalformedSpanError."""
    text = span.get(key) or ""
    if not isinstance(text, str) or not _HEX.fullmatch(text):
        raise MalformedSpanError(f"{key} is not hexadecimal")
    return text.lower()[:64]


def _nanoseconds(span: dict[str, Any], key: str) -> int:
    """Return a time in nanoseconds since the epoch; 0 if it is missing. Raises MalformedSpanError."""
    value = span.get(key) or 0
    if isinstance(value, str) and _UINT64.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 64:
        raise MalformedSpanError(f"{key} is not a valid number of nanoseconds")
    return value


def _attributes(parent: dict[str, Any]) -> dict[str, str]:
    return {each["key"]: _text(each.get("value")) for each in _list(parent, "attributes") if _is_wanted(each)}


def _is_wanted(attribute: dict[str, Any]) -> bool:
    key = attribute.get("key")
    return isinstance(key, str) and key in WANTED


def _text(value: object) -> str:
    """Format an AnyValue as at most MAX_VALUE characters: a string as it is, any other value as JSON."""
    plain = _plain(value, MAX_DEPTH)
    return (plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False))[:MAX_VALUE]


def _plain(value: object, depth: int) -> object:
    """Convert an AnyValue to JSON types. An unknown kind becomes an empty string, a container below `depth` `…`."""
    if not isinstance(value, dict):
        return ""
    for key in ("stringValue", "bytesValue", "intValue"):
        if isinstance(value.get(key), str | int):
            return str(value[key]) if key != "intValue" else _integer(value[key])
    for key in ("boolValue", "doubleValue"):
        if isinstance(value.get(key), bool | int | float | str):
            return value[key]
    if not depth:
        return "…"
    values = _values(value.get("arrayValue"))
    if values is not None:
        return [_plain(each, depth - 1) for each in values]
    values = _values(value.get("kvlistValue"))
    return {
        str(each.get("key")): _plain(each.get("value"), depth - 1) for each in values or () if isinstance(each, dict)
    } or ""


def _integer(value: str | int) -> object:
    """Convert decimal text to an integer; return any other text unchanged."""
    text = str(value)
    return int(text) if re.fullmatch(r"-?[0-9]{1,20}", text, re.ASCII) else text


def _values(container: object) -> list[object] | None:
    """Return the first MAX_ELEMENTS values of an array or map; None if it is neither."""
    values = container.get("values") if isinstance(container, dict) else None
    return values[:MAX_ELEMENTS] if isinstance(values, list) else None

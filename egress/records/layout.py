"""The layout of a record in JSON, derived from the declarations of its fields: it writes records and reads them back.

A field is declared in its type: `dport: Annotated[int, At("dest_port", PORT, "0 if the protocol has none")]` has the
path of its key, its kind, and its meaning. A `ClassVar` is a key with the same value in all records.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter, call
from typing import Any, ClassVar, NamedTuple

from egress.errors import MalformedError
from egress.records.kinds import Kind, Schema, to_json

# These keys come first, in this order; the others follow in the order of their fields.
ORDER = (
    *("timestamp", "event_type", "flow_id", "community_id", "src_ip", "src_port", "dest_ip", "dest_port", "proto"),
    *("app_proto", "app_proto_expected", "agent.name"),
    *("verdict.action", "verdict.reason", "verdict.rule_id", "verdict.policy_version", "verdict.mode"),
    *("flow.start", "flow.end", "flow.state", "flow.direction", "flow.server_name", "flow.names"),
)
# The objects that hold keys.
OBJECTS = {
    "agent": "the agent that the traffic belongs to",
    "verdict": "the decision about it",
    "flow": "the flow so far",
    "alert": "the finding",
    "anomaly": "the refusals",
    "evidence": "the packets of the finding",
    "process": "the process that opened the flow",
    "folded": "what is counted together",
    "seal": "the seal",
}
_RANK = {path: rank for rank, path in enumerate(ORDER)}
_SLOT = "%s"  # the place of a value in a template


class At(NamedTuple):
    """The declaration of a field of a record: its key in JSON, its kind of value, its meaning."""

    path: str  # of its key: `proto`, or within an object `flow.bytes_out`
    kind: Kind
    meaning: str
    absent: object = ...  # the JSON value read if the key is missing (older gateways); ...: it is malformed


class DeclaredField(NamedTuple):
    """A field of a record with its declaration; `part` and `key` are the two parts of its path."""

    name: str
    constant: bool  # a ClassVar
    at: At
    part: str  # the object that has the key; empty: the record itself
    key: str


class Layout:
    """The JSON form of one dataclass: writes, reads and describes its instances.

    The dataclass must have two declared fields or more.
    """

    def __init__(self, shape: type) -> None:
        declared = list(_declared(shape))
        self.fields = sorted(declared, key=lambda field: _RANK.get(field.at.path, len(_RANK)))
        self.parts = tuple(dict.fromkeys(field.part for field in self.fields if field.part))
        self.about = " ".join((inspect.getdoc(shape) or "").split())
        self._shape = shape
        self._places = [(field.part, field.key) for field in self.fields]
        self._values = attrgetter(*(field.name for field in self.fields))
        self._writers = [field.at.kind.write for field in self.fields]
        self._encoders = [field.at.kind.encode for field in self.fields]
        slots = self._document([_SLOT] * len(declared), [None] * len(declared))
        self._template = to_json(slots).replace(to_json(_SLOT), "%s")
        self.stored = [field for field in declared if not field.constant]
        self._readers = [(field.part, field.key, field.at.kind.read, field.at.absent) for field in self.stored]

    def write(self, record: Any) -> dict[str, Any]:
        """Return the record as a mapping of JSON types."""
        return self._document(self._values(record), self._writers)

    def encode(self, record: Any) -> str:
        """Return the record as JSON text, the same as the JSON of `write`, but faster."""
        return self._template % tuple(map(call, self._encoders, self._values(record)))

    def read(self, document: dict[str, Any]) -> Any:
        """Make the record from its mapping; unknown keys are ignored. Raises MalformedError, which names the key."""
        parts = {"": document}
        for part in self.parts:
            found = parts[part] = document.get(part, {})
            if not isinstance(found, dict):
                raise MalformedError(f"{part} is not an object")
        values = []
        try:
            for part, key, read, absent in self._readers:
                values.append(read(parts[part].get(key, absent)))
        except MalformedError as error:
            raise MalformedError(f"{part}.{key} {error}".lstrip(".")) from None
        return self._shape(*values)

    def schema(self) -> Schema:
        """Return the JSON Schema of the dataclass."""
        properties: Schema = {}
        for field in self.fields:
            inside = properties.setdefault(field.part, {}) if field.part else properties
            inside[field.key] = {**field.at.kind.schema, "description": field.at.meaning}
        for part in self.parts:
            properties[part] = _object(properties[part], OBJECTS[part])
        return _object(properties, self.about)

    def _document(self, values: Sequence[Any], writers: Sequence[Callable[[Any], Any] | None]) -> dict[str, Any]:
        """Return a mapping with each value, written by its writer, under the key of its field.

        `values` and `writers` are in the order of `fields`.
        """
        document: dict[str, Any] = {}
        parts = {"": document}
        for (part, key), value, write in zip(self._places, values, writers, strict=True):
            if part not in parts:
                parts[part] = document[part] = {}
            parts[part][key] = value if write is None else write(value)
        return document


class Objects(Kind):
    """A list of objects, each an instance of the dataclass `shape`.

    Only the schema bounds their number by `most`; `read` does not, since a line is bounded in bytes.
    """

    name = "list of object"

    def __init__(self, shape: type, most: int) -> None:
        layout = self.layout = Layout(shape)
        self.schema = {"type": "array", "maxItems": most, "items": layout.schema()}
        self.write = lambda values: [layout.write(value) for value in values]
        self.encode = lambda values: f"[{','.join(map(layout.encode, values))}]"

    def read(self, value: object) -> tuple[Any, ...]:
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            raise MalformedError("is not a list of objects")
        return tuple(map(self.layout.read, value))


def _object(properties: Schema, about: str) -> Schema:
    """Return the JSON Schema of an object with exactly these properties."""
    required = list(properties)
    closed = {"required": required, "additionalProperties": False, "properties": properties}
    return {"type": "object", "description": about, **closed}


def _declared(shape: type) -> Iterator[DeclaredField]:
    """Yield the declared fields of a dataclass, in the order of their declaration."""
    for name, hint in typing.get_type_hints(shape, include_extras=True).items():
        constant = typing.get_origin(hint) is ClassVar
        _, at = typing.get_args(typing.get_args(hint)[0] if constant else hint)
        part, _, key = at.path.rpartition(".")
        yield DeclaredField(name, constant, at, part, key)

"""The kinds of value in a record: how each is written as JSON, read back, bounded, and described in JSON Schema.

`read` raises MalformedError for a value of another type, or beyond the bounds of its kind. The message is a phrase that
follows the path of the key: "flow.bytes_in is not a number from 0 to …".
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Callable, Iterable
from enum import StrEnum
from json.encoder import encode_basestring_ascii
from typing import Any

from egress.errors import MalformedError
from egress.records.times import from_iso, iso

MAX_LINE = 64 * 1024  # bytes of one line of a journal; the longest record is far below
MAX_COUNT = (1 << 63) - 1  # the largest BIGINT of a database
INDEXED_BYTES = 256  # of a text in an index; all columns of a key in PostgreSQL's indexes have 2,704 together

Schema = dict[str, Any]

to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False, allow_nan=False).encode


class Kind:
    """The base class of kinds of value.

    `name`: the kind's name in the documentation. `schema`: its JSON Schema. `write` converts a Python value to its JSON
    value (None: they are the same), `encode` to JSON text.
    """

    name: str
    schema: Schema
    write: Callable[[Any], Any] | None = None  # the value as JSON has it; None: as it is
    encode: Callable[[Any], str]  # the value as JSON text

    def read(self, value: object) -> Any:
        """Return the Python value of a parsed JSON value, the inverse of `write`. Raises MalformedError."""
        raise NotImplementedError


class Text(Kind):
    """Text of at most `most` characters. Patterns and formats are in the schema only; `read` ignores them."""

    encode = staticmethod(encode_basestring_ascii)

    def __init__(self, name: str = "text", most: int = MAX_LINE, **schema: Any) -> None:
        self.name, self._most = name, most
        bound = {"maxLength": most} if most < MAX_LINE else {}
        self.schema = {"type": "string", **bound, **schema}

    def read(self, value: object) -> str:
        if not isinstance(value, str):
            raise MalformedError("is not text")
        if len(value) > self._most:
            raise MalformedError(f"is longer than {self._most} characters")
        return value


class IndexedText(Text):
    """Text in an index of the database: at most `most_bytes` bytes as stored there.

    NUL and lone surrogates are stored as escapes of several bytes.
    """

    def __init__(self, name: str = "text", most_bytes: int = INDEXED_BYTES, **schema: Any) -> None:
        super().__init__(name, **schema)
        self._most_bytes = most_bytes

    def read(self, value: object) -> str:
        if not isinstance(value, str):
            raise MalformedError("is not text")
        most = self._most_bytes
        if 6 * len(value) > most and len(value.encode("utf-8", "backslashreplace")) + 3 * value.count("\0") > most:
            raise MalformedError(f"is longer than {most} bytes")
        return value


class Word(Kind):
    """One of a few words. If `values` are given, each word stands for the value at its position.

    Otherwise the Python value is the member of the enumeration `words`, or the word as text.
    """

    encode = staticmethod(encode_basestring_ascii)

    def __init__(self, words: Iterable[str], values: Iterable[object] = ()) -> None:
        self.words = tuple(map(str, words))
        self.enumeration = words if isinstance(words, type) and issubclass(words, StrEnum) else None
        self._values = dict(zip(self.words, values or words, strict=True))
        if values:
            self.write = {value: word for word, value in self._values.items()}.__getitem__
            self.encode = {value: f'"{word}"' for word, value in self._values.items()}.__getitem__
        self.name = ", ".join(f"`{word}`" for word in self.words)
        self.schema = {"enum": list(self.words)}

    def read(self, value: object) -> Any:
        if not isinstance(value, str) or value not in self._values:
            raise MalformedError(f"must be one of {', '.join(self.words)}")
        return self._values[value]


class Number(Kind):
    """A whole number from 0 to `most`."""

    encode = staticmethod(int.__repr__)

    def __init__(self, name: str = "number", most: int = MAX_COUNT) -> None:
        self.name, self.most = name, most
        self.schema = {"type": "integer", "minimum": 0, "maximum": most}

    def read(self, value: object) -> int:
        if type(value) is not int or not 0 <= value <= self.most:  # bool is an int; JSON's true is not a number
            raise MalformedError(f"is not a number from 0 to {self.most}")
        return value


class Timestamp(Kind):
    """Seconds since the epoch, written as UTC with microseconds."""

    name = "UTC time"
    write = staticmethod(iso)

    def __init__(self) -> None:
        pattern = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$"
        self.schema = {"type": "string", "format": "date-time", "pattern": pattern}

    @staticmethod
    def encode(value: float) -> str:
        return f'"{iso(value)}"'

    def read(self, value: object) -> float:
        if not isinstance(value, str):
            raise MalformedError("is not text")
        return from_iso(value)


class Base64(Kind):
    """Bytes, at most `most`, written as base64."""

    name = "base64"

    def __init__(self, most: int) -> None:
        self._most = most
        pattern = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
        self.schema = {"type": "string", "contentEncoding": "base64", "pattern": pattern}

    @staticmethod
    def write(value: bytes) -> str:
        return binascii.b2a_base64(value, newline=False).decode("ascii")

    @staticmethod
    def encode(value: bytes) -> str:
        return f'"{Base64.write(value)}"'

    def read(self, value: object) -> bytes:
        if not isinstance(value, str):
            raise MalformedError("is not text")
        try:
            found = binascii.a2b_base64(value, strict_mode=True)
        except ValueError:  # non-ASCII text, or binascii.Error
            raise MalformedError("is not base64") from None
        if len(found) > self._most:
            raise MalformedError(f"is longer than {self._most} bytes")
        return found


class Texts(Kind):
    """A tuple of at most `most` texts, a list in JSON."""

    name = "list of text"
    encode = staticmethod(to_json)

    def __init__(self, most: int) -> None:
        self._most = most
        self.schema = {"type": "array", "maxItems": most, "items": {"type": "string"}}

    @staticmethod
    def write(value: tuple[str, ...]) -> list[str]:
        return list(value)

    def read(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, list) or len(value) > self._most or not all(isinstance(text, str) for text in value):
            raise MalformedError(f"is not a list of at most {self._most} texts")
        return tuple(value)


class OrNull(Kind):
    """A value of another kind, or null."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.name = f"{kind.name} or null"
        self.schema = {"anyOf": [kind.schema, {"type": "null"}]}
        write, encode = kind.write, kind.encode
        self.write = write and (lambda value: None if value is None else write(value))
        self.encode = lambda value: "null" if value is None else encode(value)

    def read(self, value: object) -> Any:
        return None if value is None else self.kind.read(value)

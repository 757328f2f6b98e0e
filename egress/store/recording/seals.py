"""Seals in the database: each with the leaves of the lines that it covers (`egress.records.seals`)."""

from __future__ import annotations

from dataclasses import fields

from sqlalchemy.engine import Engine

from egress.errors import MalformedError
from egress.records.read import parse_line
from egress.records.seals import Sealed, SegmentFollower
from egress.records.shape import Record, SealRecord
from egress.store.database.database import require_schema, storing
from egress.store.recording import writer
from egress.store.recording.segments import Segment, lines_of
from egress.store.recording.storedseal import StoredSeal


def stored(sealed: Sealed) -> StoredSeal:
    """Return a seal as the database keeps it."""
    values = {field.name: getattr(sealed.seal, field.name) for field in fields(SealRecord)}
    return StoredSeal(**values, leaves=sealed.leaves)


def parse_record(raw: bytes) -> Record:
    """Read a record that is not a seal from a line. Raises MalformedError."""
    record = parse_line(raw)
    if isinstance(record, SealRecord):
        raise MalformedError("a seal in a form that no writer gives it")
    return record


class SealKeeper:
    """Follows the lines of the segments as they are stored, and seals the ends that killed writers left."""

    def __init__(self) -> None:
        self._followers: dict[str, SegmentFollower] = {}
        self._ended: set[str] = set()  # names of segments whose end is sealed

    def follower(self, segment: Segment, offset: int) -> SegmentFollower:
        """Return the follower that has seen the first `offset` bytes of a segment. Raises OSError."""
        found = self._followers.get(segment.name)
        if found is None:
            found = SegmentFollower()
            for raw in lines_of(segment.path, offset) if offset else ():
                found.line(raw)
            self._followers[segment.name] = found
        return found

    def ended(self, name: str) -> bool:
        """Return True if the end of a segment is sealed."""
        return name in self._ended

    def end(self, engine: Engine, segment: Segment) -> None:
        """Store a seal over the last lines of a finished segment that its writer did not seal. Raises OSError."""
        if segment.name not in self._ended:
            tail = self.follower(segment, segment.size).tail()
            if tail is not None:
                with storing(engine) as connection:
                    require_schema(connection)
                    writer.store(connection, [stored(tail)])
            self._followers.pop(segment.name, None)
            self._ended.add(segment.name)

    def forget(self, name: str) -> None:
        """Forget a segment that is gone, or whose lines were not stored."""
        self._followers.pop(name, None)
        self._ended.discard(name)

"""Checks the seals in journal segments as the recorder stores them, and adds the seals that killed writers left out.

A seal covers the journal lines before it; a leaf is the key and the hash of one line (`egress.records.seals`).
"""

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
    """Return a seal with the leaves of its lines, as a row of the table `seals`."""
    values = {field.name: getattr(sealed.seal, field.name) for field in fields(SealRecord)}
    return StoredSeal(**values, leaves=sealed.leaves)


def parse_record(raw: bytes) -> Record:
    """Parse a line, without its newline, as a record. Raises MalformedError if it is not one, or is a seal."""
    record = parse_line(raw)
    if isinstance(record, SealRecord):
        raise MalformedError("a seal in a form that no writer gives it")
    return record


class SealKeeper:
    """Holds a follower for each segment that the recorder is storing, and seals the ends of finished segments.

    A follower (`SegmentFollower`) receives the lines of a segment one by one, and checks the seals among them.
    """

    def __init__(self) -> None:
        self._followers: dict[str, SegmentFollower] = {}
        self._ended: set[str] = set()  # names of segments whose end is sealed

    def follower(self, segment: Segment, offset: int) -> SegmentFollower:
        """Return the follower of a segment, which has received the lines of its first `offset` bytes.

        A new follower reads them from the file. Raises OSError.
        """
        found = self._followers.get(segment.name)
        if found is None:
            found = SegmentFollower()
            for raw in lines_of(segment.path, offset) if offset else ():
                found.line(raw)
            self._followers[segment.name] = found
        return found

    def ended(self, name: str) -> bool:
        """Return True if `end` was called for the segment with this name."""
        return name in self._ended

    def end(self, engine: Engine, segment: Segment) -> None:
        """Store a seal over the last lines of a finished segment, if its writer left them without one.

        A second call for a segment does nothing. Raises OSError, DBAPIError, and EgressError if a newer egress has
        migrated the database.
        """
        if segment.name not in self._ended:
            tail = self.follower(segment, segment.size).tail()
            if tail is not None:
                with storing(engine) as connection:
                    require_schema(connection)
                    writer.store(connection, [stored(tail)])
            self._followers.pop(segment.name, None)
            self._ended.add(segment.name)

    def forget(self, name: str) -> None:
        """Drop the follower of a segment: the segment is gone, or its last lines were not stored."""
        self._followers.pop(name, None)
        self._ended.discard(name)

"""Adds a capture file to a case: its path and hash, the rules that judge it, and its records, in bounded batches.

First `examine` hashes the file, then `begin` adds it, and a CaptureWriter stores the records of its replay.
"""

from __future__ import annotations

import hashlib
import stat
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from egress.errors import EgressError, InputError
from egress.model import Policy, Rule
from egress.policy.file import to_document
from egress.records.shape import EvidenceRecord, FindingRecord, FlowRecord, Record
from egress.store.cases.cases import Capture
from egress.store.database.database import storing, writing
from egress.store.database.rows import decode_first
from egress.store.database.tables import captured_flows, captures, flows
from egress.store.policy.audit import local_actor
from egress.store.policy.edits import Edit
from egress.store.policy.ruleset import FILE, snapshot
from egress.store.recording.writer import store, upsert

BATCH = 2000  # records stored in one transaction
BATCH_BYTES = 4 << 20  # bytes of packets in one transaction

_PACKETS = flows.c.packets_out + flows.c.packets_in


@dataclass(frozen=True, slots=True)
class Source:
    """The path, size, modification time and SHA-256 of a capture file, as of the time when it was hashed."""

    path: Path
    size: int
    modified: int  # nanoseconds
    sha256: str


@dataclass(frozen=True, slots=True)
class CaseImport:
    """A capture that was added to a case, and the policy (the rules) that judges it."""

    capture: Capture
    policy: Policy
    stored: bool  # the whole capture is already in the case


def examine(path: Path) -> Source:
    """Hash a capture file. Raises InputError if it is not a regular file, EgressError if it cannot be read."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path} is not a regular file: a case is made of files that can be read again")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EgressError(f"cannot read {path}: {error.strerror}") from None
    return Source(path, found.st_size, found.st_mtime_ns, digest)


def begin(engine: Engine, source: Source, rules: Sequence[Rule], networks: Sequence[str]) -> CaseImport:
    """Add the capture and its rules, as a new policy version, to the case whose engine is given.

    A capture with this SHA-256 that the case has already is returned as it is. `networks`: CIDRs of the agents. Raises
    EgressError if the case has the capture with other rules or networks.
    """
    now, wanted = time.time(), tuple(networks)
    with writing(engine) as connection:
        known = decode_first(Capture, connection.execute(sa.select(captures).where(captures.c.sha256 == source.sha256)))
        if known is not None:
            policy = snapshot(connection, known.policy_version) or Policy()
            if known.networks != wanted or to_document(policy.rules) != to_document(rules):
                raise EgressError(
                    f"{source.path} is already in this case (as {known.file}), judged by another policy or for other "
                    "agents; a flow has one verdict: give it another case"
                )
            return CaseImport(known, policy, known.finished is not None)
        Edit(connection, local_actor(), now).sync(FILE, rules)
        policy = snapshot(connection) or Policy()
        number = (connection.scalar(sa.select(sa.func.max(captures.c.id))) or 0) + 1
        made = Capture(number, str(source.path), source.size, source.sha256, now, None, policy.version, wanted)
        connection.execute(captures.insert(), {name: getattr(made, name) for name in Capture.__slots__})
    return CaseImport(made, policy, False)


class CaptureWriter:
    """Stores the records of one capture in the case. The capture counts as incomplete until `finish`.

    `findings` is the number of findings added.
    """

    def __init__(self, engine: Engine, begun: CaseImport) -> None:
        self.findings = 0
        self._engine = engine
        self._capture = begun.capture
        self._waiting: list[Record] = []
        self._bytes = 0
        self._stored = False

    def add(self, records: Iterable[Record]) -> None:
        """Add records; they are stored once there are BATCH of them, or BATCH_BYTES of packets."""
        for record in records:
            self._waiting.append(record)
            if isinstance(record, EvidenceRecord):
                self._bytes += sum(len(packet.data) for packet in record.packets)
            elif isinstance(record, FindingRecord):
                self.findings += 1
        if len(self._waiting) >= BATCH or self._bytes >= BATCH_BYTES:
            self._flush()

    def finish(self, source: Source, *, packets: int, flows: int, unread: int, truncated: str) -> int:
        """Store the remaining records and the totals; returns how many flows other captures of the case contain, too.

        The totals are those of `Capture`. Raises EgressError if the file was changed since `source` was examined; the
        capture then stays incomplete.
        """
        self._flush()
        if not _unchanged(source):
            raise EgressError(f"{source.path} changed while it was read; replay it again, into another case")
        values = {
            "finished": time.time(), "packets": packets, "flows": flows, "findings": self.findings, "unread": unread,
            "truncated": truncated,
        }  # fmt: skip
        mine, other = captured_flows.alias(), captured_flows.alias()
        shared = sa.select(sa.func.count(mine.c.flow_id.distinct())).where(
            mine.c.capture == self._capture.id, other.c.flow_id == mine.c.flow_id, other.c.capture != mine.c.capture
        )
        with writing(self._engine) as connection:
            connection.execute(captures.update().where(captures.c.id == self._capture.id).values(values))
            return connection.scalar(shared) or 0

    def abort(self) -> None:
        """End a failed import: remove the capture if it has no records, else store them and leave it incomplete."""
        if self._waiting or self._stored:
            self._flush()
            return
        with writing(self._engine) as connection:
            connection.execute(captures.delete().where(captures.c.id == self._capture.id))

    def _flush(self) -> None:
        if not self._waiting:
            return
        with storing(self._engine) as connection:
            kept = _stronger(connection, self._waiting)
            store(connection, kept)
            rows = [
                {"flow_id": each, "capture": self._capture.id}
                for each in {record.flow_id for record in self._waiting if isinstance(record, FlowRecord)}
            ]
            if rows:
                connection.execute(upsert(connection, captured_flows).on_conflict_do_nothing(), rows)
        self._waiting, self._bytes, self._stored = [], 0, True


def _unchanged(source: Source) -> bool:
    try:
        found = source.path.stat()
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (source.size, source.modified)


def _stronger(connection: Connection, records: Sequence[Record]) -> list[Record]:
    """Return the records without flow records that have fewer packets than the stored record of the same flow.

    A truncated capture, or one taken elsewhere, must not replace a whole flow by a part of it, even if its record is
    later. A stored flow with fewer packets but a later record is deleted, since `store` would keep the later one.
    """
    ids = {record.flow_id for record in records if isinstance(record, FlowRecord)}
    query = sa.select(flows.c.flow_id, _PACKETS, flows.c.updated).where(flows.c.flow_id.in_(ids))
    there = {row[0]: (row[1], row[2]) for row in connection.execute(query)}
    kept: list[Record] = []
    weaker: set[str] = set()
    for record in records:
        if isinstance(record, FlowRecord) and record.flow_id in there:
            packets, updated = there[record.flow_id]
            seen = record.packets_out + record.packets_in
            if seen < packets:
                continue
            if seen > packets and record.updated < updated:
                weaker.add(record.flow_id)
        kept.append(record)
    if weaker:
        connection.execute(flows.delete().where(flows.c.flow_id.in_(weaker)))
    return kept

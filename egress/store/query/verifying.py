"""Verifies stored records by their seals: which were changed, removed or added, and where the chains have gaps.

From the database alone: the seals of each chain follow from each other and from the leaves that they cover, every row
is the line that its leaf was made of, and every leaf has its row. Leaves are kept in a temporary database meanwhile, so
memory is bounded. What retention pruned, and what was stored before there were seals, is counted and not judged.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from egress.records.eve import line
from egress.records.seals import KEY_BYTES, LEAF_BYTES, START, SegmentFollower, digest, key, leaf
from egress.records.shape import FlowRecord, SealRecord, SealState
from egress.records.times import iso
from egress.store.database.rows import decode
from egress.store.database.tables import anomalies, evidence, findings, flows, folded, processes, pruned, seals
from egress.store.recording.segments import lines_of, segments
from egress.store.recording.storedseal import StoredSeal
from egress.store.recording.writer import KINDS, Row

CHUNK = 500
MOST = 100  # faults and gaps that are listed; more are counted
UNSEALED_SECONDS = 120.0  # by then a running gateway has sealed and stored a record

_TABLES: dict[bytes, sa.Table] = {
    name.ljust(KEY_BYTES, b"\0"): table
    for name, table in (
        (b"alert", findings), (b"anomaly", anomalies), (b"evidence", evidence), (b"process", processes),
        (b"folded", folded),
    )
}  # fmt: skip


@dataclass(slots=True)
class Verification:
    """The result. `faults` and `gaps` have at most MOST texts; `counts` has all numbers."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)  # somebody changed, removed or added something
    gaps: list[str] = field(default_factory=list)  # records that may be missing, and why: known to the writer
    heads: dict[str, SealRecord] = field(default_factory=dict)  # chain → its newest seal

    def fault(self, text: str) -> None:
        """Note a fault."""
        self.counts["faults"] += 1
        if len(self.faults) < MOST:
            self.faults.append(text)

    def gap(self, text: str) -> None:
        """Note a gap."""
        self.counts["gaps"] += 1
        if len(self.gaps) < MOST:
            self.gaps.append(text)


class ChainFollower:
    """Follows the seals of one chain, in the order of their numbers."""

    def __init__(self, result: Verification) -> None:
        self._result = result
        self.last: SealRecord | None = None

    def seal(self, seal: SealRecord, leaves: bytes, older: str = "") -> None:
        """Check a seal and note what is wrong; `older`: why the first seals of the chain may be missing."""
        name, last = _name(seal), self.last
        if seal.lines * LEAF_BYTES != len(leaves) or digest(seal, leaves) != seal.digest:
            self._result.fault(f"{name} was changed: it does not match the {seal.lines} lines that it covers")
        if last is None:
            if seal.number > 1 and older:
                self._result.gap(f"{name} is the first of its chain here: {seal.number - 1} older ones {older}")
            elif seal.number > 1 or seal.previous != START:
                self._result.fault(f"{name} is the first of its chain: seals 1 to {seal.number - 1} are missing")
            elif seal.gap:
                self._result.gap(f"{name}: {seal.gap}")
        elif seal.number != last.number + 1:
            first, before = last.number + 1, seal.number - 1
            missing = f"seal {first} is" if first == before else f"seals {first} to {before} are"
            text = f"{name} does not follow seal {last.number}: {missing} missing"
            if seal.state is SealState.OPENED and seal.gap:
                self._result.gap(f"{text}: {seal.gap}")
            else:
                self._result.fault(text)
        elif seal.previous != last.digest:
            self._result.fault(f"{name} does not follow from seal {last.number}: one of them was replaced")
        elif seal.gap:
            self._result.gap(f"{name}: {seal.gap}")
        if seal.lost:
            self._result.gap(f"{name}: {seal.lost} records could not be written")
        self._result.counts["seals"] += 1
        self._result.heads[seal.chain] = self.last = seal


def verify(
    engine: Engine, quarantined: Collection[bytes] = (), heads: Collection[str] = (), now: float = 0.0
) -> Verification:
    """Verify all records of a database. `quarantined`: leaves of lines that the recorder set aside.

    A seal with each of the digests `heads`, which were seen before, must be there. Records of the last UNSEALED_SECONDS
    before `now` may have no seal yet. Raises DBAPIError.
    """
    with tempfile.TemporaryDirectory(prefix="egress-verify-") as name:
        book = sqlite3.connect(Path(name) / "leaves.db", isolation_level=None)
        try:
            book.execute("PRAGMA journal_mode = OFF")
            book.execute("CREATE TABLE leaf (key BLOB, hash BLOB, at INTEGER, start REAL, seen INTEGER DEFAULT 0)")
            with engine.connect() as connection:
                result = _Verifier(connection, book, set(quarantined), now).run()
                for head in heads:
                    if not connection.scalar(sa.select(sa.func.count()).where(seals.c.digest == head)):
                        text = "it and all later ones were removed, or the chain was rewritten"
                        result.fault(f"no seal has the digest {head}, which was seen before: {text}")
                return result
        finally:
            book.close()


class _Verifier:
    def __init__(self, connection: Connection, book: sqlite3.Connection, quarantined: set[bytes], now: float) -> None:
        self._connection, self._book, self._quarantined, self._now = connection, book, quarantined, now
        self._result = Verification()
        self._began = float("inf")  # the first line that a seal covers
        rows = connection.execute(sa.select(pruned.c.records, pruned.c.before))
        self._pruned: dict[str, float] = {row.records: row.before for row in rows}

    def run(self) -> Verification:
        self._book.execute("BEGIN")
        self._seals()
        self._book.execute("CREATE INDEX leaf_key ON leaf (key, hash)")
        for kind, (table, _) in KINDS.items():
            if table is not seals:
                for record in self._records(kind, table):
                    self._row(record, table)
        self._leaves()
        self._book.execute("ROLLBACK")
        return self._result

    def _records(self, kind: Callable[..., Row], table: sa.Table) -> Iterator[Row]:
        query = sa.select(table).order_by(*table.primary_key).execution_options(yield_per=CHUNK)
        yield from decode(kind, self._connection.execute(query))

    def _seals(self) -> None:
        follower, at = ChainFollower(self._result), 0
        older = "were pruned (retention)" if self._pruned.get(seals.name) else ""
        for seal in self._stored_seals():
            if follower.last is None or follower.last.chain != seal.chain:
                follower = ChainFollower(self._result)
                self._result.counts["chains"] += 1
            follower.seal(seal, seal.leaves, older)
            self._began = min(self._began, seal.start)
            found = [seal.leaves[place : place + LEAF_BYTES] for place in range(0, len(seal.leaves), LEAF_BYTES)]
            rows = ((each[:KEY_BYTES], each[KEY_BYTES:], at + nth, seal.start) for nth, each in enumerate(found))
            self._book.executemany("INSERT INTO leaf (key, hash, at, start) VALUES (?, ?, ?, ?)", rows)
            at += len(found)
        self._result.counts["lines"] = at

    def _stored_seals(self) -> Iterator[StoredSeal]:
        query = sa.select(seals).order_by(seals.c.chain, seals.c.number, seals.c.time)
        yield from decode(StoredSeal, self._connection.execute(query.execution_options(yield_per=CHUNK)))

    def _row(self, record: Row, table: sa.Table) -> None:
        """Compare a row with the leaf of its line: of a flow, with its last one."""
        counts, moment = self._result.counts, record.updated if isinstance(record, FlowRecord) else record.time
        counts["rows"] += 1
        wanted = key(line(record))
        made = [leaf(form)[KEY_BYTES:] for form in _forms(record)]
        if table is flows:
            known = [row[0] for row in self._book.execute("SELECT hash FROM leaf WHERE key = ? ORDER BY at", (wanted,))]
            self._book.execute("UPDATE leaf SET seen = 1 WHERE key = ?", (wanted,))
        else:
            known = [each for each in made if self._see(wanted, each)]
        if known and known[-1] in made:
            counts["matched"] += 1
        elif set(known) & set(made):
            self._result.fault(f"{_what(record, table)} shows an earlier record than the last that was sealed")
        elif len(made) > 1 and (known or table is not flows):
            self._result.gap(f"{_what(record, table)} has escaped characters, and cannot be compared with its line")
        elif known:
            self._result.fault(f"{_what(record, table)} was changed: it is not the line that was sealed")
        elif moment < self._began:
            counts["before seals"] += 1
        elif moment > self._now - UNSEALED_SECONDS:
            counts["not sealed yet"] += 1
        else:
            self._result.fault(f"{_what(record, table)} was added or changed: no seal covers it")

    def _see(self, wanted: bytes, made: bytes) -> bool:
        """Mark the leaf of a row; False if there is none."""
        return self._book.execute("UPDATE leaf SET seen = 1 WHERE key = ? AND hash = ?", (wanted, made)).rowcount > 0

    def _leaves(self) -> None:
        """Judge the sealed lines that have no row."""
        query = "SELECT key, hash, start FROM leaf WHERE NOT seen ORDER BY key, at DESC"
        before = b""
        for wanted, made, start in self._book.execute(query):
            table = _TABLES.get(wanted)
            if table is not None:
                self._missing(table, f"a record of {table.name}", start, wanted + made)
            elif wanted != before:  # the last line of a flow
                self._missing(flows, f"flow {wanted.hex()}", start, wanted + made)
            before = wanted

    def _missing(self, table: sa.Table, what: str, start: float, made: bytes) -> None:
        if start < self._pruned.get(table.name, 0.0):
            self._result.counts["pruned"] += 1
        elif made in self._quarantined:
            self._result.counts["quarantined"] += 1
        else:
            where = f"its line was sealed after {iso(start)}"
            self._result.fault(f"{what} is missing: {where} (hash {made[KEY_BYTES:].hex()})")


def _forms(record: Row) -> Iterator[bytes]:
    """Yield the line of a row, and the lines that the database stores as the same row: it escapes some characters."""
    whole = line(record)[:-1]
    yield whole
    if b"\\\\" in whole:
        yield whole.replace(b"\\\\x00", b"\\u0000")
        yield whole.replace(b"\\\\x00", b"\\u0000").replace(b"\\\\ud", b"\\ud")


def _what(record: Row, table: sa.Table) -> str:
    if isinstance(record, FlowRecord):
        return f"flow {record.flow_id}"
    names = (getattr(record, name, "") for name in ("finding_id", "flow_id", "agent"))
    return f"a record of {table.name} ({next(filter(None, names), '')}, {iso(record.time)})"


def _name(seal: SealRecord) -> str:
    host = f" of {seal.host}" if seal.host else ""
    return f"seal {seal.number} of {seal.writer}{host} ({seal.segment}, {iso(seal.time)})"


def quarantined_leaf(text: str) -> bytes:
    """Return the leaf of a line in the quarantine file."""
    return leaf(text.encode("latin-1", "replace"))


def verify_segments(directory: Path) -> Verification:
    """Verify the segments of a journal, or copies of them, by their seals alone. Raises OSError."""
    result, chains = Verification(), dict[str, ChainFollower]()
    older = "are in segments that are not here"
    for segment in segments(directory):
        follower, begun = SegmentFollower(), 1
        chain = chains.setdefault(segment.writer, ChainFollower(result))
        for raw in lines_of(segment.path):
            found = follower.line(raw)
            if found is None:
                continue
            if found.wrong:
                place = f"{segment.name}, lines {begun} to {follower.lines - 1}"
                result.fault(f"{place}: the seal in line {follower.lines} {found.wrong}")
                chain.last = found.seal
            else:
                if chain.last is not None and chain.last.chain != found.seal.chain:
                    result.gap(
                        f"{_name(found.seal)} begins another chain: {found.seal.gap or 'its writer has no past'}"
                    )
                    chain.last = None
                chain.seal(found.seal, found.leaves, older)
            result.counts["lines"] += found.seal.lines
            begun = follower.lines + 1
        if follower.last is None:
            result.gap(f"{segment.name}: {follower.lines} lines without a seal")
        elif tail := follower.tail():
            result.gap(f"{segment.name}, lines {begun} to {follower.lines}: no seal covers them yet")
            chain.last = tail.seal
    return result

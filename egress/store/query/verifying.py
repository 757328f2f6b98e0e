"""Verifies records by their seals: finds records that were changed, removed or added, and gaps in the chains of seals.

The writer of a journal seals its lines, some at a time. A seal covers the leaves of its lines (the key and the hash of
each) and has the digest of the seal before, so that the seals of a writer are a chain (`egress.records.seals`). Three
things are checked, from the database alone: each seal matches its leaves and the seal before; each row, written as a
line again, has a leaf; each leaf has a row. A temporary database on disk holds the leaves, so memory is bounded.
Records that retention pruned, and records from before the first seal, are counted but not checked.
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
    """The result of a verification. `faults` and `gaps` have at most MOST texts each.

    `counts` has the full numbers, by name: faults, gaps, chains, seals, lines (sealed), rows (records); the rows
    matched, before seals, and not sealed yet; the lines without a row that are pruned or quarantined.
    """

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)  # records or seals were changed, removed or added
    gaps: list[str] = field(default_factory=list)  # records that may be missing for a known reason
    heads: dict[str, SealRecord] = field(default_factory=dict)  # chain → its newest seal

    def fault(self, text: str) -> None:
        """Count a fault, and list its text unless there are MOST already."""
        self.counts["faults"] += 1
        if len(self.faults) < MOST:
            self.faults.append(text)

    def gap(self, text: str) -> None:
        """Count a gap, and list its text unless there are MOST already."""
        self.counts["gaps"] += 1
        if len(self.gaps) < MOST:
            self.gaps.append(text)


class ChainFollower:
    """Checks the seals of one chain, in the order of their numbers, and adds to a Verification."""

    def __init__(self, result: Verification) -> None:
        self._result = result
        self.last: SealRecord | None = None

    def seal(self, seal: SealRecord, leaves: bytes, older: str = "") -> None:
        """Check the next seal against its leaves and the seal before; add its faults and gaps to the result.

        `older`: a phrase that says why the first seals of the chain may be missing; empty: that is a fault.
        """
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
    """Verify all records of a database. `quarantined`: the leaves of the lines in the quarantine file.

    `heads`: digests of seals that were seen before; a fault is added for each that is not stored. A record later than
    UNSEALED_SECONDS before `now` (seconds) may lack a seal; with `now` 0 any record may. Raises DBAPIError, and
    DamagedDataError if a row cannot be read.
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
    """Verifies one database once; `book` is the temporary database of leaves."""

    def __init__(self, connection: Connection, book: sqlite3.Connection, quarantined: set[bytes], now: float) -> None:
        self._connection, self._book, self._quarantined, self._now = connection, book, quarantined, now
        self._result = Verification()
        self._began: dict[str, float] = {}  # host → time of its first line that a seal covers, seconds
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
            self._began[seal.host] = min(self._began.get(seal.host, seal.start), seal.start)
            found = [seal.leaves[place : place + LEAF_BYTES] for place in range(0, len(seal.leaves), LEAF_BYTES)]
            rows = ((each[:KEY_BYTES], each[KEY_BYTES:], at + nth, seal.start) for nth, each in enumerate(found))
            self._book.executemany("INSERT INTO leaf (key, hash, at, start) VALUES (?, ?, ?, ?)", rows)
            at += len(found)
        self._result.counts["lines"] = at

    def _stored_seals(self) -> Iterator[StoredSeal]:
        query = sa.select(seals).order_by(seals.c.chain, seals.c.number, seals.c.time)
        yield from decode(StoredSeal, self._connection.execute(query.execution_options(yield_per=CHUNK)))

    def _row(self, record: Row, table: sa.Table) -> None:
        """Compare a row with the leaf of its line; the row of a flow with the latest of the flow's leaves."""
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
        elif moment < min(self._began.values(), default=float("inf")):
            counts["before seals"] += 1
        elif moment < max(self._began.values()):
            hosts = "a gateway that had no seals at that time wrote it, or somebody added it"
            self._result.gap(f"{_what(record, table)} has no seal: {hosts}")
        elif moment > self._now - UNSEALED_SECONDS:
            counts["not sealed yet"] += 1
        else:
            self._result.fault(f"{_what(record, table)} was added or changed: no seal covers it")

    def _see(self, wanted: bytes, made: bytes) -> bool:
        """Mark the leaf with this key and hash as that of a row; return False if there is none."""
        return self._book.execute("UPDATE leaf SET seen = 1 WHERE key = ? AND hash = ?", (wanted, made)).rowcount > 0

    def _leaves(self) -> None:
        """Count or report the leaves that have no row; of a flow, the latest alone."""
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
        """Count a leaf without a row as pruned or quarantined, else add a fault."""
        if start < self._pruned.get(table.name, 0.0):
            self._result.counts["pruned"] += 1
        elif made in self._quarantined:
            self._result.counts["quarantined"] += 1
        else:
            where = f"its line was sealed after {iso(start)}"
            self._result.fault(f"{what} is missing: {where} (hash {made[KEY_BYTES:].hex()})")


def _forms(record: Row) -> Iterator[bytes]:
    """Yield each line, without its newline, that is stored as this row: text is escaped when it is stored."""
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
    """Return the leaf of a line that was quarantined. `text`: the value of `line` in the quarantine file."""
    return leaf(text.encode("latin-1", "replace"))


def verify_segments(directory: Path) -> Verification:
    """Verify the segments in a journal directory, or copies of them, by the seals in them, without a database.

    Lines without a seal are gaps. Without segments, or without the directory, the result is empty. Raises OSError.
    """
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

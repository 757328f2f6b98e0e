"""The seals of a journal: how a seal is computed, and how the seals in a segment are checked.

A journal is a sequence of segments (files) of lines. From time to time its writer adds a *seal*, a line with a digest
over the lines since the seal before; the seals of one writer form a *chain*. The *leaf* of a line is its key and its
hash. A seal's digest is the SHA-256 of the digest before, of the leaves of the lines that it covers, and of its own
fields: a line that is changed, removed, added or moved changes the digest. The leaves alone are enough to check it, so
the database keeps them, and each row can be compared with the leaf of the line from which it was made.
"""

from __future__ import annotations

import hashlib
from binascii import unhexlify
from dataclasses import dataclass, replace
from hashlib import blake2b

from egress.errors import MalformedError
from egress.records.read import TIME_BYTES, parse_line, record_time
from egress.records.shape import SealRecord, SealState
from egress.records.times import micros

START = "0" * 64  # `previous` of the first seal of a chain
KEY_BYTES, LEAF_BYTES = 8, 24
MAX_LEAVES = 1 << 16  # lines between two seals; a writer seals far earlier
CUT_OFF = "the writer ended without a last seal: records after the last line may be missing"

_EVENT = TIME_BYTES + len(',"event_type":"')  # where the kind of record stands in a line
_FLOW = b'flow","flow_id":"'
_ID = _EVENT + len(_FLOW)


def leaf(line: bytes) -> bytes:
    """Return the leaf of a line (without its newline), LEAF_BYTES long: its key, then its hash."""
    return key(line) + blake2b(line, digest_size=16).digest()


def key(line: bytes) -> bytes:
    """Return the key of a line, KEY_BYTES long: what the line is about, for the search in the database.

    It is the flow's id in a flow record, else the beginning of the kind of record, padded with zero bytes; zeros alone
    for an id that is not hexadecimal.
    """
    if line[_EVENT:_ID] == _FLOW:
        try:
            return unhexlify(line[_ID : _ID + 2 * KEY_BYTES]).ljust(KEY_BYTES, b"\0")
        except ValueError:  # binascii.Error is one
            return bytes(KEY_BYTES)
    return line[_EVENT : _EVENT + KEY_BYTES].partition(b'"')[0].ljust(KEY_BYTES, b"\0")


def is_seal(line: bytes) -> bool:
    """Return True if a line has the kind of a seal; it may still be malformed."""
    return line[_EVENT : _EVENT + 5] == b'seal"'


def digest(seal: SealRecord, leaves: bytes) -> str:
    """Return the digest, as hexadecimal text, that a seal over these leaves must have; `seal.digest` is ignored."""
    words = (seal.chain, seal.host, seal.writer, seal.segment, seal.state, seal.gap)
    numbers = (seal.number, micros(seal.time), micros(seal.start), seal.lines, seal.lost)
    text = "\0".join((seal.previous, *words, *map(str, numbers)))
    return hashlib.sha256(hashlib.sha256(leaves).digest() + text.encode("utf-8", "surrogatepass")).hexdigest()


def sealed(seal: SealRecord, leaves: bytes) -> SealRecord:
    """Return a copy of the seal with its digest over these leaves."""
    return replace(seal, digest=digest(seal, leaves))


@dataclass(frozen=True, slots=True)
class Sealed:
    """A seal with the joined leaves that it covers.

    `wrong`: how it contradicts them or the seal before, as a phrase; "" if it fits.
    """

    seal: SealRecord
    leaves: bytes
    wrong: str = ""


class SegmentFollower:
    """Checks the seals of one segment: feed it the lines in order. No seal covers lines before the first seal.

    `last`: the last seal so far, None before the first.
    """

    def __init__(self) -> None:
        self.last: SealRecord | None = None
        self.lines = 0  # lines so far, seals included
        self._leaves = bytearray()
        self._first = self._latest = 0.0
        self._crowded = False

    def line(self, raw: bytes) -> Sealed | None:
        """Take the next line, without its newline; return it as a checked seal, or None if it is not a seal."""
        self.lines += 1
        if is_seal(raw):
            try:
                found = parse_line(raw)
            except MalformedError:
                found = None
            if isinstance(found, SealRecord):
                return self._seal(found)
        if self.last is not None:
            self._cover(raw)
        return None

    def tail(self) -> Sealed | None:
        """Return a seal for the lines after the last seal, as if the writer had written it; None if there are none.

        None as well for a segment without a seal. It depends on the lines alone, so recorder and writer compute the
        same one.
        """
        last = self.last
        if last is None or not self._leaves:
            return None
        count = len(self._leaves) // LEAF_BYTES
        made = replace(
            last, number=last.number + 1, time=self._latest, start=self._first, state=SealState.TAIL, lines=count,
            lost=0, gap=CUT_OFF, previous=last.digest,
        )  # fmt: skip
        leaves = bytes(self._leaves)
        return Sealed(sealed(made, leaves), leaves)

    def _cover(self, raw: bytes) -> None:
        """Note an ordinary line: its leaf and its time."""
        if len(self._leaves) >= MAX_LEAVES * LEAF_BYTES:
            self._crowded = True
            return
        try:
            self._latest = record_time(raw)
        except MalformedError:
            self._latest = self._latest or (self.last.time if self.last else 0.0)
        self._first = self._first if self._leaves else self._latest
        self._leaves += leaf(raw)

    def _seal(self, seal: SealRecord) -> Sealed:
        """Check a seal against the lines since the last one and that seal, and begin anew after it."""
        last, leaves = self.last, bytes(self._leaves)
        wrong = "covers more lines than a writer leaves unsealed" if self._crowded else ""
        if last is None:
            wrong = "" if seal.state is SealState.OPENED else "is the first of its segment, but does not open it"
        elif (seal.chain, seal.number, seal.previous) != (last.chain, last.number + 1, last.digest):
            wrong = f"does not follow seal {last.number} of chain {last.chain}"
        if not wrong and (seal.lines * LEAF_BYTES != len(leaves) or seal.digest != digest(seal, leaves)):
            wrong = "does not match the lines before it"
        self.last, self._crowded = seal, False
        self._leaves.clear()
        return Sealed(seal, leaves, wrong)

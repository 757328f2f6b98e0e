"""The audit chain: all edits by operators and programs; each entry contains the hash of the entry before.

Triggers of the database refuse to change or delete an entry. The owner of the database can remove the triggers; then
`verify` finds where the chain breaks.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from egress.records.times import micros
from egress.store.database.columns import plain
from egress.store.database.matching import glob
from egress.store.database.rows import decoding
from egress.store.database.tables import audit

START = "0" * 64  # `previous` of the first entry
GATEWAY = "gateway"  # the gateway as actor
_CHUNK = 1000  # entries that `verify` holds at a time
_TEXTS = ("actor", "request_id", "action", "target", "before", "after", "previous", "hash")


@dataclass(frozen=True, slots=True)
class Actor:
    """The author of an edit: `token:ID (name)`, `uid:N (user)` or `gateway`, and the id of the request."""

    name: str
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """A change to be audited: `before` and `after` are JSON values, None if the target did not exist then."""

    action: str  # noun.verb
    target: str  # id or name
    before: object = None
    after: object = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """An entry of the audit chain; `before` and `after` are JSON values."""

    seq: int  # from 1, without gaps
    time: float  # seconds
    actor: str
    request_id: str
    action: str
    target: str
    before: Any
    after: Any
    previous: str  # the hash of the entry before
    hash: str


@dataclass(frozen=True, slots=True)
class Anchor:
    """An entry that was seen before and noted outside the database, by its hash and, if it is known, its number."""

    hash: str
    seq: int = 0  # 0: not known
    source: str = ""  # " by …" or " in …": who saw it, or where it was noted


@dataclass(frozen=True, slots=True)
class Verified:
    """The result of a verification. `broken` is the number of the first invalid entry (None: all are valid).

    The chain alone cannot show that its last entries were deleted, or that it was rewritten as a whole: an entry that
    was noted elsewhere can (`Anchor`).
    """

    count: int  # valid entries
    head: str  # hash of the last of them
    broken: int | None = None
    why: str = ""  # the reason why it is not valid


def local_actor() -> Actor:
    """The user of this process, as an actor."""
    uid = os.getuid()
    try:
        return Actor(f"uid:{uid} ({pwd.getpwuid(uid).pw_name})")
    except KeyError:
        return Actor(f"uid:{uid}")


def note(
    connection: Connection, actor: Actor, ts: float, action: str, target: str, before: object, after: object
) -> None:
    """Append one entry to the chain, in the caller's transaction of `database.writing`. `ts`: seconds."""
    note_all(connection, actor, ts, [Change(action, target, before, after)])


def note_all(connection: Connection, actor: Actor, ts: float, changes: Iterable[Change]) -> None:
    """Append an entry for each change, in their order, as `note` does."""
    last = connection.execute(sa.select(audit.c.seq, audit.c.hash).order_by(audit.c.seq.desc()).limit(1)).first()
    seq, previous = (last.seq, last.hash) if last else (0, START)
    rows = []
    for change in changes:
        seq += 1
        texts = [plain(text) for text in (actor.name, actor.request_id, change.action, change.target)]
        fields = [*texts, _canonical(change.before), _canonical(change.after), previous]
        previous = _digest(seq, micros(ts), fields)
        rows.append({"seq": seq, "time": ts, **dict(zip(_TEXTS, [*fields, previous], strict=True))})
    if rows:
        connection.execute(audit.insert(), rows)


def head(connection: Connection) -> tuple[int, str]:
    """Return the number and the hash of the newest entry; 0 and START if there is none."""
    found = connection.execute(sa.select(audit.c.seq, audit.c.hash).order_by(audit.c.seq.desc()).limit(1)).first()
    return (found.seq, found.hash) if found else (0, START)


def lacks(connection: Connection, anchor: Anchor) -> str:
    """Return an error text if the chain lacks the entry of `anchor`, else an empty string.

    An anchor without a number or a hash is not checked: the string is empty.
    """
    if not anchor.seq or not anchor.hash:
        return ""
    if connection.scalar(sa.select(audit.c.hash).where(audit.c.seq == anchor.seq)) == anchor.hash:
        return ""
    return f"audit trail: {_unseen(anchor, latest(connection))}"


def latest(connection: Connection) -> int:
    """The number of the newest entry, 0 without entries."""
    return connection.scalar(sa.select(sa.func.max(audit.c.seq))) or 0


def entries(
    connection: Connection,
    *,
    before_seq: int | None = None,
    limit: int,
    since: float | None = None,
    until: float | None = None,
    actor: str = "",
    action: str = "",
) -> tuple[AuditEntry, ...]:
    """List at most `limit` entries below the number `before_seq`, newest first, from `since` to `until`.

    Times are seconds, both included. `actor` and `action` are globs; None or empty matches any. Raises
    DamagedDataError.
    """
    terms = []
    if before_seq is not None:
        terms.append(audit.c.seq < before_seq)
    if since is not None:
        terms.append(audit.c.time >= since)
    if until is not None:
        terms.append(audit.c.time <= until)
    terms += [glob(column, text) for column, text in ((audit.c.actor, actor), (audit.c.action, action)) if text]
    rows = connection.execute(sa.select(audit).where(*terms).order_by(audit.c.seq.desc()).limit(limit))
    return tuple(_entry(row) for row in rows)


def verify(connection: Connection, anchor: Anchor | None = None) -> Verified:
    """Recompute the hashes of the chain, in bounded memory; stops at the first entry that is not valid.

    A damaged row is reported as not valid, not raised. With `anchor` a chain that lacks that entry is not valid either.
    """
    count, head, found = 0, START, anchor is None
    # Without types: a damaged value must be found here, and not fail in the driver.
    query = sa.select(_raw("seq"), _raw("time"), *(_bytes(connection, name) for name in _TEXTS)).order_by(audit.c.seq)
    with connection.execute(query.select_from(audit).execution_options(yield_per=_CHUNK)) as rows:
        for row in rows:
            seq, when, *fields = row[0], row[1], *map(_text, row[2:])
            if seq != count + 1:
                why = (
                    f"entry {count + 1} is missing: entry {seq} follows {count}"
                    if count
                    else f"the first entry is {seq}, not 1"
                )
                return Verified(count, head, count + 1, why)
            if fields[6] != head:
                return Verified(count, head, seq, f"entry {seq} does not follow from the one before")
            if fields[7] != _digest(seq, when, fields[:7]):
                return Verified(count, head, seq, f"entry {seq} was changed: its hash does not match")
            count, head = seq, fields[7]
            found = found or (anchor is not None and head == anchor.hash and anchor.seq in (0, count))
    if anchor is not None and not found:
        return Verified(count, head, min(anchor.seq or count + 1, count + 1), _unseen(anchor, count))
    return Verified(count, head)


def _unseen(anchor: Anchor, newest: int) -> str:
    """Explain in what way a chain whose newest entry is `newest` lacks the entry of `anchor`."""
    if not anchor.seq:
        return f"no entry has the hash {anchor.hash}{anchor.source}: the end was cut off, or the trail rewritten"
    if newest < anchor.seq:
        missing = f"entry {anchor.seq} is" if newest + 1 == anchor.seq else f"entries {newest + 1} to {anchor.seq} are"
        return f"{missing} missing: {anchor.seq} entries were seen{anchor.source}"
    return f"entry {anchor.seq} is not the one that was seen{anchor.source}: the trail was rewritten"


def _entry(row: sa.Row[Any]) -> AuditEntry:
    values = dict(row._mapping)
    with decoding():
        return AuditEntry(**(values | {"before": _read(values["before"]), "after": _read(values["after"])}))


def _digest(seq: object, when: object, fields: list[Any]) -> str:
    return hashlib.sha256(json.dumps([seq, when, *fields], default=repr).encode()).hexdigest()


def _canonical(value: object) -> str | None:
    return None if value is None else json.dumps(value, sort_keys=True, separators=(",", ":"))


def _read(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _raw(name: str) -> sa.ColumnElement[Any]:
    return sa.type_coerce(audit.c[name], sa.types.NullType()).label(name)


def _bytes(connection: Connection, name: str) -> sa.ColumnElement[Any]:
    """A text column as bytes on SQLite, where it may hold bytes that the driver cannot decode."""
    if connection.dialect.name != "sqlite":
        return _raw(name)
    return sa.cast(_raw(name).element, sa.LargeBinary).label(name)


def _text(value: Any) -> Any:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value

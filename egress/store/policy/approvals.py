"""Approvals: the holds (flows and DNS queries of agents in mode `ask` that wait for a decision), and the decisions.

A decision is final. The same question may be asked again, under the same id at another time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from egress.errors import InputError
from egress.model import Hold, Rule
from egress.policy.domain import Depth, parse_pattern
from egress.policy.ruletext import InvalidRuleError, read_rule
from egress.store.database.errors import ConflictError, NotFoundError
from egress.store.database.matching import glob
from egress.store.database.rows import decode, decode_first
from egress.store.database.tables import HOLD_STATES, approvals
from egress.store.policy.audit import Actor, note
from egress.store.policy.edits import Edit
from egress.store.policy.ruleset import chunks

PENDING, APPROVED, DENIED, EXPIRED, WITHDRAWN = HOLD_STATES


@dataclass(frozen=True, slots=True)
class Approval:
    """A hold (the fields of `model.Hold`) and its decision."""

    id: str
    flow_id: str
    agent: str
    time: float
    until: float
    proto: str
    dst: str
    dport: int
    names: tuple[str, ...]
    query: bool
    destination: str
    state: str = PENDING  # one of HOLD_STATES
    decided_at: float | None = None
    decided_by: str | None = None  # the actor; None without a decision
    rule_id: str | None = None  # the rule that an approval made, or an equal one that was in force
    host: str = ""  # where it waits


class Denial(NamedTuple):
    """The destination of a denied flow, or the name in a denied query."""

    proto: str
    dst: str
    dport: int
    names: tuple[str, ...]
    query: bool  # a DNS query for the first of the names


_HOLD = [field.name for field in fields(Hold)]


def ask(connection: Connection, hold: Hold, host: str = "") -> None:
    """Add a pending hold; not audited, because agents cause it. A hold stored before (id and time) stays as it is."""
    known = sa.select(approvals.c.id).where(approvals.c.id == hold.id, approvals.c.time == hold.time)
    if connection.scalar(known) is None:
        row = {name: getattr(hold, name) for name in _HOLD}
        connection.execute(approvals.insert(), row | {"state": PENDING, "host": host})


def listed(
    connection: Connection,
    state: str = "",
    agent: str = "",
    before: tuple[float, str] | None = None,
    limit: int = 100,
    scope: Sequence[str] = ("*",),
) -> tuple[Approval, ...]:
    """List at most `limit` approvals, newest first, from the one after the cursor `before` (time, id) on.

    `before` None: from the newest. `state` is one of HOLD_STATES, `agent` a glob; empty matches any. `scope` has the
    globs of the agents that the caller may see.
    """
    terms = []
    if state:
        terms.append(approvals.c.state == state)
    if agent:
        terms.append(glob(approvals.c.agent, agent))
    if "*" not in scope:
        terms.append(sa.or_(sa.false(), *(glob(approvals.c.agent, pattern) for pattern in scope)))
    if before is not None:
        when, last = before
        terms += [approvals.c.time <= when, sa.or_(approvals.c.time < when, approvals.c.id < last)]
    order = (approvals.c.time.desc(), approvals.c.id.desc())
    query = sa.select(approvals).where(*terms).order_by(*order).limit(limit)
    return tuple(decode(Approval, connection.execute(query)))


def count_pending(connection: Connection) -> int:
    """The number of holds that wait for a decision."""
    return connection.scalar(sa.select(sa.func.count()).select_from(approvals).where(approvals.c.state == PENDING)) or 0


def get(connection: Connection, id: str) -> Approval | None:  # noqa: A002 - its name
    """The newest approval with this id; None if there is none."""
    query = sa.select(approvals).where(approvals.c.id == id).order_by(approvals.c.time.desc()).limit(1)
    return decode_first(Approval, connection.execute(query))


def approve(
    connection: Connection,
    actor: Actor,
    id: str,  # noqa: A002 - its name
    *,
    expires: tuple[float | None, bool],
    ts: float,
) -> Approval:
    """Approve a hold: make an allow rule for exactly its agent and destination (for a flow also protocol and port).

    Returns the decided approval. `expires` is the pair (expires_at, once) from `ruletext.parse_expiry`. If an equal
    rule is in force, that one is used. Raises NotFoundError; ConflictError if the hold was decided (the error names the
    actor) or has expired; InputError if no rule can express its destination.
    """
    old = _undecided(connection, id, ts)
    wanted = replace(rule_of(old), author=actor.name[:128], expires_at=expires[0], once=expires[1])
    try:
        rule_id = Edit(connection, actor, ts).add([wanted])[0].rule.id
    except ConflictError as there:
        rule_id = there.target
    return _decide(connection, actor, replace(old, state=APPROVED, rule_id=rule_id), ts)


def deny(connection: Connection, actor: Actor, id: str, ts: float) -> Approval:  # noqa: A002 - its name
    """Deny a hold and return the decided approval. A later attempt of the agent makes a new hold.

    Raises NotFoundError; ConflictError if the hold was decided or has expired.
    """
    return _decide(connection, actor, replace(_undecided(connection, id, ts), state=DENIED), ts)


def close(connection: Connection, id: str, state: str, ts: float, host: str = "") -> bool:  # noqa: A002 - its name
    """End a pending hold without an operator: `state` is expired, withdrawn, or approved or denied (by the rules).

    Returns False if this host has no such pending hold. Like `ask` it is not audited, because agents can cause it.
    """
    query = approvals.update().where(approvals.c.id == id, approvals.c.state == PENDING, approvals.c.host == host)
    return connection.execute(query.values(state=state, decided_at=ts)).rowcount > 0


def withdraw_all(connection: Connection, ts: float, host: str = "") -> int:
    """Withdraw all pending holds of a host whose gateway is gone. Returns their number."""
    query = approvals.update().where(approvals.c.state == PENDING, approvals.c.host == host)
    return connection.execute(query.values(state=WITHDRAWN, decided_at=ts)).rowcount


def denied(connection: Connection, ids: Collection[str]) -> set[str]:
    """Return the given ids whose newest approval was denied."""
    found: set[str] = set()
    for chunk in chunks(ids):
        newer = approvals.alias()
        last = ~sa.exists().where(newer.c.id == approvals.c.id, newer.c.time > approvals.c.time)
        query = sa.select(approvals.c.id).where(approvals.c.id.in_(chunk), approvals.c.state == DENIED, last)
        found |= set(connection.scalars(query))
    return found


def denials(connection: Connection, agent: str) -> tuple[Denial, ...]:
    """The destinations and names that were ever denied to an agent, by an operator or by the rules, each once."""
    held = approvals.c
    query = sa.select(held.proto, held.dst, held.dport, held.names, held.query)
    query = query.where(held.agent == agent, held.state == DENIED).distinct()
    return tuple(decode(Denial, connection.execute(query.order_by(held.proto, held.dst, held.dport))))


def rule_of(approval: Approval) -> Rule:
    """The allow rule, without an id, that an approval makes.

    Raises InputError if its destination is not a single address or name: the agent chose it, so it must not be a
    pattern.
    """
    mapping: dict[str, Any] = {"action": "allow", "destination": approval.destination, "agent": approval.agent}
    if not approval.query:
        mapping["protocol"] = int(approval.proto) if approval.proto.isdecimal() else approval.proto
        if approval.dport and approval.proto in ("tcp", "udp", "sctp"):
            mapping["ports"] = [approval.dport]
    try:
        rule = read_rule(mapping)
        if rule.destination == "any" or "/" in rule.destination:
            raise ValueError("is not a single destination")
        if "*" in rule.destination and parse_pattern(rule.destination).depth is not Depth.EXACT:
            raise ValueError("is a pattern, not a name")
    except InvalidRuleError as error:
        raise InputError(f"approval {approval.id} cannot be a rule: {error}; deny it") from None
    except ValueError as error:
        where = ascii(approval.destination)[:60]
        raise InputError(f"approval {approval.id} cannot be a rule: {where} {error}; deny it") from None
    return replace(rule, id="", comment=f"approval {approval.id}")


def _undecided(connection: Connection, id: str, ts: float) -> Approval:  # noqa: A002 - its name
    """The pending approval with this id. Raises NotFoundError, ConflictError."""
    found = get(connection, id)
    if found is None:
        raise NotFoundError(f"there is no approval {id}; `egress approvals` lists them", id)
    if found.state != PENDING:
        who = f" by {found.decided_by}" if found.decided_by else ""
        raise ConflictError(f"approval {id} is already {found.state}{who}", id)
    if found.until <= ts:
        raise ConflictError(f"approval {id} has expired: no decision came in time", id)
    return found


def _decide(connection: Connection, actor: Actor, new: Approval, ts: float) -> Approval:
    new = replace(new, decided_at=ts, decided_by=actor.name)
    decision = {name: getattr(new, name) for name in ("state", "decided_at", "decided_by", "rule_id")}
    this = (approvals.c.id == new.id, approvals.c.time == new.time)
    connection.execute(approvals.update().where(*this).values(**decision))
    action = "approval.approve" if new.state == APPROVED else "approval.deny"
    before = replace(new, state=PENDING, decided_at=None, decided_by=None, rule_id=None)
    note(connection, actor, ts, action, new.id, asdict(before), asdict(new))
    return new

"""The stored rules: those in force, those of a version, the changes between versions, and the use of rules.

Rows are temporal: a rule belongs to the versions from `added` up to, not including, `removed`.
`egress.store.policy.edits` writes them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, get_type_hints

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from egress.model import Action, Agent, Policy, PolicyChange, Rule
from egress.policy.selectors import selects
from egress.store.database.errors import NotFoundError
from egress.store.database.matching import glob
from egress.store.database.rows import checked, decode
from egress.store.database.tables import agents, flows, policies, rules
from egress.store.policy.agents import agent as stored_agent

ALLOWLIST = "allowlist"
FILE = "file"
CHUNK = 500  # ids or destinations in one query

_FIELDS = len(fields(Rule))
_COLUMNS = (*get_type_hints(Rule).values(), str, int, int | None, str)  # of a rule, then those of StoredRule
_ORDER = (rules.c.position, rules.c.id)
LIVE: sa.ColumnElement[bool] = rules.c.removed.is_(None)


@dataclass(frozen=True, slots=True)
class StoredRule:
    """A rule, its source, and the versions of the policy that it belongs to."""

    rule: Rule
    source: str  # allowlist, file, or sandbox:NAME
    added: int
    removed: int | None = None  # None: in force
    host: str = ""  # of the policy file or sandbox: applies to agents there only; "": to all agents


@dataclass(frozen=True, slots=True)
class RuleFilter:
    """A filter for rules in force: a rule must match every field that is set; None or empty matches any."""

    agent: str = ""  # a glob for the text of the selector
    applies_to: str = ""  # the name of an agent that the selector matches
    destination: str = ""  # a part of the destination
    action: Action | None = None
    source: str = ""  # allowlist, file, sandbox:NAME or a glob
    text: str = ""  # a part of comment or author, ignoring case
    expired: bool | None = None  # as of `now`
    now: float = 0.0


@dataclass(frozen=True, slots=True)
class Hits:
    """The number of flows that a rule decided, and the start of the newest (seconds; None without flows)."""

    count: int = 0
    last: float | None = None


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """A version of the policy and the numbers of rules that it added and removed; an edited rule counts as both."""

    version: int
    created: float
    actor: str
    added: int
    removed: int


@dataclass(frozen=True, slots=True)
class PolicyDiff:
    """The difference between two versions, by rule id; `changed` has pairs of the rule before and after."""

    added: tuple[StoredRule, ...]
    removed: tuple[StoredRule, ...]
    changed: tuple[tuple[StoredRule, StoredRule], ...]


def current(connection: Connection) -> int:
    """The number of the newest version, 0 without one."""
    return connection.scalar(sa.select(sa.func.max(policies.c.version))) or 0


def count_live(connection: Connection) -> int:
    """The number of rules in force."""
    return connection.scalar(sa.select(sa.func.count()).select_from(rules).where(LIVE)) or 0


def made(connection: Connection, version: int) -> float | None:
    """The time when the version that followed `version` was made; None if `version` is the newest."""
    query = sa.select(policies.c.created).where(policies.c.version > version).order_by(policies.c.version).limit(1)
    return connection.scalar(query)


def concerning(host: str | None) -> sa.ColumnElement[bool]:
    """The condition that a rule applies to agents of a host: it is of the allowlist, or of a file or sandbox there.

    `host` None: every rule. A rule of a file or sandbox that has no host applies to no agent until a gateway takes it
    over (`gateways.adopt`).
    """
    return sa.true() if host is None else sa.or_(rules.c.source == ALLOWLIST, rules.c.host == host)


def snapshot(connection: Connection, version: int | None = None, host: str | None = None) -> Policy | None:
    """The rules of a version (by default the newest), in their order; None if the version does not exist.

    `host`: only the rules that apply to agents of this host.
    """
    newest = current(connection)
    wanted = newest if version is None else version
    if not wanted or connection.scalar(sa.select(policies.c.version).where(policies.c.version == wanted)) is None:
        return None
    live = LIVE if wanted == newest else live_at(wanted)
    query = sa.select(*rules.c[:_FIELDS]).where(live, concerning(host)).order_by(*_ORDER)
    return Policy(wanted, tuple(decode(Rule, connection.execute(query))))


def bound(connection: Connection, version: int) -> dict[str, str]:
    """The hosts of the rules of a version that apply to the agents of one host only: rule id → host."""
    query = sa.select(rules.c.id, rules.c.host).where(live_at(version), rules.c.host != "")
    return {row.id: row.host for row in connection.execute(query)}


def changes(connection: Connection, since: int, host: str | None = None) -> PolicyChange:
    """The change from version `since` to the newest, of all rules (`host` None) or of those for agents of one host.

    Raises NotFoundError if `since` is newer than the newest.
    """
    version = current(connection)
    if since > version:
        raise NotFoundError(f"there is no version {since} of the policy, the newest is {version}", str(since))
    gone = sa.select(rules.c.id).where(rules.c.removed > since, rules.c.added <= since, concerning(host))
    come = find(connection, rules.c.added > since, LIVE, concerning(host))
    return PolicyChange(since, version, tuple(sorted(connection.scalars(gone))), tuple(each.rule for each in come))


def live_at(version: int) -> sa.ColumnElement[bool]:
    """The condition that a rule belongs to a version."""
    then = sa.literal(version, sa.BigInteger)  # BigInteger: a flow's record may contain any number
    return sa.and_(rules.c.added <= then, sa.or_(LIVE, rules.c.removed > then))


def rule(connection: Connection, id: str) -> StoredRule | None:  # noqa: A002 - its name
    """The rule in force with this id; None if there is none."""
    return next(iter(find(connection, rules.c.id == id, LIVE)), None)


def rule_at(connection: Connection, id: str, version: int) -> StoredRule | None:  # noqa: A002 - its name
    """The rule with this id in a version of the policy; None if there was none."""
    return next(iter(find(connection, rules.c.id == id, live_at(version))), None)


def find(connection: Connection, *terms: sa.ColumnElement[bool]) -> tuple[StoredRule, ...]:
    """The rules that fulfil all conditions, in the order of the policy."""
    # Sorted here: SQLite would avoid sorting by walking all rules in their order.
    found = list(stored(connection.execute(sa.select(rules).where(*terms))))
    return tuple(sorted(found, key=lambda each: (each.rule.position, each.rule.id)))


def by_id(connection: Connection, ids: Iterable[str]) -> dict[str, StoredRule]:
    """The rules in force with these ids, by id."""
    found: dict[str, StoredRule] = {}
    for chunk in chunks(dict.fromkeys(ids)):
        for each in stored(connection.execute(among(("id",), [(wanted,) for wanted in chunk]))):
            found[each.rule.id] = each
    return found


def among(keys: Sequence[str], wanted: Sequence[tuple[str, ...]]) -> sa.Select[*tuple[Any, ...]]:
    """The query for rules in force whose columns `keys` equal one of the tuples `wanted`.

    It is a join: for IN, PostgreSQL would compare every row with each member of a long list.
    """
    given = sa.values(*(sa.column(key, sa.Text) for key in keys), name="wanted").data(wanted).cte("wanted")
    same = (sa.type_coerce(rules.c[key], sa.Text) == given.c[key] for key in keys)
    return sa.select(rules).select_from(given).join(rules, sa.and_(LIVE, *same))


def list_rules(
    connection: Connection, wanted: RuleFilter, after: tuple[int, str] | None, limit: int
) -> tuple[StoredRule, ...]:
    """At most `limit` rules in force that match `wanted`, in the order of the policy.

    `after` (position, id) is the cursor: the rules that follow it; None: from the first.
    """
    terms: list[sa.ColumnElement[bool]] = [LIVE]
    if after is not None:
        position, last = after
        behind = sa.or_(rules.c.position > position, rules.c.id > last)
        terms += [rules.c.position >= position, behind]
    if wanted.agent:
        terms.append(glob(rules.c.agent, wanted.agent))
    if wanted.source:
        terms.append(glob(rules.c.source, wanted.source))
    if wanted.applies_to:
        terms += _applying_to(connection, wanted.applies_to)
    if wanted.destination:
        terms.append(rules.c.destination.contains(wanted.destination, autoescape=True))
    if wanted.action is not None:
        terms.append(rules.c.action == wanted.action)
    if wanted.text:
        searched = (rules.c.comment, rules.c.author)
        terms.append(sa.or_(*(column.icontains(wanted.text, autoescape=True) for column in searched)))
    if wanted.expired is not None:
        past = sa.and_(rules.c.expires_at.is_not(None), rules.c.expires_at <= wanted.now)
        terms.append(past if wanted.expired else sa.not_(past))
    return tuple(stored(connection.execute(sa.select(rules).where(*terms).order_by(*_ORDER).limit(limit))))


def hits(connection: Connection, ids: Collection[str]) -> dict[str, Hits]:
    """The number of stored flows that each of these rules decided, and the start of the newest, by rule id."""
    counted = dict.fromkeys(ids, Hits())
    for chunk in chunks(counted):
        query = sa.select(flows.c.rule_id, sa.func.count(), sa.func.max(flows.c.start))
        for row in connection.execute(query.where(flows.c.rule_id.in_(chunk)).group_by(flows.c.rule_id)):
            counted[row[0]] = Hits(row[1], row[2])
    return counted


def spent(connection: Connection, host: str | None = None) -> tuple[str, ...]:
    """The ids of the allowlist's `once` rules that have admitted their flow.

    With `host`, flows of agents on other hosts do not count: the gateway of the flow must remove the rule, because it
    alone knows that the flow may go on without the rule.
    """
    admitted = sa.exists().where(
        flows.c.rule_id == rules.c.id, flows.c.start >= rules.c.created, flows.c.action == Action.ACCEPT
    )
    if host is not None:
        admitted = admitted.where(flows.c.agent.not_in(sa.select(agents.c.name).where(agents.c.host != host)))
    once = sa.select(rules.c.id).where(LIVE, rules.c.once, rules.c.source == ALLOWLIST, admitted)
    return tuple(sorted(connection.scalars(once)))


def unused(connection: Connection, since: float) -> tuple[StoredRule, ...]:
    """The allowlist's rules in force, created before `since`, that decided no flow that began at `since` or later."""
    used = sa.exists().where(flows.c.rule_id == rules.c.id, flows.c.start >= since)
    return find(connection, LIVE, rules.c.source == ALLOWLIST, rules.c.created < since, sa.not_(used))


def versions(connection: Connection, before: int | None, limit: int) -> tuple[PolicyVersion, ...]:
    """At most `limit` versions below the number `before` (None: any), newest first."""
    query = sa.select(policies).order_by(policies.c.version.desc()).limit(limit)
    listed = connection.execute(query if before is None else query.where(policies.c.version < before)).all()
    numbers = [row.version for row in listed]
    come, gone = (_count(connection, column, numbers) for column in (rules.c.added, rules.c.removed))
    return tuple(
        PolicyVersion(row.version, row.created, row.actor, come.get(row.version, 0), gone.get(row.version, 0))
        for row in listed
    )


def diff(connection: Connection, a: int, b: int) -> PolicyDiff:
    """The difference from version `a` to `b`; either may be newer, and 0 is the policy without rules.

    Raises NotFoundError if there is no such version.
    """
    for version in (a, b):
        if version and not connection.scalar(sa.select(sa.exists().where(policies.c.version == version))):
            raise NotFoundError(f"there is no version {version} of the policy", str(version))
    low, high = min(a, b), max(a, b)
    ends = sa.or_(LIVE, rules.c.removed > high)
    old = find(connection, rules.c.added <= low, rules.c.removed > low, rules.c.removed <= high)
    new = find(connection, rules.c.added > low, rules.c.added <= high, ends)
    before, after = ({each.rule.id: each for each in side} for side in ((old, new) if a <= b else (new, old)))
    both = [(before[key], after[key]) for key in before if key in after]
    return PolicyDiff(
        tuple(each for key, each in after.items() if key not in before),
        tuple(each for key, each in before.items() if key not in after),
        tuple((was, now) for was, now in both if (was.rule, was.source) != (now.rule, now.source)),
    )


def chunks(values: Iterable[Any]) -> Iterable[list[Any]]:
    """Yield the values in lists of at most CHUNK."""
    left = iter(values)
    while chunk := list(islice(left, CHUNK)):
        yield chunk


def stored(rows: Iterable[Sequence[Any]]) -> Iterator[StoredRule]:
    """Yield rows of the table `rules` as rules. Raises DamagedDataError."""
    for row in checked(rows, *_COLUMNS):
        yield StoredRule(Rule(*row[:_FIELDS]), *row[_FIELDS:])


def _applying_to(connection: Connection, name: str) -> list[sa.ColumnElement[bool]]:
    """The conditions that a rule in force applies to the agent with this name.

    An agent that is not attached counts as one without labels, on any host.
    """
    found = stored_agent(connection, name)
    agent = found.agent if found else Agent(name)
    listed = connection.scalars(sa.select(rules.c.agent).where(LIVE).distinct())
    selectors = [selector for selector in listed if selects(selector, agent)]
    return [rules.c.agent.in_(selectors), concerning(found.host if found else None)]


def _count(connection: Connection, column: sa.ColumnElement[int], numbers: list[int]) -> dict[int, int]:
    query = sa.select(column, sa.func.count()).where(column.in_(numbers)).group_by(column)
    return {row[0]: row[1] for row in connection.execute(query)}

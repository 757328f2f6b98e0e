"""Edits of the rules: each edit that changes something makes one new policy version, in the caller's transaction."""

from __future__ import annotations

import secrets
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from egress.model import Rule
from egress.policy.ruletext import to_mapping
from egress.records.times import micros
from egress.store.database.columns import plain
from egress.store.database.errors import ConflictError, NotFoundError
from egress.store.database.tables import policies, rules
from egress.store.policy.audit import Actor, Change, note_all
from egress.store.policy.ruleset import (
    ALLOWLIST,
    FILE,
    LIVE,
    StoredRule,
    among,
    by_id,
    chunks,
    current,
    find,
    live_at,
    stored,
)


class Edit:
    """An edit: all its operations together make one version. An operation that raises an error has changed nothing.

    Create it in a transaction of `database.writing`; `ts` is the time of the edit (seconds). Rules that are added
    together keep their order. In the allowlist and in sandboxes newer rules come first. Each changed rule is audited:
    rule.create, rule.update, rule.delete. `version` is the number of the version made, or of the newest one before.
    """

    def __init__(self, connection: Connection, actor: Actor, ts: float) -> None:
        self.version = current(connection)  # becomes the next one with the first change
        self._connection = connection
        self._actor = actor
        self._ts = _exact(ts)
        self._made = False

    def add(self, added: Iterable[Rule], source: str = ALLOWLIST) -> tuple[StoredRule, ...]:
        """Add rules before all others; returns them as stored.

        A rule without an id gets a random one; a rule without `created` gets the time of the edit. Raises
        ConflictError, with the id of the rule in the way, if an id is taken, or if a rule that means the same is in
        force or is added twice. `once` rules may mean the same.
        """
        new = [
            _storable(replace(rule, id=rule.id or secrets.token_hex(6), created=rule.created or self._ts))
            for rule in added
        ]
        if not new:
            return ()
        self._refuse_taken(new)
        self._refuse_repeated(new)
        return self._change([], self._on_top(new), source)

    def replace(self, id: str, rule: Rule) -> StoredRule:  # noqa: A002 - its name
        """Replace the rule with this id, and return the new one; id, position and time of creation stay.

        A rule that becomes a `once` rule gets the time of the edit, so that earlier flows do not count. Raises
        NotFoundError; ConflictError if the rule is not of the allowlist, or another one means the same.
        """
        (old,) = self._editable([id])
        created = self._ts if rule.once and not old.rule.once else old.rule.created
        new = _storable(replace(rule, id=id, position=old.rule.position, created=created))
        if new == old.rule:
            return old
        self._refuse_repeated([new])
        return self._change([old], [new], ALLOWLIST)[0]

    def remove(self, ids: Iterable[str]) -> tuple[StoredRule, ...]:
        """Remove rules from the allowlist; returns them, each once, in the order of `ids`.

        Raises NotFoundError; ConflictError if one belongs to another source. Then none is removed.
        """
        gone = self._editable(list(dict.fromkeys(ids)))
        self._change(gone, [], ALLOWLIST)
        return gone

    def sync(self, source: str, listed: Sequence[Rule], host: str = "") -> bool:
        """Replace all rules of a source (a host's policy file or sandbox) by these, in this order.

        Returns False if the source has these rules already. Raises ConflictError if another source has taken an id.
        """
        listed = [_storable(rule) for rule in listed]
        mine = (rules.c.source == source, rules.c.host == host)
        live = {each.rule.id: each for each in find(self._connection, LIVE, *mine)}
        kept = [_as_listed(each.rule) for each in live.values()]
        if kept == [_as_listed(rule) for rule in listed]:
            return False
        new = [replace(rule, position=number) for number, rule in enumerate(listed, 1)]
        if source != FILE:
            new = self._on_top(new)
        new = [_with_age(rule, live.get(rule.id), self._ts) for rule in new]
        come = [rule for rule in new if rule.id not in live or live[rule.id].rule != rule]
        staying = {rule.id for rule in new} - {rule.id for rule in come}
        self._refuse_taken(new, live)
        self._change([each for each in live.values() if each.rule.id not in staying], come, source, host)
        return True

    def restore(self, version: int) -> bool:
        """Restore the allowlist of a version; returns False if nothing changes. Audited as policy.rollback, too.

        Raises NotFoundError if there is no such version, ConflictError if another source has taken the id of a rule.
        """
        if self._connection.scalar(sa.select(policies.c.version).where(policies.c.version == version)) is None:
            raise NotFoundError(f"there is no version {version} of the policy", str(version))
        mine = rules.c.source == ALLOWLIST
        live = {each.rule.id: each for each in find(self._connection, LIVE, mine)}
        then = {each.rule.id: each.rule for each in find(self._connection, live_at(version), mine)}
        come = [rule for key, rule in then.items() if key not in live or live[key].rule != rule]
        gone = [each for key, each in live.items() if key not in then or then[key] != each.rule]
        if not come and not gone:
            return False
        self._refuse_taken(come, live)
        self._change(gone, come, ALLOWLIST)
        note = Change("policy.rollback", str(version), None, {"version": self.version})
        note_all(self._connection, self._actor, self._ts, [note])
        return True

    def _change(
        self, gone: Sequence[StoredRule], come: Sequence[Rule], source: str, host: str = ""
    ) -> tuple[StoredRule, ...]:
        """Remove some rules and add others, whose ids are known to be free."""
        if not gone and not come:
            return ()
        version = self._begin()
        now = rules.c.added == version  # added in this very version: delete it, as if it had never existed
        for chunk in chunks(each.rule.id for each in gone):
            mine = (rules.c.id.in_(chunk), LIVE)
            self._connection.execute(rules.delete().where(*mine, now))
            self._connection.execute(rules.update().where(*mine).values(removed=version))
        new = tuple(StoredRule(rule, source, version, host=host) for rule in come)
        if new:
            self._connection.execute(rules.insert(), [_row(each) for each in new])
        old = {each.rule.id: each.rule for each in gone}
        note_all(self._connection, self._actor, self._ts, _notes(old, come, source))
        return new

    def _begin(self) -> int:
        if not self._made:
            self._made = True
            self.version += 1
            row = {"version": self.version, "created": self._ts, "actor": self._actor.name}
            self._connection.execute(policies.insert(), row)
        return self.version

    def _on_top(self, new: list[Rule]) -> list[Rule]:
        """Give rules the positions before all rules in force, in their order."""
        lowest = sa.select(rules.c.position).where(LIVE).order_by(rules.c.position).limit(1)
        first = min(self._connection.scalar(lowest) or 0, 0) - len(new)
        return [replace(rule, position=position) for position, rule in enumerate(new, first)]

    def _editable(self, ids: list[str]) -> tuple[StoredRule, ...]:
        live = by_id(self._connection, ids)
        for wanted in ids:
            if wanted not in live:
                raise NotFoundError(f"there is no rule {wanted}; `egress allowlist list` shows them", wanted)
            if live[wanted].source != ALLOWLIST:
                raise ConflictError(f"rule {wanted} cannot be edited here: {_elsewhere(live[wanted])}", wanted)
        return tuple(live[wanted] for wanted in ids)

    def _refuse_taken(self, new: Sequence[Rule], own: Container[str] = ()) -> None:
        """Raise ConflictError if an id is taken or given twice. `own`: ids of rules that the new ones replace."""
        live = by_id(self._connection, (rule.id for rule in new if rule.id not in own))
        seen: set[str] = set()
        for rule in new:
            if rule.id in live:
                raise ConflictError(f"rule {rule.id} already exists, {_of(live[rule.id])}", rule.id)
            if rule.id in seen:
                raise ConflictError(f"the id {rule.id} is given twice", rule.id)
            seen.add(rule.id)

    def _refuse_repeated(self, new: Sequence[Rule]) -> None:
        """Raise ConflictError if a new rule without `once` means the same as another, in force or new."""
        asked = {_meaning(rule): rule for rule in reversed(new) if not rule.once}
        for each in self._like(asked.values()):
            rule = asked.get(_meaning(each.rule))
            if rule is not None and rule.id != each.rule.id:
                raise ConflictError(f"rule {each.rule.id}, {_of(each)}, already means the same", each.rule.id)
        for rule in new:
            first = rule if rule.once else asked[_meaning(rule)]
            if first.id != rule.id:
                raise ConflictError(
                    f"rule {rule.id} means the same as rule {first.id}, which was given with it", first.id
                )

    def _like(self, asked: Iterable[Rule]) -> Iterator[StoredRule]:
        """Yield the rules in force that may mean the same as one of `asked`, without those that apply to one host."""
        keys = ("destination", "agent", "action", "protocol", "app")  # the first two have an index
        for chunk in chunks(dict.fromkeys(tuple(getattr(rule, key) for key in keys) for rule in asked)):
            everywhere = among(keys, chunk).where(rules.c.host == "")
            yield from stored(self._connection.execute(everywhere))


def _storable(rule: Rule) -> Rule:
    """The rule as the database will return it: text escaped, times rounded to microseconds."""
    expires = None if rule.expires_at is None else _exact(rule.expires_at)
    return replace(
        rule,
        comment=plain(rule.comment),
        author=plain(rule.author),
        agent=plain(rule.agent),
        created=_exact(rule.created),
        expires_at=expires,
    )


def _exact(ts: float) -> float:
    return micros(ts) / 1_000_000


def _meaning(rule: Rule) -> Rule:
    """The rule reduced to its meaning: equal for rules that allow or deny the same."""
    ports, exempt = tuple(sorted(set(rule.ports))), tuple(sorted(set(rule.exempt)))
    return replace(rule, id="", comment="", author="", created=0.0, position=0, ports=ports, exempt=exempt)


def _as_listed(rule: Rule) -> Rule:
    return replace(rule, position=0, created=0.0)


def _with_age(rule: Rule, old: StoredRule | None, ts: float) -> Rule:
    return replace(rule, created=rule.created or (old.rule.created if old else ts))


def _row(each: StoredRule) -> dict[str, Any]:
    row = {name: getattr(each.rule, name) for name in Rule.__slots__}
    return row | {"source": each.source, "added": each.added, "removed": None, "host": each.host}


def _notes(old: dict[str, Rule], come: Sequence[Rule], source: str) -> Iterator[Change]:
    """Yield an audit entry for each changed rule; rules that only moved share one."""
    moved, new = 0, {rule.id for rule in come}
    for rule in old.values():
        if rule.id not in new:
            yield Change("rule.delete", rule.id, to_mapping(rule))
    for rule in come:
        was = old.get(rule.id)
        if was is None:
            yield Change("rule.create", rule.id, None, to_mapping(rule))
        elif to_mapping(was) == to_mapping(rule):
            moved += 1
        else:
            yield Change("rule.update", rule.id, to_mapping(was), to_mapping(rule))
    if moved:
        yield Change("policy.reorder", source, None, {"rules": moved})


def _of(there: StoredRule) -> str:
    where = f" of host {there.host}" if there.host else ""
    name = _SOURCES.get(there.source)
    return f"of the {name}{where}" if name else f"of {there.source.replace(':', ' ')}{where}"


def _elsewhere(there: StoredRule) -> str:
    if there.source == FILE:
        return f"it comes from the policy file{f' of host {there.host}' if there.host else ''}; edit that"
    return f"it belongs {_of(there).replace('of ', 'to ', 1)} and is removed with it"


_SOURCES = {ALLOWLIST: "allowlist", FILE: "policy file"}

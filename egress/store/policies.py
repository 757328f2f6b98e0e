"""Every policy that was ever in force, by version, and what each version changed."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from egress.model import Action, Policy, Rule, RuleChange
from egress.store.database import writing
from egress.store.tables import policies
from egress.store.writer import store


def record_policy(engine: Engine, rules: tuple[Rule, ...], actor: str, ts: float) -> tuple[int, tuple[RuleChange, ...]]:
    """Store `rules` as a new version, unless they are the latest one's; returns its number and what it changed.

    Versions count from 1. The order of rules and their comments belong to a policy; a change of order alone makes a
    version without rule changes.
    """
    document = json.dumps([_to_json(rule) for rule in rules])
    with writing(engine) as connection:
        latest = _read(connection, None)
        if latest is not None and latest.rules == rules:
            return latest.version, ()
        version = 1 if latest is None else latest.version + 1
        changes = _changes(latest.rules if latest else (), rules, version, actor, ts)
        digest = hashlib.sha256(document.encode()).hexdigest()
        row = {"version": version, "sha256": digest, "created": ts, "actor": actor, "document": document}
        connection.execute(policies.insert(), row)
        store(connection, changes)
    return version, changes


def policy(engine: Engine, version: int | None = None) -> Policy | None:
    """A version of the policy, without `version` the latest; None where there is none."""
    with engine.connect() as connection:
        return _read(connection, version)


def _read(connection: Connection, version: int | None) -> Policy | None:
    query = sa.select(policies.c.version, policies.c.document).order_by(policies.c.version.desc()).limit(1)
    if version is not None:
        query = query.where(policies.c.version == version)
    row = connection.execute(query).first()
    return None if row is None else Policy(row.version, tuple(_from_json(rule) for rule in json.loads(row.document)))


def _changes(
    before: tuple[Rule, ...], after: tuple[Rule, ...], version: int, actor: str, ts: float
) -> tuple[RuleChange, ...]:
    old, new = set(before), set(after)
    removed = [("removed", rule) for rule in before if rule not in new]
    added = [("added", rule) for rule in after if rule not in old]
    return tuple(
        RuleChange(ts, version, change, rule.id, json.dumps(_to_json(rule)), actor) for change, rule in removed + added
    )


def _to_json(rule: Rule) -> dict[str, object]:
    return dataclasses.asdict(rule)


def _from_json(document: dict[str, object]) -> Rule:
    """A rule as `_to_json` wrote it; what an older version did not write yet has its default."""
    values = dict(document)
    values["action"] = Action(str(values["action"]))
    values["ports"] = tuple((first, last) for first, last in values["ports"])  # type: ignore[attr-defined]
    values["exempt"] = tuple(values["exempt"])  # type: ignore[arg-type]
    return Rule(**values)  # type: ignore[arg-type]

"""Conversion between the policies of schema 0002 (a JSON document for each version) and the rows of `rules` in 0003."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

# A rule as 0002 wrote it into a document; fields that were missing there had these values.
DEFAULTS: dict[str, Any] = {
    "id": "",
    "action": "reject",
    "agent": "*",
    "destination": "any",
    "protocol": "",
    "ports": [],
    "app": "",
    "exempt": [],
    "unnamed": False,
    "expires_at": None,
    "once": False,
    "comment": "",
    "author": "",
    "created": 0.0,
}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
UPGRADE = "upgrade"  # the actor that removes the rules of sandboxes that are gone

RULES = sa.table("rules", *(sa.column(name) for name in (*DEFAULTS, "position", "source", "added", "removed")))
POLICIES = sa.table("policies", *map(sa.column, ("version", "created", "actor", "sha256", "document")))
CHANGES = sa.table("rule_changes", *map(sa.column, ("time", "policy_version", "change", "rule_id", "rule", "actor")))


def to_rules(bind: Connection) -> None:
    """Fill `rules` from the documents of `policies`.

    If the newest version has rules of sandboxes, add a version without them: those sandboxes are gone.
    """
    live: dict[str, dict[str, Any]] = {}
    heads = bind.execute(sa.select(POLICIES.c.version, POLICIES.c.created).order_by(POLICIES.c.version)).all()
    for version, _ in heads:
        document = bind.scalar(sa.select(POLICIES.c.document).where(POLICIES.c.version == version))
        _step(bind, live, {row["id"]: row for row in _rows(str(document))}, version)
    lasting = {key: row for key, row in live.items() if row["source"] == "file"}
    if len(lasting) < len(live):
        version, created = heads[-1]
        row = {"version": version + 1, "created": created, "actor": UPGRADE, "sha256": "", "document": ""}
        bind.execute(POLICIES.insert(), row)
        _step(bind, live, lasting, version + 1)
    if live:
        bind.execute(RULES.insert(), list(live.values()))


def _step(bind: Connection, live: dict[str, dict[str, Any]], wanted: dict[str, dict[str, Any]], version: int) -> None:
    """Update `live` to the rules `wanted` in a version, and insert the rows of the rules that end with this version."""
    ended = []
    for key, row in list(live.items()):
        now = wanted.get(key)
        if now is None or any(now[name] != row[name] for name in now if name not in ("added", "removed")):
            ended.append(live.pop(key) | {"removed": version})
    if ended:
        bind.execute(RULES.insert(), ended)
    for key, row in wanted.items():
        live.setdefault(key, row | {"added": version, "removed": None})


def _rows(document: str) -> Iterator[dict[str, Any]]:
    """Yield the row of each rule in a document, without the versions that it belongs to. Ids become unique."""
    seen: set[str] = set()
    for position, item in enumerate(json.loads(document), 1):
        rule = {name: item.get(name, default) for name, default in DEFAULTS.items()}
        row = {name: _plain(value) if isinstance(value, str) else value for name, value in rule.items()}
        row |= {"ports": json.dumps(rule["ports"]), "exempt": json.dumps(rule["exempt"])}
        row["created"] = round(rule["created"] * 1_000_000)
        row["expires_at"] = None if rule["expires_at"] is None else round(rule["expires_at"] * 1_000_000)
        own = NAME.fullmatch(row["agent"]) and row["id"].startswith(f"{row['agent']}:")
        while row["id"] in seen:  # a rule of a sandbox and one of the file could have the same id
            row["id"] += "~"
        seen.add(row["id"])
        yield row | {"position": position, "source": f"sandbox:{row['agent']}" if own else "file"}


def _plain(text: str) -> str:
    """Escape the characters that databases refuse: NUL and lone surrogates."""
    if text.isprintable():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


def to_documents(bind: Connection) -> None:
    """Fill the documents of `policies`, and `rule_changes`, from `rules`."""
    live: dict[str, tuple[tuple[int, str], str]] = {}  # id -> place, rule as JSON
    query = sa.select(POLICIES.c.version, POLICIES.c.created, POLICIES.c.actor).order_by(POLICIES.c.version)
    for version, created, actor in bind.execute(query).all():
        gone = bind.scalars(sa.select(RULES.c.id).where(RULES.c.removed == version).order_by(RULES.c.position))
        before = {key: live.pop(key)[1] for key in gone.all()}
        come = [row._mapping for row in bind.execute(sa.select(RULES).where(RULES.c.added == version))]
        after = {row["id"]: _as_json(row) for row in come}
        live |= {row["id"]: ((row["position"], row["id"]), after[row["id"]]) for row in come}
        document = f"[{', '.join(text for _, text in sorted(live.values()))}]"
        digest = hashlib.sha256(document.encode()).hexdigest()
        mine = POLICIES.c.version == version
        bind.execute(POLICIES.update().where(mine).values(document=document, sha256=digest))
        changes = [("removed", key, text) for key, text in before.items() if after.get(key) != text]
        changes += [("added", key, text) for key, text in after.items() if before.get(key) != text]
        names = ("time", "policy_version", "change", "rule_id", "rule", "actor")
        rows = [dict(zip(names, (created, version, *change, actor), strict=True)) for change in changes]
        if rows:
            bind.execute(CHANGES.insert(), rows)


def _as_json(row: Any) -> str:
    """Format a row of `rules` as a rule in a document."""
    rule = {name: row[name] for name in DEFAULTS}
    rule |= {"ports": json.loads(row["ports"]), "exempt": json.loads(row["exempt"]), "created": row["created"] / 1e6}
    rule |= {"unnamed": bool(row["unnamed"]), "once": bool(row["once"])}
    return json.dumps(rule | {"expires_at": None if row["expires_at"] is None else row["expires_at"] / 1e6})

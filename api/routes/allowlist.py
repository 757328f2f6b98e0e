"""/allowlist: the editable rules and, read-only, all other rules in force."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query
from starlette.responses import JSONResponse, Response

from api import etags
from api.auth import PREFIX, Caller, Editor, Viewer
from api.database import Store
from api.edits import Edits, Reply
from api.paging import Cursor, Limit, Page, decode, page
from api.problems import wrong_field
from api.shapes.rules import STORED_ID, PrunedRules, RuleBody, RuleInUse, RuleOut, RulePatch, rule_in_use, rule_out
from api.times import duration
from egress.model import Action, Rule
from egress.policy.ruletext import read_rule, to_mapping
from egress.store.database.errors import NotFoundError
from egress.store.database.handles import Connection
from egress.store.policy import ruleset
from egress.store.policy.edits import Edit

router = APIRouter(prefix="/allowlist", tags=["allowlist"])

_ACTIONS = {"allow": Action.ACCEPT, "deny": Action.REJECT}
RuleId = Annotated[str, Path(pattern=STORED_ID, description="The rule's id.", examples=["3f2a9c0d11e4"])]


def _text(description: str) -> Any:
    return Query(max_length=256, description=description)


@router.get("", response_model=Page[RuleInUse], response_model_exclude_unset=True, summary="The rules in force")
def list_rules(
    _: Viewer,
    engine: Store,
    agent: Annotated[str, _text("Glob over the agent selector as it is written.")] = "",
    applies_to: Annotated[str, _text("Name of an agent that the rule applies to.")] = "",
    destination: Annotated[str, _text("Part of the destination.")] = "",
    action: Annotated[Literal["allow", "deny"] | None, Query(description="Only rules with this action.")] = None,
    source: Annotated[str, _text("allowlist, file, sandbox:NAME, or a glob.")] = "",
    q: Annotated[str, _text("Part of the comment or author.")] = "",
    expired: Annotated[bool | None, Query(description="true: only expired rules; false: only the others.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """Lists rules of each action in evaluation order. Expired rules match nothing; they are listed until removed."""
    after = decode(cursor, int, str)
    wanted = ruleset.RuleFilter(
        agent=agent,
        applies_to=applies_to,
        destination=destination,
        action=_ACTIONS[action] if action else None,
        source=source,
        text=q,
        expired=expired,
        now=time.time(),
    )
    with engine.connect() as connection:
        found = ruleset.list_rules(connection, wanted, after, limit + 1)
        shown, following = page(found, limit, lambda each: [each.rule.position, each.rule.id])
        used = ruleset.hits(connection, [each.rule.id for each in shown])
    return JSONResponse({"items": [rule_in_use(each, used[each.rule.id]) for each in shown], "next": following})


@router.post("", response_model=RuleOut, status_code=201, summary="Add a rule")
def create_rule(body: RuleBody, caller: Editor, edits: Edits) -> Response:
    """The rule precedes older rules of the same action, and is in force within a fraction of a second."""
    read = _read(body.root, caller, edits.ts)
    rule = read if "id" in body.root else replace(read, id=secrets.token_hex(6))

    def change(connection: Connection) -> Reply:
        (made,) = Edit(connection, caller.actor, edits.ts).add([replace(rule, created=edits.ts)])
        return Reply(201, rule_out(made), etags.etag(made.added), f"{PREFIX}/allowlist/{made.rule.id}")

    return edits.commit(change)


@router.delete("", response_model=PrunedRules, summary="Remove unused rules")
def prune_rules(
    caller: Editor,
    edits: Edits,
    unused_for: Annotated[
        str, Query(max_length=16, description="Only rules older than this, without a hit since: 30d.")
    ],
) -> Response:
    """Removes allowlist rules within the caller's scope that no flow has used since then. `dry_run=true` lists them."""
    since = edits.ts - duration("unused_for", unused_for)

    def change(connection: Connection) -> Reply:
        ids = [each.rule.id for each in ruleset.unused(connection, since) if caller.covers(each.rule.agent)]
        edit = Edit(connection, caller.actor, edits.ts)
        removed = edit.remove(ids)
        return Reply(200, {"version": edit.version, "removed": [rule_out(each) for each in removed]})

    return edits.commit(change)


@router.get("/{rule_id}", response_model=RuleInUse, response_model_exclude_unset=True, summary="One rule")
def get_rule(
    rule_id: RuleId,
    _: Viewer,
    engine: Store,
    if_none_match: Annotated[str | None, Header(description="Respond with 304 if this is still the ETag.")] = None,
) -> Response:
    with engine.connect() as connection:
        found = _get_or_404(connection, rule_id)
        tag = etags.etag(found.added)
        if (same := etags.not_modified(if_none_match, tag)) is not None:
            return same
        used = ruleset.hits(connection, [rule_id])[rule_id]
    return JSONResponse(rule_in_use(found, used), headers={"ETag": tag})


@router.put("/{rule_id}", response_model=RuleOut, summary="Replace a rule")
def replace_rule(rule_id: RuleId, body: RuleBody, caller: Editor, edits: Edits) -> Response:
    """The rule keeps its id and its place in the evaluation order; fields that the body omits get their defaults."""
    rule = _read(body.root, caller, edits.ts)
    if body.root.get("id", rule_id) != rule_id:
        raise wrong_field("id", f"must be {rule_id}, as in the path, or left out")

    def change(connection: Connection) -> Reply:
        return _replace(connection, rule_id, rule, caller, edits)

    return edits.commit(change)


@router.patch("/{rule_id}", response_model=RuleOut, summary="Change some fields of a rule")
def patch_rule(rule_id: RuleId, body: RulePatch, caller: Editor, edits: Edits) -> Response:
    """JSON Merge Patch (RFC 7396): given fields replace present ones, null removes them."""
    if body.root.get("id", rule_id) != rule_id:
        raise wrong_field("id", f"must be {rule_id}, as in the path, or left out")

    def change(connection: Connection) -> Reply:
        old = _get_or_404(connection, rule_id)
        merged = to_mapping(old.rule) | body.root
        given = {key: value for key, value in merged.items() if value is not None}
        rule = _read(given, caller, edits.ts, author="" if "author" in body.root else old.rule.author)
        return _replace(connection, rule_id, rule, caller, edits)

    return edits.commit(change)


@router.delete("/{rule_id}", status_code=204, response_class=Response, summary="Remove a rule")
def delete_rule(rule_id: RuleId, caller: Editor, edits: Edits) -> Response:
    """Flows that only this rule allowed are cut at once."""

    def change(connection: Connection) -> Reply:
        old = _get_or_404(connection, rule_id)
        caller.check(old.rule.agent)
        edits.match(etags.etag(old.added))
        Edit(connection, caller.actor, edits.ts).remove([rule_id])
        return Reply(204)

    return edits.commit(change)


def _read(document: dict[str, Any], caller: Caller, now: float, author: str | None = None) -> Rule:
    """Read a rule from a document. Its author is that of the document, else `author`; if that is None, the caller.

    Raises InvalidRuleError (422), and ProblemError (403) for agents outside the caller's scope.
    """
    rule = read_rule(document, now)
    caller.check(rule.agent)
    if rule.author or author is not None:
        return replace(rule, author=rule.author or author or "")
    return replace(rule, author=caller.as_author())


def _get_or_404(connection: Connection, rule_id: str) -> ruleset.StoredRule:
    found = ruleset.rule(connection, rule_id)
    if found is None:
        raise NotFoundError(f"there is no rule {rule_id} in force", rule_id)
    return found


def _replace(connection: Connection, rule_id: str, rule: Rule, caller: Caller, edits: Edits) -> Reply:
    old = _get_or_404(connection, rule_id)
    caller.check(old.rule.agent)
    edits.match(etags.etag(old.added))
    new = Edit(connection, caller.actor, edits.ts).replace(rule_id, rule)
    return Reply(200, rule_out(new), etags.etag(new.added))
